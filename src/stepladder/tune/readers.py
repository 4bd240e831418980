"""A file of labelled examples in any of the known forms in; its rows with their places out (no torch).

    .jsonl .ndjson            one object a line
    .json                     SQuAD (v1, v2), a list of objects, or {"data": list}
    .csv .tsv                 a header, then rows; UTF-8
    .parquet .arrow .feather  columns; class names and nested answers as `datasets` stores them
    .po .tmx A.en,A.fr        translations (`tune/catalogues.py`)

Rows of all forms are checked by `tune/rows.py`. Nothing is imported or run from a file, and no hub is asked.
"""

import codecs
import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.errors import MissingExtraError, TaskError, did_you_mean
from stepladder.tune.catalogues import parallel_rows, po_rows, tmx_rows
from stepladder.tune.rows import (
    KEYS,
    MAX_CHARACTERS,
    Example,
    Kind,
    Placed,
    kind_of_row,
    parse_placed,
    placed_lines,
)

Columns = Mapping[str, str]
# What a column map may name: every key of a row.
STANDARD = (*dict.fromkeys(key for keys in KEYS.values() for key in keys), "group", "weak", "weak_source")
_ARROW_MAGIC = b"ARROW1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of one file. `header` names the columns of all rows; None where each row has its own keys.

    `is_text`: all cells are text, so that numbers and lists are still to be read from them. `is_named`: the
    rows have standard names already, whatever the column map says.
    """

    rows: list[Placed]
    header: tuple[str, ...] | None = None
    is_text: bool = False
    is_named: bool = False


def parse_columns(words: str) -> dict[str, str]:
    """{"text": "body", "label": "stars"} from "text=body,label=stars".

    Raises:
        TaskError: not pairs, or a name that no row has.
    """
    pairs = [word.partition("=") for word in words.split(",") if word.strip()]
    columns = {name.strip(): own.strip() for name, _, own in pairs}
    wrong = [name for name, own in columns.items() if name not in STANDARD or not own]
    if wrong:
        hint = did_you_mean(wrong[0], STANDARD)
        raise TaskError(
            f"--columns cannot name {wrong[0]!r}{hint}",
            got=words,
            allowed="STANDARD=OWN,... with " + ", ".join(STANDARD),
        )
    return columns


def read_examples(
    path: Path, kind: Kind | None = None, columns: Columns | None = None
) -> tuple[Kind, list[Example]]:
    """The kind and all rows of one file, strictly checked.

    `columns` maps a standard name to the file's own ("translation.fr": a field within a column). Without
    `kind` the mapped names, then the keys of the first readable row, say what it is.

    Raises:
        TaskError: the file is not of a known form, damaged, without a needed column, or has bad rows.
    """
    table = read_table(path, columns)
    columns = {} if table.is_named or not columns else columns
    if table.header is not None:
        _check_header(path, table.header, columns)
    rows = [(place, row if isinstance(row, str) else _named(row, columns)) for place, row in table.rows]
    first = next((row for _, row in rows if isinstance(row, Mapping)), None)
    if kind is None:
        kind = _kind(first, columns)
    if table.header is not None and first is not None:
        _check_columns(path, kind, first, table.header)
    if table.is_text:
        rows = [(place, row if isinstance(row, str) else _typed(row, kind)) for place, row in rows]
    form = "one JSON object a line" if path.suffix in ("", ".jsonl", ".ndjson") else "rows"
    return kind, parse_placed(rows, str(path), kind=kind, form=form)


def read_table(path: Path, columns: Columns | None = None) -> Table:
    """All rows of a file by the form that its name tells; a name without a known ending is read as JSONL."""
    try:
        if not path.exists() and "," in str(path):
            first, _, second = str(path).partition(",")
            return Table(rows=list(parallel_rows(Path(first), Path(second))), is_named=True)
        return _FORMS.get(path.suffix.lower(), _json_lines)(path, columns or {})
    except OSError as error:
        raise TaskError(f"cannot read {path}", got=error.strerror or str(error)) from error


def _kind(first: Mapping[str, Any] | None, columns: Columns) -> Kind:
    mapped = {key: (first or {}).get(key) for key in columns}
    says = {keys[-1] for keys in KEYS.values()}
    return kind_of_row(mapped if says & set(columns) else first or {})


def _check_header(path: Path, header: tuple[str, ...], columns: Columns) -> None:
    for own in columns.values():
        if own not in header and own.partition(".")[0] not in header:
            raise TaskError(f"{path} has no column {own!r}{did_you_mean(own, header)}", got=", ".join(header))


def _check_columns(path: Path, kind: Kind, first: Mapping[str, Any], header: tuple[str, ...]) -> None:
    missing = [key for key in KEYS[kind] if key not in first]
    if missing:
        hints = "".join(did_you_mean(key, header) for key in missing)
        raise TaskError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}{hints}",
            got=", ".join(header),
            allowed=f"for {kind}: " + ", ".join(KEYS[kind]),
            next_command=f"the same with --columns {','.join(f'{key}=OWN' for key in missing)}",
        )


def _named(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The row under standard names, with answers in our own form."""
    named = dict(row)
    for name, own in columns.items():
        value: Any = row
        for part in [own] if own in row else own.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        named.pop(name, None)
        if value is not _ABSENT:
            named[name] = value
    if "answers" in named:
        named["answers"] = [] if row.get("is_impossible") is True else _answers(named["answers"])
    return named


