"""Source files in; batches of documents (polars frames) and quarantine entries out, in flat memory.

A document is a text file, a piece of a long text file, or a record of a JSON-lines or Parquet file. What
cannot be read becomes one quarantine entry with file, place and reason, and the rest of the file goes on.
"""

import contextlib
import gzip
import inspect
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from stepladder.data.sources import SourceFile
from stepladder.errors import MissingExtraError

# Batches of 500 documents are the fastest for the quality rules (10–12 MB/s against 7 at 2,000).
BATCH_DOCUMENTS, BATCH_BYTES = 500, 8_000_000
LONGEST_LINE = 64 << 20
_SAMPLE_CHARS = 200
# Strings at the start of a line: parsing the code finds the same and is ten times as slow.
_DOCSTRING = re.compile(r"^[ \t]*[rRuU]?(\"{3}|'{3})(.*?)\1[ \t]*$", re.DOTALL | re.MULTILINE)
# When a record was written, by the names that public sets use; the first that is there counts.
DATE_COLUMNS = ("date", "timestamp", "created")
OWN_COLUMNS = ("source", "domain", "licence", "license", "group", *DATE_COLUMNS)
SCHEMA = (
    *("text", "file", "record", "source", "domain", "licence", "group", "date"),
    *("raw_bytes", "held_out"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """One record or file that could not be read. `place` is a byte offset, or a row for Parquet."""

    source: str
    place: int
    reason: str
    num_bytes: int
    sample: str = ""
    digest: str = ""


@dataclass(slots=True)
class Reader:
    """Reads files one after another; `quarantined` fills as `batches` is consumed."""

    text_column: str
    piece_bytes: int
    quarantined: list[Quarantined] = field(default_factory=list)
    _rows: list[tuple[Any, ...]] = field(default_factory=list)
    _held: int = 0

    def batches(self, files: Sequence[SourceFile]) -> Iterator[Any]:
        """Frames with the columns of `SCHEMA`, at most 500 documents and about 8 MB each."""
        read: Mapping[str, Callable[[SourceFile], Iterator[None]]] = {
            "text": self._read_text,
            "metadata": self._read_metadata,
            "docstrings": self._read_docstrings,
            "jsonl": self._read_json_lines,
            "parquet": self._read_parquet,
        }
        for file in files:
            for _ in read[file.kind](file):
                if len(self._rows) >= BATCH_DOCUMENTS or self._held >= BATCH_BYTES:
                    yield self._flush()
        if self._rows:
            yield self._flush()

    def _flush(self) -> Any:
        import polars as pl

        types: dict[str, Any] = dict.fromkeys(SCHEMA, pl.String)
        types |= {"record": pl.Int64, "raw_bytes": pl.Int64, "held_out": pl.Boolean}
        frame = pl.DataFrame(self._rows, schema=types, orient="row")
        self._rows, self._held = [], 0
        return frame

    def _add(self, file: SourceFile, record: int, text: str, raw_bytes: int, own: Mapping[str, Any]) -> None:
        domain = own.get("domain")
        domain = domain if domain in ("code", "prose", "reference") else file.domain
        licence = own.get("licence") or own.get("license")
        licence = licence if isinstance(licence, str) else file.licence
        group = own.get("group")
        group = f"{file.name}:{group}" if isinstance(group, (str, int)) else file.name
        source = own.get("source")
        source = source if isinstance(source, str) and source else file.source
        date = next((str(own[name]) for name in DATE_COLUMNS if own.get(name)), "")
        self._rows.append(
            (text, file.name, record, source, domain, licence, group, date, raw_bytes, file.held_out)
        )
        self._held += raw_bytes

    def _reject(self, file: SourceFile, place: int, reason: str, raw: bytes | None = None) -> None:
        sample = raw[:_SAMPLE_CHARS].decode("utf-8", errors="backslashreplace") if raw else ""
        size = len(raw) if raw is not None else 0
        self.quarantined.append(
            Quarantined(source=file.name, place=place, reason=reason, num_bytes=size, sample=sample)
        )

    def _read_text(self, file: SourceFile) -> Iterator[None]:
        place = 0
        pieces = _pieces(file.path, self.piece_bytes)
        while True:
            try:
                raw = next(pieces)
            except StopIteration:
                break
            except (OSError, EOFError, zlib.error, ValueError) as error:
                self._reject(file, place, _reason(error))
                break
            text, reason = decode(raw, first=place == 0)
            if reason:
                self._reject(file, place, reason, raw)
            else:
                self._add(file, place, text, len(raw), {})
            place += len(raw)
            yield

    def _read_metadata(self, file: SourceFile) -> Iterator[None]:
        """The long description of a package: what stands below the headers."""
        return self._read_part(file, lambda text: text.partition("\n\n")[2])

    def _read_docstrings(self, file: SourceFile) -> Iterator[None]:
        """The docstrings of a file as one document; it counts with their bytes."""
        return self._read_part(file, docstrings)

    def _read_part(self, file: SourceFile, part: Callable[[str], str]) -> Iterator[None]:
        try:
            with open(file.path, "rb") as stream:
                raw = stream.read()
        except OSError as error:
            self._reject(file, 0, _reason(error))
            return
        text, reason = decode(raw, first=True)
        if reason:
            self._reject(file, 0, reason, raw)
        else:
            chosen = part(text.replace("\r\n", "\n"))
            self._add(file, 0, chosen, len(chosen.encode()), {})
        yield

    def _read_json_lines(self, file: SourceFile) -> Iterator[None]:
        place = 0
        try:
            with open_packed(file.path) as stream:
                while line := stream.readline(LONGEST_LINE):
                    start, place = place, place + len(line)
                    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                        place += _skip_line(stream)
                        self._reject(file, start, f"line longer than {LONGEST_LINE >> 20} MiB", line)
                    elif line.strip():
                        self._add_json(file, start, line)
                    yield
        except (OSError, EOFError, zlib.error, ValueError) as error:
            self._reject(file, place, _reason(error))
            yield

    def _add_json(self, file: SourceFile, place: int, line: bytes) -> None:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            self._reject(file, place, f"not JSON: {_reason(error)}", line)
            return
        reason = self._problem(value)
        if reason:
            self._reject(file, place, reason, line)
        else:
            text = value[self.text_column]
            self._add(file, place, text, len(line), value)

    def _problem(self, value: Any) -> str:
        if not isinstance(value, dict):
            return f"not a JSON object but {type(value).__name__}"
        if self.text_column not in value:
            return f'no column "{self.text_column}" among {", ".join(sorted(map(str, value))[:8]) or "none"}'
        text = value[self.text_column]
        if not isinstance(text, str):
            return f'column "{self.text_column}" holds {type(text).__name__}, not text'
        try:
            text.encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair in the text"
        return ""

    def _read_parquet(self, file: SourceFile) -> Iterator[None]:
        try:
            import pyarrow.parquet as parquet
            from pyarrow.lib import ArrowException
        except ImportError as error:
            raise MissingExtraError("reading Parquet", "data") from error

        row = 0
        try:
            with parquet.ParquetFile(file.path) as table:
                names = table.schema_arrow.names
                if self.text_column not in names:
                    listed = ", ".join(names[:8]) or "none"
                    self._reject(file, 0, f'no column "{self.text_column}" among {listed}')
                    return
                own = [c for c in OWN_COLUMNS if c in names]
                columns = [self.text_column, *own]
                for batch in table.iter_batches(batch_size=BATCH_DOCUMENTS, columns=columns):
                    for value in batch.to_pylist():
                        self._add_row(file, row, value)
                        row += 1
                        yield
        except (OSError, ValueError, ArrowException) as error:
            self._reject(file, row, f"not readable Parquet: {_reason(error)}")
            yield

    def _add_row(self, file: SourceFile, row: int, value: dict[str, Any]) -> None:
        reason = self._problem(value)
        if reason:
            self._reject(file, row, reason, json.dumps(value, default=str).encode())
        else:
            self._add(file, row, value[self.text_column], len(value[self.text_column].encode()), value)


def docstrings(code: str) -> str:
    """Triple-quoted strings that stand on lines of their own, unindented, a blank line between them."""
    return "\n\n".join(inspect.cleandoc(text) for _, text in _DOCSTRING.findall(code))


def decode(raw: bytes, *, first: bool) -> tuple[str, str]:
    """(text, "") or ("", reason). Byte-order marks of UTF-8 and UTF-16 are understood at a file's start."""
    if first and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig" if first else "utf-8"
        if b"\0" in raw:
            return "", f"NUL byte at offset {raw.index(0)}: not text"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        return (
            "",
            f"not {encoding.removesuffix('-sig')}: byte {raw[error.start]:#04x} at offset {error.start}",
        )
    return ("", "NUL character: not text") if "\0" in text else (text, "")


@contextlib.contextmanager
def open_packed(path: str) -> Iterator[IO[bytes]]:
    """A byte stream of a plain, .gz or .zst file. Truncated packed files raise EOFError at their end."""
    if path.lower().endswith(".gz"):
        with gzip.open(path, "rb") as packed:
            yield io.BufferedReader(packed)  # pyrefly: ignore
    elif path.lower().endswith(".zst"):
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError("reading .zst files", "data") from error
        with open(path, "rb") as file:
            yield io.BufferedReader(_ZstdStream(file, zstandard), 1 << 20)
    else:
        with open(path, "rb") as stream:
            yield stream


class _ZstdStream(io.RawIOBase):
    """Decompresses frame after frame. zstandard's own reader ends quietly inside a truncated frame."""

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self._file, self._zstandard = file, zstandard
        self._frame: Any = None
        self._input = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._input:
                self._input = self._file.read(1 << 17)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError("the .zst file is truncated")
                    return 0
            try:
                self._frame = self._frame or self._zstandard.ZstdDecompressor().decompressobj()
                self._ready = self._frame.decompress(self._input)
            except self._zstandard.ZstdError as error:
                raise ValueError(str(error)) from error
            self._input = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _pieces(path: str, piece_bytes: int) -> Iterator[bytes]:
    """A file in pieces that end at a blank line, else at a line's end, else at a character's end."""
    with open_packed(path) as stream:
        rest = stream.read(2)
        if rest in (b"\xff\xfe", b"\xfe\xff"):
            yield rest + stream.read()  # UTF-16 cannot be cut at bytes that look like line ends
            return
        is_first = True
        while block := stream.read(piece_bytes):
            rest += block
            while len(rest) >= 2 * piece_bytes:
                cut = _cut(rest, piece_bytes)
                yield rest[:cut]
                rest, is_first = rest[cut:], False
        if rest or is_first:
            yield rest


def _cut(raw: bytes, near: int) -> int:
    for end in (b"\n\n", b"\n"):
        found = raw.rfind(end, near // 2, near)
        if found >= 0:
            return found + len(end)
    # Continuation bytes of UTF-8 are 10xxxxxx: step back to the start of the character, at most 3 bytes.
    cut = near
    while cut > near - 3 and raw[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _skip_line(stream: IO[bytes]) -> int:
    skipped = 0
    while line := stream.readline(1 << 20):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
    return skipped


def _reason(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno) if error.errno else error.strerror
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__
