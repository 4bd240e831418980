"""Rules, or a model's predictions, and texts without labels in; weak labels with their source, and how often
they are right, out (no torch).

Rules vote; a tie, or no rule that matches, abstains (Ratner et al., arXiv:1711.10160, with equal votes).
Weak labels train and never judge: `tune/tasks.py` keeps them out of dev and test.
"""

import csv
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.errors import TaskError, did_you_mean
from stepladder.laws.score import wilson
from stepladder.tune.pool import PoolRow, added
from stepladder.tune.rows import Example, refuse_rows
from stepladder.tune.tasks import Task, make_task

_ALLOWED = 'JSON or TOML {"label": ["pattern", ...]}, or CSV with a header "label,pattern"'
_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A regular expression, searched for without regard to case, that votes for a label."""

    label: str
    pattern: re.Pattern[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Of `gold` texts with a label of people, how many got a weak one, and which share of these is right."""

    gold: int
    labelled: int
    right: int

    @property
    def text(self) -> str:
        """In a sentence."""
        if not self.labelled:
            return f"weak labels stand beside none of {self.gold:,} gold ones: how good they are is not known"
        low, high = wilson(self.right / self.labelled, self.labelled, _Z95)
        return (
            f"{self.labelled:,} of {self.gold:,} gold labels have a weak one beside them; they agree in "
            f"{self.right / self.labelled:.1%} (95 % from {low:.1%} to {high:.1%})"
        )


def read_rules(path: Path, labels: Sequence[str]) -> list[Rule]:
    """The rules of a file.

    Raises:
        TaskError: the file cannot be read, or has labels that the set has not, or patterns that are none.
    """
    try:
        pairs = list(_pairs(path.suffix.lower(), path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot read rules from {path}", got=str(error), allowed=_ALLOWED) from error
    rules, problems = [], []
    for number, (label, pattern) in enumerate(pairs, start=1):
        if label not in labels:
            problems.append(f"rule {number}: unknown label {label!r}{did_you_mean(label, labels)}")
            continue
        try:
            if not pattern:
                raise re.error("empty")
            rules.append(Rule(label=label, pattern=re.compile(pattern, re.IGNORECASE)))
        except re.error as error:
            problems.append(f"rule {number}: {pattern!r} is no pattern ({error})")
    refuse_rows(problems, str(path), f"{_ALLOWED}; labels {', '.join(labels)}")
    if not rules:
        raise TaskError(f"{path} holds no rules", allowed=_ALLOWED)
    return rules


def _pairs(suffix: str, text: str) -> list[tuple[str, str]]:
    """(label, pattern) of every rule."""
    if suffix == ".csv":
        rows = list(csv.reader(io.StringIO(text)))
        if not rows or [cell.strip() for cell in rows[0]] != ["label", "pattern"]:
            raise ValueError(f"header {','.join(rows[0]) if rows else 'missing'}")
        if wrong := [at for at, row in enumerate(rows, start=1) if row and len(row) != 2]:
            raise ValueError(f"line {wrong[0]} has not two cells")
        return [(row[0].strip(), row[1]) for row in rows[1:] if row]
    value: Any = tomllib.loads(text) if suffix == ".toml" else json.loads(text)
    if not isinstance(value, Mapping):
        raise ValueError(f"a {type(value).__name__}")
    pairs = []
    for label, patterns in value.items():
        listed = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"patterns of {label!r} are not texts")
        pairs += [(str(label), one) for one in listed]
    return pairs


def vote(rules: Sequence[Rule], text: str) -> str:
    """The label that most matching rules vote for; empty on a tie, or where none matches."""
    votes = Counter(rule.label for rule in rules if rule.pattern.search(text)).most_common(2)
    return "" if not votes or (len(votes) > 1 and votes[0][1] == votes[1][1]) else votes[0][0]


def agreement_of(weak: Sequence[str], gold: Sequence[str]) -> Agreement:
    """Weak labels (empty: abstained) beside gold ones (empty: none)."""
    pairs = [(one, truth) for one, truth in zip(weak, gold, strict=True) if truth]
    labelled = [(one, truth) for one, truth in pairs if one]
    right = sum(one == truth for one, truth in labelled)
    return Agreement(gold=len(pairs), labelled=len(labelled), right=right)


def with_weak(task: Task, pool: Sequence[PoolRow], labels: Sequence[str], source: str, name: str) -> Task:
    """The task with the weak labels of a pool (empty: none) in train.

    Raises:
        TaskError: no text got a label.
    """
    more = [
        Example(text=row.text, targets=(label,), group=row.group, weak=True, weak_source=source)
        for row, label in zip(pool, labels, strict=True)
        if label
    ]
    if not more:
        raise TaskError(
            f"{source} labels none of {len(pool):,} texts",
            allowed="rules that match, or a lower --above",
        )
    note = f"{len(more)} of {len(pool)} texts of a pool got a weak label from {source}"
    made = make_task(name, added(task, more), [*task.notes, note], kind=task.kind)
    return replace(made, name=name)
