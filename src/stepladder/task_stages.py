"""The tasks of a climb: rungs are asked about each, the target's scores are forecast, and told afterwards.

Three stages beside those of `stages.py`, in a climb's folder: task_probes.csv has what each rung and the
target scored, task_forecast.json what was forecast before the target started, and beside it the outcome.
"""

import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stepladder import __version__
from stepladder.errors import LawError, StoreError
from stepladder.eval.probed import GOLD_ANSWERS, PROBES_FILE, Figure, figures_of
from stepladder.ladder.collect import LOSS_COLUMN, flag_bad, observe, usable
from stepladder.launch.process import RUN_FILE
from stepladder.laws.losslink import LinkedRuns, fit_loss_link, forecast_linked
from stepladder.laws.registry import find_forecasts, freeze, record_outcomes, write_forecasts
from stepladder.laws.show import score_text
from stepladder.laws.table import Array, read_observations
from stepladder.laws.tasks import TaskRuns, fit_task, forecast_task
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.records import Forecast, Interval, Law, Observation, Plan, Score, from_json
from stepladder.report.parts import FORETOLD_FILE
from stepladder.stages import EXAMPLE, LOSS_UNIT, Climb
from stepladder.store import read_json, write_text
from stepladder.train.metrics import METRICS_FILE
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

TASKS, TARGET = "tasks", "target@1"
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
    rows, asked = usable(observations), climb.brief.data.tasks
    folders = [climb.folder / "ladder" / f"{row.run}@1" for row in rows]
    speeds = {folder: row.tokens / row.seconds for folder, row in zip(folders, rows, strict=True)}
    seconds = share * sum(row.seconds for row in rows) / max(len(asked), 1)
    kept = _kept(climb)
    for name in asked:
        if name in kept:
            continue
        task = _task(name)
        folder = climb.folder / TASKS / f"{task.name}@1"
        design = design_probe(task, speeds, climb.folder / "corpus", seconds, steps)
        if folder in kept.values():
            climb.say("probe", f"{name}: left out, another task is called {task.name} too")
        elif design.steps:
            kept[name] = folder
            keep_probe(folder, task, design, name)
        else:
            command = f"stepladder eval {climb.folder} --task {name.removeprefix(EXAMPLE)}"
            climb.say("probe", f"{task.name}: rungs not asked, {design.reason}; {command} asks them")
    if not kept:
        return []
    found = _probe(climb, rows, folders, list(kept.values()))
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


def probe_again(climb: Climb, *, share: float, steps: Sequence[str]) -> list[TaskProbe]:
    """`probe_rungs` of a ladder that lies in the climb's folder, forecast and told as far as the climb is.

    Raises:
        StoreError: there is no finished rung.
    """
    places = sorted((climb.folder / "ladder").glob(f"*@1/{RUN_FILE}"))
    if not places:
        raise StoreError(
            f"{climb.folder} holds no finished rung",
            allowed="the folder of a climb, with ladder/ and its brief",
            next_command="stepladder ladder",
        )
    probes = probe_rungs(climb, flag_bad([observe(path.parent) for path in places]), share=share, steps=steps)
    plan, law = climb.folder / "plan.json", climb.folder / "law.json"
    if probes and plan.exists() and law.exists():
        foretold = foretell(climb, from_json(Plan, read_json(plan)), from_json(Law, read_json(law)), probes)
        if (climb.folder / TARGET / RUN_FILE).exists():
            tell_tasks(climb, foretold, probes)
    return probes


def foretell(climb: Climb, plan: Plan, law: Law, probes: Sequence[TaskProbe]) -> list[Forecast]:
    """Freeze what the target will score on each task before it starts → task_forecast.json.

    What is in the file stays; once the target has started nothing is added.
    """
    path = climb.folder / FORETOLD_FILE
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
    if missing and (climb.folder / TARGET / METRICS_FILE).exists():
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
    for said in known.values():
        climb.say("tasks", foretold_text(said))
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
    folder = climb.folder / TARGET
    if not kept or read_json(folder / RUN_FILE)["status"] != "ok":
        return []
    row = observe(folder)
    found = _probe(climb, [row], [folder], kept)
    _write_probes(climb.folder / PROBES_FILE, [*probes, *found])
    outcomes = {f"{row.run} {probe.figure.name}": probe.figure.value for probe in found}
    known = {said.run: outcomes[said.run] for said in foretold if said.run in outcomes}
    if not known:
        return []
    scores = record_outcomes(climb.folder / FORETOLD_FILE, known)
    refused = {said.run for said in foretold if said.status == "refused"}
    for item in scores:
        # An interval from nothing to everything always holds: that is no hit to tell of.
        told = f"{item.run}: measured {item.outcome:.4g}; its forecast had been refused"
        climb.say("score", told if item.run in refused else score_text(item))
    return scores


def foretold_text(said: Forecast) -> str:
    """A forecast of a task as one line."""
    if said.status == "refused":
        return f"{said.run}: refused, {said.reason}"
    low, high = said.loss.low80, said.loss.high80
    return f"{said.run}: {said.loss.value:.4g} (80 %: {low:.4g} to {high:.4g}) {said.loss_unit}"


def probes_text(probes: Sequence[TaskProbe]) -> str:
    """A line a run and series, runs by falling loss."""
    lines = []
    for name, own in _series(probes).items():
        figure = own[0].figure
        guess = "" if math.isnan(figure.chance) else f", {figure.chance:.3f} by guessing"
        lines.append(f"{name}: {figure.metric.replace('_', ' ')} on {figure.examples} examples{guess}")
        for probe in sorted(own, key=lambda probe: -probe.run.loss):
            told = f"{probe.figure.value:8.4f} ± {probe.figure.error:.4f}"
            lines.append(f"  {probe.run.run:<8} loss {probe.run.loss:.4f}  {told}")
    return "\n".join(lines)


def _kept(climb: Climb) -> dict[str, Path]:
    """The folders of the tasks that were asked about before, by the name that the user gave."""
    designs = sorted((climb.folder / TASKS).glob(f"*/{DESIGN_FILE}"))
    return {read_json(path)["asked"]: path.parent for path in designs}


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


def _write_probes(path: Path, probes: Sequence[TaskProbe]) -> None:
    """A row a figure; rows of other runs stay behind them."""
    runs = ("run", "seed", "params", "nonembed_params", "tokens", "flops", "loss")
    figures = ("task", "method", "metric", "value", "error", "chance", "examples", "seconds")
    names = {"loss": LOSS_COLUMN, "error": "standard_error"}
    head = [names.get(name, name) for name in (*runs, *figures)]
    rows = [
        [getattr(probe.run, name) for name in runs] + [getattr(probe.figure, name) for name in figures]
        for probe in probes
    ]
    cells = [
        ["" if isinstance(cell, float) and math.isnan(cell) else str(cell) for cell in row] for row in rows
    ]
    before = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []
    new = {row[0] for row in cells}
    text = io.StringIO()
    rest = [row for row in before[1:] if row[0] not in new]
    csv.writer(text, lineterminator="\n").writerows([head, *cells, *rest])
    if [head, *cells, *rest] != before:
        write_text(path, text.getvalue())
