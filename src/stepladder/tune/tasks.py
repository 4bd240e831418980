"""Labelled JSON lines in; a Task with train, dev and test examples out, split by group (no torch).

A line is {"text": ..., "label": ...}, with an optional "group": examples of one group (a document, a user,
a product) stay on one side of every split. Other keys are ignored.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.errors import TaskError, did_you_mean
from stepladder.store import fingerprint, read_json, write_json, write_text

MAX_CHARACTERS = 1_000_000
SPLITS = ("train", "dev", "test")
_LISTED_ROWS = 10
TASK_FILE = "task.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One labelled text. `group` names what must not be torn apart by a split."""

    text: str
    label: str
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A classification task: its labels in a fixed order and three disjoint splits."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    kind: str = "classification"

    @property
    def fingerprint(self) -> str:
        """Stands for every text, label and split."""
        return fingerprint(
            [self.name, self.labels, *([(e.text, e.label) for e in part] for part in self.splits().values())]
        )

    def splits(self) -> dict[str, tuple[Example, ...]]:
        """The three splits by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def read_task(path: Path, *, name: str = "", seed: int = 0, examples: int = 0) -> Task:
    """A Task from one JSONL file, which is split here, or from a folder with train, dev and test.jsonl.

    In a folder dev.jsonl may be absent; it is then split from train. `examples` caps the number of examples
    of one file, drawn with `seed` (0: all).

    Raises:
        TaskError: all bad rows up to ten, one class only, a label that only the test has, too few examples.
    """
    name = name or path.stem
    if not path.is_dir():
        rows = read_examples(path)
        if examples and len(rows) > examples:
            rows = random.Random(seed).sample(rows, examples)
        return split_task(name, rows, seed=seed)
    train = read_examples(path / "train.jsonl")
    test = read_examples(path / "test.jsonl")
    if (path / "dev.jsonl").exists():
        dev = read_examples(path / "dev.jsonl")
    else:
        parts = split_by_group(train, {"dev": 0.1}, seed)
        train, dev = parts["train"], parts["dev"]
    return make_task(name, {"train": train, "dev": dev, "test": test})


def read_examples(path: Path) -> list[Example]:
    """All rows of a JSONL file (or of standard input text given by `parse_rows`), strictly checked."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read {path}", got=error.strerror or str(error)) from error
    return parse_rows(content.split(b"\n"), str(path))


def parse_rows(lines: Iterable[bytes], name: str, *, labelled: bool = True) -> list[Example]:
    """Examples from lines; empty lines are skipped, a label is not asked for where not `labelled`."""
    examples, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse_row(line, labelled)
        if isinstance(row, str):
            problems.append(f"line {number}: {row}")
        else:
            examples.append(Example(text=row[0], label=row[1], group=row[2] or f"row {number}"))
    if problems:
        listed = "\n           ".join(problems[:_LISTED_ROWS])
        more = f"\n           and {len(problems) - _LISTED_ROWS} more" if len(problems) > _LISTED_ROWS else ""
        raise TaskError(
            f"{name} has {len(problems)} bad {'row' if len(problems) == 1 else 'rows'}",
            got=listed + more,
            allowed='one JSON object a line with "text" (not empty) and "label" (text or whole number)',
        )
    if not examples:
        raise TaskError(f"{name} holds no examples")
    return examples


