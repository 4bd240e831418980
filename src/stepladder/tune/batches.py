"""Encoded texts in; padded batches of similar length out, the same order for the same seed (no torch)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Batches are cut from runs of this many batches sorted by length: little padding, still well mixed.
_SORTED_BATCHES = 16
# A forward pass takes at most so many tokens, padding counted (or one row): what fits a CPU's caches (11 to
# 32 % faster than 8,192, docs/log.md), and what long texts need of memory.
PASS_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """ids (B, T) padded on the right with 0 and lengths (B,), int64; targets (B, ...) as the kind of task
    has them; token types (B, T) where a row is a pair of texts.
    """

    ids: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    types: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Token ids of each row, cut to the context, with its targets; the types of its tokens in pairs."""

    texts: Sequence[np.ndarray]
    targets: np.ndarray
    types: Sequence[np.ndarray] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: np.ndarray) -> Batch:
        """The given rows as one padded batch."""
        lengths = np.asarray([len(self.texts[row]) for row in rows], dtype=np.int64)
        ids = _padded([self.texts[row] for row in rows])
        types = _padded([self.types[row] for row in rows]) if self.types else None
        return Batch(ids=ids, lengths=lengths, targets=self.targets[rows], types=types)

    def by_length(self, batch_examples: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """All rows once, longest first, with their row numbers: for evaluation and prediction."""
        order = np.argsort([-len(text) for text in self.texts], kind="stable")
        for start in range(0, len(order), batch_examples):
            for rows in self.passes(order[start : start + batch_examples]):
                yield rows, self.batch(rows)

    def passes(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The rows in as few parts as `PASS_TOKENS` allows."""
        longest = max(len(self.texts[row]) for row in rows)
        most = max(PASS_TOKENS // longest, 1)
        for start in range(0, len(rows), most):
            yield rows[start : start + most]


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(B, T) with zeros on the right."""
    out = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out


class TaskBatches:
    """Batches without end; `consumed` examples are the whole state, as the training loop wants it."""

    def __init__(self, examples: Encoded, batch_examples: int, seed: int) -> None:
        self._examples, self._seed = examples, seed
        self.batch_examples = min(batch_examples, len(examples))
        self.consumed = 0
        self._epoch, self._order = -1, np.empty((0, 0), dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the last few examples of an order wait for another epoch's order."""
        return len(self._examples) // self.batch_examples

    def next(self) -> list[Batch]:
        """The next batch, as one micro-batch or, where its rows are long, as several."""
        epoch, at = divmod(self.consumed // self.batch_examples, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        self.consumed += self.batch_examples
        return [self._examples.batch(rows) for rows in self._examples.passes(self._order[at])]

    def _order_of(self, epoch: int) -> np.ndarray:
        """Row numbers (batches, examples) of an epoch; sorting by length happens within shuffled runs."""
        rng = np.random.default_rng([self._seed, epoch])
        rows = rng.permutation(len(self._examples))[: self.steps_per_epoch * self.batch_examples]
        lengths = np.asarray([len(text) for text in self._examples.texts])
        run = _SORTED_BATCHES * self.batch_examples
        for start in range(0, len(rows), run):
            part = rows[start : start + run]
            rows[start : start + run] = part[np.argsort(lengths[part], kind="stable")]
        return rng.permutation(rows.reshape(-1, self.batch_examples))
