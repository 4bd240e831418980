"""Errors at growing numbers of labels in; the error at more labels, with intervals or a refusal, out.

    error(n) = E (s + (1 - s) ((n + r N) / (N + r N))^-b)

N is the largest size, E the error there, s the share of it that no label removes (the floor), b the exponent.
r N labels, few, go by before the power law begins (the "small data region" of Hestness et al.,
arXiv:1712.00409). Priors hold what few sizes cannot tell. Valid for labels drawn as those there are, and for
one way to learn. What makes it uncertain: which rows were drawn (subsets of a pool overlap), which test rows
(shared by all sizes, whole groups), the constants, and what roll-outs missed beyond these.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.estimate import TUNING
from stepladder.laws.rollout import HORIZON_OFFSET
from stepladder.laws.solve import Array, CurveProblem, Data, Prior, minimise
from stepladder.records import Interval

LEAST_SIZES = 4
# Priors (mean, standard deviation) of logit s, log E (around that measured), log b and log r.
_PRIOR = ((-1.5, 1.5), (0.0, 3.0), (math.log(0.4), 0.5), (-3.0, 1.5))
# Departures of a curve from the form, of log-error.
_MISFIT = 0.01
_ROLLOUT = 0.5
_DRAWS = 400
_TREND, _ABOVE_BLIND = 2.33, 3.0
# The 80 % interval takes 1.2 standard deviations, as that of losses does (laws/intervals.py).
_Z, _NORMAL = {"80": 1.2, "95": 1.960}, {"80": 1.282, "95": 1.960}


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoints:
    """What was measured: errors (draws, sizes, test rows) at `sizes` rows of `pool`, nested in each draw.

    `metric` is "accuracy" for errors of 0 and 1, or "mean absolute error". `groups` numbers the group of each
    test row, `blind` is the error of each row by the best answer that reads nothing.
    """

    metric: str
    sizes: Array
    loss: Array
    groups: Array
    blind: Array
    pool: int

    @property
    def error(self) -> Array:
        """Mean error at each size."""
        return self.loss.mean(axis=(0, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCurve:
    """A fitted curve: θ and draws of it. `scatter` is the variance of a run's error at the largest size by
    its training rows, `per_row` that of a test row's error (groups counted in), `error` the means.
    """

    metric: str
    sizes: tuple[int, ...]
    error: tuple[float, ...]
    blind: float
    theta: tuple[float, ...]
    draws: Array
    scatter: float
    per_row: float
    test_rows: int
    rollout: float
    refusal: str = ""

    @property
    def is_share(self) -> bool:
        """Whether errors are shares of wrong rows."""
        return self.metric == "accuracy"


def fit_labels(points: CurvePoints) -> LabelCurve:
    """Fit the curve.

    Raises:
        LawError: fewer than four sizes.
    """
    sizes = points.sizes
    if len(sizes) < LEAST_SIZES:
        raise LawError(
            "too few sizes for a learning curve",
            got=f"{len(sizes)}: {', '.join(map(str, sizes))}",
            allowed=f"{LEAST_SIZES} or more, from {sizes[-1] >> (LEAST_SIZES - 1)} labels at least",
        )
    error = np.maximum(points.error, 0.5 / len(points.groups))
    test = test_covariance(points)
    scatter = _scatter(points)
    relative = (test + draw_covariance(points, scatter)) / np.outer(error, error)
    relative += _MISFIT**2 * np.eye(len(sizes))
    x = np.log(sizes / sizes[-1])
    theta = _solve(x, np.log(error), relative)[0]
    fitted = LabelCurve(
        metric=points.metric,
        sizes=tuple(int(size) for size in sizes),
        error=tuple(float(one) for one in points.error),
        blind=float(points.blind.mean()),
        theta=tuple(float(one) for one in theta),
        draws=_solve(x, np.log(error), relative, _noise(relative, _DRAWS)),
        scatter=scatter,
        per_row=float(test[-1, -1]) * len(points.groups),
        test_rows=len(points.groups),
        rollout=_roll_out(x, np.log(error), relative),
    )
    return replace(fitted, refusal=_refuse(points, relative))


def forecast_labels(curve: LabelCurve, labels: float, *, test_rows: int = 0) -> Interval:
    """The metric of one model with `labels` labels, on as many new test rows as there were or `test_rows`."""
    x = math.log(labels / curve.sizes[-1])
    value = float(_log_error(np.array([x]))(np.array([curve.theta]))[0][0, 0])
    drawn = _log_error(np.array([x]))(curve.draws)[0][:, 0]
    error = math.exp(value)
    run = math.sqrt(curve.scatter * curve.sizes[-1] / labels) / error
    grown = HORIZON_OFFSET + max(x, 0.0) / math.log(10)
    other = math.hypot(run, _test_sd(curve, error, test_rows) / error, _ROLLOUT * curve.rollout * grown)
    ends = []
    for level in ("80", "95"):
        share = 0.5 * (1 - float(level) / 100)
        low, high = np.quantile(drawn, [share, 1 - share])
        spread, narrow = _Z[level] * other, _Z[level] / _NORMAL[level]
        down = math.hypot(spread, narrow * min(low - value, 0.0))
        up = math.hypot(spread, narrow * max(high - value, 0.0))
        ends += [math.exp(value - down), math.exp(value + up)]
    return _interval(curve, error, ends)


def _interval(curve: LabelCurve, error: float, ends: list[float]) -> Interval:
    low80, high80, low95, high95 = ends
    if curve.is_share:
        error, low80, high80, low95, high95 = (
            1 - min(one, 1.0) for one in (error, high80, low80, high95, low95)
        )
    return Interval(value=error, low80=low80, high80=high80, low95=low95, high95=high95)


def _test_sd(curve: LabelCurve, error: float, rows: int) -> float:
    """Standard deviation of the error by which test rows were drawn; that of shares falls with them."""
    now = curve.error[-1]
    by_size = error * (1 - error) / max(now * (1 - now), 1e-9) if curve.is_share else (error / now) ** 2
    return math.sqrt(max(curve.per_row * by_size, 0.0) / (rows or curve.test_rows))


def test_covariance(points: CurvePoints) -> Array:
    """Covariance (S, S) of the mean errors by the choice of test rows: whole groups, shared by all sizes."""
    away = points.loss.mean(axis=0) - points.error[:, None]
    summed = np.zeros((int(points.groups.max()) + 1, len(away)))
    np.add.at(summed, points.groups, away.T)
    groups = len(summed)
    return summed.T @ summed / len(points.groups) ** 2 * groups / max(groups - 1, 1)


def draw_covariance(points: CurvePoints, scatter: float) -> Array:
    """Covariance (S, S) of the mean errors by the choice of training rows.

    As for a mean over rows, two subsets covary as their common part: |A ∩ B| / (|A| |B|), which is 1 / the
    larger within a draw and 1 / pool, on average, between two draws.
    """
    sizes, draws = points.sizes.astype(float), len(points.loss)
    larger = np.maximum(sizes[:, None], sizes[None])
    shared = 1 / (draws * larger) + (1 - 1 / draws) / points.pool
    return scatter * sizes[-1] * shared


def _scatter(points: CurvePoints) -> float:
    """Variance of one run's error at the largest size by which training rows it had; it falls as 1 / n.

    Runs of a size also differ by what each test row makes of them at random; that part is with the test rows
    already and is taken off. Draws of one pool are too alike by n / pool.
    """
    own = points.sizes < points.pool
    if len(points.loss) < 2 or not own.any():
        return float(np.diag(test_covariance(points))[-1])
    loss = points.loss[:, own]
    alone = loss.var(axis=0, ddof=1).mean(axis=-1) / loss.shape[-1]
    variance = loss.mean(axis=2).var(axis=0, ddof=1) - alone
    size = points.sizes[own] / points.sizes[-1]
    found = np.mean(variance * size / (1 - points.sizes[own] / points.pool))
    return max(float(found), 1e-9)


def _log_error(x: Array) -> Callable[[Array], tuple[Array, Array]]:
    """θ (B, 4) → log-error (B, n) and Jacobian (B, n, 4) at x = log(n / N)."""
    labels = np.exp(x)

    def function(theta: Array) -> tuple[Array, Array]:
        logit, level, log_b, log_r = (theta[:, k : k + 1] for k in range(4))
        share, b = 1 / (1 + np.exp(-np.clip(logit, -40, 40))), np.exp(np.clip(log_b, -10, 4))
        r = np.exp(np.clip(log_r, -15, 6))
        far = np.log((labels + r) / (1 + r))
        falling = np.exp(np.clip(-b * far, -40, 40))
        total = share + (1 - share) * falling
        by_fall = (1 - share) * falling / total
        by_r = r / (labels + r) - r / (1 + r)
        slopes = (
            share * (1 - share) * (1 - falling) / total,
            1 + 0 * x,
            -by_fall * b * far,
            -by_fall * b * by_r,
        )
        return level + np.log(total), np.stack(np.broadcast_arrays(*slopes), axis=2)

    return function


def _solve(x: Array, log_error: Array, covariance: Array, noise: Array | None = None) -> Array:
    """The minimum (1, 4); or one for each row of `noise` (B, S), which is taken off the data while the means
    of the prior are drawn too, so that constants which the data do not tell spread as the prior says."""
    white = np.linalg.inv(np.linalg.cholesky(covariance))
    inner = _log_error(x)

    def function(theta: Array) -> tuple[Array, Array]:
        value, slopes = inner(theta)
        return value @ white.T, np.einsum("st,btp->bsp", white, slopes)

    mean, spread = np.array(_PRIOR).T
    mean = np.array([mean[0], log_error[-1], *mean[2:]])
    grid = np.array([[s, mean[1], math.log(b), mean[3]] for s in (-3.0, -1.0, 1.0) for b in (0.1, 0.3, 0.8)])
    targets, means, rows = (white @ log_error)[None], mean[None], np.zeros(len(grid), int)
    if noise is not None:
        best = _solve(x, log_error, covariance)
        targets = (log_error - noise) @ white.T
        means = mean + np.random.default_rng(1).normal(size=(len(noise), 4)) * spread
        grid, rows = np.repeat(best, len(noise), axis=0), np.arange(len(noise))
    data = Data(log_loss=targets, weight=np.ones((1, len(x))), delta=TUNING)
    problem = CurveProblem(function=function, data=data, prior=Prior(mean=means, precision=spread**-2.0))
    found = minimise(problem, grid, rows, max_iterations=60, tolerance=1e-8)
    return found.theta if noise is not None else found.theta[[found.value.argmin()]]


def _noise(covariance: Array, count: int) -> Array:
    return np.random.default_rng(0).multivariate_normal(np.zeros(len(covariance)), covariance, count)


def _roll_out(x: Array, log_error: Array, covariance: Array) -> float:
    """What fits to the smaller sizes (three or more) miss at the larger ones beyond what their own spread and
    the noise foretell: a root mean square in units of HORIZON_OFFSET + decades."""
    noise, excess = _noise(covariance, _DRAWS // 4), []
    for cut in range(3, len(x)):
        ahead, part = x[cut:] - x[cut - 1], (x[:cut] - x[cut - 1], log_error[:cut], covariance[:cut, :cut])
        forecast = _log_error(ahead)(_solve(*part))[0][0]
        drawn = _log_error(ahead)(_solve(*part, noise[:, :cut]))[0] + noise[:, cut:]
        expected = np.mean((drawn - forecast) ** 2, axis=0)
        grown = HORIZON_OFFSET + ahead / math.log(10)
        excess.append(float(np.mean(((log_error[cut:] - forecast) ** 2 - expected) / grown**2)))
    return math.sqrt(max(float(np.mean(excess)), 0.0))


def _refuse(points: CurvePoints, covariance: Array) -> str:
    """Why the curve is not to be extended; empty where it may be."""
    gain = points.blind - points.loss[:, -1].mean(axis=0)
    summed = np.bincount(points.groups, gain - gain.mean())
    error = math.sqrt(float(summed @ summed)) / len(gain)
    if gain.mean() < _ABOVE_BLIND * error:
        return (
            f"with all {points.sizes[-1]} labels the model is {gain.mean() / max(error, 1e-12):.1f} standard "
            f"errors better than an answer that reads nothing ({_ABOVE_BLIND:g} are needed): there is no "
            "curve to extend yet"
        )
    x = np.log(points.sizes / points.sizes[-1])
    design = np.stack([np.ones_like(x), x], axis=1)
    weight = np.linalg.inv(covariance)
    inverse = np.linalg.inv(design.T @ weight @ design)
    slope = (inverse @ design.T @ weight @ np.log(np.maximum(points.error, 1e-9)))[1]
    if -slope < _TREND * math.sqrt(inverse[1, 1]):
        return (
            f"the curve is flat: the error falls by {100 * (1 - 2**slope):.1f} ± "
            f"{100 * math.log(2) * math.sqrt(inverse[1, 1]):.1f} % with each doubling of the labels"
        )
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Purchase:
    """What more labels buy: the metric with `labels` in all, and what it gains on one test set (80 %)."""

    labels: int
    metric: Interval
    gain: float
    gain_low: float
    gain_high: float
    usd: float
    usd_per_point: float


def purchase(curve: LabelCurve, labels: int, usd_per_label: float = 0.0) -> Purchase:
    """What the labels beyond those of the curve buy; gains in hundredths of the metric, above zero: better.

    `usd_per_point` is infinite where nothing is gained.
    """
    x = np.log([1.0, labels / curve.sizes[-1]])
    value = np.exp(_log_error(x)(np.array([curve.theta]))[0][0])
    drawn = np.exp(_log_error(x)(curve.draws)[0])
    gain, gains = 100 * (value[0] - value[1]), 100 * (drawn[:, 0] - drawn[:, 1])
    missed = _ROLLOUT * curve.rollout * (HORIZON_OFFSET + x[1] / math.log(10)) * value[1]
    run = math.sqrt(curve.scatter * (1 + curve.sizes[-1] / labels))
    spread, narrow = 100 * _Z["80"] * math.hypot(missed, run), _Z["80"] / _NORMAL["80"]
    low, high = np.quantile(gains, [0.1, 0.9]) - gain
    usd = usd_per_label * (labels - curve.sizes[-1])
    return Purchase(
        labels=labels,
        metric=forecast_labels(curve, labels),
        gain=float(gain),
        gain_low=float(gain - math.hypot(spread, narrow * min(low, 0.0))),
        gain_high=float(gain + math.hypot(spread, narrow * max(high, 0.0))),
        usd=usd,
        usd_per_point=usd / gain if gain > 0 else math.inf,
    )


def pays_until(curve: LabelCurve, usd_per_label: float, usd_per_point: float, most: float = 8.0) -> float:
    """The number of labels from which on a hundredth of the metric costs more than `usd_per_point`.

    It is at least that of the curve, and `most` times it where labels still pay there.
    """
    x = np.linspace(0.0, math.log(most), 200)
    labels = curve.sizes[-1] * np.exp(x)
    error = np.exp(_log_error(x)(np.array([curve.theta]))[0][0])
    per_label = -100 * np.gradient(error, labels)
    dear = np.flatnonzero(usd_per_label > usd_per_point * per_label)
    return float(labels[dear[0]]) if len(dear) else float(labels[-1])