def _parse_row(line: bytes, labelled: bool) -> tuple[str, str, str] | str:
    """(text, label, group), or what is wrong with the row."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, not an object"
    for key in ("text", "label") if labelled else ("text",):
        if key not in row:
            hint = next((did for other in row if (did := _hint(other, key))), "")
            return f'no "{key}"{hint}'
    text, label, group = row["text"], row.get("label", ""), row.get("group", "")
    return _text_problem(text) or _label_problem(label, labelled) or (text, str(label), str(group))


def _hint(other: str, key: str) -> str:
    return f' (is "{other}" meant?)' if did_you_mean(other, [key]) else ""


def _text_problem(text: Any) -> str:
    if not isinstance(text, str):
        return f'"text" is a {type(text).__name__}, not text'
    if not text.strip():
        return '"text" is empty'
    if len(text) > MAX_CHARACTERS:
        return f'"text" has {len(text):,} characters (at most {MAX_CHARACTERS:,})'
    if any("\ud800" <= character <= "\udfff" for character in text):
        return '"text" holds half a surrogate pair'
    return ""


def _label_problem(label: Any, labelled: bool) -> str:
    if not labelled:
        return ""
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        return f'"label" is a {type(label).__name__}, not text or a whole number'
    return "" if str(label).strip() else '"label" is empty'


def split_task(name: str, examples: Sequence[Example], *, seed: int = 0) -> Task:
    """A Task from examples: 70 % train, 10 % dev, 20 % test, by group, each label in proportion.

    A text that occurs twice is kept once, with its first label, so that no test text was trained on.
    """
    seen: dict[str, Example] = {}
    for example in examples:
        seen.setdefault(normal_form(example.text), example)
    kept = list(seen.values())
    notes = [f"{len(examples) - len(kept)} repeated texts left out"] if len(kept) < len(examples) else []
    return make_task(name, split_by_group(kept, {"test": 0.2, "dev": 0.1}, seed), notes)


def split_by_group(
    examples: Sequence[Example], shares: dict[str, float], seed: int
) -> dict[str, list[Example]]:
    """Examples by split: the named ones get their share, "train" the rest; no group is in two splits.

    Groups are dealt label by label (the label of a group's first example), so that splits look alike.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    by_label: dict[str, list[str]] = defaultdict(list)
    for group, members in groups.items():
        by_label[members[0].label].append(group)
    parts: dict[str, list[Example]] = {split: [] for split in (*shares, "train")}
    chooser = random.Random(seed)
    for label in sorted(by_label):
        names = sorted(by_label[label])
        chooser.shuffle(names)
        total = sum(len(groups[group]) for group in names)
        wanted = [(split, share * total) for split, share in shares.items()]
        for group in names:
            # The last group of a split may overshoot by less than itself.
            while wanted and wanted[0][1] <= 0:
                wanted.pop(0)
            split = wanted[0][0] if wanted else "train"
            parts[split].extend(groups[group])
            if wanted:
                wanted[0] = (split, wanted[0][1] - len(groups[group]))
    for members in parts.values():
        chooser.shuffle(members)
    return parts


def make_task(name: str, parts: dict[str, list[Example]], notes: Sequence[str] = ()) -> Task:
    """A checked Task; training texts that occur in dev or test are left out and counted in the notes."""
    held = {normal_form(example.text) for split in ("dev", "test") for example in parts[split]}
    train = [example for example in parts["train"] if normal_form(example.text) not in held]
    if (dropped := len(parts["train"]) - len(train)) > 0:
        notes = [*notes, f"{dropped} training texts left out because dev or test has them"]
    labels = tuple(sorted({example.label for example in train}))
    problems = []
    if len(labels) < 2:
        problems.append(f"training examples have {len(labels)} label(s): {', '.join(labels) or 'none'}")
    for split in ("dev", "test"):
        if not parts[split]:
            problems.append(f"{split} is empty")
        unknown = Counter(e.label for e in parts[split] if e.label not in labels)
        problems += [f"label {la!r} is only in {split} ({n} times)" for la, n in unknown.most_common(10)]
    if problems:
        raise TaskError(
            f"task {name} cannot be learned as it is",
            got="; ".join(problems),
            allowed="two or more labels, each with training examples, in ten or more examples",
        )
    return Task(
        name=name,
        labels=labels,
        train=tuple(train),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        notes=tuple(notes),
    )


def normal_form(text: str) -> str:
    """What counts as the same text: case and runs of white space do not matter."""
    return " ".join(text.casefold().split())


def write_task(task: Task, folder: Path) -> None:
    """The three splits as JSONL and task.json (name, labels, sizes, notes)."""
    for split, members in task.splits().items():
        write_text(folder / f"{split}.jsonl", "".join(_lines(members)))
    sizes = {split: len(members) for split, members in task.splits().items()}
    write_json(
        folder / TASK_FILE,
        {
            "name": task.name,
            "kind": task.kind,
            "labels": list(task.labels),
            "sizes": sizes,
            "notes": list(task.notes),
            "fingerprint": task.fingerprint,
        },
    )


def load_task(folder: Path) -> Task:
    """What `write_task` wrote."""
    card = read_json(folder / TASK_FILE)
    parts = {split: tuple(read_examples(folder / f"{split}.jsonl")) for split in SPLITS}
    return Task(
        name=card["name"],
        labels=tuple(card["labels"]),
        notes=tuple(card["notes"]),
        kind=card["kind"],
        **parts,
    )


def _lines(examples: Iterable[Example]) -> Iterator[str]:
    for example in examples:
        row = {"text": example.text, "label": example.label, "group": example.group}
        yield json.dumps(row, ensure_ascii=False) + "\n"
