"""A CSV of runs and of targets in; the law, forecasts and next runs that `stepladder fit` tells, out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.laws.diagnose import dearest_extra, tenfold_target
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import form_named
from stepladder.laws.intervals import forecast, repeat_warnings, target_warnings
from stepladder.laws.midrun import midrun_observations, read_curves
from stepladder.laws.nextrun import NextRun, next_runs
from stepladder.laws.registry import freeze, write_forecasts
from stepladder.laws.show import forecast_csv, forecast_text, law_text, next_runs_text
from stepladder.laws.table import Table, read_observations
from stepladder.laws.targets import Target, read_targets
from stepladder.laws.tasks import TaskLaw, fit_task, forecast_task, read_task_runs, task_text
from stepladder.records import Forecast, Law, to_json
from stepladder.store import write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What to fit and to forecast. With a `metric` (a column in [0, 1]) that is forecast, not the loss.
    `curves`: folder of a ladder whose runs, before their decay, are further observations of small weight."""

    runs: Path
    options: FitOptions
    targets: Path | None = None
    loss_unit: str = ""
    metric: str = ""
    chance: float = 0.0
    examples: int = 0
    next_runs: int = 0
    curves: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The law, frozen forecasts of the targets, and the runs to make next."""

    table: Table
    law: Law
    task: TaskLaw | None
    targets: tuple[Target, ...]
    forecasts: tuple[Forecast, ...]
    further: tuple[NextRun, ...]

    @property
    def quantity(self) -> str:
        """What the forecasts are of: loss, or the metric."""
        return self.task.metric if self.task else "loss"

    @property
    def text(self) -> str:
        """For the screen."""
        parts = [task_text(self.task) if self.task else law_text(self.law, self.table.notes)]
        if self.forecasts:
            warnings = (
                *target_warnings(self.law, list(self.forecasts)),
                *repeat_warnings(self.law, self.targets),
            )
            told = [forecast_text(self.forecasts, self.quantity), *(f"warning: {item}" for item in warnings)]
            parts.append("\n".join(told))
        if self.further:
            aim = self.targets[0].run if self.targets else "a run of ten times the compute"
            parts.append(next_runs_text(self.further, aim))
        return "\n\n".join(parts)

    @property
    def value(self) -> Mapping[str, Any]:
        """For `--json`."""
        value = {
            "law": to_json(self.law),
            "notes": list(self.table.notes),
            "forecasts": [to_json(item) for item in self.forecasts],
            "next_runs": [to_json(item) for item in self.further],
        }
        return value | ({"task": to_json(self.task)} if self.task else {})

    def write(self, out: Path) -> None:
        """The forecasts as CSV, with reasons and law in the JSON file beside it."""
        write_text(out, forecast_csv(self.forecasts, self.quantity))
        about = {"law": to_json(self.law), "notes": list(self.table.notes)}
        write_forecasts(out.with_suffix(".json"), self.forecasts, **about)


def answer(question: Question) -> Answer:
    """Fit, forecast, freeze.

    Raises:
        LawError: a file, a value or an option cannot be used.
    """
    task_runs = (
        read_task_runs(
            question.runs,
            question.metric,
            chance=question.chance,
            examples=question.examples,
            loss_unit=question.loss_unit,
        )
        if question.metric
        else None
    )
    table = task_runs.table if task_runs else read_observations(question.runs, question.loss_unit)
    if question.curves:
        rows = midrun_observations(read_curves(question.curves))
        table = table.joined(rows, f"{len(rows)} points derived from the loss curves in {question.curves}")
    law = fit_law(table, question.options)
    task = fit_task(task_runs, law) if task_runs else None
    needs = form_named(law.form).needs
    targets = read_targets(question.targets, law.size_column, needs) if question.targets else []
    return Answer(
        table=table,
        law=law,
        task=task,
        targets=tuple(targets),
        forecasts=tuple(freeze(_forecast(law, task, target)) for target in targets),
        further=_further(table, law, targets[0] if targets else None, question.next_runs),
    )


def _forecast(law: Law, task: TaskLaw | None, target: Target) -> Forecast:
    if task:
        return forecast_task(task, target.params, target.tokens, run=target.run, extra=target.extra)
    return forecast(
        law,
        target.params,
        target.tokens,
        run=target.run,
        unique_tokens=target.unique_tokens,
        extra=target.extra,
    )


def _further(table: Table, law: Law, target: Target | None, count: int) -> tuple[NextRun, ...]:
    """Next runs for the first target, or for one of ten times the compute."""
    if not count:
        return ()
    size, tokens = (target.params, target.tokens) if target else tenfold_target(table, law)
    return next_runs(law, size, tokens, count, target.extra if target else dearest_extra(table, law))
