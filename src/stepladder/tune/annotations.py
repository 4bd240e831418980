"""A queue with answers of people in; agreement, accuracy, and the set with its labels out (no torch).

Several people may answer: a row each, with "annotator". All rows are checked before anything is used.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from stepladder.errors import TaskError, did_you_mean
from stepladder.laws.score import wilson
from stepladder.tune.pool import added
from stepladder.tune.queue import text_check
from stepladder.tune.rows import Example, placed_lines, refuse_rows
from stepladder.tune.tasks import Task, make_task

_NEEDED = ("id", "text", "check", "label")
_ALLOWED = (
    'the rows of `stepladder data labels next`, unchanged, with "label" filled; a row for each "annotator"'
)
_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One text of the queue with what people said; `said` is label by annotator."""

    id: str
    text: str
    group: str
    said: Mapping[str, str]
    predicted: str
    is_random: bool

    @property
    def label(self) -> str:
        """What most said; empty on a tie."""
        ranked = Counter(self.said.values()).most_common(2)
        return "" if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How many of `count`, as a share with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    count: int


def read_answers(path: Path, labels: Sequence[str]) -> list[Asked]:
    """The answered queue, in its order.

    Raises:
        TaskError: unknown labels, rows without one, answered twice by one person, or with another text than
            was asked; all of them, up to ten listed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read {path}", got=error.strerror or str(error)) from error
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    problems: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for place, row in placed_lines(content.split(b"\n")):
        problem = row if isinstance(row, str) else _problem(row, labels)
        if not problem and not isinstance(row, str):
            key = (str(row["id"]), str(row.get("annotator") or ""))
            if key in seen:
                who = f" by {key[1]}" if key[1] else ' (several people: fill "annotator")'
                problem = f"id {key[0]!r} is answered at {seen[key]} too{who}"
            seen.setdefault(key, place)
            rows[key[0]].append(dict(row))
        problems += [f"{place}: {problem}"] if problem else []
    refuse_rows(problems, str(path), f"{_ALLOWED}; labels {', '.join(labels)}")
    if not rows:
        raise TaskError(f"{path} holds no answers")
    return [_asked(identity, members) for identity, members in rows.items()]


def _problem(row: Mapping[str, Any], labels: Sequence[str]) -> str:
    """What is wrong with a row, if anything."""
    if missing := [key for key in _NEEDED if key not in row]:
        return f'no "{missing[0]}"'
    if text_check(str(row["id"]), str(row["text"])) != row["check"]:
        return f"the text of id {str(row['id'])!r} is not the one that was asked"
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        return f'"label" is a {type(label).__name__}, not text'
    label = str(label).strip()
    if not label:
        return '"label" is empty'
    return "" if label in labels else f"unknown label {label!r}{did_you_mean(label, labels)}"


def _asked(identity: str, rows: Sequence[Mapping[str, Any]]) -> Asked:
    first = rows[0]
    why = first.get("why")
    return Asked(
        id=identity,
        text=str(first["text"]),
        group=str(first.get("group") or f"queue {identity}"),
        said={str(row.get("annotator") or ""): str(row["label"]).strip() for row in rows},
        predicted=str(why.get("predicted", "")) if isinstance(why, Mapping) else "",
        is_random=first.get("random") is True,
    )


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two people beyond chance (Cohen 1960); 1 where both always say the same one label."""
    count = len(first)
    same = sum(one == other for one, other in zip(first, second, strict=True)) / count
    shares = Counter(first), Counter(second)
    by_chance = sum(shares[0][label] * shares[1][label] for label in shares[0]) / count**2
    return (same - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0


def fleiss_kappa(answers: Sequence[Sequence[str]]) -> float:
    """Agreement beyond chance of two or more answers to each text (Fleiss 1971), as many as there are."""
    tallies = [Counter(said) for said in answers]
    sizes = [tally.total() for tally in tallies]
    same = sum(
        (sum(n * n for n in tally.values()) - size) / (size * (size - 1))
        for tally, size in zip(tallies, sizes, strict=True)
    ) / len(tallies)
    total: Counter[str] = sum(tallies, Counter())
    by_chance = sum((n / sum(sizes)) ** 2 for n in total.values())
    return (same - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0


def agreement(asked: Sequence[Asked]) -> list[str]:
    """Kappas of each pair of people and, of three or more, of all; nothing where one person answered."""
    people = sorted({person for one in asked for person in one.said})
    if len(people) < 2:
        return []
    lines = []
    for first, second in combinations(people, 2):
        both = [one for one in asked if {first, second} <= set(one.said)]
        if both:
            kappa = cohen_kappa([one.said[first] for one in both], [one.said[second] for one in both])
            lines.append(f"Cohen's kappa of {first} and {second}: {kappa:.2f} ({len(both)} texts)")
    several = [list(one.said.values()) for one in asked if len(one.said) > 1]
    if len(people) > 2 and several:
        lines.append(
            f"Fleiss' kappa of {len(people)} people: {fleiss_kappa(several):.2f} ({len(several)} texts)"
        )
    return lines


def disagreements(asked: Sequence[Asked]) -> list[Asked]:
    """Texts that people gave different labels."""
    return [one for one in asked if len(set(one.said.values())) > 1]


def random_accuracy(asked: Sequence[Asked]) -> Share | None:
    """Accuracy on all of the pool of the model that made the queue, from the random rows; None without.

    A text with different labels counts by the share of people who said what the model did.
    """
    drawn = [one for one in asked if one.is_random and one.predicted]
    if not drawn:
        return None
    right = [sum(said == one.predicted for said in one.said.values()) / len(one.said) for one in drawn]
    share = sum(right) / len(right)
    low, high = wilson(share, len(right), _Z95)
    return Share(value=share, low=low, high=high, count=len(right))


def with_answers(task: Task, asked: Sequence[Asked], name: str) -> Task:
    """The task with these labels: chosen texts go to train, random ones to test, ties to neither.

    Chosen texts would make a test harder than the pool is; random ones keep it unbiased. A random text whose
    group train has goes to train: no group is on two sides.
    """
    settled = [one for one in asked if one.label]
    taught = {one.group for one in task.train} | {one.group for one in settled if not one.is_random}
    parts: dict[bool, list[Example]] = {True: [], False: []}
    for one in settled:
        example = Example(text=one.text, targets=(one.label,), group=one.group)
        parts[one.is_random and one.group not in taught].append(example)
    counts = (
        f"{len(parts[False])} labels of a queue added to train, {len(parts[True])} drawn by chance to test"
    )
    notes = [*task.notes, counts]
    if ties := len(asked) - len(settled):
        notes.append(f"{ties} texts left out: people disagreed, no label has most votes")
    return make_task(name, added(task, parts[False], parts[True]), notes, kind=task.kind)
