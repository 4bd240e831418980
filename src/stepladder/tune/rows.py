"""Lines of labelled JSON in; checked examples of one kind of task out, or all that is wrong with them.

    classification   {"text", "label"}                              a text or a whole number
    multilabel       {"text", "labels"}                             a list of such, empty: none applies
    rating           {"text", "rating"}                             a number
    span, answer     {"context", "question", "answers"}             [{"text", "start"}], empty: no answer
    translation      {"source", "target"}
    summarisation    {"text", "summary"}

All may have "group": examples of one group (a document, a user, a product) stay on one side of every split.
And "weak": true, where a rule or a model gave the label, with "weak_source", which one.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stepladder.errors import TaskError, did_you_mean

Kind = Literal["classification", "multilabel", "rating", "span", "answer", "translation", "summarisation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# What is answered in words of one's own.
WRITTEN: tuple[Kind, ...] = ("answer", "translation", "summarisation")
MAX_CHARACTERS = 1_000_000
_LISTED_ROWS = 10
_JSON_LINES = "one JSON object a line"
# The keys of a row: what is read first, what is to be said last.
KEYS: dict[Kind, tuple[str, ...]] = {
    "classification": ("text", "label"),
    "multilabel": ("text", "labels"),
    "rating": ("text", "rating"),
    "span": ("context", "question", "answers"),
    "answer": ("context", "question", "answers"),
    "translation": ("source", "target"),
    "summarisation": ("text", "summary"),
}
_ALLOWED: dict[Kind, str] = {
    "classification": '"text" (not empty) and "label" (text or whole number)',
    "multilabel": '"text" (not empty) and "labels" (a list of texts or whole numbers)',
    "rating": '"text" (not empty) and "rating" (a number)',
    "span": '"context", "question" and "answers", a list of {"text", "start"} with text = context[start:]',
    "answer": '"context", "question" and "answers", a list of texts or of {"text"}',
    "translation": '"source" and "target" (not empty)',
    "summarisation": '"text" and "summary" (not empty)',
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """What is read and what is to be said of it. `group` names what must not be torn apart by a split.

    `targets` is one label, the labels that apply, one rating, all accepted answers (none: the text does not
    answer), or one translation or summary. `starts` are the characters of `text` at which the answers begin,
    -1 where that is not known. `weak`: a rule or a model said it (`weak_source`: which), not a person.
    """

    text: str
    targets: tuple[str, ...]
    group: str
    question: str = ""
    starts: tuple[int, ...] = ()
    weak: bool = False
    weak_source: str = ""

    @property
    def label(self) -> str:
        """The first target; empty where there is none."""
        return self.targets[0] if self.targets else ""


# Where a row stands in its file, and the row, or what is wrong with it.
Placed = tuple[str, Mapping[str, Any] | str]


class _RowError(Exception):
    """What is wrong with a row."""


def kind_of_row(row: Mapping[str, Any]) -> Kind:
    """The kind that a row is of, by its keys; classification where none fits.

    Questions whose answers all have a start are "span", else "answer".
    """
    kind: Kind = next((kind for kind in KINDS if KEYS[kind][-1] in row), "classification")
    if kind != "span":
        return kind
    answers = row["answers"] if isinstance(row["answers"], list) else []
    return "span" if all(isinstance(one, Mapping) and "start" in one for one in answers) else "answer"


def parse_rows(
    lines: Iterable[bytes], name: str, *, kind: Kind = "classification", labelled: bool = True
) -> list[Example]:
    """Examples from lines; empty lines are skipped, a target is not asked for where not `labelled`.

    Raises:
        TaskError: all bad rows, the first ten of them listed; or no row at all.
    """
    return parse_placed(placed_lines(lines), name, kind=kind, labelled=labelled)


def placed_lines(lines: Iterable[bytes]) -> Iterator[Placed]:
    """(where it stands, the object on the line or what is wrong with it) of each line that is not empty."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"line {number}", _object(line)
            except _RowError as bad:
                yield f"line {number}", str(bad)


