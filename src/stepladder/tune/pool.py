"""Texts without labels, or with answers of people, in; checked rows with an id each out (no torch)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import TaskError
from stepladder.tune.readers import read_table
from stepladder.tune.rows import Example, parse_placed, refuse_rows
from stepladder.tune.tasks import Task, normal_form

LABELLED_KINDS = ("classification",)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolRow:
    """One text; `id` is the file's own, or "row N". `label` is empty where the file has none."""

    id: str
    text: str
    group: str
    label: str = ""


def read_pool(path: Path) -> tuple[list[PoolRow], list[str]]:
    """All texts of a file (JSON lines, CSV, TSV, Parquet), each once, and sentences on what was left out.

    Raises:
        TaskError: bad rows, up to ten of them listed; the same id twice; no rows.
    """
    placed = read_table(path).rows
    examples = parse_placed(placed, str(path), kind="classification", labelled=False, form='rows with "text"')
    rows, problems, seen = [], [], dict[str, str]()
    for (place, row), example in zip(placed, examples, strict=True):
        assert not isinstance(row, str)
        own = row.get("id")
        name = str(own) if own not in (None, "") else f"row {place.split()[-1]}"
        if name in seen:
            problems.append(f'{place}: "id" {name!r} stands at {seen[name]} too')
        seen[name] = place
        label = "" if row.get("label") is None else str(row["label"]).strip()
        group = f"{path.stem} {name}" if row.get("group") in (None, "") else example.group
        rows.append(PoolRow(id=name, text=example.text, group=group, label=label))
    refuse_rows(problems, str(path), 'rows with "text", and an "id" of their own or none')
    once = list({normal_form(row.text): row for row in reversed(rows)}.values())[::-1]
    return once, [f"{len(rows) - len(once)} repeated texts left out"] if len(once) < len(rows) else []


def unlabelled(rows: Sequence[PoolRow], task: Task) -> tuple[list[PoolRow], list[str]]:
    """Rows whose text no split of the task has, nor their group dev or test; a sentence on the others.

    Raises:
        TaskError: none is left.
    """
    known = {normal_form(example.text) for part in task.splits().values() for example in part}
    held = {example.group for part in (task.dev, task.test) for example in part}
    left = [row for row in rows if normal_form(row.text) not in known and row.group not in held]
    if not left:
        raise TaskError("no text is left to label", got=f"{len(rows)} texts, all of them in {task.name}")
    said = f"{len(rows) - len(left)} texts left out: {task.name} has them, or dev or test their group"
    return left, [said] if len(left) < len(rows) else []


def check_labelled(task: Task) -> None:
    """Refuse what is not about one label of a fixed set."""
    if task.kind not in LABELLED_KINDS:
        raise TaskError(
            f"{task.name} is not about one label a text", got=task.kind, allowed=", ".join(LABELLED_KINDS)
        )


def added(task: Task, train: Iterable[Example], test: Iterable[Example] = ()) -> dict[str, list[Example]]:
    """The splits of a task with more examples; what comes twice counts once, with its first label."""
    parts = {split: list(part) for split, part in task.splits().items()}
    for split, more in (("train", train), ("test", test)):
        seen = {normal_form(example.text) for example in parts[split]}
        for example in more:
            if (form := normal_form(example.text)) not in seen:
                seen.add(form)
                parts[split].append(example)
    return parts
