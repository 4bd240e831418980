"""Runs that repeat their data in; a law in which repetition is worth less than new tokens out.

L = E + A/N'^α + B/D'^β + H with D' = U + U R_D* (1 - exp(-R/R_D*)), where U are the unique tokens and
R = D/U - 1 the repetitions; N' likewise around the size that is optimal for U. Muennighoff et al.,
arXiv:2305.16264, equations 5 and 6, fitted by them over a given E, A, α, B, β.

H is what over-fitting costs: 1/H = 1/C + 1/h with h = F N^κ U^-λ / (1 + (R1/R)^δ). That such a cost is added
is of Lovelace et al., arXiv:2605.01640; the shape is ours, for runs that Muennighoff et al. left out of their
fit: it stops growing after R1 repetitions where a model is too small to memorise, and at C, a guess's loss,
where it is not. Rows: 7 M to 9 B parameters, up to 9,000 epochs. Half-lives, F and R1 trade off against each
other; loss and effective tokens hardly change with that (bench/laws/repeat.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.estimate import TUNING, USUAL_SIGMA
from stepladder.laws.solve import Array, CurveProblem, Data, Prior, Solution, minimise
from stepladder.laws.table import Table

_Pair = tuple[float, float]
HUBER_DELTA = 1e-3
# arXiv:2305.16264, appendix A: fitted on C4, where N and D share one exponent.
C4 = {
    "E": float(np.exp(0.6254804)),
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
}
PUBLISHED_PAIR = (15.387756, 5.309743)
# θ: base at the middle of the runs, log half-lives, then the cost of over-fitting.
_BASE, _PAIR, _HARM = slice(0, 5), slice(5, 7), slice(7, 13)
_BASE_NAMES = ("E", "A", "B", "alpha", "beta")
_HARM_NAMES = ("F", "kappa", "lambda", "delta", "R1", "C")
# Standard deviations of the priors: shares and exponents as in `estimate`, half-lives and over-fitting wide.
_SPREAD = np.array([0.5, 0.7, 0.7, 0.15, 0.15, 1.0, 1.0, 2.0, 0.5, 0.5, 0.7, 1.0, 0.5])
_ABSENT = -60.0  # log F of a law without over-fitting
_RISEN = 0.02  # four times what seeds differ by
_LEAST_SINGLE, LEAST_REPEATED = 20, 5
REPEATED = 1.01  # epochs from which a run counts as repeating its data
_LEAST_GAIN = 10.0  # of log-likelihood: over-fitting has six constants


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatLaw:
    """Fitted half-lives over a base, and the cost of over-fitting (`harm`, empty where no run shows any).

    `low` and `high` bound R_D* and R_N*: where the objective, the rest refitted, rises by 1 % (over a given
    base) or by 1.92 (95 %; too narrow where the base was fitted first and so does not move). `harmful` counts
    the runs that ended above a shorter one of their size and data, unless noise explains them.
    """

    base: Mapping[str, float]
    data_halflife: float
    size_halflife: float
    objective: float
    agreeing: int
    low: _Pair
    high: _Pair
    harm: Mapping[str, float] = field(default_factory=dict)
    harmful: int = 0
    rms_residual: float = float("nan")
    source: str = "fitted over a given base"

    @property
    def identified(self) -> bool:
        """Whether both bounds lie within a factor of four of each other."""
        return all(high < 4 * low for low, high in zip(self.low, self.high, strict=True))

    def loss(self, params: Array, tokens: Array, unique_tokens: Array) -> Array:
        """Predicted loss."""
        rows = _Rows.of(params, tokens, unique_tokens, (0.0, 0.0))
        theta = _theta(self.base, (self.data_halflife, self.size_halflife), self.harm)
        return np.exp(_log_loss(theta[None], rows)[0][0])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """Logs of N and U over the centre, and R."""

    log_n: Array
    log_u: Array
    again: Array

    @classmethod
    def of(cls, params: Array, tokens: Array, unique: Array, centre: _Pair) -> "_Rows":
        params, tokens, unique = (np.asarray(column, float) for column in (params, tokens, unique))
        unique = np.minimum(np.where(np.isfinite(unique), unique, tokens), tokens)
        return cls(
            log_n=np.log(params) - centre[0],
            log_u=np.log(unique) - centre[1],
            again=tokens / unique - 1.0,
        )


def fit_repeat(
    table: Table, base: Mapping[str, float] | None = C4, *, single_first: bool = True, harm: bool = True
) -> RepeatLaw:
    """Fit the half-lives.

    Args:
        table: runs; a missing unique_tokens means that nothing was repeated (with base None).
        base: E, A, B, alpha, beta: only R_D* and R_N* are fitted, by the published objective (Huber loss of
            1e-3 on log-loss, summed, no priors). None: all constants come from the runs, with weak priors,
            and (with `harm`) the cost of over-fitting where runs show it.
        single_first: with base None, fit the base on the runs of one epoch first (20 or more).

    Raises:
        LawError: unique_tokens are missing over a given base, or no run repeats any data.
    """
    if base is not None and not np.isfinite(table.unique_tokens).all():
        raise LawError("a repeated-data law needs the column unique_tokens in every row")
    if not (table.tokens > REPEATED * table.unique_tokens).any():
        raise LawError("no run repeats its data", got="tokens <= unique_tokens in every row")
    return _over(table, base) if base is not None else _joint(table, single_first, harm)


def repeat_objective(table: Table, pair: _Pair, base: Mapping[str, float] = C4) -> float:
    """The published objective at a given (R_D*, R_N*)."""
    problem, _ = _published(table, base)
    return float(problem.value(np.log([pair]), np.array([0]))[0])


def harmful_runs(table: Table) -> int:
    """Runs whose loss lies 2 % above that of a run of the same size and unique tokens with fewer epochs."""
    rows = _Rows.of(table.params, table.tokens, table.unique_tokens, (0.0, 0.0))
    same = np.logical_and(*(np.abs(x[:, None] - x) < 0.02 for x in (rows.log_n, rows.log_u)))
    longer = table.tokens[:, None] > 1.1 * table.tokens
    worse = table.loss[:, None] > (1 + _RISEN) * table.loss
    return int((same & longer & worse).any(axis=1).sum())


def _over(table: Table, base: Mapping[str, float]) -> RepeatLaw:
    problem, theta = _published(table, base)
    grid = np.log(np.array([(d, n) for d in (1.0, 4.0, 15.0, 60.0, 240.0) for n in (0.5, 1.5, 5.0, 20.0)]))
    best = _best(problem, theta, np.arange(13)[_PAIR], minimise(problem, grid, max_iterations=300))
    return _law(best, (0.0, 0.0), _profile(best, 0.01 * best.value))


def _published(table: Table, base: Mapping[str, float]) -> tuple[CurveProblem, Array]:
    """The published objective over the pair, and the full θ that it varies."""
    theta = _theta(base, PUBLISHED_PAIR, {})
    rows = _Rows.of(table.params, table.tokens, table.unique_tokens, (0.0, 0.0))
    data = Data(log_loss=np.log(table.loss)[None], weight=np.ones((1, len(table))), delta=HUBER_DELTA)
    flat = Prior(mean=np.zeros((1, 2)), precision=np.zeros(2))
    return _problem(rows, theta, np.arange(13)[_PAIR], data, flat), theta


def _joint(table: Table, single_first: bool, harm: bool) -> RepeatLaw:
    """All constants from the runs, the noise estimated and the fit repeated as in `estimate`."""
    harmful = harmful_runs(table) if harm else 0
    unique = np.where(np.isfinite(table.unique_tokens), table.unique_tokens, table.tokens)
    single = np.flatnonzero(table.tokens <= REPEATED * unique)
    theta, free = _prior_mean(table, harmful), np.arange(13 if harmful else 7)
    centre = (float(np.log(table.params).mean()), float(np.log(unique).mean()))
    source = "base and half-lives fitted together"
    if single_first and len(single) >= _LEAST_SINGLE:
        theta = _fit(table.take(single), theta, free[_BASE], centre).theta
        free, source = free[5:], "base fitted on the runs of one epoch first"
    found = _fit(table, theta, free, centre)
    if harmful:
        bare = np.where(np.arange(13) < 7, theta, _ABSENT)
        without = _fit(table, bare, free[free < 7], centre)
        if found.cost(without.residual) < found.cost(found.residual) + _LEAST_GAIN:
            found, harmful = without, 0
    law = _law(found, centre, _profile(found, max(1.92, 0.01 * found.value)))
    runs = int((table.tokens > REPEATED * unique).sum())
    how = f"with over-fitting, which {harmful} runs show" if harmful else "no run shows over-fitting"
    how += "" if law.high[0] < 4 * law.low[0] else "; R_D* is not identified (prior: the published one)"
    return replace(law, harmful=harmful, source=f"{source} on {runs} repeated runs of {len(table)}; {how}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    problem: CurveProblem
    theta: Array
    free: Array
    value: float
    agreeing: int

    @property
    def residual(self) -> Array:
        return self.problem.function(self.theta[None, self.free])[0][0] - self.problem.data.log_loss[0]

    def cost(self, residual: Array) -> float:
        """The objective's part of these residuals."""
        data = self.problem.data
        clipped = np.clip(residual, -data.delta, data.delta)
        return float(data.weight[0] @ (clipped * (residual - clipped / 2))) / data.sigma**2


