"""Groups of documents with their bytes in; which are held out, out."""

from collections.abc import Mapping

import numpy as np

# More held-out text than this adds nothing to the certainty of a loss; less makes it noise.
SMALLEST_HELD_OUT, LARGEST_HELD_OUT = 100_000, 64_000_000
_SMALLEST_SHARE = 0.2
# Near-duplicates across the split were worth 0.4–0.5 bits per byte, and more to the larger model.
OVERLAP_SHARE = 0.30


def wanted_bytes(total: int, share: float) -> int:
    """Bytes to hold out of `total`: the share, within limits that make a loss certain and not wasteful."""
    floor = min(SMALLEST_HELD_OUT, _SMALLEST_SHARE * total)
    return max(1, round(min(max(share * total, floor), max(LARGEST_HELD_OUT, floor))))


def choose_groups(sizes: Mapping[int, int], wanted: int) -> tuple[np.ndarray, int]:
    """(hashes, bytes) of whole groups in the order of their hash until `wanted` bytes are reached.

    A group that would overshoot by half is passed over, so that one huge file is not held out; where all
    would, the smallest group is taken.
    """
    chosen, held = [], 0
    for name in sorted(sizes):
        if held >= wanted:
            break
        if held + sizes[name] <= 1.5 * wanted:
            chosen.append(name)
            held += sizes[name]
    if not chosen and sizes:
        chosen = [min(sizes, key=lambda name: (sizes[name], name))]
        held = sizes[chosen[0]]
    return np.array(chosen, dtype=np.uint64), held
