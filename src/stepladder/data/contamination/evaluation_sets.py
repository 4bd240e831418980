"""Files of evaluation examples in; a name and one text an example out.

Kinds: JSON lines, JSON (a list of records, or an object that holds one list of them, and the nested form of
SQuAD), CSV and TSV with a header, and plain text with an example a line; each also as .gz or .zst.

The text of an example is its strings, in the order of the record and whatever their nesting, each on lines of
its own. Not text are numbers, and what stands under a name of `NOT_TEXT` or one that ends in `_id`, `_ids`,
`_idx`, `_label`, `_labels` or `_url`: labels, numbers of examples and addresses do not say whether an example
was copied. "source" says where an example is from, but is text where there is a "target" to translate it to.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.data.sources.streams import COMPRESSIONS, READ_ERRORS, read_whole, reason_of
from stepladder.errors import DataError

# fmt: off
NOT_TEXT = frozenset((
    "label", "labels", "class", "category", "answerkey", "id", "ids", "uid", "guid",
    "uuid", "idx", "index", "key", "split", "source", "domain", "dataset", "config",
    "language", "lang", "licence", "license", "url", "link", "date", "timestamp",
))
# fmt: on
_NOT_TEXT_ENDS = ("_id", "_ids", "_idx", "_label", "_labels", "_url")
# An evaluation set is read whole.
LARGEST_BYTES = 2 << 30
# A field of a CSV file may hold a whole page; Python's own limit is 128 KiB.
_LONGEST_FIELD = 1 << 26
# Each example with its place in words, for errors.
_Records = Iterator[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Examples by which a model is to be judged, each as one text. Held-out documents are such a set too."""

    name: str
    texts: tuple[str, ...]


def read_evaluation(path: Path, fields: Sequence[str] = ()) -> EvaluationSet:
    """The set in a file, named after it. `fields`: take only the strings under these names.

    Raises:
        DataError: the file is missing, of another kind or damaged (with its line), or an example has no text.
    """
    name = _plain(path)
    kind = Path(name).suffix.lower()
    if kind not in _READERS:
        raise DataError(
            f"{path} is of no kind that holds evaluation examples",
            got=f'the ending "{kind}"',
            allowed=f"{', '.join(_READERS)}, each also with {' or '.join(COMPRESSIONS)}",
        )
    try:
        text = read_whole(str(path), LARGEST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, f"not UTF-8 in line {line}: byte {error.object[error.start]:#04x}") from error
    except READ_ERRORS as error:
        raise _unreadable(path, reason_of(error)) from error
    texts = []
    for place, record in _READERS[kind](path, text):
        strings = list(_strings(record, frozenset(fields)))
        if not strings:
            wanted = (
                f"a string under {', '.join(fields)}" if fields else "a string that is no label and no id"
            )
            raise DataError(
                f"an example of {path} has no text",
                got=f"{place}: {json.dumps(record, ensure_ascii=False)[:120]}",
                allowed=wanted,
            )
        texts.append("\n".join(strings))
    if not texts:
        raise _unreadable(path, "no example in it")
    return EvaluationSet(name=Path(name).stem, texts=tuple(texts))


def read_evaluations(paths: Sequence[Path]) -> list[EvaluationSet]:
    """The sets in files and in folders, in the order given; each file once.

    Of a folder all files count whose kind is known, in the order of their paths. Sets are named after their
    files, and with as many folders above them as it takes to tell all apart: `arc/test.jsonl`.

    Raises:
        DataError: as `read_evaluation`, or a folder holds no such file.
    """
    files = list(dict.fromkeys(file.absolute() for path in paths for file in _files(path)))
    names = [Path(_plain(file)).stem for file in files]
    depth = 0
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(file.parts[-depth:]) for file in files]
    return [replace(read_evaluation(file), name=name) for file, name in zip(files, names, strict=True)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(
        file for file in path.rglob("*") if Path(_plain(file)).suffix in _READERS and file.is_file()
    )
    if not found:
        raise DataError(
            f"{path} holds no evaluation set", allowed=f"files of the kinds {', '.join(_READERS)}"
        )
    return found


def _plain(path: Path) -> str:
    """The name of a file without the ending of its compression."""
    name = path.name
    for ending in COMPRESSIONS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read as an evaluation set", got=reason)


def _strings(value: Any, fields: frozenset[str]) -> Iterator[str]:
    """Strings with something in them; those under `fields` only, where any are given."""
    if isinstance(value, str):
        if value.strip() and not fields:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, fields)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in fields:
                yield from _strings(item, frozenset())
            elif fields or not _is_no_text(name) or (name == "source" and "target" in value):
                yield from _strings(item, fields)


def _is_no_text(name: str) -> bool:
    low = name.lower()
    return low in NOT_TEXT or low.endswith(_NOT_TEXT_ENDS)


def _json_lines(path: Path, text: str) -> _Records:
    # Not splitlines: it also breaks at characters that JSON strings may hold as they are (U+2028).
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _unreadable(path, f"line {number} is not JSON: {reason_of(error)}") from error
            yield f"line {number}", record


def _json(path: Path, text: str) -> _Records:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"not JSON from line {error.lineno} on: {error.msg}") from error
    except RecursionError as error:
        raise _unreadable(path, "JSON nested too deeply") from error
    if isinstance(value, dict):
        lists = {name: item for name, item in value.items() if isinstance(item, list)}
        if len(lists) != 1:
            raise _unreadable(path, f"an object with {len(lists)} lists where one list of examples is needed")
        value = next(iter(lists.values()))
    if not isinstance(value, list):
        raise _unreadable(path, "neither a list of examples nor an object that holds one")
    for number, record in enumerate(value, 1):
        if isinstance(record, dict) and isinstance(record.get("paragraphs"), list):
            yield from _squad(number, record["paragraphs"])
        else:
            yield f"example {number}", record


def _squad(article: int, paragraphs: list[Any]) -> _Records:
    """An example for each question of each paragraph: its context, the question and the answers."""
    for place, paragraph in enumerate(paragraphs, 1):
        inner = paragraph if isinstance(paragraph, dict) else {}
        for number, question in enumerate(inner.get("qas") or [{}], 1):
            answers = question.get("answers") if isinstance(question, dict) else None
            # Annotators often give one answer several times.
            given = [
                a["text"] for a in answers or [] if isinstance(a, dict) and isinstance(a.get("text"), str)
            ]
            record = {
                "context": inner.get("context"),
                "question": question.get("question") if isinstance(question, dict) else None,
                "answers": list(dict.fromkeys(given)),
            }
            yield f"article {article}, paragraph {place}, question {number}", record


def _table(delimiter: str) -> Callable[[Path, str], _Records]:
    def read(path: Path, text: str) -> _Records:
        limit = csv.field_size_limit(_LONGEST_FIELD)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = next(rows, None)
            for row in rows:
                if len(row) > len(header or []):
                    reason = f"line {rows.line_num} has {len(row)} fields, the header {len(header or [])}"
                    raise _unreadable(path, reason)
                if any(row):
                    yield f"line {rows.line_num}", dict(zip(header or [], row, strict=False))
        except csv.Error as error:
            raise _unreadable(path, f"line {rows.line_num}: {error}") from error
        finally:
            csv.field_size_limit(limit)

    return read


def _lines(_path: Path, text: str) -> _Records:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", line


_READERS: dict[str, Callable[[Path, str], _Records]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _lines,
}