def _best(problem: CurveProblem, full: Array, free: Array, found: Solution) -> _Found:
    """The lowest of the minima."""
    value, theta = float(found.value.min()), full.copy()
    theta[free] = found.theta[found.value.argmin()]
    close = int((found.value <= value * (1 + 1e-6)).sum())
    return _Found(problem=problem, theta=theta, free=free, value=value, agreeing=close)


def _prior_mean(table: Table, harmful: int) -> Array:
    floor, term, level, cap = np.log(table.loss).mean() + np.log([0.5, 0.25, 0.1, 3.0])
    harm = [level, 1.0, 1.0, np.log(1.5), np.log(60.0), cap] if harmful else [_ABSENT] * 6
    return np.array([floor, term, term, 0.35, 0.35, *np.log(PUBLISHED_PAIR), *harm])


def _fit(table: Table, mean: Array, free: Array, centre: _Pair) -> _Found:
    rows = _Rows.of(table.params, table.tokens, table.unique_tokens, centre)
    prior = Prior(mean=mean[None, free], precision=_SPREAD[free] ** -2.0)
    offsets = np.zeros((8, 13))
    offsets[:, 3:6] = list(product((-0.1, 0.1), (-0.1, 0.1), (-1.0, 1.5)))
    offsets[:, 6] = [1, -1, -1, 1] * 2
    starts, sigma = (mean + offsets)[:, free], USUAL_SIGMA
    for tolerance in (1e-4, 1e-4, 1e-9):
        data = Data(
            log_loss=np.log(table.loss)[None],
            weight=table.weight[None] / table.weight.mean(),
            delta=TUNING * sigma,
            sigma=sigma,
        )
        problem = _problem(rows, mean, free, data, prior)
        found = minimise(problem, starts, max_iterations=60, tolerance=tolerance)
        fitted = _best(problem, mean, free, found)
        spread = 1.4826 * float(np.median(np.abs(fitted.residual)))
        sigma = max(spread * np.sqrt(len(table) / max(len(table) - len(free), 1)), USUAL_SIGMA)
        starts = np.concatenate([fitted.theta[None, free], starts[:3]])
    return fitted


