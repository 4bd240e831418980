"""Columns and a form in; the certified minimum of the robust objective, with its problem, out."""

from dataclasses import dataclass, replace

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.forms import Form, columns_at, design
from stepladder.laws.solve import Array, CoupledProblem, Data, Prior, TermsProblem, minimise
from stepladder.laws.table import Table

HUBER_DELTA = 1e-3  # Hoffmann et al., arXiv:2203.15556, appendix D.2
_AGREE = 1e-6
# 1.345 σ: 95 % of the efficiency of least squares under normal noise (Huber 1964).
TUNING = 1.345
_LEAST_SIGMA = 5e-4
USUAL_SIGMA = 0.005  # seeds of small runs differ by .3 to .7 % (docs/log.md)
# Standard deviations of the log-shares of floor and other terms at the middle of the data (ladder/design).
_FLOOR_SD, _TERM_SD = 0.5, 0.7
# Weights towards the target. Thresholds: over ten public sets and clean synthetic ladders, bent ones have
# I > .1 with z > .8, or residuals above 2 % (seeds differ by .3 to .7 %).
MILD_POWER, STEEP_POWER = 0.25, 1.0
_BENT_SHARE, _BENT_SCORE, _BENT_SIGMA = 0.1, 0.8, 0.02
_NEIGHBOURS = 3
# A start that needs more steps than this sits on a plateau where one term has vanished; others get there.
_ROUGH, _FINE = 20, 150
# One more than Chinchilla's law has constants.
_LEAST_EFFECTIVE = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How a law is fitted.

    form: "auto" is the coupled law where the runs are enough for it (`fit.fit_law`), else a name in `FORMS`.
    method: "auto" (scale of the Huber loss from the data, weak priors, weights C^weight_power) or "plain"
    (the published procedure: δ = 1e-3, no prior, no weights). weight_power: None lets the residuals
    choose. floor: () or (E, relative standard deviation) that pins or draws the irreducible loss;
    kappa the same for the coupling of size and data. earlier_rms: by what forecasts of earlier ladders of
    this kind missed beyond their own intervals, a standard deviation of log-loss for each unit of
    0.35 + log10(C / C_fit).
    """

    form: str = "auto"
    method: str = "auto"
    size: str = "params"
    delta: float = 0.0
    weight_power: float | None = None
    prior_scale: float = 1.0
    floor: tuple[float, ...] = ()
    kappa: tuple[float, ...] = ()
    earlier_rms: float = 0.0
    starts: int = 24
    bootstraps: int = 200
    seed: int = 0


def parse_floor(text: str) -> tuple[float, ...]:
    """`FitOptions.floor` of "1.7" (pinned) or "1.7:0.1" (relative standard deviation); () of "".

    Raises:
        LawError: not one or two numbers above zero.
    """
    try:
        values = tuple(float(item) for item in text.split(":")) if text else ()
        if len(values) <= 2 and all(0 < item < np.inf for item in values):
            return values if len(values) != 1 else (values[0], 0.0)
    except ValueError:
        pass
    raise LawError(
        "not a floor of the loss", got=repr(text), allowed="E, or E:relative deviation, as 1.7:0.1"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What a form is fitted to: its columns (c, n), log N and log D first, centred on `centre`; weight (mean
    1) grows as C^power. `usual_sigma` is the noise of a run that is expected before the residuals speak."""

    centred: Array
    log_loss: Array
    weight: Array
    centre: tuple[float, ...]
    power: float = 0.0
    usual_sigma: float = 0.005

    @property
    def log_n(self) -> Array:
        """Centred log of the size."""
        return self.centred[0]

    @property
    def log_d(self) -> Array:
        """Centred log of the tokens."""
        return self.centred[1]


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
        """Noise of log-loss over all runs, which scales the objective (for "plain": of its residuals)."""
        scale = self.problem.data.sigma
        return scale if scale < 1 else noise(self)

    @property
    def residual(self) -> Array:
        """log observed - log fitted."""
        return self.columns.log_loss - self.problem.log_loss(self.theta[None])[0]

    @property
    def certified(self) -> bool:
        """At least three distinct starts agree."""
        return self.agreeing >= 3


