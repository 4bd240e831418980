"""Exact keys, sketches and edges of key ranges in; which documents are copies of which out, range by range.

No task sees all documents: exact copies meet by hash, candidates for near-duplicates by band key, and
clusters grow by alternating large-star and small-star steps (Kiveris et al. 2014, "Connected Components in
MapReduce and Beyond", SoCC), each of which needs only the edges of its own range of nodes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.copies.dedup import BAND_ROWS, BANDS
from stepladder.data.files import key_range, part_names, read_arrays, read_range, write_sorted
from stepladder.data.labels import PART_ROWS, base_of, ids_of, mixed, part_name

_ODD = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 16
_COMPARED = 65_536
# Of the similarities of compared pairs, from 0 to 1.
SIMILARITY_BINS = 20


def exact_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of text hashes → EXACT: each copy (by id) and the label of the best document that is equal."""
    work = Path(arguments["folder"])
    stems = [work / "read" / f"{name}.exact" for name in part_names(work)]
    low, high = key_range(arguments["index"], arguments["partitions"])
    key, second, label = read_range(stems, "key", ("key", "second", "label"), low, high)
    order = np.lexsort((label, second, key))
    key, second, label = key[order], second[order], label[order]
    same = np.zeros(len(key), dtype=bool)
    same[1:] = (key[1:] == key[:-1]) & (second[1:] == second[:-1])
    first = label[np.maximum.accumulate(np.where(same, 0, np.arange(len(key))))]
    stem = work / "exact" / f"{arguments['index']:05d}"
    write_sorted(stem, "document", {"document": ids_of(label[same]), "keeper": first[same]})
    return {"copies": int(same.sum())}


def bands_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part's sketches without its exact copies → band keys with labels, sorted by key."""
    work, name = Path(arguments["folder"]), arguments["part"]
    own = read_arrays(work / "read" / f"{name}.npz")
    base = base_of(name)
    copies, _ = of_part(work, "exact", arguments["exact"], base, ("document", "keeper"))
    ids = np.uint64(base) + own["rows"].astype(np.uint64)
    alive = np.flatnonzero(own["has_sketch"] & ~np.isin(ids, copies))
    values = np.load(work / "read" / f"{name}.values.npy", mmap_mode="r")[alive]
    keys = band_keys(values, arguments["bands"], arguments["band_rows"])
    label = np.repeat(own["label"][alive], arguments["bands"])
    write_sorted(work / "bands" / name, "key", {"key": keys.reshape(-1), "label": label})
    return {"documents": len(alive)}


def band_keys(values: np.ndarray, bands: int = BANDS, band_rows: int = BAND_ROWS) -> np.ndarray:
    """(documents, bands) uint64: equal where all values of a band are."""
    keys = np.zeros((len(values), bands), dtype=np.uint64)
    for band in range(bands):
        key = np.full(len(values), band, dtype=np.uint64)
        for column in range(band * band_rows, (band + 1) * band_rows):
            key = (key ^ values[:, column].astype(np.uint64)) * _ODD
            key ^= key >> np.uint64(29)
        keys[:, band] = key
    return keys


def near_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of band keys → EDGES between documents whose sketches agree in a share of `jaccard`."""
    work = Path(arguments["folder"])
    stems = [work / "bands" / name for name in part_names(work)]
    low, high = key_range(arguments["index"], arguments["partitions"])
    key, label = read_range(stems, "key", ("key", "label"), low, high)
    order = np.lexsort((label, key))
    pairs, similarities = joined_pairs(key[order], label[order], _Sketches(work), arguments["jaccard"])
    write_edges(work / "near" / f"{arguments['index']:05d}", pairs)
    return {
        "candidates": int(similarities.sum()),
        "joined": len(pairs),
        "similarities": similarities.tolist(),
    }


class _Sketches:
    """Sketches of documents of any part by label, memory-mapped part by part."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def __call__(self, label: np.ndarray) -> np.ndarray:
        ids = ids_of(label)
        out = None
        places = ids // np.uint64(PART_ROWS)
        for place in np.unique(places):
            chosen = np.flatnonzero(places == place)
            name, _ = part_name(int(place) * PART_ROWS)
            stem = self._work / "read" / name
            rows = np.load(f"{stem}.rows.npy", mmap_mode="r")
            values = np.load(f"{stem}.values.npy", mmap_mode="r")
            at = np.searchsorted(rows, ids[chosen] % np.uint64(PART_ROWS))
            if out is None:
                out = np.empty((len(label), values.shape[1]), dtype=values.dtype)
            out[chosen] = values[at]
        return out if out is not None else np.empty((0, 1), dtype=np.uint32)