def _profile(found: _Found, rise: float) -> tuple[_Pair, _Pair]:
    """The pair's lower and upper bounds: where each can go, the rest refitted, before the objective rises."""
    steps = np.linspace(-4.0, 4.0, 13)
    ends = []
    for place in (5, 6):
        column = int(np.flatnonzero(found.free == place)[0])
        starts = np.repeat(found.theta[None, found.free], len(steps), axis=0)
        starts[:, column] += steps
        prior = found.problem.prior
        mean, precision = np.repeat(prior.mean, len(steps), axis=0), prior.precision.copy()
        # Held by a stiff prior; its own prior is a constant of each row, added afterwards.
        own = 0.5 * precision[column] * (starts[:, column] - mean[:, column]) ** 2
        mean[:, column], precision[column] = starts[:, column], 1e8
        held = replace(found.problem, prior=Prior(mean=mean, precision=precision))
        lowest = minimise(held, starts, max_iterations=15, tolerance=1e-4).value + own
        spare = found.value + rise - lowest
        first, last = np.flatnonzero(spare >= 0)[[0, -1]]
        pairs = ([max(first - 1, 0), first], [min(last + 1, len(steps) - 1), last])
        crossings = [np.interp(0.0, spare[pair], steps[pair]) for pair in pairs]
        ends.append([float(np.exp(found.theta[place] + item)) for item in crossings])
    return (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1])


def _problem(rows: _Rows, full: Array, free: Array, data: Data, prior: Prior) -> CurveProblem:
    """Vary the `free` places of θ, the others as in `full`."""

    def function(theta: Array) -> tuple[Array, Array]:
        whole = np.repeat(full[None], len(theta), axis=0)
        whole[:, free] = theta
        log_loss, slopes = _log_loss(whole, rows)
        return log_loss, slopes[:, :, free]

    return CurveProblem(function=function, data=data, prior=prior)


