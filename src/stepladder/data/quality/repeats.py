"""Words of documents in; how many characters their most frequent and their repeated n-grams have, out.

The counts are those of Gopher's repetition rules as datatrove takes them: the top n-gram is the most
frequent, the first of equals; a repeated n-gram is counted from its second time on, and the walk goes on
behind it. Only documents close to a limit are walked through one n-gram after another.
"""

import numpy as np

from stepladder.data.quality.words import Words
from stepladder.data.wordkeys import powers

_ODD = np.uint64(0x9E3779B97F4A7C15)
_POSITIONS = 40
# Keys that fall alone into one of this many buckets (2 to this power) repeat nothing and are not sorted.
_BUCKET_BITS = 18


def segment_hashes(
    points: np.ndarray, begin: np.ndarray, end: np.ndarray, document: np.ndarray | None = None
) -> np.ndarray:
    """uint64 for each segment [begin, end) of `points`: equal for equal content (of the same document)."""
    return _mixed(_segments(prefix_sums(points), begin, end), document)


def top_characters(words: Words, hashes: np.ndarray, n: int, documents: int) -> np.ndarray:
    """For each document: characters of its most frequent n-gram (words joined by a blank) times its count."""
    begins = len(hashes) - n + 1
    out = np.zeros(documents, dtype=np.int64)
    if begins < 1:
        return out
    keys = np.zeros(begins, dtype=np.uint64)
    for offset in range(n):
        keys = keys * _ODD + hashes[offset : offset + begins]
    document = words.document[:begins]
    whole = document == words.document[n - 1 :]
    places = np.flatnonzero(whole)
    keys = _mixed(keys[places], document[places])
    # The largest count wins, then the smallest place.
    best = np.full(documents, -1, dtype=np.int64)
    first = np.searchsorted(document[places], np.arange(documents))
    has_any = np.bincount(document[places], minlength=documents) > 0
    best[has_any] = _score(np.ones(int(has_any.sum()), dtype=np.int64), places[first[has_any]])
    order = _ranked(keys)
    first = np.flatnonzero(np.append(True, keys[order[1:]] != keys[order[:-1]])[: len(order)])
    count = np.diff(np.append(first, len(order)))
    place = places[order[first]]
    np.maximum.at(best, document[place], _score(count, place))
    place = (1 << _POSITIONS) - 1 - (best[has_any] & ((1 << _POSITIONS) - 1))
    out[has_any] = (best[has_any] >> _POSITIONS) * (words.start[place + n] - words.start[place] + n - 1)
    return out


def repeated_characters(words: Words, sums: np.ndarray, n: int, limits: np.ndarray) -> np.ndarray:
    """For each document: characters of n-grams (words joined without blanks) that repeat, without overlap.

    `sums` are the prefix sums of the points of `words`.
    Documents that cannot have more than `limits` characters get an upper bound that is not above it instead.
    """
    documents, begins = len(limits), len(words.document) - n + 1
    if begins < 1:
        return np.zeros(documents, dtype=np.int64)
    document = words.document[:begins]
    places = np.flatnonzero(document == words.document[n - 1 :])
    keys = _segments(sums, words.start[places], words.start[places + n])
    keys = _mixed(keys, document[places])
    order = _ranked(keys)
    again = keys[order[1:]] == keys[order[:-1]]
    later = places[order[1:][again]]
    covered = np.zeros(len(words.document), dtype=bool)
    for offset in range(n):
        covered[later + offset] = True
    covered_chars = np.bincount(words.document[covered], words.length[covered], minlength=documents)
    out = covered_chars.astype(np.int64)
    # Where a key stands alone in its document the walk just goes on.
    pairs = np.zeros(len(places), dtype=bool)
    pairs[order[1:][again]] = True
    pairs[order[:-1][again]] = True
    met = np.flatnonzero(pairs)
    edges = np.searchsorted(document[places[met]], np.arange(documents + 1))
    for row in np.flatnonzero(out > limits).tolist():
        part = met[edges[row] : edges[row + 1]]
        hits = np.array(_walk(places[part].tolist(), keys[part].tolist(), n), dtype=np.int64)
        out[row] = (words.start[hits + n] - words.start[hits]).sum()
    return out


def _walk(places: list[int], keys: list[int], n: int) -> list[int]:
    """The places whose key was met before, going on n places behind each."""
    seen: set[int] = set()
    hits = []
    free = 0
    for place, key in zip(places, keys, strict=True):
        if place < free:
            continue
        if key in seen:
            hits.append(place)
            free = place + n
        else:
            seen.add(key)
    return hits


def _ranked(keys: np.ndarray) -> np.ndarray:
    """Places of the keys that may occur twice, equal keys side by side and in rising order of place."""
    bucket = (keys >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
    chosen = np.flatnonzero(np.bincount(bucket, minlength=1 << _BUCKET_BITS)[bucket] > 1).astype(np.uint64)
    # Key and place in one number: sorting numbers is four times as fast as sorting places by their keys.
    bits = np.uint64(len(keys).bit_length())
    both = (keys[chosen] >> bits << bits) | chosen
    both.sort()
    return (both & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _score(count: np.ndarray, place: np.ndarray) -> np.ndarray:
    return (count << _POSITIONS) | ((1 << _POSITIONS) - 1 - place)


def _mixed(keys: np.ndarray, document: np.ndarray | None) -> np.ndarray:
    if document is not None:
        keys = keys ^ (document.astype(np.uint64) + np.uint64(1)) * _ODD
    keys = (keys ^ (keys >> np.uint64(32))) * _ODD
    return keys ^ (keys >> np.uint64(29))


def _segments(sums: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    return (sums[end] - sums[begin]) * powers(len(sums))[1][begin]


def prefix_sums(points: np.ndarray) -> np.ndarray:
    """Sums of (mixed code point * base^place) modulo 2^64 before each place."""
    values = (points.astype(np.uint64) + np.uint64(0x51ED27)) * _ODD
    values ^= values >> np.uint64(29)
    values *= powers(len(points))[0][: len(points)]
    out = np.zeros(len(points) + 1, dtype=np.uint64)
    np.cumsum(values, out=out[1:])
    return out
