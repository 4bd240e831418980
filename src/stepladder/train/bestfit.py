"""Lengths and a capacity in; the bin of each length, by best fit with the longest first, out."""

from bisect import bisect_left, insort

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The bin (int64, from 0) of each of the lengths (1 to capacity), longest first into the fullest bin.

    Equal lengths are placed together: the work grows with the number of different lengths.
    """
    rows = _place(np.bincount(lengths, minlength=capacity + 1), capacity)
    first, bins, each = rows.T
    items = bins * each
    within = np.arange(len(lengths)) - np.repeat(np.cumsum(items) - items, items)
    out = np.empty(len(lengths), dtype=np.int64)
    out[np.argsort(-lengths, kind="stable")] = np.repeat(first, items) + within // np.repeat(each, items)
    return out


def _place(counts: np.ndarray, capacity: int) -> np.ndarray:
    """Rows of (first bin, bins, items in each), for items from the longest down; counts per length.

    Bins with the same room are held as ranges of numbers. The fullest bin that takes an item of some length
    is also the fullest for the next of that length as long as it fits, so a bin takes room // length at once.
    """
    rows: list[tuple[int, int, int]] = []
    ranges: dict[int, list[tuple[int, int]]] = {}
    rooms: list[int] = []
    made = 0

    def give(room: int, first: int, bins: int) -> None:
        if room not in ranges:
            ranges[room] = []
            insort(rooms, room)
        ranges[room].append((first, bins))

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            at = bisect_left(rooms, length)
            if at == len(rooms):
                room, first, bins = capacity, made, -(-left // (capacity // length))
                made += bins
            else:
                room = rooms[at]
                first, bins = ranges[room].pop()
                if not ranges[room]:
                    del ranges[room], rooms[at]
            each = room // length
            filled = min(bins, left // each)
            if filled:
                rows.append((first, filled, each))
                give(room - each * length, first, filled)
                left -= filled * each
            if filled < bins and left:
                rows.append((first + filled, 1, left))
                give(room - left * length, first + filled, 1)
                left, filled = 0, filled + 1
            if filled < bins:
                give(room, first + filled, bins - filled)
    return np.array(rows, dtype=np.int64).reshape(-1, 3)
