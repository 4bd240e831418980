"""A folder and tasks of lm-eval in; its results, with intervals drawn as in our tables, out (torch, lm-eval).

Tasks are lm-eval's own: YAML files that name a data set. No hub is needed where they read local files
(`dataset_path: json` with `data_files`).
"""

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.errors import MissingExtraError, TaskError, did_you_mean
from stepladder.eval.counts import mean_counts, ratio
from stepladder.eval.overlap import THRESHOLD, Overlap, as_text, look_for
from stepladder.eval.resample import Array, Measure, Sums, bootstrap
from stepladder.records import TaskResult

METHOD = "lm-eval"
_Z95 = 1.959964
# Metrics of pairs (log-likelihood, weight) → the formula of their sums (lm-eval 0.4.13, api/metrics.py).
_OF_PAIRS: dict[str, Callable[[Array], Array]] = {
    "bits_per_byte": lambda sums: -ratio(sums) / math.log(2),
    "byte_perplexity": lambda sums: np.exp(-ratio(sums)),
    "word_perplexity": lambda sums: np.exp(-ratio(sums)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessRun:
    """What `lm_eval.simple_evaluate` returned, samples included, and the (prompt, answer) of each document.

    Prompts are without the examples and descriptions that a task may put before them.
    """

    raw: Mapping[str, Any]
    asked: Mapping[str, Mapping[int, tuple[str, str]]] = field(default_factory=dict)

    def as_json(self) -> str:
        """The whole of it, as lm-eval writes it to a file."""
        from lm_eval.utils import handle_non_serializable

        return json.dumps(self.raw, indent=2, default=handle_non_serializable, ensure_ascii=False)

    def overlaps(
        self, corpus: Path, *, threshold: float = THRESHOLD, quiet: bool = True
    ) -> dict[str, Overlap]:
        """By task, how many documents stand in the training text of a prepared corpus, and the rows of the
        others: only metrics that can be taken of some documents.

        Raises:
            DataError: no prepared corpus, or a threshold that is no share.
            StoreError: the corpus has no n-grams.
        """
        found = {}
        for task, asked in self.asked.items():
            overlap, clean = look_for(corpus, list(asked.values()), threshold=threshold, quiet=quiet)
            if 0 < len(clean) < len(asked):
                numbers = list(asked)
                rows = self.rows({task: [numbers[at] for at in clean]})
                overlap = replace(overlap, rows=tuple(rows))
            found[task] = overlap
        return found

    def rows(self, among: Mapping[str, Sequence[int]] | None = None) -> list[TaskResult]:
        """A row for each task and metric, with an interval of 95 %: bootstrap where the metric is a mean or
        a ratio of sums over documents, else 1.96 of lm-eval's standard errors, else none (NaN).

        `among`: of some documents of each task; only metrics that can be taken of them, and tasks with any.
        """
        found = []
        for task, metrics in self.raw["results"].items():
            measured = self._measures(task, None if among is None else among.get(task, ()))
            for name, value in metrics.items():
                metric, _, filtered = name.partition(",")
                if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                    continue
                key = metric if filtered == "none" else f"{metric} ({filtered})"
                measure = measured.get(name)
                if among is not None:
                    if measure is None:
                        continue
                    value = measure.value()
                error = metrics.get(f"{metric}_stderr,{filtered}")
                found.append(_row(task, key, value, measure, error, self._examples(task, measure)))
        return found

    def _examples(self, task: str, measure: Measure | None) -> int:
        counted = self.raw.get("n-samples", {}).get(task, {}).get("effective", 0)
        return measure.groups if measure is not None else int(counted)

    def _measures(self, task: str, among: Sequence[int] | None) -> dict[str, Measure]:
        """Metric and filter → its measure, where that gives lm-eval's own value on all documents."""
        by_name: dict[str, dict[int, Any]] = defaultdict(dict)
        for sample in self.raw.get("samples", {}).get(task, ()):
            for metric in sample["metrics"]:
                by_name[f"{metric},{sample['filter']}"][int(sample["doc_id"])] = sample[metric]
        chosen: dict[str, Measure] = {}
        for name, values in by_name.items():
            whole = _measure(name.partition(",")[0], list(values.values()))
            reported = self.raw["results"][task].get(name)
            if whole is None or reported is None or not math.isclose(whole.value(), reported, rel_tol=1e-9):
                continue
            part = None if among is None else [values[at] for at in among if at in values]
            measure = whole if part is None else _measure(name.partition(",")[0], part)
            if measure is not None:
                chosen[name] = measure
        return chosen


def run_harness(
    folder: Path,
    tasks: Sequence[str],
    *,
    path: Path | None = None,
    limit: int = 0,
    tokenizer: Path | None = None,
) -> HarnessRun:
    """Evaluate a decoder's folder on tasks of lm-eval: its own, and those in the YAML files below `path`.

    `limit`: only so many documents of each task (0: all).

    Raises:
        MissingExtraError: lm-eval is not installed.
        TaskError: a task is unknown or its data cannot be loaded.
        ExportError: the folder holds no weights or no tokenizer, or an encoder.
    """
    # Its task index and data sets log every file; its progress bars are many.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager

        from stepladder.eval.lmeval import StepladderLM
    except ImportError as error:
        raise MissingExtraError("stepladder eval --harness", "lm-eval") from error
    manager = _manager(tasks, path, TaskManager)
    model = StepladderLM(folder, tokenizer)
    try:
        loaded = manager.load(list(tasks))
    except Exception as error:  # what lm-eval and datasets raise is of many kinds
        raise TaskError(
            f"lm-eval cannot load {', '.join(tasks)}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            allowed="a task whose data is on this machine: dataset_path: json, with data_files as they are "
            "reached from the current folder",
        ) from error
    raw = lm_eval.simple_evaluate(
        model=model,
        tasks=list(loaded["tasks"].values()),
        task_manager=manager,
        limit=limit or None,
        bootstrap_iters=1_000,
    )
    samples = raw.get("samples", {})
    asked = {
        name: {int(one["doc_id"]): _texts(task, one["doc"]) for one in samples[name]}
        for name, task in loaded["tasks"].items()
        if samples.get(name)
    }
    return HarnessRun(raw=raw, asked=asked)


def _manager(tasks: Sequence[str], path: Path | None, kind: Callable[..., Any]) -> Any:
    """An index of tasks, a `TaskManager`, that has all of these: lm-eval's own only where they are needed."""
    if path is not None and not path.is_dir():
        raise TaskError(f"{path} is no folder of tasks", allowed="a folder with YAML files of lm-eval tasks")
    manager = kind(include_path=None if path is None else str(path), include_defaults=False)
    if not set(tasks) <= set(manager.all_tasks):
        manager = kind(include_path=None if path is None else str(path))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        close = did_you_mean(unknown[0], manager.all_tasks)
        raise TaskError(
            f"lm-eval knows no task {unknown[0]!r}{close}",
            got=", ".join(tasks),
            allowed="names of its own tasks, and of those in the YAML files below --harness-path",
            next_command="lm_eval ls tasks",
        )
    return manager


def _texts(task: Any, doc: Mapping[str, Any]) -> tuple[str, str]:
    """(prompt, gold answer) of a document; a number stands for one of its choices."""
    choices = task.doc_to_choice(doc) if getattr(task.config, "doc_to_choice", None) is not None else ()

    def text(value: Any) -> str:
        is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices)
        return as_text(choices[value] if is_number else value)

    return text(task.doc_to_text(doc)), text(task.doc_to_target(doc))


def format_overlaps(overlaps: Mapping[str, Overlap]) -> str:
    """A sentence a task, and its rows without the documents that stand in training text."""
    lines = []
    for task, one in overlaps.items():
        lines.append(f"{task}: {one.sentence}")
        lines += ["Without them:", format_rows(one.rows)] if one.rows else []
    return "\n".join(lines)


def format_rows(rows: Sequence[TaskResult]) -> str:
    """The rows as lines of text: task, metric, value with interval, examples."""
    cells = [["task", "metric", "value", "examples"]]
    for row in rows:
        ends = "" if math.isnan(row.low) else f" ({row.low:.4g}–{row.high:.4g})"
        cells.append([row.task, row.metric, f"{row.value:.4g}{ends}", f"{row.examples:,}"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def _measure(metric: str, values: Sequence[Any]) -> Measure | None:
    """None where the values are neither numbers nor pairs that are summed."""
    if not values:
        return None
    if metric in _OF_PAIRS and all(isinstance(one, list | tuple) and len(one) == 2 for one in values):
        return Sums(
            counts=np.asarray(values, dtype=np.float64), formula=_OF_PAIRS[metric], span=(0, math.inf)
        )
    if not all(isinstance(one, int | float | np.number) for one in values):
        return None
    numbers = np.asarray(values, dtype=np.float64)
    is_share = numbers.min() >= 0 and numbers.max() <= 1
    span = (0.0, 1.0) if is_share else (-math.inf, math.inf)
    return Sums(counts=mean_counts(numbers), formula=ratio, span=span)


def _row(
    task: str, metric: str, value: float, measure: Measure | None, error: Any, examples: int
) -> TaskResult:
    low = high = math.nan
    notes = ""
    if measure is not None:
        estimate = bootstrap([measure])
        low, high, notes = estimate.low, estimate.high, "examples resampled"
    elif isinstance(error, float) and math.isfinite(error):
        low, high, notes = value - _Z95 * error, value + _Z95 * error, "1.96 of lm-eval's standard errors"
    return TaskResult(
        task=task,
        method=METHOD,
        metric=metric,
        value=value,
        low=low,
        high=high,
        examples=examples,
        notes=notes,
    )