def columns_of(form: Form, size: Array, table: Table, power: float) -> Columns:
    """Centre the form's columns and weight towards large compute."""
    middle = (float(np.log(size).mean()), float(np.log(table.tokens).mean()))
    raw = columns_at(form, size, table.tokens, table.extra, middle)
    centre = raw.mean(axis=1)
    # Replicates speak for the noise beside what is usual, which counts as one.
    seeds, freedom = replicate_noise(table)
    squares = USUAL_SIGMA**2 + (freedom * seeds**2 if freedom else 0.0)
    return Columns(
        centred=raw - centre[:, None],
        log_loss=np.log(table.loss),
        weight=weights_of(size, table, power),
        centre=tuple(float(item) for item in centre),
        power=power,
        usual_sigma=float(np.sqrt(squares / (1 + freedom))),
    )


def weights_of(size: Array, table: Table, power: float) -> Array:
    """Weights of the runs, with mean 1, growing as C^power."""
    compute = np.log(size) + np.log(table.tokens)
    weight = table.weight * np.exp(power * (compute - compute.max()))
    return weight / weight.mean()


def replicate_noise(table: Table) -> tuple[float, int]:
    """Standard deviation of log-loss among runs alike but for their seeds, and its degrees of freedom."""
    groups: dict[tuple[object, ...], list[float]] = {}
    same = [table.extra[name] for name in ("corpus", "experts") if name in table.extra]
    for params, tokens, loss, *others in zip(table.params, table.tokens, table.loss, *same, strict=True):
        groups.setdefault((float(params), float(tokens), *others), []).append(float(np.log(loss)))
    squares = sum(float(np.var(group)) * len(group) for group in groups.values())
    freedom = len(table) - len(groups)
    return (float(np.sqrt(squares / freedom)) if freedom else float("nan")), freedom


def size_of(table: Table, name: str) -> Array:
    """The column that counts parameters."""
    if name not in ("params", "nonembed_params"):
        raise LawError("unknown size column", got=repr(name), allowed="params, nonembed_params")
    size = getattr(table, name)
    if not np.isfinite(size).all():
        raise LawError(f"the runs lack {name}", got=f"{int((~np.isfinite(size)).sum())} rows without it")
    return size


def fit_form(form: Form, table: Table, options: FitOptions) -> Estimate:
    """Fit with weights C^¼, and with weights C when the residuals show that the law is bent.

    Near the target a bent law is still nearly right, so there only the dear runs should speak; where the
    law holds, throwing cheap runs away only costs precision (bench/laws/holdout.py, docs/forecasting.md).
    """
    size = size_of(table, options.size)
    power = 0.0 if options.method == "plain" else options.weight_power
    if power is not None:
        return estimate(form, columns_of(form, size, table, power), options)
    first = estimate(form, columns_of(form, size, table, MILD_POWER), options)
    if not is_bent(first):
        return first
    return estimate(form, columns_of(form, size, table, steep_power(size, table)), options)


def steep_power(size: Array, table: Table) -> float:
    """The steepest weights up to C¹ that leave as many effective runs as a joint law needs."""
    power = STEEP_POWER
    least = min(0.8 * len(table), _LEAST_EFFECTIVE)
    while power > MILD_POWER:
        weight = weights_of(size, table, power)
        if weight.sum() ** 2 / np.sum(weight**2) >= least:
            break
        power -= 0.125
    return power


def is_bent(fitted: Estimate) -> bool:
    """Whether neighbouring runs err together, or all err by more than seeds can explain."""
    share, score = neighbour_agreement(fitted)
    return (share > _BENT_SHARE and score > _BENT_SCORE) or fitted.sigma > _BENT_SIGMA


