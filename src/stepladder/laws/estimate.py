"""Columns and a form in; the certified minimum of the robust objective, with its problem, out."""

from dataclasses import dataclass, replace

import numpy as np

from stepladder.laws.forms import Form, design
from stepladder.laws.solve import Array, Data, Prior, TermsProblem, minimise

HUBER_DELTA = 1e-3  # Hoffmann et al., arXiv:2203.15556, appendix D.2
_AGREE = 1e-6
# 1.345 σ: 95 % of the efficiency of least squares under normal noise (Huber 1964).
_TUNING = 1.345
_LEAST_SIGMA = 5e-4
# Standard deviations of the log-shares of floor and other terms at the middle of the data (ladder/design).
_FLOOR_SD, _TERM_SD = 0.5, 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How a law is fitted.

    method: "auto" (scale of the Huber loss from the data, weak priors, weights C^weight_power) or "plain"
    (the published procedure: δ = 1e-3, no prior, no weights). floor: () or (E, relative standard
    deviation) that pins or draws the irreducible loss.
    """

    form: str = "chinchilla"
    method: str = "auto"
    size: str = "params"
    delta: float = 0.0
    weight_power: float = 0.25
    prior_scale: float = 1.0
    floor: tuple[float, ...] = ()
    starts: int = 24
    bootstraps: int = 200
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What a form is fitted to: logs centred on `centre`; weight has mean 1."""

    log_n: Array
    log_d: Array
    log_loss: Array
    weight: Array
    centre: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A minimum. `share` of the starts ended within 1e-6 of it; `agreeing` counts distinct ones."""

    form: Form
    columns: Columns
    problem: TermsProblem
    theta: Array
    objective: float
    starts: Array
    share: float
    agreeing: int

    @property
    def sigma(self) -> float:
        """Noise of log-loss that the objective assumes."""
        return self.problem.data.sigma

    @property
    def residual(self) -> Array:
        """log observed - log fitted."""
        return self.columns.log_loss - self.problem.log_loss(self.theta[None])[0]

    @property
    def certified(self) -> bool:
        """At least three distinct starts agree."""
        return self.agreeing >= 3


def columns_of(params: Array, tokens: Array, loss: Array, weight: Array, power: float) -> Columns:
    """Centre the logs and weight towards large compute."""
    log_n, log_d = np.log(params), np.log(tokens)
    centre = (float(log_n.mean()), float(log_d.mean()))
    compute = log_n + log_d
    weight = weight * np.exp(power * (compute - compute.max()))
    return Columns(
        log_n=log_n - centre[0],
        log_d=log_d - centre[1],
        log_loss=np.log(loss),
        weight=weight / weight.mean(),
        centre=centre,
    )


def estimate(form: Form, columns: Columns, options: FitOptions) -> Estimate:
    """Fit; with method "auto" the noise is estimated and the fit repeated until it settles (two rounds)."""
    if options.method == "plain":
        delta = options.delta or HUBER_DELTA
        return _solve(
            form,
            columns,
            options,
            Data(log_loss=columns.log_loss[None], weight=np.ones((1, len(columns.log_loss))), delta=delta),
        )
    everything = start_points(form, columns, design(form, columns.log_n, columns.log_d), options)
    sigma, starts = 0.005, everything[:8]
    for last in (False, False, True):
        data = Data(
            log_loss=columns.log_loss[None],
            weight=columns.weight[None],
            delta=options.delta or _TUNING * sigma,
            sigma=sigma,
        )
        fitted = _solve(form, columns, options, data, everything if last else starts)
        sigma, starts = noise(fitted), np.concatenate([fitted.theta[None], everything[:3]])
    return fitted


def noise(fitted: Estimate) -> float:
    """Robust standard deviation of the residuals with the freedom that the fit used up given back."""
    residual = fitted.residual
    n, p = len(residual), len(fitted.theta)
    freedom = max(n - _used(fitted, p), 1.0)
    spread = 1.4826 * np.median(np.abs(residual))
    clipped = np.clip(residual, -3 * spread, 3 * spread) if spread > 0 else residual
    return max(float(np.sqrt(np.sum(clipped**2) / freedom)), _LEAST_SIGMA)


def _used(fitted: Estimate, p: int) -> float:
    """Effective number of constants: trace of (data curvature) × (posterior covariance)."""
    _, _, _, upper = fitted.problem.quadratic(fitted.theta[None], np.array([0]))
    prior = np.diag(fitted.problem.prior.precision)
    matrix = upper[0] + 1e-12 * np.trace(upper[0]) * np.eye(p)
    return float(np.trace(np.linalg.solve(matrix, upper[0] - prior)))


def prior_of(form: Form, columns: Columns, options: FitOptions) -> Prior:
    """Weak priors on shares and exponents; none for method "plain" but a pinned floor."""
    middle = float(np.average(columns.log_loss, weights=columns.weight))
    mean = [middle + np.log(term.share) for term in form.terms] + [m for m, _ in form.exponents.values()]
    spread = [_FLOOR_SD if term.amplitude == "E" else _TERM_SD for term in form.terms]
    spread += [sd for _, sd in form.exponents.values()]
    precision = (np.array(spread) * options.prior_scale) ** -2.0
    if options.method == "plain":
        precision = np.zeros(len(spread))
    if options.floor and form.has_floor:
        mean[0], precision[0] = np.log(options.floor[0]), max(options.floor[1], 1e-6) ** -2.0
    return Prior(mean=np.array(mean)[None], precision=precision)


def _solve(
    form: Form, columns: Columns, options: FitOptions, data: Data, starts: Array | None = None
) -> Estimate:
    matrix = design(form, columns.log_n, columns.log_d)
    problem = TermsProblem(
        design=matrix,
        offset=np.zeros(matrix.shape[:2]),
        data=data,
        prior=prior_of(form, columns, options),
    )
    if starts is None:
        starts = start_points(form, columns, matrix, options)
    found = minimise(problem, starts, np.zeros(len(starts), dtype=int))
    order = np.argsort(found.value)
    best = order[0]
    close = found.value <= found.value[best] * (1 + _AGREE) + 1e-12
    return Estimate(
        form=form,
        columns=columns,
        problem=problem,
        theta=found.theta[best],
        objective=float(found.value[best]),
        starts=starts[order],
        share=float(close.mean()),
        agreeing=len(np.unique(np.round(starts[close], 6), axis=0)),
    )


def start_points(form: Form, columns: Columns, matrix_KnP: Array, options: FitOptions) -> Array:
    """Variable projection: draw the exponents, solve the amplitudes by non-negative least squares.

    Relative errors are squared, so that the amplitudes enter linearly; all subsets of positive terms are
    solved for all draws at once and the best feasible one is kept.
    """
    K, _, p = matrix_KnP.shape
    draws = p - K
    rng = np.random.default_rng(options.seed)
    low, high = np.array([m for m, _ in form.exponents.values()]) / 5, 1.2
    exponents = np.exp(rng.uniform(np.log(low), np.log(high), (options.starts, draws)))
    basis_BKn = np.exp(np.einsum("be,kne->bkn", exponents, matrix_KnP[:, :, K:]) - columns.log_loss)
    weight = columns.weight
    gram = np.einsum("bkn,bjn,n->bkj", basis_BKn, basis_BKn, weight)
    right = np.einsum("bkn,n->bk", basis_BKn, weight)
    best = np.full((options.starts, K), np.nan)
    best_gain = np.full(options.starts, -np.inf)
    for mask in range(1, 2**K):
        chosen = [k for k in range(K) if mask >> k & 1]
        part = gram[np.ix_(range(options.starts), chosen, chosen)]
        part = part + 1e-12 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(chosen))
        solved = np.linalg.solve(part, right[:, chosen, None])[:, :, 0]
        gain = np.einsum("bk,bk->b", solved, right[:, chosen])
        better = (solved > 0).all(axis=1) & (gain > best_gain)
        best[better] = 0.0
        best[np.ix_(better, chosen)] = solved[better]
        best_gain[better] = gain[better]
    middle = np.exp(np.average(columns.log_loss, weights=weight))
    # A term that least squares set to zero starts at 1 % of the loss: its logarithm must be finite.
    amplitudes = np.log(np.maximum(np.nan_to_num(best, nan=middle / K), 0.01 * middle))
    return np.concatenate([amplitudes, exponents], axis=1)


def with_rows(
    fitted: Estimate,
    *,
    log_loss: Array | None = None,
    weight: Array | None = None,
    prior_mean: Array | None = None,
) -> TermsProblem:
    """The same problem for a batch: own targets, weights or prior means per row."""
    data, prior = fitted.problem.data, fitted.problem.prior
    data = replace(
        data,
        log_loss=data.log_loss if log_loss is None else log_loss,
        weight=data.weight if weight is None else weight,
    )
    prior = prior if prior_mean is None else replace(prior, mean=prior_mean)
    return TermsProblem(design=fitted.problem.design, offset=fitted.problem.offset, data=data, prior=prior)
