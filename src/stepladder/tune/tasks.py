"""Labelled rows in; a Task with train, dev and test examples out, split by group (no torch).

`tune/rows.py` says what a row is for each kind of task.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder.errors import TaskError
from stepladder.store import fingerprint, read_json, write_json, write_text
from stepladder.tune.folders import task_files
from stepladder.tune.readers import Columns, read_examples
from stepladder.tune.rows import Example as Example
from stepladder.tune.rows import Kind, row_of

SPLITS = ("train", "dev", "test")
TASK_FILE = "task.json"
# With fewer catalogues than this a split by catalogue would be lopsided: then message by message.
_ENOUGH_FILES = 10
# Kinds whose answer is one or more of a fixed set of labels.
LABELLED: tuple[Kind, ...] = ("classification", "multilabel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task: its labels in a fixed order (none where it is not about labels) and three disjoint splits."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    kind: Kind = "classification"

    @property
    def fingerprint(self) -> str:
        """Stands for every text, label and split."""
        parts = [[row_of(example, self.kind) for example in part] for part in self.splits().values()]
        return fingerprint([self.name, self.kind, self.labels, *parts])

    def splits(self) -> dict[str, tuple[Example, ...]]:
        """The three splits by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def read_task(
    path: Path,
    *,
    kind: Kind | None = None,
    columns: Columns | None = None,
    name: str = "",
    seed: int = 0,
    examples: int = 0,
) -> Task:
    """A Task from one file, split here, or from a folder of splits, in any form of `tune/readers.py`.

    In a folder dev may be absent, it is then split from train; without test, dev is the test. `kind` is by
    default what the keys of the first row say, `columns` maps standard names to the file's own. `examples`
    caps the number of examples, drawn with `seed` (0: all).

    Raises:
        TaskError: all bad rows up to ten, one class only, a label that only the test has, too few examples.
    """
    name, columns = name or path.stem, columns or {}
    files = task_files(path, columns)
    notes: list[str] = []
    if (path / TASK_FILE).exists():
        card = read_json(path / TASK_FILE)
        kind, notes = kind or card["kind"], list(card["notes"])
    parts: dict[str, list[Example]] = {}
    for split in ("", *SPLITS):
        if split in files:
            kind, parts[split] = _read_files(files[split], kind, columns, path)
    if examples:
        total = sum(map(len, parts.values()))
        parts = {key: _sample(part, examples * len(part) // total, seed) for key, part in parts.items()}
    kind = kind or "classification"
    if "train" in parts and "test" not in parts and "dev" in parts:
        parts["test"] = parts.pop("dev")
        notes.append("no test split: dev is the test, and a new dev is split from train")
    if "" in parts or set(parts) == {"train"}:
        return split_task(name, parts.get("", parts.get("train", [])), kind=kind, seed=seed, notes=notes)
    if "train" not in parts:
        raise TaskError(f"{path} has no train split", got=", ".join(parts))
    if "dev" not in parts:
        found, said = _split_strong(parts["train"], {"dev": 0.1}, seed, kind)
        parts, notes = parts | found, [*notes, *said]
    return make_task(name, parts, notes, kind=kind)


def _read_files(
    files: Sequence[Path], kind: Kind | None, columns: Columns, root: Path
) -> tuple[Kind, list[Example]]:
    """All examples of several files; a row without a group is a group of its own, or its catalogue's."""
    found: list[Example] = []
    for file in files:
        kind, rows = read_examples(file, kind, columns)
        if file.suffix == ".po" and len(files) >= _ENOUGH_FILES:
            rows = [replace(row, group=file.relative_to(root).as_posix()) for row in rows]
        elif len(files) > 1:
            own = (row.group.startswith("row ") for row in rows)
            rows = [
                replace(row, group=f"{file.stem} {row.group}") if is_own else row
                for row, is_own in zip(rows, own, strict=True)
            ]
        found += rows
    assert kind is not None
    return kind, found


def _sample(part: list[Example], count: int, seed: int) -> list[Example]:
    return random.Random(seed).sample(part, count) if count < len(part) else part


def split_task(
    name: str,
    examples: Sequence[Example],
    *,
    kind: Kind = "classification",
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Task:
    """A Task from examples: 70 % train, 10 % dev, 20 % test, by group, each label in proportion.

    What is asked twice (the same text, and question) is kept once, with its first answer, so that no test
    text was trained on. Weak labels are for training only; those of groups in dev or test are left out.
    """
    seen: dict[str, Example] = {}
    for example in examples:
        seen.setdefault(asked(example), example)
    kept = list(seen.values())
    said = [f"{len(examples) - len(kept)} repeated texts left out"] if len(kept) < len(examples) else []
    parts, more = _split_strong(kept, {"test": 0.2, "dev": 0.1}, seed, kind)
    return make_task(name, parts, [*notes, *said, *more], kind=kind)


def _split_strong(
    examples: Sequence[Example], shares: dict[str, float], seed: int, kind: Kind
) -> tuple[dict[str, list[Example]], list[str]]:
    """As `split_by_group`, with all weak labels in train but those of groups elsewhere; a note on these."""
    weak = [example for example in examples if example.weak]
    parts = split_by_group([example for example in examples if not example.weak], shares, seed, kind)
    held = {example.group for split in shares for example in parts[split]}
    usable = [example for example in weak if example.group not in held]
    parts["train"] += usable
    left = len(weak) - len(usable)
    names = " or ".join(sorted(shares))
    return parts, [f"{left} weak labels left out: {names} has their group"] if left else []


def split_by_group(
    examples: Sequence[Example], shares: dict[str, float], seed: int, kind: Kind = "classification"
) -> dict[str, list[Example]]:
    """Examples by split: the named ones get their share, "train" the rest; no group is in two splits.

    Groups are dealt label by label (that of a group's first example, where a label is shared at all; ratings
    by whole numbers, questions by whether they have an answer), so that splits look alike. Where a group is
    larger than the smallest share, the largest go first, each to the split that lacks most.
    """
    counts = Counter(_stratum(example, kind) for example in examples)
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    if max(map(len, groups.values()), default=0) > min(shares.values()) * len(examples):
        return _split_lumps(groups, shares, seed)
    by_label: dict[str, list[str]] = defaultdict(list)
    for group, members in groups.items():
        label = _stratum(members[0], kind)
        by_label[label if counts[label] > 1 else ""].append(group)
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


def _stratum(example: Example, kind: Kind) -> str:
    if kind == "rating":
        return str(round(float(example.label)))
    return example.label if kind in LABELLED else str(bool(example.targets))


def _split_lumps(
    groups: dict[str, list[Example]], shares: dict[str, float], seed: int
) -> dict[str, list[Example]]:
    """As `split_by_group`; each split gets a group, as far as there are enough."""
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))
    total = sum(map(len, groups.values()))
    lacking = {"train": (1 - sum(shares.values())) * total, **{key: of * total for key, of in shares.items()}}
    parts: dict[str, list[Example]] = {split: [] for split in (*shares, "train")}
    for at, name in enumerate(names):
        empty = [split for split in lacking if not parts[split]]
        open_ = empty if len(empty) >= len(names) - at else list(lacking)
        split = max(open_, key=lambda split: lacking[split])
        parts[split] += groups[name]
        lacking[split] -= len(groups[name])
    for members in parts.values():
        random.Random(seed).shuffle(members)
    return parts


def make_task(
    name: str,
    parts: dict[str, list[Example]],
    notes: Sequence[str] = (),
    *,
    kind: Kind = "classification",
) -> Task:
    """A checked Task. Left out, and counted in the notes: weak labels of dev and test, since they judge
    nothing, and training texts that occur in dev or test.
    """
    for split in ("dev", "test"):
        strong = [example for example in parts[split] if not example.weak]
        if weak := len(parts[split]) - len(strong):
            notes = [*notes, f"{weak} weak labels left out of {split}: they judge nothing"]
            parts = {**parts, split: strong}
    held = {asked(example) for split in ("dev", "test") for example in parts[split]}
    train = [example for example in parts["train"] if asked(example) not in held]
    if (dropped := len(parts["train"]) - len(train)) > 0:
        notes = [*notes, f"{dropped} training texts left out because dev or test has them"]
    if weak := sum(example.weak for example in train):
        notes = [*notes, f"{weak} of {len(train)} labels of train are weak: a rule or a model gave them"]
    labels = tuple(sorted({one for e in train for one in e.targets})) if kind in LABELLED else ()
    if problems := _problems(kind, labels, {**parts, "train": train}):
        raise TaskError(
            f"task {name} cannot be learned as it is",
            got="; ".join(problems),
            allowed=_LEARNABLE.get(kind, "ten or more examples"),
        )
    return Task(
        name=name,
        labels=labels,
        train=tuple(train),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        notes=tuple(notes),
        kind=kind,
    )


_LEARNABLE: dict[Kind, str] = {
    "classification": "two or more labels, each with training examples, in ten or more examples",
    "multilabel": "one or more labels, each with training examples, in ten or more examples",
    "rating": "two or more different ratings, in ten or more examples",
    "span": "questions of which some have an answer, in ten or more examples",
}


def _problems(kind: Kind, labels: tuple[str, ...], parts: dict[str, list[Example]]) -> list[str]:
    problems = [] if parts["train"] else ["train is empty"]
    if kind == "classification" and len(labels) < 2:
        problems.append(f"training examples have {len(labels)} label(s): {', '.join(labels) or 'none'}")
    if kind == "multilabel" and not labels:
        problems.append("no training example has a label")
    if kind == "rating" and len({example.label for example in parts["train"]}) < 2:
        problems.append("all training examples have the same rating")
    if kind in ("span", "answer") and not any(example.targets for example in parts["train"]):
        problems.append("no training question has an answer")
    for split in ("dev", "test"):
        if not parts[split]:
            problems.append(f"{split} is empty")
        if kind in LABELLED:
            unknown = Counter(one for e in parts[split] for one in e.targets if one not in labels)
            problems += [f"label {la!r} is only in {split} ({n} times)" for la, n in unknown.most_common(10)]
    return problems


def asked(example: Example) -> str:
    """What counts as the same text and question."""
    return normal_form(example.text) + ("\n" + normal_form(example.question) if example.question else "")


def normal_form(text: str) -> str:
    """What counts as the same text: case and runs of white space do not matter."""
    return " ".join(text.casefold().split())


def write_task(task: Task, folder: Path) -> None:
    """The three splits as JSONL and task.json (name, labels, sizes, notes)."""
    for split, members in task.splits().items():
        write_text(folder / f"{split}.jsonl", "".join(_lines(members, task.kind)))
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
    kind: Kind = card["kind"]
    parts = {split: tuple(read_examples(folder / f"{split}.jsonl", kind)[1]) for split in SPLITS}
    return Task(
        name=card["name"],
        labels=tuple(card["labels"]),
        notes=tuple(card["notes"]),
        kind=kind,
        **parts,
    )


def _lines(examples: Iterable[Example], kind: Kind) -> Iterator[str]:
    for example in examples:
        yield json.dumps(row_of(example, kind), ensure_ascii=False) + "\n"
