"""A Parquet, Arrow or CSV file in; its documents and faults out, at most 500 rows and about 8 MB at a time.

An Arrow file is held as its writer cut it: one compressed batch of a gigabyte takes a gigabyte.
"""

import contextlib
import csv
import json
import mmap
from collections.abc import Iterator
from typing import IO, Any

from stepladder.data.sources import jsonl
from stepladder.data.sources.columns import Columns, Fault, Items
from stepladder.data.sources.remote import is_remote
from stepladder.data.sources.streams import READ_ERRORS, open_packed, open_raw, reason_of, skip_line
from stepladder.errors import MissingExtraError

_ROWS, _BYTES = 500, 8_000_000
_MAGIC = b"ARROW1"


def read_parquet(path: str, columns: Columns, first: int = 0, end: int = 0) -> Items:
    """One item a row; a file without the wanted columns is one fault.

    Only row groups that begin at the byte `first` or later and before `end` (0: all); the fault is told where
    `first` is 0.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "data") from error

    row = 0
    try:
        # A buffer lets the pages of a column come one by one and not a row group at once.
        with open_raw(path) as stream, parquet.ParquetFile(stream, buffer_size=1 << 20) as table:
            if reason := _unfit(table.schema_arrow, columns):
                if not first:
                    yield Fault(0, reason)
                return
            wanted = columns.wanted(table.schema_arrow.names)
            rows = _batch_rows(table.metadata)
            row, groups = _row_groups(table.metadata, first, end)
            for batch in table.iter_batches(rows, row_groups=groups, columns=wanted):
                yield from _rows(batch, row, columns)
                row += len(batch)
    except (*READ_ERRORS, ArrowException) as error:
        yield Fault(row, f"not readable Parquet: {reason_of(error)}")


def read_arrow(path: str, columns: Columns) -> Items:
    """One item a row of an Arrow IPC file (Feather 2) or stream, the form `datasets` saves."""
    try:
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise MissingExtraError("reading Arrow", "data") from error

    row = 0
    try:
        with _arrow_source(path) as source:
            for batch in _arrow_batches(source, columns):
                if isinstance(batch, str):
                    yield Fault(0, batch)
                    return
                batch = batch.select(columns.wanted(batch.schema.names))
                for start in range(0, len(batch), _ROWS):
                    piece = batch.slice(start, _ROWS)
                    yield from _rows(piece, row, columns)
                    row += len(piece)
    except (*READ_ERRORS, ArrowException) as error:
        yield Fault(row, f"not readable Arrow: {reason_of(error)}")


@contextlib.contextmanager
def _arrow_source(path: str) -> Iterator[Any]:
    """Memory-mapped where it can be: rows that are not looked at are then never loaded."""
    import pyarrow as pa

    with open_raw(path) as stream:
        if is_remote(path):
            yield pa.PythonFile(stream, mode="r")
            return
        # It is unmapped with the last array that points into it, not at the end of this block.
        yield pa.BufferReader(pa.py_buffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))


def _arrow_batches(source: Any, columns: Columns) -> Iterator[Any]:
    """The reason why there are none, or batches with only the wanted columns."""
    import pyarrow.ipc as ipc

    is_file = source.read(len(_MAGIC)) == _MAGIC
    source.seek(0)
    schema = (ipc.open_file if is_file else ipc.open_stream)(source).schema
    if reason := _unfit(schema, columns):
        yield reason
        return
    source.seek(0)
    if is_file:
        # Asked for some columns only, pyarrow copies them into memory: 131 MB where it else maps them.
        reader = ipc.open_file(source)
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        places = [schema.get_field_index(name) for name in columns.wanted(schema.names)]
        yield from ipc.open_stream(source, options=ipc.IpcReadOptions(included_fields=places))


def _unfit(schema: Any, columns: Columns) -> str:
    import pyarrow.types as types

    if reason := columns.missing(schema.names):
        return reason
    twice = [name for name in columns.wanted(schema.names) if schema.get_field_index(name) < 0]
    if twice:
        return f'two columns "{twice[0]}"'
    kind = schema.field(columns.text).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return "" if is_text else f'column "{columns.text}" holds {kind}, not text'


def _batch_rows(metadata: Any) -> int:
    """Rows of about 8 MB, by the mean of the row group with the longest ones."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
    return int(min(_ROWS, max(1, _BYTES // max(longest, 1))))


def _row_groups(metadata: Any, first: int, end: int) -> tuple[int, list[int]]:
    """(rows before them, numbers of the row groups that begin in a range of bytes)."""
    before, groups = 0, []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        column = group.column(0)
        place = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
        if first <= place and (not end or place < end):
            groups.append(number)
        elif not groups:
            before += group.num_rows
    return before, groups


def _rows(batch: Any, first: int, columns: Columns) -> Items:
    from pyarrow.lib import ArrowException

    try:
        batch.validate(full=True)
        values = batch.to_pylist()
    except (ValueError, OverflowError, ArrowException) as error:
        if len(batch) == 1:
            yield Fault(first, f"not readable: {reason_of(error)}")
            return
        # One row in it is damaged: row by row, the others are read.
        for number in range(len(batch)):
            yield from _rows(batch.slice(number, 1), first + number, columns)
        return
    for number, value in enumerate(values):
        text = value[columns.text]
        num_bytes = len(text.encode()) if isinstance(text, str) else 0
        # Only a fault is written out, and only a row without text is one.
        raw = b"" if isinstance(text, str) else json.dumps(value, default=str).encode()
        yield columns.document(first + number, value, num_bytes, raw)


def read_csv(path: str, columns: Columns, delimiter: str) -> Items:
    """One item a row below the header; places are byte offsets. A quoted field may hold line ends."""
    lines: _Lines | None = None
    before = csv.field_size_limit()
    try:
        with open_packed(path) as stream:
            lines = _Lines(stream)
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            header = next(rows, [])
            if reason := columns.missing(header):
                yield Fault(0, reason)
                return
            while True:
                start = lines.place
                csv.field_size_limit(jsonl.LONGEST_LINE)
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    yield Fault(start, f"not CSV: {error}", lines.place - start, lines.last)
                    continue
                if row is None:
                    return
                if len(row) == len(header):
                    record = dict(zip(header, row, strict=True))
                    yield columns.document(start, record, lines.place - start, lines.last)
                elif row:
                    reason = f"{len(row)} fields, the header has {len(header)}"
                    yield Fault(start, reason, lines.place - start, lines.last)
    except READ_ERRORS as error:
        yield Fault(lines.place if lines else 0, reason_of(error))
    finally:
        csv.field_size_limit(before)


class _Lines:
    """Lines of text that count their bytes. Bytes that are not UTF-8 become halves of surrogate pairs."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.place, self.last = stream, 0, b""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(jsonl.LONGEST_LINE)
        if not line:
            raise StopIteration
        encoding = "utf-8-sig" if self.place == 0 else "utf-8"
        self.place += len(line)
        self.last = line[:1000]
        if len(line) == jsonl.LONGEST_LINE and not line.endswith(b"\n"):
            self.place += skip_line(self._stream)
            raise csv.Error(f"line longer than {jsonl.LONGEST_LINE >> 20} MiB")
        return line.decode(encoding, errors="surrogateescape")
