"""Parts with what is known of their copies in; verdicts, boilerplate lines and shared lines out.

A long line that stands in `BOILERPLATE_REPEATS` earlier documents is cut; a held-out document whose lines
stand in training text goes. Both are decided range by range of line hashes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.copies.clusters import of_part
from stepladder.data.copies.dedup import BOILERPLATE_REPEATS
from stepladder.data.files import (
    key_range,
    part_names,
    read_arrays,
    read_frame,
    read_range,
    write_array,
    write_arrays,
    write_sorted,
)
from stepladder.data.labels import NOBODY, base_of, ids_of, part_name

# What the steps after reading decide about a document, in the order of the pipeline.
STAYS, EXACT, NEAR, ONLY_BOILERPLATE, OVERLAP, CONTAMINATED = range(6)
LATE_RULES = (
    *("", "exact_duplicate", "near_duplicate", "only_boilerplate", "heldout_overlap"),
    "contaminated",
)


def lines_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part and the copies among its documents → their verdicts, and the sorted lines of those that stay."""
    work, name = Path(arguments["folder"]), arguments["part"]
    base = base_of(name)
    own = read_arrays(work / "read" / f"{name}.npz")
    ids = np.uint64(base) + own["rows"].astype(np.uint64)
    verdict = np.zeros(len(ids), dtype=np.uint8)
    like = np.full(len(ids), NOBODY, dtype=np.uint64)
    for code, step, partitions in ((EXACT, "exact", "exact"), (NEAR, "leaders", "partitions")):
        document, keeper = of_part(work, step, arguments[partitions], base, ("document", "keeper"))
        places = np.searchsorted(ids, document)
        verdict[places], like[places] = code, ids_of(keeper)
    write_arrays(
        work / "lines" / f"{name}.npz",
        {"verdict": verdict, "like": like, "similarity": _similarity(work, name, verdict, like)},
    )
    place = np.arange(len(ids))[verdict == STAYS]
    kept = np.isin(own["line_document"], place)
    columns = {
        "key": own["line_key"][kept],
        "document": ids[own["line_document"][kept]],
        "removable": own["line_removable"][kept],
    }
    write_sorted(work / "lines" / name, "key", columns)
    return {"lines": int(kept.sum())}


def _similarity(work: Path, name: str, verdict: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Share of equal sketch values of each near-duplicate and the best of its cluster."""
    out = np.ones(len(verdict), dtype=np.float32)
    near = np.flatnonzero(verdict == NEAR)
    if len(near):
        values = np.load(work / "read" / f"{name}.values.npy", mmap_mode="r")
        for place in near:
            other, row = part_name(int(like[place]))
            rows = np.load(work / "read" / f"{other}.rows.npy", mmap_mode="r")
            best = np.load(work / "read" / f"{other}.values.npy", mmap_mode="r")[np.searchsorted(rows, row)]
            out[place] = (values[place] == best).mean()
    return out


def boilerplate_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of line hashes → the (document, line) that are cut, sorted by document."""
    work = Path(arguments["folder"])
    key, document, goes = _boilerplate(work, arguments)
    stem = work / "boilerplate" / f"{arguments['index']:05d}"
    write_sorted(stem, "document", {"document": document[goes], "key": key[goes]})
    return {"lines": int(goes.sum())}


def _boilerplate(work: Path, arguments: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stems = [work / "lines" / name for name in part_names(work)]
    low, high = key_range(arguments["index"], arguments["partitions"])
    key, document, removable = read_range(stems, "key", ("key", "document", "removable"), low, high)
    order = np.lexsort((document, key))
    key, document, removable = key[order], document[order], removable[order].astype(bool)
    return key, document, boilerplate(key, removable)


def boilerplate(key: np.ndarray, removable: np.ndarray) -> np.ndarray:
    """Boolean per line, in the order of (key, document): removable, and in enough earlier documents."""
    start = np.ones(len(key), dtype=bool)
    start[1:] = key[1:] != key[:-1]
    place = np.arange(len(key))
    earlier = place - np.maximum.accumulate(np.where(start, place, 0))
    return (earlier >= BOILERPLATE_REPEATS) & removable


def overlap_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of line hashes and the held-out ids → per held-out document its lines and those in training."""
    work = Path(arguments["folder"])
    held = np.load(work / "held.npy")
    key, document, goes = _boilerplate(work, arguments)
    key, document = key[~goes], document[~goes]
    place = np.searchsorted(held, document)
    is_held = held[np.minimum(place, len(held) - 1)] == document if len(held) else np.zeros(len(key), bool)
    # Sorted already: `isin` would send both through a hash table.
    training, asked = key[~is_held], key[is_held]
    at = np.searchsorted(training, asked)
    shared = (
        training[np.minimum(at, len(training) - 1)] == asked if len(training) else np.zeros(len(at), bool)
    )
    own = place[is_held]
    write_array(
        work / "overlap" / f"{arguments['index']:05d}.npy",
        np.stack([np.bincount(own, minlength=len(held)), np.bincount(own[shared], minlength=len(held))]),
    )
    return {"lines": int(is_held.sum()), "shared": int(shared.sum())}


def heads(work: Path, identity: int) -> tuple[str, str]:
    """(file, first characters) of a document by id."""
    name, row = part_name(identity)
    meta = read_frame(work / "read" / f"{name}.meta")
    return str(meta["file"][row]), str(meta["head"][row])
