"""Runs with a task metric in; the metric of a run before it starts, with intervals or a refusal, out.

Two routes: the loss law's forecast put through a link from loss to accuracy, or a power law of compute, or
of size and tokens, on the metric itself (`link` has equations and sources). Roll-outs inside the runs choose:
fit to the cheaper, forecast the dearer; of the links whose mean absolute error is within a standard error of
the least, the one with the fewest free constants. Valid for one recipe, one prompt format and a test set that
is not in the training data. Published forecasts of single tasks at 20 times the compute missed the error rate
by 2 to 80 % (Gadre et al., arXiv:2403.08540, table 2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.estimate import FitOptions, fit_form
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import Extra, form_named, predict, to_constants
from stepladder.laws.intervals import forecast
from stepladder.laws.link import (
    LEAST_SIGMA,
    LINKS,
    LinkFit,
    Sample,
    columns_of,
    fit_link,
)
from stepladder.laws.rollout import HORIZON_OFFSET, cut_levels
from stepladder.laws.table import Array, Table, read_observations
from stepladder.records import Forecast, Interval, Law
from stepladder.store import fingerprint

_LEAST_RUNS, _SPARE = 3, 2
# Share of the spread to other links: set before the hold-outs of 17 metrics were first forecast, and left
# (bench/laws/tasks.py). A link that erred twice as much in roll-outs is no rival.
_RIVALS, _RIVAL_LIMIT = 0.5, 2.0
# Too few runs: Student's t with four degrees of freedom in place of the normal.
_Z, _WIDER = {"80": 1.282, "95": 1.960}, 2.776 / 1.960
# Above chance: by three standard errors of guessing, and by three points. A trend: p < .01, few runs aside.
CLEAR, _LEAST_STEP, _TREND, _MONOTONE = 3.0, 0.01, 2.33, 0.9
_USELESS = 0.8
_LEAST_BELOW, _CUTS = 5, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRuns:
    """Runs and their metric in [0, 1], NaN where not measured (such a run serves the loss law only).

    `chance` is the metric of guessing, `examples` the size of the test set (0: not known).
    """

    table: Table
    values: Array
    metric: str
    chance: float = 0.0
    examples: int = 0
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskLaw:
    """A fitted route to one metric. `links` has all candidates with their roll-out errors, `chosen` and
    `reason` the best and why; after a refusal `at_chance` nothing but chance to 1 is honest."""

    runs: int
    metric: str
    chance: float
    examples: int
    higher_is_better: bool
    law: Law
    links: Mapping[str, LinkFit]
    chosen: str
    reason: str
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    at_chance: bool = False

    @property
    def route(self) -> str:
        """Loss law and link ("two-step"), or "direct"."""
        return "two-step" if LINKS[self.chosen].from_loss else "direct"


def read_task_runs(
    path: Path, metric: str, *, chance: float = 0.0, examples: int = 0, loss_unit: str = ""
) -> TaskRuns:
    """Read runs as `read_observations` does, and the column `metric`; empty cells are runs without it.

    A column whose name has "error" in it is one of errors: less is better, `chance` is the error of guessing.

    Raises:
        LawError: the file, the column or a value cannot be used.
    """
    name = metric.strip().lower()
    table = read_observations(path, loss_unit, keep=(name,))
    runs = TaskRuns(
        table=table,
        values=np.array(table.extra[name], dtype=float),
        metric=name,
        chance=chance,
        examples=examples,
        higher_is_better="error" not in name,
    )
    _check(runs)
    return runs


def fit_task(runs: TaskRuns, law: Law | None = None, *, links: Sequence[str] = tuple(LINKS)) -> TaskLaw:
    """Fit the links and choose among them.

    Args:
        runs: at least three with the metric; a forecast that is not refused needs five to seven.
        law: the loss law of the same runs; by default it is fitted.
        links: names of the candidates.

    Raises:
        LawError: values outside [0, 1], too few runs, or losses in another unit than the law's.
    """
    _check(runs)
    law = law or fit_law(runs.table)
    if law.loss_unit != runs.table.loss_unit:
        units = f"{law.loss_unit} and {runs.table.loss_unit}"
        raise LawError("the law and the runs have losses in different units", got=units)
    sample = _sample(runs, law)
    fits = {name: fit_link(LINKS[name], sample) for name in links}
    chosen, reason = _choose(fits)
    refusal, at_chance = _refuse(runs, sample, fits[chosen])
    return TaskLaw(
        runs=len(sample.loss),
        metric=runs.metric,
        chance=runs.chance,
        examples=runs.examples,
        higher_is_better=runs.higher_is_better,
        law=law,
        # Draws are kept of the chosen link only.
        links={name: fit if name == chosen else replace(fit, draws=()) for name, fit in fits.items()},
        chosen=chosen,
        reason=reason,
        warnings=_warn(fits[chosen]),
        refusal=refusal,
        at_chance=at_chance,
    )


def forecast_task(
    task: TaskLaw, params: float, tokens: float, *, run: str = "target", extra: Extra | None = None
) -> Forecast:
    """The metric of one run: the Forecast's `loss` holds it and `loss_unit` names it; `extra` is the loss
    law's (corpus or experts of the run).

    Raises:
        LawError: params or tokens are not positive numbers.
    """
    loss = forecast(task.law, params, tokens, run=run, extra=extra)
    reason = task.refusal or (loss.reason if task.route == "two-step" else "")
    wider = _WIDER if reason else 1.0
    value, low80, high80 = _interval(task, loss, "80", wider)
    _, low95, high95 = _interval(task, loss, "95", wider)
    chance = _accuracy(task, task.chance)
    if task.at_chance:
        low80 = low95 = min(low95, chance)
        high80 = high95 = 1.0
    if not reason and value <= chance + CLEAR * guessing(task):
        reason = (
            f"{task.metric} of {run} is forecast within three standard errors of chance ({task.chance:g}): "
            "measure dearer runs, or the loss of the right answer"
        )
    width = high95 - max(low95, chance)
    if not reason and width > _USELESS * (1 - chance):
        reason = (
            f"the 95 % interval of {run} spans {100 * width:.0f} of the {100 * (1 - chance):.0f} points "
            f"above chance: the runs do not determine it; measure {task.metric} on dearer runs"
        )
    if not task.higher_is_better:
        value, low80, high80, low95, high95 = (1 - item for item in (value, high80, low80, high95, low95))
    return Forecast(
        run=run,
        params=float(params),
        tokens=float(tokens),
        loss=Interval(value=value, low80=low80, high80=high80, low95=low95, high95=high95),
        loss_unit=task.metric,
        status="refused" if reason else "ok",
        reason=reason,
        horizon=loss.horizon,
        law_fingerprint=fingerprint(
            {"law": task.law.fingerprint, "metric": task.metric, "links": str(task.links)}
        ),
    )


def _interval(task: TaskLaw, loss: Forecast, level: str, wider: float) -> tuple[float, float, float]:
    """Accuracy and the ends of its interval, in [0, 1]: on either side the scatter of a run and the larger
    guess of the error that all runs share add up in squares."""
    fitted = task.links[task.chosen]

    def at(name: str, loss_value: float) -> Array:
        one = (np.array([item]) for item in (loss_value, loss.params, loss.tokens))
        return columns_of(LINKS[name], *one)

    def accuracy(name: str, loss_value: float) -> float:
        return float(task.links[name].accuracy(at(name, loss_value))[0, 0])

    value = accuracy(task.chosen, loss.loss.value)
    others = [item for item in task.links.values() if not item.error > _RIVAL_LIMIT * fitted.error]
    away = [accuracy(item.name, loss.loss.value) - value for item in others if item.name != task.chosen]
    # The scatter of the runs holds the noise of their test set; at the target it may be larger.
    test = math.sqrt(max(value * (1 - value), 0.01) / task.examples) if task.examples else 0.0
    scatter = _Z[level] * max(fitted.sigma, test)
    rivals = _Z[level] * _RIVALS * math.sqrt(sum(item**2 for item in away) / max(len(away), 1))
    rollout = float(np.nan_to_num(fitted.rollout, nan=3 * fitted.sigma))
    shared = _Z[level] * beyond_scatter(rollout, fitted.sigma, loss.horizon)
    share = 0.5 * (1 - float(level) / 100)
    low, high = np.quantile(fitted.accuracy(at(task.chosen, loss.loss.value), drawn=True), [share, 1 - share])
    worse, better = (
        accuracy(task.chosen, getattr(loss.loss, f"{end}{level}")) - value for end in ("high", "low")
    )
    down, up = (
        wider * math.hypot(scatter, max(shared, math.hypot(rivals, drawn, from_loss)))
        for drawn, from_loss in ((min(low - value, 0.0), worse), (max(high - value, 0.0), better))
    )
    return value, max(value - down, 0.0), min(value + up, 1.0)


def beyond_scatter(rollout: float, sigma: float, horizon: float) -> float:
    """What roll-outs missed at a horizon beyond the scatter of single runs: an error that dearer runs share.

    Spread to other links, drawn constants and the interval of the loss are guesses of the same error: the
    larger of the two counts, not both (docs/laws/tasks.md).
    """
    grown = HORIZON_OFFSET + max(math.log10(horizon), 0.0)
    return math.sqrt(max((rollout * grown) ** 2 - sigma**2, 0.0))


def guessing(owner: TaskRuns | TaskLaw) -> float:
    """Standard error of guessing on the test set, at least a point."""
    chance = owner.chance
    error = math.sqrt(chance * (1 - chance) / owner.examples) if owner.examples else 0.0
    return max(error, _LEAST_STEP)


def _accuracy(owner: TaskRuns | TaskLaw, value: float) -> float:
    return value if owner.higher_is_better else 1.0 - value


def _check(runs: TaskRuns) -> None:
    values, known = runs.values, runs.values[np.isfinite(runs.values)]
    if len(values) != len(runs.table):
        raise LawError(
            "runs and metric differ in number", got=f"{len(runs.table)} runs, {len(values)} values"
        )
    if len(known) < _LEAST_RUNS:
        raise LawError(
            f"too few runs with {runs.metric}",
            got=f"{len(known)} of {len(values)}",
            allowed=f"at least {_LEAST_RUNS}; a forecast that is not refused needs 6",
        )
    if known.min() < 0 or known.max() > 1 or np.isinf(values).any():
        hint = " (per cent? divide by 100)" if 1 < known.max() <= 100 else ""
        raise LawError(
            f"{runs.metric} must lie in [0, 1]",
            got=f"{np.nanmin(values):g} to {np.nanmax(values):g}{hint}",
            allowed="an accuracy or error rate",
        )
    if not 0 <= _accuracy(runs, runs.chance) < 1:
        raise LawError(
            f"this is no chance level of {runs.metric}",
            got=f"{runs.chance:g}",
            allowed="the accuracy of guessing in [0, 1); for an error rate the error of guessing in (0, 1]",
        )
    if runs.examples < 0:
        raise LawError("the number of test examples is negative", got=str(runs.examples))


def rolled_losses(table: Table, known: Array, law: Law) -> tuple[Array, Array]:
    """Places to cut the runs `known` of the table by compute (cuts,), and for each the losses (cuts, known)
    that a law of the runs below it forecasts."""
    seen = table.take(known)
    form, options = form_named(law.form), FitOptions(form=law.form, size=law.size_column)
    size, log_c = getattr(seen, law.size_column), np.log(getattr(table, law.size_column) * table.tokens)
    levels = cut_levels(log_c[known], _LEAST_BELOW, _CUTS)
    losses = []
    for level in levels:
        below = fit_form(form, table.take(np.flatnonzero(log_c <= level + 1e-9)), options)
        constants = to_constants(form, below.theta, below.columns.centre)
        losses.append(predict(law.form, constants, size, seen.tokens, seen.extra))
    return levels, np.array(losses)


def follows(loss: Array, score: Array) -> str:
    """Why a score cannot be said to rise as the loss falls ("" if it does)."""
    from scipy.stats import spearmanr

    moves = np.ptp(score) and np.ptp(loss)
    trend = float(spearmanr(-loss, score).statistic) if moves else 0.0
    if trend >= min(_TREND / math.sqrt(len(loss) - 1), _MONOTONE):
        return ""
    return f"does not follow the loss: rank correlation {trend:+.2f} over {len(loss)} runs"


def _sample(runs: TaskRuns, law: Law) -> Sample:
    known = np.flatnonzero(np.isfinite(runs.values))
    seen = runs.table.take(known)
    levels, losses = rolled_losses(runs.table, known, law)
    values = runs.values[known]
    middle = float(np.clip(values.mean(), 0.02, 0.98))
    binomial = math.sqrt(middle * (1 - middle) / runs.examples) if runs.examples else 0.0
    return Sample(
        loss=seen.loss,
        size=getattr(seen, law.size_column),
        tokens=seen.tokens,
        accuracy=values if runs.higher_is_better else 1.0 - values,
        chance=_accuracy(runs, runs.chance),
        levels=levels,
        law_loss=losses,
        least_sigma=max(LEAST_SIGMA, binomial),
    )


def _choose(links: Mapping[str, LinkFit]) -> tuple[str, str]:
    """The link with the fewest free constants whose errors exceed the best one's by at most a standard error
    (of the paired differences: cuts differ more from each other than links do)."""
    best = min(links.values(), key=lambda fit: fit.error)
    if not best.errors:
        name = "loss-sigmoid" if "loss-sigmoid" in links else next(iter(links))
        return name, "too few runs for roll-outs"
    for name in sorted(links, key=lambda item: (LINKS[item].free, links[item].error)):
        more = np.array(links[name].errors) - best.errors
        if more.mean() <= more.std() / math.sqrt(max(len(more) - 1, 1)) + 1e-12:
            break
    if name == best.name:
        return name, f"least error in the roll-outs, {100 * best.error:.2f} points"
    few, many = (LINKS[item].free for item in (name, best.name))
    return name, (
        f"{100 * links[name].error:.2f} points in the roll-outs, within a standard error of the "
        f"{100 * best.error:.2f} of {best.name}, with {few} free constants instead of {many}"
    )


def _refuse(runs: TaskRuns, sample: Sample, fitted: LinkFit) -> tuple[str, bool]:
    """Why no forecast should be believed ("" if none), and whether nothing but chance to 1 is honest."""
    accuracy, n = sample.accuracy, len(sample.accuracy)
    # Models that know nothing may do worse than guessing: then that is where the rise starts.
    reference = min(sample.chance, fitted.theta[0])
    clear = int(np.sum(accuracy > reference + CLEAR * guessing(runs)))
    if not clear:
        return f"{runs.metric} is at chance ({runs.chance:g}) in all runs: when it rises cannot be told", True
    if told := follows(sample.loss, accuracy):
        return f"{runs.metric} {told}", True
    if 2 * clear < n:
        return (
            f"{runs.metric} is above chance in only {clear} of {n} runs: how fast it rises cannot be told "
            "yet; measure dearer runs, or a smoother metric such as the loss of the right answer"
        ), True
    needed = len(LINKS[fitted.name].constants) + _SPARE
    if n < needed:
        return f"{n} runs for a link of {needed - _SPARE} constants: at least {needed} are needed", False
    return "", False


def _warn(fitted: LinkFit) -> tuple[str, ...]:
    if not fitted.errors:
        return ("no roll-outs: the intervals rest on the priors and the scatter of the runs",)
    if not LINKS[fitted.name].from_loss:
        return ()
    return (
        f"the two steps compound: in the roll-outs the link missed by {100 * fitted.own_error:.2f} points "
        f"from the measured loss, by {100 * fitted.error:.2f} from the loss that the law forecast",
    )


def task_text(task: TaskLaw) -> str:
    """The candidates with their roll-out errors, the choice and why, warnings, refusal."""
    lines = [
        f"metric     {task.metric}, {task.runs} runs, chance {task.chance:g}"
        + (f", {task.examples} test examples" if task.examples else ""),
        f"{'link':<18} {'free':>5} {'roll-out error':>16}  equation",
    ]
    for name, fit in task.links.items():
        mark = "*" if name == task.chosen else " "
        lines.append(
            f"{name:<18} {LINKS[name].free:>5} {100 * fit.error:>9.2f} points {mark}{LINKS[name].equation}"
        )
    lines.append(f"chosen     {task.chosen} ({task.route}): {task.reason}")
    lines += [f"warning    {warning}" for warning in (*task.warnings, *task.law.warnings)]
    lines += [f"REFUSED    {task.refusal}"] if task.refusal else []
    return "\n".join(lines)
