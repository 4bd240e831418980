"""Runs with two losses in; the second loss of a run before it starts, from the law of the first, out.

What the gold answers of a task cost (bits per byte) falls smoothly with the held-out loss, long before an
accuracy leaves chance: log(answers) = a + slope log(loss). A power law links the losses of one network on two
texts (Brandfonbrener et al., arXiv:2411.12925, who subtract a floor from each; a ladder spans too little to
tell floors). Valid for one recipe and one form of the prompt.
"""

import math
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.rollout import HORIZON_OFFSET
from stepladder.laws.table import Array, Table
from stepladder.laws.tasks import CLEAR, beyond_scatter, follows, rolled_losses
from stepladder.records import Forecast, Interval, Law
from stepladder.store import fingerprint

# A loss on another text falls about as fast, in per cent, as the held-out loss does.
_SLOPE = (1.0, 1.0)
_LEAST_RUNS, _GOOD_RUNS, _WEIGHT_POWER = 3, 5, 0.25
# Wider than this (95 %, up) the forecast says nothing.
_USELESS = 0.5
_LEAST_SIGMA = 0.002


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkedRuns:
    """Runs, and their second loss `values` (NaN where not measured) under the name `metric`.

    `chance` is what guessing costs (NaN: nothing is guessed), `errors` the standard errors of the values.
    """

    table: Table
    values: Array
    metric: str
    chance: float = math.nan
    errors: Array | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """log(value) = `height` + `slope` (log(loss) - `centre`); `sigma` is the scatter of a run, `freedom` what
    it is known by, `covariance` that of height and slope."""

    height: float
    slope: float
    centre: float
    sigma: float
    freedom: float
    covariance: tuple[tuple[float, ...], ...]

    def at(self, loss: Array) -> Array:
        """log(value) at losses."""
        return self.height + self.slope * (np.log(loss) - self.centre)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossLink:
    """A fitted line, how far it and the loss law went wrong about dearer runs (`rollout`, as of `LinkFit`,
    in logarithms), and why no forecast should be believed ("" if none). `least` is what lies three standard
    errors below chance."""

    metric: str
    runs: int
    law: Law
    line: Line
    rollout: float
    least: float = math.inf
    refusal: str = ""


def fit_loss_link(runs: LinkedRuns, law: Law | None = None) -> LossLink:
    """Fit the line, and forecast the dearer runs from the cheaper ones.

    Raises:
        LawError: fewer than three runs with the second loss, or one that is not above zero.
    """
    known = np.flatnonzero(np.isfinite(runs.values))
    values = runs.values[known]
    if len(known) < _LEAST_RUNS:
        raise LawError(
            f"too few runs with {runs.metric}",
            got=str(len(known)),
            allowed=f"at least {_LEAST_RUNS}; a forecast that is not refused needs {_GOOD_RUNS}",
        )
    if values.min() <= 0:
        raise LawError(f"{runs.metric} must be above zero", got=f"{values.min():g}")
    law = law or fit_law(runs.table)
    seen = runs.table.take(known)
    log_c = np.log(seen.params * seen.tokens)
    line = _fit(seen.loss, values, log_c)
    levels, losses = rolled_losses(runs.table, known, law)
    scaled = []
    for level, law_loss in zip(levels, losses, strict=True):
        inside = log_c <= level + 1e-9
        cut = _fit(seen.loss[inside], values[inside], log_c[inside])
        miss = np.abs(cut.at(law_loss[~inside]) - np.log(values[~inside]))
        scaled.append(miss / (HORIZON_OFFSET + (log_c[~inside] - level) / math.log(10)))
    squares = [float(np.mean(miss**2)) for miss in scaled]
    error = 0.0 if runs.errors is None else float(np.median(runs.errors[known]))
    refusal = ""
    if told := follows(seen.loss, -values):
        refusal = f"{runs.metric} {told}"
    elif len(known) < _GOOD_RUNS:
        refusal = f"{len(known)} runs for a line: at least {_GOOD_RUNS} are needed"
    return LossLink(
        metric=runs.metric,
        runs=len(known),
        law=law,
        line=line,
        rollout=math.sqrt(float(np.mean(squares))) if squares else math.nan,
        least=math.inf if math.isnan(runs.chance) else runs.chance - CLEAR * error,
        refusal=refusal,
    )


def forecast_linked(link: LossLink, params: float, tokens: float, *, run: str = "target") -> Forecast:
    """The second loss of one run: the Forecast's `loss` holds it and `loss_unit` names it.

    The interval adds, in squares: the line's scatter and constants, what the roll-outs missed beyond that
    scatter, and the interval of the loss.

    Raises:
        LawError: params or tokens are not positive numbers.
    """
    from scipy.stats import t

    loss = forecast(link.law, params, tokens, run=run)
    line = link.line
    value = float(line.at(np.array(loss.loss.value)))
    reach = np.array([1.0, math.log(loss.loss.value) - line.centre])
    missed = 3 * line.sigma if math.isnan(link.rollout) else link.rollout
    constants = math.sqrt(float(reach @ np.array(line.covariance) @ reach))
    own = math.hypot(line.sigma, constants, beyond_scatter(missed, line.sigma, loss.horizon))
    ends = {}
    for level in ("80", "95"):
        factor = float(t.ppf(0.5 + float(level) / 200, line.freedom))
        for end, sign in (("low", -1), ("high", 1)):
            from_loss = line.slope * math.log(getattr(loss.loss, end + level) / loss.loss.value)
            ends[end + level] = math.exp(value + sign * math.hypot(factor * own, from_loss))
    reason = link.refusal or loss.reason
    if not reason and math.exp(value) > link.least:
        reason = f"{link.metric} is forecast within {CLEAR:g} standard errors of guessing"
    if not reason and ends["high95"] > (1 + _USELESS) * math.exp(value):
        reason = (
            f"the 95 % interval of {run} reaches {ends['high95'] / math.exp(value) - 1:.0%} above the "
            f"forecast: the runs do not determine {link.metric}"
        )
    return Forecast(
        run=run,
        params=float(params),
        tokens=float(tokens),
        loss=Interval(value=math.exp(value), **ends),
        loss_unit=link.metric,
        status="refused" if reason else "ok",
        reason=reason,
        horizon=loss.horizon,
        law_fingerprint=fingerprint({"law": link.law.fingerprint, "metric": link.metric, "line": str(line)}),
    )


def _fit(loss: Array, values: Array, log_c: Array) -> Line:
    """Least squares in logarithms, dearer runs weighing more, with a weak prior of the slope."""
    x, y = np.log(loss), np.log(values)
    weight = np.exp(_WEIGHT_POWER * (log_c - log_c.max()))
    weight /= weight.mean()
    centre = float(np.average(x, weights=weight))
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    sigma, freedom = 0.02, max(len(x) - 2.0, 1.0)
    for _ in range(5):
        precision = (design * weight[:, None]).T @ design / sigma**2 + np.diag([0.0, _SLOPE[1] ** -2])
        right = (design * weight[:, None]).T @ y / sigma**2 + np.array([0.0, _SLOPE[0] * _SLOPE[1] ** -2])
        theta = np.linalg.solve(precision, right)
        rest = y - design @ theta
        sigma = max(math.sqrt(float(np.sum(weight * rest**2)) / freedom), _LEAST_SIGMA)
    covariance = np.linalg.inv(precision)
    return Line(
        height=float(theta[0]),
        slope=float(theta[1]),
        centre=centre,
        sigma=sigma,
        freedom=freedom,
        covariance=tuple(tuple(float(item) for item in row) for row in covariance),
    )