def parse_placed(
    rows: Iterable[Placed], name: str, *, kind: Kind, labelled: bool = True, form: str = _JSON_LINES
) -> list[Example]:
    """Examples from rows with their places; `form` tells the user what a row is.

    Raises:
        TaskError: all bad rows, the first ten of them listed; or no row at all.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for place, row in rows:
        try:
            if isinstance(row, str):
                raise _RowError(row)
            examples.append(example_of(row, kind, f"row {place.split()[-1]}", labelled=labelled))
        except _RowError as bad:
            problems.append(f"{place}: {bad}")
    return checked(examples, problems, name, kind, form)


def checked(
    examples: list[Example], problems: list[str], name: str, kind: Kind, form: str = _JSON_LINES
) -> list[Example]:
    """The examples, if there are some and no problems."""
    refuse_rows(problems, name, f"{form} with {_ALLOWED[kind]}")
    if not examples:
        raise TaskError(f"{name} holds no examples")
    return examples


def refuse_rows(problems: Sequence[str], name: str, allowed: str) -> None:
    """TaskError that lists the first ten problems, where there are any."""
    if not problems:
        return
    listed = "\n           ".join(problems[:_LISTED_ROWS])
    more = f"\n           and {len(problems) - _LISTED_ROWS} more" if len(problems) > _LISTED_ROWS else ""
    raise TaskError(
        f"{name} has {len(problems)} bad {'row' if len(problems) == 1 else 'rows'}",
        got=listed + more,
        allowed=allowed,
    )


def row_of(example: Example, kind: Kind) -> dict[str, Any]:
    """The object that `parse_rows` reads back as the same example."""
    keys = KEYS[kind]
    row: dict[str, Any] = {keys[0]: example.text}
    if kind in ("span", "answer"):
        starts = example.starts or (-1,) * len(example.targets)
        pairs = zip(example.targets, starts, strict=True)
        answers = [{"text": text} | ({"start": start} if start >= 0 else {}) for text, start in pairs]
        row |= {"question": example.question, "answers": answers}
    elif kind == "multilabel":
        row["labels"] = list(example.targets)
    else:
        row[keys[-1]] = float(example.label) if kind == "rating" else example.label
    source = {"weak_source": example.weak_source} if example.weak_source else {}
    return row | {"group": example.group} | ({"weak": True} | source if example.weak else {})


def gold_of(example: Example, kind: Kind) -> Any:
    """What a predictions.jsonl says under "gold": a label, labels, a rating, accepted answers, or a text."""
    if kind in ("multilabel", "span", "answer"):
        return list(example.targets)
    return float(example.label) if kind == "rating" else example.label


def example_of(row: Mapping[str, Any], kind: Kind, group: str, *, labelled: bool = True) -> Example:
    """One row, checked; `group` is what it is called that names no group. Questions about one context are
    one group, so that no split has a context on both sides.
    """
    *read, said = KEYS[kind]
    for key in [*read, said] if labelled else read:
        if key not in row:
            raise _RowError(f'no "{key}"' + next((did for other in row if (did := _hint(other, key))), ""))
    texts = [_text(row[key], key) for key in read]
    own = row.get("group")
    group = str(own) if own not in (None, "") else texts[0] if kind in ("span", "answer") else group
    targets, starts = _targets(row[said], kind, texts[0]) if labelled else ((), ())
    is_weak = labelled and row.get("weak") is True
    return Example(
        text=texts[0],
        targets=targets,
        group=group,
        question=texts[1] if len(texts) > 1 else "",
        starts=starts,
        weak=is_weak,
        weak_source=str(row.get("weak_source") or "") if is_weak else "",
    )


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _RowError(f"not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise _RowError(f"not JSON ({error})") from error
    if not isinstance(row, Mapping):
        raise _RowError(f"a {type(row).__name__}, not an object")
    return row


def _hint(other: str, key: str) -> str:
    return f' (is "{other}" meant?)' if did_you_mean(other, [key]) else ""


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _RowError(f'"{key}" is a {type(value).__name__}, not text')
    if not value.strip():
        raise _RowError(f'"{key}" is empty')
    if len(value) > MAX_CHARACTERS:
        raise _RowError(f'"{key}" has {len(value):,} characters (at most {MAX_CHARACTERS:,})')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _RowError(f'"{key}" holds half a surrogate pair')
    return value


def _targets(value: Any, kind: Kind, text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(targets, starts)."""
    if kind == "classification":
        return (_label(value, '"label"'),), ()
    if kind == "multilabel":
        labels = [_label(one, 'a label of "labels"') for one in _list(value, "labels")]
        if len(set(labels)) < len(labels):
            raise _RowError('"labels" names a label twice')
        return tuple(sorted(labels)), ()
    if kind == "rating":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _RowError(f'"rating" is {value!r}, not a number')
        return (repr(float(value)),), ()
    if kind in ("span", "answer"):
        pairs = [_answer(one, kind, text) for one in _list(value, "answers")]
        return tuple(said for said, _ in pairs), tuple(start for _, start in pairs)
    return (_text(value, KEYS[kind][-1]),), ()


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _RowError(f'"{key}" is a {type(value).__name__}, not a list')
    return list(value)


def _label(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _RowError(f"{name} is a {type(value).__name__}, not text or a whole number")
    if not str(value).strip():
        raise _RowError(f"{name} is empty")
    return str(value)


def _answer(value: Any, kind: Kind, text: str) -> tuple[str, int]:
    """(answer, the character at which it starts, -1 unknown)."""
    if kind == "answer" and isinstance(value, str):
        return _text(value, "answers"), -1
    if not isinstance(value, Mapping):
        raise _RowError(f'an answer of "answers" is a {type(value).__name__}, not an object')
    said, start = _text(value.get("text"), "answers.text"), value.get("start", -1)
    if isinstance(start, bool) or not isinstance(start, int):
        raise _RowError(f'"answers.start" is a {type(start).__name__}, not a whole number')
    if start >= 0 and text[start : start + len(said)] != said:
        raise _RowError(
            f'"context" has {text[start : start + len(said)]!r} at {start}, not the answer {said!r}'
        )
    if start < 0 and "start" in value and value["start"] != -1:
        raise _RowError(f'"answers.start" is {start}, before the passage')
    if start < 0 and kind == "span":
        raise _RowError('an answer of "answers" has no "start"')
    return said, start
