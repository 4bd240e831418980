"""Documents with their files and bytes in; which are held out, and which of those overlap, out."""

import hashlib
from collections.abc import Sequence

import numpy as np

from stepladder.data.dedup import Lines
from stepladder.errors import DataError

# More held-out text than this adds nothing to the certainty of a loss; less makes it noise.
SMALLEST_HELD_OUT, LARGEST_HELD_OUT = 100_000, 64_000_000
_SMALLEST_SHARE = 0.2
# Near-duplicates across the split were worth 0.4–0.5 bits per byte, and more to the larger model.
OVERLAP_SHARE = 0.30


def choose_held_out(groups: Sequence[str], num_bytes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Boolean per document: whole groups in seeded order until `share` of the bytes (in limits) is reached.

    A group that would overshoot by half is passed over, so that one huge file is not held out.

    Raises:
        DataError: everything is one group, so that a whole one cannot be held out.
    """
    names, group = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(group, weights=num_bytes, minlength=len(names))
    total = sizes.sum()
    if len(names) < 2:
        raise DataError(
            "no held-out text can be chosen: all text lies in one document",
            got=f"{len(names)} document(s) left of all sources",
            allowed="two documents or more, or held-out text of its own",
            next_command="stepladder data ... --held-out PATH",
        )
    floor = min(SMALLEST_HELD_OUT, _SMALLEST_SHARE * total)
    wanted = min(max(share * total, floor), max(LARGEST_HELD_OUT, floor))
    digests = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest() for name in names]
    order = sorted(range(len(names)), key=digests.__getitem__)
    chosen = np.zeros(len(names), dtype=bool)
    held = 0.0
    for index in order:
        if held >= wanted:
            break
        if held + sizes[index] <= 1.5 * wanted:
            chosen[index] = True
            held += sizes[index]
    if not chosen.any():
        chosen[int(np.argmin(sizes))] = True
    return chosen[group]


def held_share(held: np.ndarray, num_bytes: np.ndarray) -> float:
    """Share of the bytes that is held out."""
    return float(num_bytes[held].sum() / max(num_bytes.sum(), 1))


def overlap_shares(lines: Lines, groups: np.ndarray, held: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Per document, the share of its group's long lines that also stand in training documents (0 if none).

    `lines.document` counts through the corpus; `groups` are group numbers, `held` and `train` booleans.
    """
    shares = np.zeros(len(groups))
    in_train = train[lines.document]
    in_held = held[lines.document]
    if not in_held.any():
        return shares
    known = np.unique(lines.key[in_train])
    group = groups[lines.document[in_held]]
    shared = np.isin(lines.key[in_held], known)
    count = np.bincount(group, minlength=groups.max() + 1)
    hits = np.bincount(group, weights=shared, minlength=len(count))
    return np.where(held, (hits / np.maximum(count, 1))[groups], shares)
