"""Token shards and a count of samples consumed in; the next windows of tokens out, the same on any ranks.

The order is a pure function of (seed, epoch, global sample index): a keyed Feistel permutation, so that no
list of indices is held in memory. The only state is the number of samples consumed by all ranks together;
it stays right when the number of ranks or the global batch changes.
"""

from typing import Protocol

import numpy as np

from stepladder.data.labels import mixed
from stepladder.errors import TrainError

_ROUNDS = 4


class Tokens(Protocol):
    """What a split offers: a 1-D array of token ids."""

    @property
    def tokens(self) -> np.ndarray: ...


class SampleOrder:
    """Global sample index in; window number out, every window once in each epoch."""

    def __init__(self, num_windows: int, seed: int) -> None:
        if num_windows < 1:
            raise TrainError(
                "the training split is shorter than one window of context",
                got=f"{num_windows} windows",
                allowed="at least one",
                next_command="stepladder data with more sources",
            )
        self.num_windows, self.seed = num_windows, seed
        # A Feistel network permutes [0, 2^(2h)); values outside the range walk on until they fall inside.
        self._half = np.uint64(max((num_windows - 1).bit_length() + 1, 2) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)

    def windows(self, samples: np.ndarray) -> np.ndarray:
        """Window numbers (int64) of global sample indices (integers >= 0)."""
        samples = np.asarray(samples, dtype=np.int64)
        epochs, places = np.divmod(samples, self.num_windows)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = self._permute(places[chosen].astype(np.uint64), self._keys(int(epoch)))
        return out

    def _keys(self, epoch: int) -> np.ndarray:
        return np.random.SeedSequence([self.seed, epoch]).generate_state(_ROUNDS, np.uint64)

    def _permute(self, places: np.ndarray, keys: np.ndarray) -> np.ndarray:
        values = self._feistel(places, keys)
        while (outside := values >= self.num_windows).any():
            values[outside] = self._feistel(values[outside], keys)
        return values.astype(np.int64)

    def _feistel(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in keys:
            left, right = right, left ^ (mixed(right + key) & self._mask)
        return (left << self._half) | right


class RankBatches:
    """This rank's share of global batches. `consumed` counts the samples of all ranks and is the whole state.

    `batch_sequences` counts all ranks; micro-batches have `micro_sequences` (0: as many as the rank has).
    """

    def __init__(self, batch_sequences: int, ranks: tuple[int, int], micro_sequences: int) -> None:
        self.rank, self.world = ranks
        if batch_sequences < self.world or batch_sequences % self.world:
            raise TrainError(
                "the batch cannot be shared equally between the processes",
                got=f"{batch_sequences} sequences, {self.world} processes",
                allowed=f"a multiple of {self.world} sequences",
                next_command="set [override] batch_tokens in stepladder.toml",
            )
        self.batch_sequences = batch_sequences
        local = batch_sequences // self.world
        self.micro_sequences = min(micro_sequences or local, local)
        self.consumed = 0

    def advance(self) -> np.ndarray:
        """Global sample indices of this rank in the next global batch, which counts as consumed."""
        places = np.arange(self.consumed + self.rank, self.consumed + self.batch_sequences, self.world)
        self.consumed += self.batch_sequences
        return places

    def micro_batches(self, count: int) -> list[slice]:
        """The micro-batches of `count` samples."""
        return [slice(at, at + self.micro_sequences) for at in range(0, count, self.micro_sequences)]


class BatchSource(RankBatches):
    """Windows of context + 1 tokens; consecutive windows share one token, so each token is predicted once.

    `batch_sequences` counts all ranks. `next` advances `consumed` by it, whatever this rank's share is.
    """

    def __init__(
        self,
        split: Tokens,
        context_tokens: int,
        batch_sequences: int,
        seed: int,
        ranks: tuple[int, int] = (0, 1),
        micro_sequences: int = 0,
    ) -> None:
        super().__init__(batch_sequences, ranks, micro_sequences)
        self._tokens, self.context_tokens = split.tokens, context_tokens
        self.order = SampleOrder((len(self._tokens) - 1) // context_tokens, seed)

    def next(self) -> list[np.ndarray]:
        """This rank's micro-batches of the next global batch, each (sequences, context + 1) int64."""
        windows = self.read(self.order.windows(self.advance()))
        return [windows[part] for part in self.micro_batches(len(windows))]

    def read(self, windows: np.ndarray) -> np.ndarray:
        """The tokens of windows by number."""
        length = self.context_tokens + 1
        out = np.empty((len(windows), length), dtype=np.int64)
        for row, window in enumerate(windows):
            start = int(window) * self.context_tokens
            out[row] = self._tokens[start : start + length]
        return out


def even_windows(num_tokens: int, context_tokens: int, wanted_tokens: int) -> np.ndarray:
    """Window numbers spread evenly over a split, at most `wanted_tokens` predicted tokens: for evaluation."""
    available = (num_tokens - 1) // context_tokens
    if available < 1:
        raise TrainError(
            "the held-out split is shorter than one window of context",
            got=f"{num_tokens} tokens",
            allowed=f"at least {context_tokens + 1}",
            next_command="stepladder data with more sources or a larger held_out share",
        )
    count = min(available, max(wanted_tokens // context_tokens, 1))
    return np.arange(count) * available // count
