"""A folder with a task's splits and predictions in; one table of all methods with intervals out (no torch).

The folder is what `tune` writes: task.json, train/dev/test.jsonl, and one folder a network with
predictions.jsonl (a line for each test example: index, gold, predicted, probability) and done.json (method,
seed, seconds). The cheap baselines are computed here and written beside them in the same form.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.errors import TaskError
from stepladder.eval.baselines import CHANCE, LINEAR, MAJORITY, chance, linear, majority
from stepladder.eval.metrics import METRICS, bootstrap, calibration_error, paired_difference
from stepladder.records import TaskResult, to_json
from stepladder.store import DONE_FILE, read_json, write_json, write_text

PREDICTIONS_FILE, RESULTS_FILE = "predictions.jsonl", "results.json"
TUNED, SCRATCH, FROZEN = "fine-tuned", "from scratch", "frozen features"
_NETWORKS = (TUNED, FROZEN, SCRATCH)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTable:
    """Rows (one a method and metric), and what they say in plain sentences."""

    task: str
    rows: tuple[TaskResult, ...]
    verdict: str


def task_table(folder: Path, *, seed: int = 0) -> TaskTable:
    """Score every method in `folder` on the same test examples, add the baselines, write results.json.

    Raises:
        TaskError: a predictions file does not belong to the test set.
    """
    card = read_json(folder / "task.json")
    splits = {split: _read_lines(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    _write_baselines(folder, splits, seed)
    gold = [str(row["label"]) for row in splits["test"]]
    groups = [str(row.get("group", at)) for at, row in enumerate(splits["test"])]
    clustered = groups if len(set(groups)) < len(groups) else None
    methods = _read_methods(folder, gold)
    rows = []
    for method in sorted(methods, key=_order):
        runs = methods[method]
        for metric in METRICS:
            estimate = bootstrap(metric, gold, [run["labels"] for run in runs], groups=clustered)
            rows.append(
                TaskResult(
                    task=card["name"],
                    method=method,
                    metric=metric,
                    value=estimate.value,
                    low=estimate.low,
                    high=estimate.high,
                    examples=len(gold),
                    seconds=sum(run["seconds"] for run in runs) / len(runs),
                    seeds=len(runs),
                    notes=_notes(gold, runs, clustered),
                )
            )
    labels = {method: [run["labels"] for run in runs] for method, runs in methods.items()}
    table = TaskTable(task=card["name"], rows=tuple(rows), verdict=verdict(gold, labels, clustered))
    write_json(
        folder / RESULTS_FILE,
        {"task": card["name"], "verdict": table.verdict, "rows": [to_json(row) for row in rows]},
    )
    return table


def verdict(
    gold: Sequence[str],
    methods: Mapping[str, Sequence[Sequence[str]]],
    groups: Sequence[str] | None = None,
) -> str:
    """What a reader should do, from paired differences in accuracy with 95 % intervals."""
    sentences = []
    network = next((method for method in _NETWORKS if method in methods), None)
    if network and LINEAR in methods:
        gap = paired_difference("accuracy", gold, methods[network], methods[LINEAR], groups=groups)
        figures = f"{gap.value:+.3f} accuracy, 95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
        if gap.high < 0:
            sentences.append(f"Use the linear model: the {network} network loses to it ({figures}).")
        elif gap.low <= 0:
            sentences.append(
                f"Use the linear model: the {network} network cannot be told from it ({figures}), and it is "
                "far cheaper."
            )
        else:
            sentences.append(f"Use the {network} network: it beats the linear model ({figures}).")
    if TUNED in methods and SCRATCH in methods:
        gap = paired_difference("accuracy", gold, methods[TUNED], methods[SCRATCH], groups=groups)
        figures = f"{gap.value:+.3f}, {gap.low:+.3f} to {gap.high:+.3f}"
        effect = (
            "helped" if gap.low > 0 else "hurt" if gap.high < 0 else "made no difference that can be told"
        )
        sentences.append(f"Pretraining {effect} ({figures}).")
    best = LINEAR if LINEAR in methods else network
    if best and MAJORITY in methods:
        gap = paired_difference("accuracy", gold, methods[best], methods[MAJORITY], groups=groups)
        if gap.low <= 0:
            sentences.append(f"{best} does not beat the majority class: these labels were not learned.")
    return " ".join(sentences)


def format_table(table: TaskTable) -> str:
    """The table as lines of text: method, metric ± interval per metric, seeds, seconds."""
    by_method: dict[str, dict[str, TaskResult]] = defaultdict(dict)
    for row in table.rows:
        by_method[row.method][row.metric] = row
    width = max(len(method) for method in by_method)
    heads = "  ".join(f"{metric.replace('_', '-'):<22}" for metric in METRICS)
    lines = [f"{'method':<{width}}  {heads}  seeds  seconds"]
    for method, cells in by_method.items():
        texts = [f"{r.value:.3f} ({r.low:.3f}–{r.high:.3f})" for r in (cells[metric] for metric in METRICS)]
        first = next(iter(cells.values()))
        figures = "  ".join(f"{text:<22}" for text in texts)
        lines.append(f"{method:<{width}}  {figures}  {first.seeds:>5}  {first.seconds:7.1f}")
    return "\n".join(lines)


def show_predictions(folder: Path, method: str = TUNED, *, count: int = 5, seed: int = 0) -> list[str]:
    """`count` test examples as lines: right or wrong, gold and predicted label, probability, short text.

    Drawn with `seed` from the method's first run, so that nobody picked the nice ones.
    """
    import random

    rows = _read_lines(folder / "test.jsonl")
    runs = _read_methods(folder, [str(row["label"]) for row in rows])
    if method not in runs:
        raise TaskError(f"{folder} has no predictions of {method!r}", allowed=", ".join(sorted(runs)))
    run, lines = runs[method][0], []
    width = max(len(str(row["label"])) for row in rows)
    for at in sorted(random.Random(seed).sample(range(len(rows)), min(count, len(rows)))):
        gold, predicted = str(rows[at]["label"]), run["labels"][at]
        text = " ".join(rows[at]["text"].split())
        text = text if len(text) <= 60 else text[:59] + "…"
        said = f"{predicted} ({run['probabilities'][at]:.2f})"
        mark = "right" if gold == predicted else "WRONG"
        lines.append(f"{mark}  {said:<{width + 7}}  gold {gold:<{width}}  {text}")
    return lines


def write_predictions(
    folder: Path, gold: Sequence[str], labels: Sequence[str], sure: Sequence[float]
) -> None:
    """predictions.jsonl of one method; one line a test example, in the order of test.jsonl."""
    lines = [
        json.dumps({"index": at, "gold": g, "predicted": p, "probability": round(s, 6)}, ensure_ascii=False)
        for at, (g, p, s) in enumerate(zip(gold, labels, sure, strict=True))
    ]
    write_text(folder / PREDICTIONS_FILE, "\n".join(lines) + "\n")


def _write_baselines(folder: Path, splits: Mapping[str, list[dict[str, Any]]], seed: int) -> None:
    texts = {split: [row["text"] for row in rows] for split, rows in splits.items()}
    labels = {split: [str(row["label"]) for row in rows] for split, rows in splits.items()}
    count = len(texts["test"])

    def fit_linear() -> tuple[list[str], list[float]]:
        return linear(
            (texts["train"], labels["train"]), (texts["dev"], labels["dev"]), texts["test"], seed=seed
        )

    shares = {label: labels["train"].count(label) / len(labels["train"]) for label in set(labels["train"])}
    common = majority(labels["train"], count)
    drawn = chance(labels["train"], count, seed)
    makers = {
        LINEAR: fit_linear,
        MAJORITY: lambda: (common, [shares[label] for label in common]),
        CHANCE: lambda: (drawn, [shares[label] for label in drawn]),
    }
    for method, make in makers.items():
        target = folder / re.sub(r"[^a-z]+", "-", method.lower())
        if (target / DONE_FILE).exists():
            continue
        start = time.perf_counter()
        predicted, sure = make()
        write_predictions(target, labels["test"], predicted, sure)
        seconds = round(time.perf_counter() - start, 3)
        write_json(target / DONE_FILE, {"method": method, "seed": seed, "seconds": seconds})


def _read_methods(folder: Path, gold: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Runs by method: labels, probabilities, seconds, seed; ordered by seed."""
    methods: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob(f"*/{PREDICTIONS_FILE}")):
        if not (path.parent / DONE_FILE).exists():
            continue  # an interrupted run
        rows, done = _read_lines(path), read_json(path.parent / DONE_FILE)
        if [str(row["gold"]) for row in rows] != list(gold):
            raise TaskError(
                f"{path} does not belong to this test set",
                got=f"{len(rows)} predictions with other gold labels",
                allowed=f"the {len(gold)} labels of {folder / 'test.jsonl'}, in order",
                next_command=f"mv {path.parent} {path.parent}.old",
            )
        methods[done["method"]].append(
            {
                "labels": [str(row["predicted"]) for row in rows],
                "probabilities": [float(row["probability"]) for row in rows],
                "seconds": float(done["seconds"]),
                "seed": int(done["seed"]),
            }
        )
    for runs in methods.values():
        runs.sort(key=lambda run: run["seed"])
    return dict(methods)


def _notes(gold: Sequence[str], runs: Sequence[Mapping[str, Any]], groups: Sequence[str] | None) -> str:
    errors = [calibration_error(gold, run["labels"], run["probabilities"]) for run in runs]
    unit = f"{len(set(groups))} groups resampled" if groups else "examples resampled"
    return f"calibration error {sum(errors) / len(errors):.3f}; {unit}"


def _order(method: str) -> tuple[int, str]:
    known = (*_NETWORKS, LINEAR, MAJORITY, CHANCE)
    return (known.index(method) if method in known else len(known), method)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} is not readable JSON lines", got=str(error)) from error
