"""Nouns and bytes in; files under `name@version` folders out, written whole or not at all.

An artefact is a folder with an `artefact.json` that holds the fingerprint fields of what it was made from,
and a `done.json` once it is complete. Same name and fingerprint: reuse or resume. Same name, other
fingerprint: FingerprintError. Paths are never part of a fingerprint.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stepladder.errors import FingerprintError, StoreError

FIELDS_FILE, DONE_FILE = "artefact.json", "done.json"
# In a folder of a task: what the gold answers cost a network, and which model and corpus its networks are of.
ANSWERS_FILE, ORIGIN_FILE = "answers.json", "origin.json"


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, sync it, rename it. On failure nothing is left."""
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name beside `path`, synced and renamed at the end. On failure nothing is left.

    Raises:
        StoreError: the disk is full, or the folder cannot be written to.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; an artefact has the permissions that any new file would have.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise StoreError(
            f"cannot write {path}", got=error.strerror or str(error), next_command="df -h"
        ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, written whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """JSON, indented, strict (NaN is an error), written whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_compact_json(path: Path, value: Any) -> None:
    """JSON in one line, for files that only programs read: Python indents three to four times more slowly."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False))


def read_json(path: Path) -> Any:
    """The JSON value in `path`; StoreError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist") from error
    except (ValueError, OSError) as error:
        raise StoreError(f"{path} is not readable JSON", got=str(error)) from error


def fingerprint(fields: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value; key order does not matter."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """A folder in the store."""

    folder: Path
    fields: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether its maker finished it."""
        return (self.folder / DONE_FILE).exists()

    def finish(self, result: Any) -> None:
        """Record the result; from now on the artefact is reused."""
        write_json(self.folder / DONE_FILE, result)

    def result(self) -> Any:
        """What `finish` recorded."""
        return read_json(self.folder / DONE_FILE)


def open_artefact(folder: Path, fields: Mapping[str, Any], *, next_command: str = "") -> Artefact:
    """Make or reopen `folder` for inputs described by `fields` (JSON values, no paths).

    Raises:
        FingerprintError: the folder was made from other inputs.
    """
    fields = json.loads(json.dumps(fields, default=str))
    marker = folder / FIELDS_FILE
    if marker.exists():
        found = read_json(marker)
        if found != fields:
            changed = sorted(k for k in {*found, *fields} if found.get(k) != fields.get(k))
            difference = "; ".join(
                f"{k}: {_short(found.get(k))} there, {_short(fields.get(k))} now" for k in changed
            )
            raise FingerprintError(
                f"{folder} holds the result of other inputs",
                got=difference,
                allowed="the same inputs (it is then reused), or another name or version",
                next_command=next_command or f"mv {folder} {folder}.old",
            )
    else:
        write_json(marker, fields)
    return Artefact(folder=folder, fields=fields)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
