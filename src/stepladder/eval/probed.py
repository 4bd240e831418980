"""A probe's folder in; what each method scored, with standard error and chance, out (no torch).

The folder is what `tune.probing` writes: a tuned folder without weights, and answers.json with what the gold
answers cost the network (nats, bytes).
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.eval.baselines import CHANCE, TaskRows, label_baselines
from stepladder.eval.metrics import BITS_PER_BYTE, METRICS, Metric
from stepladder.eval.predictions import Predictions, kind_of, read_lines, read_methods
from stepladder.eval.resample import Measure, bootstrap
from stepladder.eval.text_baselines import text_baselines
from stepladder.eval.verdict import BLIND
from stepladder.store import ANSWERS_FILE, read_json

PROBES_FILE, GOLD_ANSWERS = "task_probes.csv", "gold answers"
_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One metric of one method. `error` is its standard error over test examples (over groups where these
    are shared), `chance` what guessing scores (NaN where nothing is guessed)."""

    task: str
    method: str
    metric: str
    value: float
    error: float
    chance: float
    examples: int
    seconds: float

    @property
    def name(self) -> str:
        """Which series of figures it belongs to."""
        return f"{self.task}, {self.method}"


def figures_of(folder: Path) -> list[Figure]:
    """What the gold answers cost first, then the metric that decides of each method.

    Raises:
        TaskError: predictions that do not belong to the test set.
    """
    kind, name = kind_of(folder), str(read_json(folder / "task.json")["name"])
    rows = {split: read_lines(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    task = TaskRows(name=name, kind=kind, rows={split: list(part) for split, part in rows.items()})
    gold = task.gold("test")
    groups = [str(row.get("group", at)) for at, row in enumerate(rows["test"])]
    shared = groups if len(set(groups)) < len(groups) else None
    metric, figures = METRICS[kind][0], []

    def figure(method: str, of: Metric, runs: Sequence[Predictions], chance: float) -> Figure:
        value, error = _estimate([of.measure(gold, run, shared) for run in runs])
        seconds = sum(run.seconds for run in runs)
        return Figure(
            task=name,
            method=method,
            metric=of.name,
            value=value,
            error=error,
            chance=chance,
            examples=len(gold),
            seconds=seconds,
        )

    if (folder / ANSWERS_FILE).exists():
        said = read_json(folder / ANSWERS_FILE)
        own = Predictions(
            said=(),
            answer_nats=tuple(said["nats"]),
            answer_bytes=tuple(said["bytes"]),
            seconds=said["seconds"],
        )
        figures.append(figure(GOLD_ANSWERS, BITS_PER_BYTE, [own], math.nan))
    methods = read_methods(folder, gold, kind)
    chance = _chance(task, metric) if methods else math.nan
    return figures + [figure(method, metric, runs, chance) for method, runs in methods.items()]


def probed_seconds(climb: Path) -> float:
    """Core-seconds that probing has taken in a climb's folder so far."""
    path = climb / PROBES_FILE
    if not path.exists():
        return 0.0
    with path.open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"] or 0) for row in csv.DictReader(file))


def _estimate(measures: Sequence[Measure]) -> tuple[float, float]:
    """Value and standard error; where no draw moves it, that of the interval which is then given."""
    found = bootstrap(measures)
    return found.value, found.error or (found.high - found.low) / (2 * _Z95)


def _chance(task: TaskRows, metric: Metric) -> float:
    """The best score of the methods that know nothing of the text; of labels at least one in so many."""
    known = label_baselines if task.kind in ("classification", "multilabel", "rating") else text_baselines
    found = []
    for name, make in known(task).items():
        if name in BLIND and name != CHANCE:
            said = Predictions(said=tuple(make(task, 0)[0]))
            found.append(metric.measure(task.gold("test"), said, None).value())
    if task.kind == "classification":
        found.append(1 / len(set(task.gold("train"))))
    return (max if metric.higher_is_better else min)(found, default=math.nan)
