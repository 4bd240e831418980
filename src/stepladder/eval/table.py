"""A folder with a task's splits and predictions in; one table of all methods with intervals out (no torch).

The folder is what `tune` writes: task.json, train/dev/test.jsonl, and one folder a network with
predictions.jsonl (`stepladder.eval.predictions`) and done.json (method, seed, seconds). The cheap baselines
are computed here and written beside them in the same form.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.errors import StoreError, TaskError
from stepladder.eval.baselines import TaskRows, label_baselines
from stepladder.eval.counts import calibration_error
from stepladder.eval.metrics import Gold, Groups, Metric, metric_named, metrics_of
from stepladder.eval.overlap import THRESHOLD, UNKNOWN, Overlap, as_text, look_for
from stepladder.eval.predictions import (
    NETWORKS,
    Predictions,
    Row,
    asked_of,
    gold_of,
    kind_of,
    read_lines,
    read_methods,
    write_predictions,
)
from stepladder.eval.predictions import SCRATCH as SCRATCH
from stepladder.eval.predictions import TUNED as TUNED
from stepladder.eval.predictions import show_predictions as show_predictions
from stepladder.eval.resample import bootstrap
from stepladder.eval.text_baselines import text_baselines
from stepladder.eval.verdict import BLIND, LEARNED, Compared, limits, verdict
from stepladder.models.words import find_corpus
from stepladder.records import TaskResult, to_json
from stepladder.store import DONE_FILE, read_json, write_json

RESULTS_FILE = "results.json"
Methods = Mapping[str, Sequence[Predictions]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTable:
    """Rows (one a method and metric), what they say in plain sentences, and what the test cannot tell.

    `weak` says how many training labels no person gave; empty where all are people's. `overlap` is of the
    test examples with the text of pretraining; where that was not counted `uncounted` says why.
    """

    task: str
    rows: tuple[TaskResult, ...]
    verdict: str
    limits: tuple[str, ...] = ()
    kind: str = "classification"
    weak: str = ""
    overlap: Overlap | None = None
    uncounted: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSet:
    """Gold values of the test examples and the group of each (None: each is its own)."""

    task: str
    kind: str
    gold: Gold
    groups: Groups

    def take(self, chosen: Sequence[int]) -> "TestSet":
        """Some of its examples."""
        groups = None if self.groups is None else [self.groups[at] for at in chosen]
        return TestSet(task=self.task, kind=self.kind, gold=[self.gold[at] for at in chosen], groups=groups)

    @property
    def independent(self) -> int:
        """Groups, or examples where each is its own."""
        return len(self.gold) if self.groups is None else len(set(self.groups))


def task_table(
    folder: Path,
    *,
    seed: int = 0,
    corpus: Path | None = None,
    threshold: float = THRESHOLD,
    quiet: bool = True,
) -> TaskTable:
    """Score every method in `folder` on the same test examples, add the baselines, write results.json.

    How many test examples stand in the training text of `corpus` is counted beside it, by default of the one
    that the folder's model is known to be trained on.

    Raises:
        TaskError: a predictions file does not belong to the test set, or the test set is empty.
        DataError: `corpus` is no prepared corpus, or the threshold no share.
        StoreError: `corpus` has no n-grams.
    """
    test, methods = read_folder(folder, seed=seed)
    table = replace(score(test, methods), weak=weak_labels(read_lines(folder / "train.jsonl")))
    known = corpus or find_corpus(folder)
    if known is None:
        table = replace(table, uncounted=UNKNOWN)
    else:
        rows = read_lines(folder / "test.jsonl")
        examples = [(asked_of(row, test.kind), as_text(gold_of(row, test.kind))) for row in rows]
        try:
            found, clean = look_for(known, examples, threshold=threshold, quiet=quiet)
        except StoreError as error:
            if corpus:
                raise
            table = replace(table, uncounted=f"Overlap with training text was not counted: {error.wrong}.")
        else:
            table = replace(table, overlap=_apart(found, test, methods, clean))
    write_json(folder / RESULTS_FILE, table_object(table))
    return table


def _apart(found: Overlap, test: TestSet, methods: Methods, clean: Sequence[int]) -> Overlap:
    """With the scores on the examples that were not seen."""
    if not 0 < len(clean) < len(test.gold):
        return found
    taken = {method: [run.take(clean) for run in runs] for method, runs in methods.items()}
    rest = score(test.take(clean), taken)
    return replace(found, rows=rest.rows, verdict=rest.verdict)


def weak_labels(train: Sequence[Row]) -> str:
    """How many training labels are weak, and where they are from; empty without any."""
    weak = [row for row in train if row.get("weak") is True]
    if not weak:
        return ""
    found = Counter(str(row.get("weak_source") or "no source stated") for row in weak)
    sources = ", ".join(f"{count:,} {source}" for source, count in found.most_common())
    return f"{len(weak):,} of {len(train):,} training labels are weak, given by no person: {sources}."


def read_folder(folder: Path, *, seed: int = 0) -> tuple[TestSet, Methods]:
    """The test set and what all methods said, baselines included (computed where they are not there yet)."""
    kind, name = kind_of(folder), read_json(folder / "task.json")["name"]
    if not read_lines(folder / "test.jsonl"):
        raise TaskError(f"{folder / 'test.jsonl'} holds no example", next_command=f"mv {folder} {folder}.old")
    rows: dict[str, list[Row]] = {
        split: [*read_lines(folder / f"{split}.jsonl")] for split in ("train", "dev", "test")
    }
    task = TaskRows(name=name, kind=kind, rows=rows)
    _write_baselines(folder, task, seed)
    gold = task.gold("test")
    groups = [str(row.get("group", at)) for at, row in enumerate(rows["test"])]
    shared = groups if len(set(groups)) < len(groups) else None
    return TestSet(task=name, kind=kind, gold=gold, groups=shared), read_methods(folder, gold, kind)


def score(test: TestSet, methods: Methods) -> TaskTable:
    """The rows of all methods and what they say."""
    rows, decisive = [], {}
    main: Metric | None = None
    for method in sorted(methods, key=_order):
        runs = methods[method]
        for metric in metrics_of(test.kind, test.gold, runs[0]):
            measures = [metric.measure(test.gold, run, test.groups) for run in runs]
            main = main or metric
            if metric is main:
                decisive[method] = measures
            estimate = bootstrap(measures)
            rows.append(
                TaskResult(
                    task=test.task,
                    method=method,
                    metric=metric.name,
                    value=estimate.value,
                    low=estimate.low,
                    high=estimate.high,
                    examples=len(test.gold),
                    seconds=sum(run.seconds for run in runs) / len(runs),
                    seeds=len(runs),
                    notes=_notes(test, runs),
                )
            )
    assert main is not None
    found = Compared(metric=main, methods=decisive)
    return TaskTable(
        task=test.task,
        rows=tuple(rows),
        verdict=verdict(found),
        limits=limits(found, test.independent, len(test.gold)),
        kind=test.kind,
    )


def table_object(table: TaskTable) -> dict[str, Any]:
    """What results.json holds of a table."""
    return {
        "task": table.task,
        "kind": table.kind,
        "verdict": table.verdict,
        "limits": list(table.limits),
        "weak": table.weak,
        "overlap": to_json(table.overlap) if table.overlap else None,
        "uncounted": table.uncounted,
        "rows": [to_json(row) for row in table.rows],
    }


def format_table(table: TaskTable) -> str:
    """The table as lines of text: method, each metric with interval, seeds, seconds; then its limits, and the
    scores without the examples that stand in training text."""
    lines = [*_grid(table.rows), *table.limits]
    if table.overlap:
        lines.append(table.overlap.sentence)
        lines += ["Without them:", *_grid(table.overlap.rows)] if table.overlap.rows else []
    return "\n".join([*lines, *filter(None, [table.uncounted, table.weak])])


def _grid(rows: Sequence[TaskResult]) -> list[str]:
    by_method: dict[str, dict[str, TaskResult]] = defaultdict(dict)
    for row in rows:
        by_method[row.method][row.metric] = row
    metrics = list(dict.fromkeys(row.metric for row in rows))
    texts = {
        method: [_cell(cells[name]) if name in cells else "" for name in metrics]
        for method, cells in by_method.items()
    }
    heads = [metric_named(name).label for name in metrics]
    widths = [max(map(len, column)) for column in zip(heads, *texts.values(), strict=True)]
    width = max(map(len, by_method))
    lines = [_line(["method", *heads], [width, *widths]) + "  seeds  seconds"]
    for method, cells in by_method.items():
        first = next(iter(cells.values()))
        line = _line([method, *texts[method]], [width, *widths])
        lines.append(f"{line}  {first.seeds:>5}  {first.seconds:7.1f}")
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))


def _cell(row: TaskResult) -> str:
    digits = metric_named(row.metric).digits
    return f"{row.value:.{digits}f} ({row.low:.{digits}f}–{row.high:.{digits}f})"


def _write_baselines(folder: Path, task: TaskRows, seed: int) -> None:
    labelled = task.kind in ("classification", "multilabel", "rating")
    for method, make in (label_baselines if labelled else text_baselines)(task).items():
        target = folder / re.sub(r"[^a-z]+", "-", method.lower())
        if (target / DONE_FILE).exists():
            continue
        start = time.perf_counter()
        said, sure = make(task, seed)
        write_predictions(target, task.gold("test"), said, sure)
        seconds = round(time.perf_counter() - start, 3)
        write_json(target / DONE_FILE, {"method": method, "seed": seed, "seconds": seconds})


def _notes(test: TestSet, runs: Sequence[Predictions]) -> str:
    unit = f"{test.independent} groups resampled" if test.groups else "examples resampled"
    if test.kind != "classification" or not all(run.sure for run in runs):
        return unit
    right = [[g == p for g, p in zip(test.gold, run.said, strict=True)] for run in runs]
    errors = [calibration_error(hits, run.sure) for hits, run in zip(right, runs, strict=True)]
    return f"calibration error {sum(errors) / len(errors):.3f}; {unit}"


def _order(method: str) -> tuple[int, str]:
    known = (*NETWORKS, *LEARNED, *BLIND)
    return (known.index(method) if method in known else len(known), method)
