"""Token shards of a corpus folder in; a split as one array of ids out, checked against the index.

`index.json`: dtype, vocab_size, end_id, and per split tokens, documents, num_bytes, the file of document
offsets (int64, one more than documents) and the shards with their tokens and SHA-256.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np

from stepladder.errors import DataError, StoreError
from stepladder.store import read_json, writing

INDEX_FILE = "index.json"
SplitName = Literal["train", "heldout"]
_BLOCK = 1 << 22
_COLUMNS = ("sources", "domains")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenArray:
    """A split. `tokens` is one-dimensional; `offsets` are the places where documents begin, and the end.

    `sources` is the number of each document's source in `source_names`, `domains` of its domain in
    `domain_names` (empty where the corpus does not say).
    """

    tokens: Any
    offsets: np.ndarray
    num_bytes: int
    dtype: np.dtype[Any]
    checksum: str
    sources: np.ndarray
    source_names: tuple[str, ...]
    domains: np.ndarray
    domain_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)


class JoinedTokens:
    """Several memory-mapped shards that are read as one array: by index, slice, or array of indices."""

    ndim = 1

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts, self.dtype = [np.asarray(part) for part in parts], parts[0].dtype
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        self.shape = (int(self._starts[-1]),)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            return self._span(start, max(start, stop))
        places = np.asarray(key)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        places = np.where(places < 0, places + len(self), places)
        if ((places < 0) | (places >= len(self))).any():
            raise IndexError(f"index out of range for {len(self)} tokens")
        which = np.searchsorted(self._starts, places, side="right") - 1
        out = np.empty(places.shape, dtype=self.dtype)
        for part in np.unique(which):
            chosen = which == part
            out[chosen] = self.parts[part][places[chosen] - self._starts[part]]
        return out if out.ndim else out[()]

    def _span(self, start: int, stop: int) -> np.ndarray:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for part in range(max(first, 0), len(self.parts)):
            base = int(self._starts[part])
            if base >= stop:
                break
            pieces.append(self.parts[part][max(start - base, 0) : stop - base])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=self.dtype)


def open_split(folder: Path, split: SplitName, *, verify: bool = True) -> TokenArray:
    """A split of a corpus, memory-mapped. Sizes are always checked, checksums once in a process.

    Raises:
        DataError: a shard is missing, truncated, or its bytes are not those that were written.
    """
    try:
        index = read_json(folder / INDEX_FILE)
    except StoreError as error:
        raise DataError(
            f"{folder} is not a prepared corpus",
            got=str(error),
            next_command=f"stepladder data PATH... --out {folder}",
        ) from error
    if split not in index["splits"]:
        raise DataError(f"{folder} has no split {split}", allowed=", ".join(index["splits"]))
    entry, dtype = index["splits"][split], np.dtype(index["dtype"])
    parts = [_open_shard(folder, shard, dtype, verify) for shard in entry["shards"]]
    offsets_path = folder / entry["offsets"]["file"]
    _check(offsets_path, entry["offsets"]["num_bytes"], entry["offsets"]["sha256"], verify)
    tokens = parts[0] if len(parts) == 1 else JoinedTokens(parts)
    numbers = dict.fromkeys(_COLUMNS, np.empty(0, dtype="<u2"))
    for column in _COLUMNS:
        if column in entry:
            path = folder / entry[column]["file"]
            _check(path, entry[column]["num_bytes"], entry[column]["sha256"], verify)
            numbers[column] = np.fromfile(path, dtype="<u2")
    checksum = hashlib.sha256("".join(shard["sha256"] for shard in entry["shards"]).encode()).hexdigest()
    return TokenArray(
        tokens=tokens,
        offsets=np.fromfile(offsets_path, dtype="<i8"),
        num_bytes=entry["num_bytes"],
        dtype=dtype,
        checksum=checksum,
        source_names=tuple(index.get("sources", ())),
        domain_names=tuple(index.get("domains", ())),
        **numbers,
    )


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id, little-endian."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_split(
    folder: Path,
    split: SplitName,
    parts: Iterable[tuple[Path, *tuple[np.ndarray, ...]]],
    dtype: Any,
    shard_tokens: int,
) -> dict[str, Any]:
    """Join parts (file of ids, tokens per document, perhaps sources and domains of documents) into shards.

    Gives the split's entry of the index.
    """
    size = np.dtype(dtype).itemsize
    shards = _Cutter(folder, f"{split}/{{:05d}}.bin", shard_tokens * size)
    offsets = _Cutter(folder, f"{split}/offsets.i64")
    columns = {name: _Cutter(folder, f"{split}/{name}.u16") for name in _COLUMNS}
    documents = tokens = 0
    with shards, offsets, columns["sources"], columns["domains"]:
        offsets.write(np.zeros(1, dtype="<i8").tobytes())
        for path, lengths, *numbers in parts:
            shards.write(path.read_bytes())
            offsets.write((tokens + np.cumsum(lengths)).astype("<i8").tobytes())
            for column, values in zip(columns.values(), numbers, strict=False):
                column.write(values.astype("<u2").tobytes())
            documents, tokens = documents + len(lengths), tokens + int(lengths.sum())
        if not shards.files:
            shards.open()
    entry: dict[str, Any] = {"tokens": tokens, "documents": documents, "offsets": offsets.files[0]}
    entry["shards"] = [
        {"file": shard["file"], "tokens": shard["num_bytes"] // size, "sha256": shard["sha256"]}
        for shard in shards.files
    ]
    return entry | {name: column.files[0] for name, column in columns.items() if column.files}


class _Cutter:
    """Bytes in, files of at most `largest` bytes out, each with its checksum; nothing is held in memory."""

    def __init__(self, folder: Path, name: str, largest: int = 0) -> None:
        self.files: list[dict[str, Any]] = []
        self._folder, self._name, self._largest = folder, name, largest
        self._stack, self._held = contextlib.ExitStack(), 0
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._finish()
        self._stack.__exit__(*error)

    def open(self) -> IO[bytes]:
        """The file at work, a new one where the last is full."""
        if self._file is None:
            name = self._name.format(len(self.files))
            self._file = self._stack.enter_context(writing(self._folder / name))
            self.files.append({"file": name, "num_bytes": 0, "sha256": ""})
            self._digest, self._held = hashlib.sha256(), 0
        return self._file

    def write(self, content: bytes) -> None:
        """Add bytes, over as many files as they fill."""
        while content:
            file = self.open()
            room = self._largest - self._held if self._largest else len(content)
            file.write(content[:room])
            self._digest.update(content[:room])
            self._held += len(content[:room])
            content = content[room:]
            if self._largest and self._held >= self._largest:
                self._finish()

    def _finish(self) -> None:
        if self._file is not None:
            self.files[-1] |= {"num_bytes": self._held, "sha256": self._digest.hexdigest()}
            self._file = None
            self._stack.close()


def _open_shard(folder: Path, shard: dict[str, Any], dtype: np.dtype[Any], verify: bool) -> np.ndarray:
    path = folder / shard["file"]
    _check(path, shard["tokens"] * dtype.itemsize, shard["sha256"], verify)
    if not shard["tokens"]:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _check(path: Path, num_bytes: int, sha256: str, verify: bool) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise _damaged(path, "it does not exist") from error
    if status.st_size != num_bytes:
        raise _damaged(path, f"{status.st_size} bytes where the index says {num_bytes}")
    if verify and _sha256(str(path), status.st_size, status.st_mtime_ns) != sha256:
        raise _damaged(path, "its SHA-256 is not the one in the index")


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, _size: int, _changed: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _damaged(path: Path, got: str) -> DataError:
    return DataError(
        f"{path} is not whole",
        got=got,
        allowed="the file that stepladder data wrote",
        next_command=f"rm -r {path.parent.parent}; stepladder data PATH... --out {path.parent.parent}",
    )
