"""Token shards and a count of samples consumed in; the next windows of tokens out, the same on any ranks.

The order is a pure function of (seed, epoch, global sample index): a keyed Feistel permutation, so that no
list of indices is held in memory. The only state is the number of samples consumed by all ranks together;
it stays right when the number of ranks or the global batch changes.
"""

from typing import Protocol

import numpy as np

from stepladder.errors import TrainError

_ROUNDS = 4
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


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
            left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half) | right


class BatchSource:
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
        self.rank, self.world = ranks
        if batch_sequences < self.world or batch_sequences % self.world:
            raise TrainError(
                "the batch cannot be shared equally between the processes",
                got=f"{batch_sequences} sequences, {self.world} processes",
                allowed=f"a multiple of {self.world} sequences",
                next_command="set [override] batch_tokens in stepladder.toml",
            )
        self._tokens, self.context_tokens = split.tokens, context_tokens
        self.batch_sequences = batch_sequences
        local = batch_sequences // self.world
        self.micro_sequences = min(micro_sequences or local, local)
        self.order = SampleOrder((len(self._tokens) - 1) // context_tokens, seed)
        self.consumed = 0

    def next(self) -> list[np.ndarray]:
        """This rank's micro-batches of the next global batch, each (sequences, context + 1) int64."""
        samples = np.arange(self.consumed + self.rank, self.consumed + self.batch_sequences, self.world)
        windows = self.read(self.order.windows(samples))
        self.consumed += self.batch_sequences
        return [
            windows[at : at + self.micro_sequences] for at in range(0, len(windows), self.micro_sequences)
        ]

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


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every input bit changes every output bit."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
