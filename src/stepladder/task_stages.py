"""The tasks of a climb: rungs are asked about each, the target's scores are forecast, and told afterwards.

Three stages beside those of `stages.py`, in a climb's folder: task_probes.csv has what each rung and the
target scored, task_forecast.json what was forecast before the target started, and beside it the outcome.
"""

import csv
import io
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stepladder import __version__
from stepladder.errors import LawError, StoreError
from stepladder.eval.probed import GOLD_ANSWERS, Figure, figures_of
from stepladder.ladder.collect import LOSS_COLUMN, observe, usable
from stepladder.laws.losslink import LinkedRuns, fit_loss_link, forecast_linked
from stepladder.laws.registry import find_forecasts, freeze, record_outcomes, write_forecasts
from stepladder.laws.show import forecast_text, score_text
from stepladder.laws.table import Array, read_observations
from stepladder.laws.tasks import TaskRuns, fit_task, forecast_task
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.records import Forecast, Interval, Law, Observation, Plan, Score
from stepladder.stages import EXAMPLE, LOSS_UNIT, Climb
from stepladder.store import read_json, write_text
from stepladder.tune.examples import example_task
from stepladder.tune.probing import (
    DESIGN_FILE,
    MOST_TESTS,
    USUAL_STEPS,
    design_probe,
    keep_probe,
    probe_checkpoints,
)
from stepladder.tune.tasks import Task, read_task
from stepladder.units import format_seconds

PROBES_FILE, FORECAST_FILE, TASKS = "task_probes.csv", "task_forecast.json", "tasks"
# Of the ladder's core-seconds.
SHARE = 0.1
# Metrics that lie between nothing and the whole, with the whole; others are linked as losses are.
_WHOLE = {"accuracy": 1.0, "micro_f1": 1.0, "f1": 1.0, "rouge_l": 1.0, "chrf": 100.0}
# A split of 70, 10 and 20 % leaves so many test examples of five times as many.
_EXAMPLES = 5 * MOST_TESTS


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProbe:
    """A run and one figure of it on one task."""

    run: Observation
    figure: Figure


def probe_rungs(
    climb: Climb,
    observations: Sequence[Observation],
    *,
    share: float = SHARE,
    steps: Sequence[str] = USUAL_STEPS,
) -> list[TaskProbe]:
    """Ask each usable rung about each task, for a share of the ladder's seconds → task_probes.csv.

    What a task's examples are is kept in tasks/NAME@1 for the rungs and the target.
    """
    rows = usable(observations)
    if not climb.brief.data.tasks:
        return []
    folders = {row.run: climb.folder / "ladder" / f"{row.run}@1" for row in rows}
    speeds = {folders[row.run]: row.tokens / row.seconds for row in rows}
    seconds = share * sum(row.seconds for row in rows) / len(climb.brief.data.tasks)
    kept = []
    for asked in climb.brief.data.tasks:
        folder = _kept(climb, asked)
        if folder is None:
            task = _task(asked)
            design = design_probe(task, speeds, climb.folder / "corpus", seconds, steps)
            if not design.steps:
                climb.say(
                    "probe",
                    f"{task.name}: not probed, {design.reason}; stepladder eval {climb.folder} "
                    f"--task {asked.removeprefix(EXAMPLE)}   (does it anyway)",
                )
                continue
            folder = climb.folder / TASKS / f"{task.name}@1"
            keep_probe(folder, task, design, asked)
        kept.append(folder)
    if not kept:
        return []
    found = _probe(climb, rows, list(folders.values()), kept)
    _write_probes(climb.folder / PROBES_FILE, found)
    for task in dict.fromkeys(probe.figure.task for probe in found):
        own = [probe.figure for probe in found if probe.figure.task == task]
        methods = dict.fromkeys(figure.method for figure in own)
        climb.say(
            "probe",
            f"{task}: {len(rows)} rungs on {own[0].examples} examples by {', '.join(methods)} in "
            f"{format_seconds(sum(figure.seconds for figure in own))}",
        )
    return found


def foretell(climb: Climb, plan: Plan, law: Law, probes: Sequence[TaskProbe]) -> list[Forecast]:
    """Freeze what the target will score on each task before it starts → task_forecast.json.

    What is in the file stays; once the target has started nothing is added.
    """
    path = climb.folder / FORECAST_FILE
    frozen = find_forecasts(path) if path.exists() else []
    if changed := [item.forecast.run for item in frozen if not item.intact]:
        raise StoreError(
            f"{path} was changed after it was frozen",
            got=", ".join(changed),
            next_command=f"mv {path} {path}.changed",
        )
    known = {item.forecast.run: item.forecast for item in frozen}
    series = _series(probes)
    missing = {name: own for name, own in series.items() if f"{plan.name} {name}" not in known}
    if missing and (climb.folder / "target@1" / "metrics.jsonl").exists():
        climb.say("forecast", f"not of {'; '.join(missing)}: the target had started before they were probed")
        missing = {}
    for name, own in missing.items():
        try:
            said = forecast_series(own, law, plan)
        except LawError as error:
            climb.say("forecast", f"not of {name}: {error.wrong} ({error.got})")
            continue
        known[said.run] = freeze(said)
    if missing and known:
        write_forecasts(path, list(known.values()), law=law.fingerprint, stepladder=__version__)
    if known:
        climb.say("tasks", forecast_text(list(known.values()), "score").replace("\n", "\n            "))
    return list(known.values())