_ABSENT = object()


def _answers(value: Any) -> Any:
    """SQuAD's answers, in rows ("answer_start") or in columns ({"text": [...]}), in our own form."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value) if value.strip() else []
        if not isinstance(value, (list, Mapping)):
            return [str(value)]
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        texts = value["text"]
        starts = value.get("answer_start", value.get("start"))
        value = [{"text": text} for text in texts]
        if isinstance(starts, list) and len(starts) == len(texts):
            value = [one | {"start": start} for one, start in zip(value, starts, strict=True)]
    if isinstance(value, list):
        return [
            {"text": one.get("text"), "start": one["answer_start"]}
            if isinstance(one, Mapping) and "answer_start" in one
            else one
            for one in value
        ]
    return value


def _typed(row: Mapping[str, Any], kind: Kind) -> Mapping[str, Any]:
    """What cells of text say: a number, labels (a JSON list, or parted by |), true."""
    typed = dict(row)
    if kind == "rating":
        # Where it is none, the row is reported with what stands there.
        with contextlib.suppress(ValueError):
            typed["rating"] = float(typed["rating"])
    if kind == "multilabel":
        cell = typed["labels"].strip()
        with contextlib.suppress(ValueError):
            typed["labels"] = json.loads(cell) if cell.startswith("[") else _parted(cell)
    if typed.get("weak", "").strip().lower() in ("true", "1"):
        typed["weak"] = True
    return typed


def _parted(cell: str) -> list[str]:
    return [word.strip() for word in cell.split("|") if word.strip()]


def _json_lines(path: Path, _: Columns) -> Table:
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # Else each of its lines would be an error of its own.
        raise TaskError(
            f"{path} is not UTF-8",
            got="UTF-16, by its first two bytes",
            allowed="UTF-8",
            next_command=f"iconv -f UTF-16 -t UTF-8 {path} > utf8{path.suffix}",
        )
    return Table(rows=list(placed_lines(content.split(b"\n"))))


def _json(path: Path, _: Columns) -> Table:
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise TaskError(f"{path} is not JSON", got=str(error), allowed="SQuAD, or a list of rows") from error
    rows = value.get("data") if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        raise TaskError(f"{path} holds no rows", allowed='SQuAD, a list of rows, or {"data": [...]}')
    if any(isinstance(row, Mapping) and "paragraphs" in row for row in rows):
        return Table(rows=list(squad_rows(rows)))
    kinds = ((at, row) for at, row in enumerate(rows, start=1))
    return Table(rows=[(f"row {at}", _object(row)) for at, row in kinds])


def _object(row: Any) -> Mapping[str, Any] | str:
    return row if isinstance(row, Mapping) else f"a {type(row).__name__}, not an object"


# With fewer articles than this a split by article would be lopsided: then by paragraph.
_ENOUGH_ARTICLES = 20


def squad_rows(articles: list[Any]) -> Iterator[Placed]:
    """Questions of SQuAD's articles; a group is an article, where there are twenty of them, else a paragraph.

    P. Rajpurkar et al., "Know What You Don't Know", 2018: is_impossible questions have no answer.
    """
    by_article = len(articles) >= _ENOUGH_ARTICLES
    number = 0
    for at, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
        for paragraph in paragraphs if isinstance(paragraphs, list) else [None]:
            questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
            if not isinstance(questions, list):
                number += 1
                yield f"question {number}", 'no "paragraphs" with "context" and "qas"'
                continue
            for question in questions:
                number += 1
                if not isinstance(question, Mapping):
                    yield f"question {number}", _object(question)
                    continue
                row = {"context": paragraph.get("context"), **question}
                group = {"group": str(article.get("title") or at)} if by_article else {}
                yield f"question {number}", {"answers": []} | row | group


def _delimited(delimiter: str) -> Callable[[Path, Columns], Table]:
    def read(path: Path, _: Columns) -> Table:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise TaskError(
                f"{path} is not UTF-8",
                got=f"byte {content[error.start]:#04x} at line {line}",
                allowed="UTF-8",
                next_command=f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8{path.suffix}",
            ) from error
        before = csv.field_size_limit(2 * MAX_CHARACTERS)
        try:
            return _cells(path, csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True))
        finally:
            csv.field_size_limit(before)

    return read


def _cells(path: Path, reader: Any) -> Table:
    """Rows below a header; a row is named by the line on which it ends."""
    rows: list[Placed] = []
    header: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            rows.append((f"line {reader.line_num}", f"not CSV ({error})"))
            continue
        if cells is None:
            break
        if not header:
            header = cells
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise TaskError(f"{path} has two columns {twice!r}", got=", ".join(header))
        elif len(cells) == len(header):
            rows.append((f"line {reader.line_num}", dict(zip(header, cells, strict=True))))
        elif cells:
            wrong = f"{len(cells)} fields, the header has {len(header)}"
            rows.append((f"line {reader.line_num}", wrong))
    return Table(rows=rows, header=tuple(header), is_text=True)


def _arrow(path: Path, _: Columns) -> Table:
    """Parquet, an Arrow file or an Arrow stream."""
    try:
        import pyarrow as pa
        import pyarrow.ipc as ipc
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(f"reading {path.suffix}", "data") from error
    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path, partitioning=None)
        else:
            with pa.OSFile(str(path)) as source:
                is_file = source.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
                source.seek(0)
                table = (ipc.open_file if is_file else ipc.open_stream)(source).read_all()
        table.validate(full=True)
        rows = table.to_pylist()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TaskError(
            f"{path} is damaged or not what its name says", got=str(error).splitlines()[0]
        ) from error
    names = _class_names(table.schema.metadata)
    placed: list[Placed] = [
        (f"row {at}", _without_numbers(row, names)) for at, row in enumerate(rows, start=1)
    ]
    return Table(rows=placed, header=tuple(table.schema.names))


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the classes of each column that `datasets` describes as a ClassLabel."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: kind for name, kind in features.items() if isinstance(kind, Mapping)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    found = {name: kind.get("names") for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    return {name: names for name, names in found.items() if isinstance(names, list)}


def _without_numbers(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    named = {
        key: names[key][row[key]]
        for key in names
        if isinstance(row.get(key), int) and 0 <= row[key] < len(names[key])
    }
    return row | named


def _po(path: Path, _: Columns) -> Table:
    return Table(rows=list(po_rows(path)), is_named=True)


def _tmx(path: Path, columns: Columns) -> Table:
    return Table(rows=list(tmx_rows(path, columns)), is_named=True)


_FORMS: dict[str, Callable[[Path, Columns], Table]] = {
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".po": _po,
    ".tmx": _tmx,
}
SUFFIXES = (".jsonl", ".ndjson", *_FORMS)
