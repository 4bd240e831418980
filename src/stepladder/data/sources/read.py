"""Source files in; batches of documents (polars frames) and quarantine entries out, in flat memory.

A document is a text file, a piece of a long text file, a web page, a notebook, or a record of a file of JSON
lines, CSV, Parquet or Arrow. What cannot be read becomes one quarantine entry with file, place and reason,
and the rest of the file goes on.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepladder.data.sources.columns import Columns, Document, Fault, Items
from stepladder.data.sources.jsonl import read_json_lines
from stepladder.data.sources.listing import SourceFile
from stepladder.data.sources.pages import read_html, read_notebook
from stepladder.data.sources.streams import open_raw, reason_of
from stepladder.data.sources.tables import read_arrow, read_csv, read_parquet
from stepladder.data.sources.text import read_docstrings, read_metadata, read_text

# Batches of 500 documents are the fastest for the quality rules (10–12 MB/s against 7 at 2,000).
BATCH_DOCUMENTS, BATCH_BYTES = 500, 8_000_000
SCHEMA = (
    *("text", "file", "record", "source", "domain", "licence", "group", "date"),
    *("raw_bytes", "held_out"),
)
_SAMPLE_CHARS, _SAMPLE_BYTES = 200, 800
# A record may name a domain of its own; what is no such name is a sentence or a host, not a domain.
_DOMAIN = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """One record or file that could not be read.

    `place` is a byte offset in the unpacked file, or a row for Parquet and Arrow. `num_bytes` is the length
    of the record, of the file on its disk where the whole file could not be read, or 0 for the unknown rest
    of a file that broke off.
    """

    source: str
    place: int
    reason: str
    num_bytes: int
    sample: str = ""
    digest: str = ""


@dataclass(slots=True)
class Reader:
    """Reads files one after another; `quarantined` fills as `batches` is consumed.

    `columns` says which column of the records holds which standard one (text, source, domain, licence,
    group, date); `text_column` is the short form for the text. `on_quarantine` gets each entry in place of
    the list: with it memory stays flat for a file of nothing but broken records.
    """

    text_column: str = "text"
    piece_bytes: int = 1 << 20
    columns: Mapping[str, str] = field(default_factory=dict)
    on_quarantine: Callable[[Quarantined], None] | None = None
    quarantined: list[Quarantined] = field(default_factory=list)
    _rows: list[tuple[Any, ...]] = field(default_factory=list)
    _held: int = 0

    def batches(self, files: Sequence[SourceFile]) -> Iterator[Any]:
        """Frames with the columns of `SCHEMA`, at most 500 documents and about 8 MB each.

        Raises:
            DataError: `columns` names a standard column that there is not.
            MissingExtraError: the library for a kind of file is not installed.
        """
        text = {} if self.text_column == "text" else {"text": self.text_column}
        columns = Columns({**text, **self.columns})
        for file in files:
            for item in _items(file, columns, self.piece_bytes):
                if isinstance(item, Fault):
                    self._reject(file, item)
                else:
                    self._add(file, item)
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

    def _add(self, file: SourceFile, found: Document) -> None:
        own = found.own
        domain, licence, source = own.get("domain"), own.get("licence"), own.get("source")
        is_domain = isinstance(domain, str) and _DOMAIN.fullmatch(domain)
        group = own.get("group")
        group = f"{file.name}:{group}" if isinstance(group, (str, int)) else file.name
        date = own.get("date", "")
        date = "" if date != date else date  # NaN is how some tables say that they do not know
        self._rows.append(
            (
                found.text,
                file.name,
                found.place,
                _storable(source if isinstance(source, str) else file.source),
                domain if is_domain else file.domain,
                _storable(licence if isinstance(licence, str) else file.licence),
                _storable(group),
                _storable("" if isinstance(date, (dict, list)) else str(date)),
                found.num_bytes,
                file.held_out,
            )
        )
        self._held += max(found.num_bytes, len(found.text))

    def _reject(self, file: SourceFile, fault: Fault) -> None:
        sample = fault.raw[:_SAMPLE_BYTES].decode("utf-8", errors="backslashreplace")[:_SAMPLE_CHARS]
        is_whole_file = not fault.num_bytes and not fault.place
        entry = Quarantined(
            source=file.name,
            place=fault.place,
            reason=_storable(fault.reason),
            num_bytes=file.num_bytes if is_whole_file else fault.num_bytes,
            sample=sample,
        )
        if self.on_quarantine:
            self.on_quarantine(entry)
        else:
            self.quarantined.append(entry)


def _items(file: SourceFile, columns: Columns, piece_bytes: int) -> Items:
    read: Mapping[str, Callable[[], Items]] = {
        "text": lambda: read_text(file.path, piece_bytes, file.start, file.end),
        "metadata": lambda: read_metadata(file.path),
        "docstrings": lambda: read_docstrings(file.path),
        "html": lambda: read_html(file.path),
        "notebook": lambda: read_notebook(file.path),
        "jsonl": lambda: read_json_lines(file.path, columns, file.start, file.end),
        "csv": lambda: read_csv(file.path, columns, ","),
        "tsv": lambda: read_csv(file.path, columns, "\t"),
        "parquet": lambda: read_parquet(file.path, columns, file.start, file.end),
        "arrow": lambda: read_arrow(file.path, columns),
        "unreadable": lambda: _unreadable(file.path),
    }
    return read[file.kind]()


def _unreadable(path: str) -> Items:
    """A folder that could not be listed, or a name that is no regular file."""
    try:
        open_raw(path).close()
    except OSError as error:
        yield Fault(0, reason_of(error))
    else:
        yield Fault(0, "could not be listed")


def _storable(text: str) -> str:
    """The same text with halves of surrogate pairs, which UTF-8 cannot hold, written out."""
    return text if text.isascii() else text.encode("utf-8", errors="backslashreplace").decode()