def forecast_series(own: Sequence[TaskProbe], law: Law, plan: Plan) -> Forecast:
    """One metric of one method on one task at the plan's size and tokens, from its probes of the rungs.

    Raises:
        LawError: too few rungs.
    """
    figure, table = own[0].figure, read_observations([probe.run for probe in own], LOSS_UNIT)
    by_run = {probe.run.run: probe.figure for probe in own}
    figures = [by_run[run] for run in table.run]
    values, errors = (np.array([getattr(figure, key) for figure in figures]) for key in ("value", "error"))
    count = count_params(plan.shape)
    size = float(count.nonembed if law.size_column == "nonembed_params" else count.total)
    where = {"params": size, "tokens": float(plan.tokens), "run": f"{plan.name} {figure.name}"}
    whole = _WHOLE.get(figure.metric, 0.0)
    if not whole:
        runs = LinkedRuns(
            table=table, values=values, metric=figure.metric, chance=figure.chance, errors=errors
        )
        said = forecast_linked(fit_loss_link(runs, law), **where)
    else:
        runs = TaskRuns(
            table=table,
            values=values / whole,
            metric=figure.metric,
            chance=figure.chance / whole,
            examples=_independent(values / whole, errors / whole, figure.examples),
        )
        said = forecast_task(fit_task(runs, law), **where)
        said = replace(said, loss=Interval(**{key: whole * end for key, end in asdict(said.loss).items()}))
    largest = max(probe.run.flops for probe in own)
    return replace(said, horizon=train_flops_per_token(plan.shape) * plan.tokens / largest)


def tell_tasks(climb: Climb, foretold: Sequence[Forecast], probes: Sequence[TaskProbe]) -> list[Score]:
    """Probe the target as the rungs were, and score the forecasts → task_forecast.outcome.json."""
    kept = [
        climb.folder / TASKS / f"{name}@1" for name in dict.fromkeys(probe.figure.task for probe in probes)
    ]
    folder = climb.folder / "target@1"
    if not kept or read_json(folder / "run.json")["status"] != "ok":
        return []
    row = observe(folder)
    found = _probe(climb, [row], [folder], kept)
    _write_probes(climb.folder / PROBES_FILE, [*probes, *found])
    outcomes = {f"{row.run} {probe.figure.name}": probe.figure.value for probe in found}
    known = {said.run: outcomes[said.run] for said in foretold if outcomes.get(said.run, 0.0) > 0}
    if not known:
        return []
    scores = record_outcomes(climb.folder / FORECAST_FILE, known)
    for item in scores:
        climb.say("score", score_text(item))
    return scores


def _kept(climb: Climb, asked: str) -> Path | None:
    """The folder in which the examples of a task of the brief are kept."""
    for path in sorted((climb.folder / TASKS).glob(f"*/{DESIGN_FILE}")):
        if read_json(path)["asked"] == asked:
            return path.parent
    return None


def _task(asked: str) -> Task:
    if asked.startswith(EXAMPLE):
        task = example_task(asked.removeprefix(EXAMPLE), examples=_EXAMPLES)
    else:
        task = read_task(Path(asked), examples=_EXAMPLES)
    for note in task.notes:
        print(f"note: {note}", file=sys.stderr)
    return task


def _probe(
    climb: Climb, rows: Sequence[Observation], folders: Sequence[Path], kept: Sequence[Path]
) -> list[TaskProbe]:
    """Probe the checkpoints `folders` of `rows`."""
    places = probe_checkpoints(folders, kept, tokenizer=climb.folder / "corpus", workers=2, quiet=climb.quiet)
    owners = [row for row in rows for _ in kept]
    return [
        TaskProbe(run=row, figure=figure)
        for row, place in zip(owners, places, strict=True)
        for figure in figures_of(place)
    ]


def _series(probes: Sequence[TaskProbe]) -> dict[str, list[TaskProbe]]:
    """Probes by task and method; what gold answers cost comes first."""
    found: dict[str, list[TaskProbe]] = {}
    for probe in sorted(probes, key=lambda probe: probe.figure.method != GOLD_ANSWERS):
        found.setdefault(probe.figure.name, []).append(probe)
    return found


def _independent(values: Array, errors: Array, examples: int) -> int:
    """Test examples that would have the measured standard errors if each were alone: groups err together."""
    sizes = [v * (1 - v) / e**2 for v, e in zip(values, errors, strict=True) if e > 0 and 0 < v < 1]
    return min(round(sorted(sizes)[len(sizes) // 2]), examples) if sizes else examples


def _write_probes(path: Path, probes: Iterable[TaskProbe]) -> None:
    """A row a figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    runs = ("run", "seed", "params", "nonembed_params", "tokens", "flops", "loss")
    figures = ("task", "method", "metric", "value", "error", "chance", "examples", "seconds")
    names = {"loss": LOSS_COLUMN, "error": "standard_error"}
    writer.writerow([names.get(name, name) for name in (*runs, *figures)])
    for probe in probes:
        row = [getattr(probe.run, name) for name in runs] + [getattr(probe.figure, name) for name in figures]
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row])
    write_text(path, text.getvalue())
