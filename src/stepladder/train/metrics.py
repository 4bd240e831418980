"""One record a step in; metrics.jsonl out, and back, also when its last line was torn by a kill."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from stepladder.errors import TrainError

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends one line a step. A record that is not a finite number is written as null."""

    def __init__(
        self, path: Path, keep_bytes: int = 0, make_room: Callable[[], object] = lambda: None
    ) -> None:
        """Open `path`, keeping its first `keep_bytes` bytes (what a checkpoint knows of).

        `make_room` is called when the disk is full, before the rest of a line is tried once more: a
        checkpoint that is being written may have taken the last bytes, and gives them back.
        """
        self._path, self._make_room = path, make_room
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            # Unbuffered: a line that did not fit on the disk must not be tried again when the file closes.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (lives as long as the run)
        self.cut(keep_bytes)

    def cut(self, keep_bytes: int) -> None:
        """Forget what stands after the first `keep_bytes` bytes."""
        with self._told():
            self._file.truncate(_whole_lines(self._path, keep_bytes))
            self._file.seek(0, os.SEEK_END)

    @property
    def num_bytes(self) -> int:
        """Bytes of all lines so far."""
        return self._file.tell()

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Append one line; the operating system has it when this returns."""
        values = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        line = memoryview(json.dumps(values).encode() + b"\n")
        tries = 0
        with self._told():
            while line:  # a nearly full disk takes a part of it first
                try:
                    line = line[self._file.write(line) :]
                except OSError as error:
                    tries += 1
                    if tries > 1 or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    self._make_room()

    def sync(self) -> int:
        """Put all lines on the disk; the number of bytes."""
        with self._told():
            os.fsync(self._file.fileno())
            return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _told(self) -> "_DiskErrors":
        return _DiskErrors(self._path)


class _DiskErrors:
    """Turns an OSError of the metrics file into a TrainError with a next step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise TrainError(
                f"cannot write {self._path}: the run stopped at its last checkpoint",
                got=error.strerror or str(error),
                next_command="df -h; free some space and run the same command again",
            ) from error


def read_metrics(path: Path) -> Iterator[dict[str, float]]:
    """All whole records; a torn last line is left out, a damaged line elsewhere is a TrainError."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise TrainError(
                f"{path} is damaged", got=f"line {number}: {line[:60]!r}", allowed="one JSON object a line"
            ) from error


def last_line(path: Path, tail_bytes: int = 65_536) -> dict[str, float]:
    """The last whole record, without reading the file; empty when there is none."""
    if not path.exists():
        return {}
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - tail_bytes, 0))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return {}


def _whole_lines(path: Path, keep_bytes: int) -> int:
    """`keep_bytes`, or the end of the last whole line before it when the file lost its tail."""
    with open(path, "rb") as file:
        kept = file.read(keep_bytes)
    return len(kept) if len(kept) == keep_bytes else kept.rfind(b"\n") + 1