def neighbour_agreement(fitted: Estimate) -> tuple[float, float]:
    """Moran's I of the residuals over three nearest neighbours in (log N, log D), and its z-score."""
    columns = fitted.columns
    residual = fitted.residual
    pick = np.random.default_rng(0).permutation(len(residual))[:1000]
    place = np.stack([columns.log_n[pick], columns.log_d[pick]], axis=1)
    residual = residual[pick] - np.median(residual[pick])
    scale = 3 * 1.4826 * np.median(np.abs(residual))
    residual = np.clip(residual, -scale, scale)
    residual = residual - residual.mean()
    power = float(np.mean(residual**2))
    if len(residual) < 5 or power == 0.0:
        return 0.0, 0.0
    distance = ((place[:, None] - place[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :_NEIGHBOURS]
    share = float(np.mean(residual * residual[near].mean(axis=1))) / power
    # Under independence the variance of I over k neighbours is about 1.5 / (n k): half of the neighbour
    # relations are mutual.
    return share, share * float(np.sqrt(len(residual) * _NEIGHBOURS / 1.5))


def estimate(form: Form, columns: Columns, options: FitOptions, *, sigma: float = 0.0) -> Estimate:
    """Fit; with method "auto" the noise is estimated and the fit repeated until it settles (three rounds),
    unless it is known (`sigma`)."""
    if options.method == "plain":
        delta = options.delta or HUBER_DELTA
        data = Data(log_loss=columns.log_loss[None], weight=columns.weight[None], delta=delta)
        return _solve(form, columns, options, data)
    everything = start_points(form, columns, design(form, columns.centred), options)
    starts = everything[:8]
    for _ in range(0 if sigma else 2):
        rough = _solve(form, columns, options, _data(columns, options, sigma), starts, _ROUGH)
        sigma, starts = noise(rough), np.concatenate([rough.theta[None], everything[:3]])
    data = _data(columns, options, sigma)
    fitted = _solve(form, columns, options, data, everything, _FINE)
    # Hard cases get all the steps they need before they are called uncertified.
    return fitted if fitted.certified else _solve(form, columns, options, data, everything, 400)


def _data(columns: Columns, options: FitOptions, sigma: float) -> Data:
    """The Huber loss at that noise, or at the usual one where none is known yet."""
    sigma = sigma or columns.usual_sigma
    return Data(
        log_loss=columns.log_loss[None],
        weight=columns.weight[None],
        delta=options.delta or TUNING * sigma,
        sigma=sigma,
    )


def noise(fitted: Estimate, *, local: bool = False) -> float:
    """Robust standard deviation of the residuals with the freedom that the fit used up given back.

    `local` weights them as the fit does: with steep weights that is the scatter near the target, which the
    forecast meets. The scale of the Huber loss is not local: a few dear runs would then set it (gadre-rpj
    forecast twice as badly that way).
    """
    size = np.abs(fitted.residual)
    weight = fitted.columns.weight if local else np.ones(len(size))
    order = np.argsort(size)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    spread = 1.4826 * size[order][min(half, len(size) - 1)]
    clipped = np.minimum(size, 3 * spread) if spread > 0 else size
    effective = weight.sum() ** 2 / np.sum(weight**2)
    freedom = max(effective - _used(fitted, len(fitted.theta)), 0.0)
    squares = effective * float(np.average(clipped**2, weights=weight))
    # As if one more run had been seen at the usual scatter: a fit through all its points has no noise left.
    return max(float(np.sqrt((squares + fitted.columns.usual_sigma**2) / (freedom + 1.0))), _LEAST_SIGMA)


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
    if options.kappa and form.coupled:
        mean[-1], precision[-1] = np.log(options.kappa[0]), max(options.kappa[1], 1e-6) ** -2.0
    return Prior(mean=np.array(mean)[None], precision=precision)


def _solve(
    form: Form,
    columns: Columns,
    options: FitOptions,
    data: Data,
    starts: Array | None = None,
    steps: int = 200,
) -> Estimate:
    matrix = design(form, columns.centred)
    problem = (CoupledProblem if form.coupled else TermsProblem)(
        design=matrix,
        data=data,
        prior=prior_of(form, columns, options),
    )
    if starts is None:
        starts = start_points(form, columns, matrix, options)
    found = minimise(problem, starts, np.zeros(len(starts), dtype=int), max_iterations=steps)
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
    mean, spread = (np.array(item) for item in zip(*form.exponents.values(), strict=True))
    plain = mean > 0.04
    low, high = np.where(plain, mean, 1.0) / 5, 1.2
    exponents = np.exp(rng.uniform(np.log(low), np.log(high), (options.starts, draws)))
    # Corrections (bends, ratios of corpora) start near none.
    exponents = np.where(plain, exponents, mean + spread * rng.normal(size=exponents.shape) / 4)
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
    sigma: float | None = None,
) -> TermsProblem:
    """The same problem for a batch: own targets, weights or prior means per row, or another noise scale."""
    data, prior = fitted.problem.data, fitted.problem.prior
    if sigma is not None:
        data = replace(data, sigma=sigma, delta=data.delta / data.sigma * sigma)
    data = replace(
        data,
        log_loss=data.log_loss if log_loss is None else log_loss,
        weight=data.weight if weight is None else weight,
    )
    prior = prior if prior_mean is None else replace(prior, mean=prior_mean)
    return replace(fitted.problem, data=data, prior=prior)