def _law(found: _Found, centre: _Pair, bounds: tuple[_Pair, _Pair]) -> RepeatLaw:
    """θ at the centre → the constants of the equation."""
    theta = found.theta
    logs = (theta[0], theta[1] + theta[3] * centre[0], theta[2] + theta[4] * centre[1])
    base = (*np.exp(logs), theta[3], theta[4])
    level, kappa, lam, delta, halflife, cap = theta[_HARM]
    level = level + lam * centre[1] - kappa * centre[0]
    harm = (np.exp(level), kappa, lam, *np.exp([delta, halflife, cap])) if theta[7] > _ABSENT else ()
    return RepeatLaw(
        base=dict(zip(_BASE_NAMES, map(float, base), strict=True)),
        data_halflife=float(np.exp(theta[5])),
        size_halflife=float(np.exp(theta[6])),
        objective=found.value,
        agreeing=found.agreeing,
        low=bounds[0],
        high=bounds[1],
        harm=dict(zip(_HARM_NAMES, map(float, harm), strict=False)),
        rms_residual=float(np.sqrt(np.mean(found.residual**2))),
    )


def _theta(base: Mapping[str, float], pair: _Pair, harm: Mapping[str, float]) -> Array:
    """The constants of the equation → θ at the centre (0, 0)."""
    theta = np.full(13, _ABSENT)
    theta[_BASE] = [base[name] for name in _BASE_NAMES]
    theta[:3], theta[_PAIR] = np.log(theta[:3]), np.log(pair)
    if harm:
        theta[_HARM] = [harm[name] for name in _HARM_NAMES]
        theta[[7, 10, 11, 12]] = np.log(theta[[7, 10, 11, 12]])
    return theta


def _log_loss(theta: Array, rows: _Rows) -> tuple[Array, Array]:
    """Log-loss (B, n) and its slopes by θ (B, n, 13)."""
    floor, level, data_level, alpha, beta, data_half, size_half = (theta[:, k : k + 1] for k in range(7))
    alpha, beta = np.maximum(alpha, 0.02), np.maximum(beta, 0.02)
    # The size that suits U tokens: α A N^-α = β B U^-β, where compute is spent best.
    suited = (np.log(alpha / beta) + level - data_level + beta * rows.log_u) / alpha
    larger = suited < rows.log_n
    log_s = np.minimum(suited, rows.log_n)
    excess = np.exp(rows.log_n - log_s) - 1.0
    data, data_slope, _ = _growth(data_half, rows.again)
    size, size_slope, size_rise = _growth(size_half, excess)
    log_size, log_data = log_s + np.log(size), rows.log_u + np.log(data)
    size_term = np.exp(np.minimum(level - alpha * log_size, 50.0))
    data_term = np.exp(np.minimum(data_level - beta * log_data, 50.0))
    harm, harm_slopes = _harm(theta, rows)
    loss = np.exp(floor) + size_term + data_term + harm
    by_suited = -size_term * (1.0 - size_rise * (excess + 1.0)) * larger
    slopes = [
        np.exp(floor) + 0 * loss,
        size_term + by_suited,
        data_term - by_suited,
        -size_term * log_size + by_suited * (1.0 / alpha - suited),
        -data_term * log_data + by_suited * (rows.log_u - 1.0 / beta),
        -beta * data_term * data_slope,
        -alpha * size_term * size_slope,
        *(harm * slope for slope in harm_slopes),
    ]
    return np.log(loss), np.stack([slope / loss for slope in slopes], axis=2)


def _growth(log_halflife: Array, again: Array) -> tuple[Array, Array, Array]:
    """g = 1 + R* (1 - exp(-R/R*)), and the slopes of log g by log R* and by R."""
    halflife = np.exp(np.clip(log_halflife, -20, 20))
    left = np.exp(-again / halflife)
    won = -halflife * np.expm1(-again / halflife)
    return 1.0 + won, (won - again * left) / (1.0 + won), left / (1.0 + won)


def _harm(theta: Array, rows: _Rows) -> tuple[Array, list[Array]]:
    """The cost of over-fitting and the slopes of its logarithm by its six constants."""
    level, kappa, lam, delta, halflife, cap = (theta[:, k : k + 1] for k in range(7, 13))
    delta = np.exp(delta)
    late = delta * (halflife - np.log(np.maximum(rows.again, 1e-9)))
    growth = level + kappa * rows.log_n - lam * rows.log_u - np.logaddexp(0.0, late)
    log_h = np.where(rows.again > 1e-9, growth, _ABSENT)
    log_harm = -np.logaddexp(-cap, -log_h)
    part, early = np.exp(log_harm - log_h), -1.0 / (1.0 + np.exp(-late))
    slopes = [part, part * rows.log_n, -part * rows.log_u, part * early * late, part * early * delta]
    return np.exp(log_harm), [*slopes, 1.0 - part]
