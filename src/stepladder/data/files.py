"""Frames, named arrays and key-sorted columns on disk, each written whole or not at all.

A shuffle is a file that is sorted by a 64-bit key: whoever needs a range of keys takes that slice out of the
file of every part, so that nobody holds more than one range and the number of ranges may be chosen late.
"""

import functools
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.store import write_bytes, write_json, writing

PARTS_FILE = "parts.json"
_KEYS = 1 << 64


def write_frame(path: Path, frame: Any) -> None:
    """A polars frame as an Arrow file."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="lz4")
    write_bytes(path, buffer.getvalue())


def read_frame(path: Path) -> Any:
    """A frame that `write_frame` wrote."""
    import polars as pl

    return pl.read_ipc(io.BytesIO(path.read_bytes()))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Named arrays in one .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyrefly: ignore
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file."""
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


def write_array(path: Path, array: np.ndarray) -> None:
    """One array as .npy, which can be memory-mapped."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())


def write_sorted(stem: Path, by: str, columns: Mapping[str, np.ndarray]) -> None:
    """Columns of equal length as STEM.COLUMN.npy, in the order of the uint64 column `by`."""
    order = np.argsort(columns[by], kind="stable")
    for name, values in columns.items():
        write_array(Path(f"{stem}.{name}.npy"), np.ascontiguousarray(values[order]))


def read_range(stems: Sequence[Path], by: str, names: Sequence[str], low: int, high: int) -> list[np.ndarray]:
    """Columns `names` of the rows with low <= `by` < high, over all files that `write_sorted` wrote."""
    pieces: list[list[np.ndarray]] = [[] for _ in names]
    for stem in stems:
        key = np.load(f"{stem}.{by}.npy", mmap_mode="r")
        first = int(np.searchsorted(key, np.uint64(low)))
        last = len(key) if high >= _KEYS else int(np.searchsorted(key, np.uint64(high)))
        if last > first:
            for place, name in enumerate(names):
                column = key if name == by else np.load(f"{stem}.{name}.npy", mmap_mode="r")
                pieces[place].append(np.array(column[first:last]))
    return [np.concatenate(piece) if piece else np.empty(0, dtype=np.uint64) for piece in pieces]


def key_range(partition: int, partitions: int) -> tuple[int, int]:
    """(low, high) of a partition of the 64-bit keys."""
    return partition * _KEYS // partitions, (partition + 1) * _KEYS // partitions


def write_parts(work: Path, parts: Sequence[Mapping[str, Any]]) -> None:
    """List the parts that reading made, so that a task need not carry their names."""
    write_json(work / PARTS_FILE, list(parts))


def part_names(work: Path) -> list[str]:
    """Names of all parts in order."""
    path = work / PARTS_FILE
    return list(_names(str(path), path.stat().st_mtime_ns))


@functools.lru_cache(maxsize=2)
def _names(path: str, _changed: int) -> tuple[str, ...]:
    return tuple(part["name"] for part in json.loads(Path(path).read_text(encoding="utf-8")))


def write_packed(path: Path, parts: Sequence[Path]) -> None:
    """Files joined and compressed with zstandard, in flat memory."""
    import zstandard

    with writing(path) as stream, zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as packed:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, packed)
