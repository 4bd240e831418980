"""Many short stretches of a split in; their tokens, joined, out."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class PieceReader:
    """Tokens of many short stretches of a split, joined.

    Buffers are joined instead of arrays: 100 to 1,000 tokens each, 1.2 to 3.2 G tokens/s on one Zen 4 core,
    against 0.4 to 1.7 by slices of arrays and 0.3 to 0.7 by an index for each token.
    """

    def __init__(self, tokens: Any) -> None:
        """`tokens` is an array, or anything with a dtype whose slices are contiguous arrays.

        A split in several shards may show them as `parts`; else it is asked for each stretch.
        """
        self._tokens, self._dtype = tokens, np.dtype(tokens.dtype)
        shown = [tokens] if isinstance(tokens, np.ndarray) else getattr(tokens, "parts", None)
        parts: list[Any] = [np.asarray(part) for part in shown or []]
        self._views = [memoryview(part).cast("B") if len(part) else b"" for part in parts]
        self._borders = np.cumsum([0, *map(len, parts)])

    def read(self, starts: np.ndarray, lengths: np.ndarray, zeros: Mapping[int, int]) -> np.ndarray:
        """Stretches end to end; stretch i of `zeros` is that many zeros instead."""
        ends = starts + lengths
        buffers = self._cut(starts, ends) if self._views else self._ask(starts, ends)
        for number, count in zeros.items():
            buffers[number] = bytes(count * self._dtype.itemsize)
        return np.frombuffer(bytearray().join(buffers), dtype=self._dtype)

    def _cut(self, starts: np.ndarray, ends: np.ndarray) -> list[Any]:
        part = np.searchsorted(self._borders, starts, side="right") - 1
        across = np.flatnonzero(ends > self._borders[part + 1])
        places = (np.stack([starts, ends]) - self._borders[part]) * self._dtype.itemsize
        spans = zip(part.tolist(), *places.tolist(), strict=True)
        buffers: list[Any] = [self._views[number][begin:end] for number, begin, end in spans]
        for number, buffer in zip(across.tolist(), self._ask(starts[across], ends[across]), strict=True):
            buffers[number] = buffer
        return buffers

    def _ask(self, starts: np.ndarray, ends: np.ndarray) -> list[Any]:
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return [self._tokens[begin:end] for begin, end in spans]