def joined_pairs(
    key: np.ndarray, label: np.ndarray, sketches: Any, jaccard: float
) -> tuple[np.ndarray, np.ndarray]:
    """((pairs, 2) labels that belong together, (20,) distinct pairs compared, by similarity) of sorted rows.

    In each bucket all rows are compared with its best; those unlike it form the next round's bucket, so that
    a bucket of n alike rows costs n comparisons and not n².
    """
    # Only rows that share their key with another matter: few, and only they are looked up.
    twin = np.zeros(len(key), dtype=bool)
    twin[1:] = key[1:] == key[:-1]
    twin[:-1] |= twin[1:].copy()
    key, label = key[twin], label[twin]
    known, place = np.unique(label, return_inverse=True)
    compared, member = np.zeros(SIMILARITY_BINS, dtype=np.int64), np.arange(len(key))
    values = sketches(known) if len(known) else np.empty((0, 1), dtype=np.uint32)
    seen = tried = np.empty(0, dtype=np.uint64)
    for _ in range(_ROUNDS):
        if not len(member):
            break
        start = np.ones(len(member), dtype=bool)
        start[1:] = key[member[1:]] != key[member[:-1]]
        first = place[member[np.maximum.accumulate(np.where(start, np.arange(len(member)), 0))]]
        rest, first = member[~start], first[~start]
        pair = first.astype(np.uint64) << np.uint64(32) | place[rest].astype(np.uint64)
        # A pair that meets in several bands is compared once.
        fresh, back = np.unique(pair, return_inverse=True)
        alike = np.zeros(len(fresh), dtype=bool)
        is_new = ~np.isin(fresh, tried)
        left, right = (
            (fresh >> np.uint64(32)).astype(np.int64),
            (fresh & np.uint64(0xFFFFFFFF)).astype(np.int64),
        )
        for at in range(0, len(fresh), _COMPARED):
            part = slice(at, at + _COMPARED)
            similarity = (values[left[part]] == values[right[part]]).mean(axis=1)
            alike[part] = similarity >= jaccard
            where = np.minimum((similarity * SIMILARITY_BINS).astype(int), SIMILARITY_BINS - 1)
            compared += np.bincount(where[is_new[part]], minlength=SIMILARITY_BINS)
        tried = np.union1d(tried, fresh)
        seen = np.union1d(seen, fresh[alike])
        member = rest[~alike[back]]
    found = np.stack(
        [
            known[(seen >> np.uint64(32)).astype(np.int64)],
            known[(seen & np.uint64(0xFFFFFFFF)).astype(np.int64)],
        ],
        axis=1,
    )
    return found, compared


def write_edges(stem: Path, pairs: np.ndarray) -> None:
    """Both directions of each pair of labels, sorted by the mixed first."""
    node = np.concatenate([pairs[:, 0], pairs[:, 1]])
    other = np.concatenate([pairs[:, 1], pairs[:, 0]])
    write_sorted(stem, "key", {"key": mixed(node), "node": node, "other": other})


def star_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of nodes with their edges → the edges after a large-star (odd rounds) or small-star step."""
    work, before = Path(arguments["folder"]), Path(arguments["folder"]) / arguments["before"]
    stems = [before / f"{number:05d}" for number in range(arguments["partitions"])]
    low, high = key_range(arguments["partition"], arguments["partitions"])
    node, other = read_range(stems, "key", ("node", "other"), low, high)
    pairs = star(node, other, large=arguments["large"])
    write_edges(work / arguments["step"] / f"{arguments['partition']:05d}", pairs)
    # The same edges give the same sum in any order and on any partition: no change, no more rounds.
    with np.errstate(over="ignore"):
        total = int((mixed(pairs[:, 0] ^ mixed(pairs[:, 1]))).sum(dtype=np.uint64))
    return {"edges": len(pairs), "sum": total}


def star(node: np.ndarray, other: np.ndarray, *, large: bool) -> np.ndarray:
    """(edges, 2) of one star step over directed edges; each edge stands in both directions in the input."""
    if not len(node):
        return np.empty((0, 2), dtype=np.uint64)
    order = np.lexsort((other, node))
    node, other = node[order], other[order]
    start = np.ones(len(node), dtype=bool)
    start[1:] = node[1:] != node[:-1]
    smallest = np.minimum(node, other[np.maximum.accumulate(np.where(start, np.arange(len(node)), 0))])
    chosen = other > node if large else other < node
    pairs = np.stack([other[chosen], smallest[chosen]], axis=1)
    if not large:
        own = np.stack([node[start], smallest[start]], axis=1)
        pairs = np.concatenate([pairs, own])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.unique(pairs, axis=0) if len(pairs) else pairs.reshape(0, 2)


def leaders_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of nodes of finished stars → each member (by id) and the label of its cluster's best."""
    work, before = Path(arguments["folder"]), Path(arguments["folder"]) / arguments["before"]
    stems = [before / f"{number:05d}" for number in range(arguments["partitions"])]
    low, high = key_range(arguments["index"], arguments["partitions"])
    node, other = read_range(stems, "key", ("node", "other"), low, high)
    member = other < node
    stem = work / "leaders" / f"{arguments['index']:05d}"
    write_sorted(stem, "document", {"document": ids_of(node[member]), "keeper": other[member]})
    return {"members": int(member.sum())}


def of_part(work: Path, step: str, partitions: int, base: int, names: tuple[str, ...]) -> list[np.ndarray]:
    """Columns of a step's outputs for the documents of one part."""
    stems = [work / step / f"{number:05d}" for number in range(partitions)]
    return read_range(stems, "document", names, base, base + PART_ROWS)
