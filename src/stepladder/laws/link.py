"""Runs with losses and an accuracy in; fitted links from a run to its accuracy, with roll-out errors, out.

acc = floor + (top - floor) h, floor near chance. From the loss, h = 1 / (1 + exp(-k (L0 - L))) (Bhagia et
al., arXiv:2412.04403, the second step), or far below the top acc = floor + exp(k (L0 - L)) (Gadre et al.,
arXiv:2403.08540, equation 5, for the error 1 - acc). Straight from the run, -log h = (C0 / C)^alpha (GPT-4
report, arXiv:2303.08774, section 3.2), or its like in size and tokens, (N0 / N)^alpha + (D0 / D)^alpha.
Valid where most runs are above chance, for one prompt format.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stepladder.laws.estimate import TUNING
from stepladder.laws.rollout import HORIZON_OFFSET
from stepladder.laws.solve import Array, CurveProblem, Data, Prior, minimise

# Weak priors, as (mean, standard deviation). Prompting moves models that know nothing off chance by a few
# points; labels and ambiguity end most tasks between .7 and .97 (logit 2 ± 1.2); slope and place are in
# standard deviations of the runs' own column, and say that the runs span about one rise of the curve.
_FLOOR_SD, _SLOPE, _PLACE, _TOP = 0.03, (0.4, 0.8), (1.0, 2.0), (2.0, 1.2)
_FIRST_SIGMA = 0.01
LEAST_SIGMA = 0.003
_WEIGHT_POWER, _DRAWS = 0.25, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One way from a run to its accuracy: `reads` are its columns, larger is better."""

    name: str
    equation: str
    reads: tuple[str, ...]
    constants: tuple[str, ...]
    prior: tuple[tuple[float, float], ...]

    @property
    def free(self) -> int:
        """Constants that the runs must tell: the priors of floor and top hold those two."""
        return len(self.constants) - ("floor" in self.constants) - ("top" in self.constants)

    @property
    def from_loss(self) -> bool:
        """Whether it needs a loss, that is, a loss law for a run that was not made."""
        return self.reads == ("-loss",)


def _link(
    name: str, equation: str, *reads: str, top: bool = True, slope: tuple[float, float] = _SLOPE
) -> Link:
    places = {"L0" if item == "-loss" else f"{item[-1]}0": _PLACE if top else (4.0, 3.0) for item in reads}
    constants = ("floor", "log k", *places, *(("top",) if top else ()))
    # The floor's mean is the chance level of the sample.
    prior = ((0.0, _FLOOR_SD), slope, *places.values(), *((_TOP,) if top else ()))
    return Link(name=name, equation=equation, reads=reads, constants=constants, prior=prior)


_ALL = (
    _link("loss-exponential", "floor + exp(k (L0 - loss))", "-loss", top=False, slope=(-0.3, 0.8)),
    _link("loss-sigmoid", "floor + (top - floor) / (1 + exp(-k (L0 - loss)))", "-loss"),
    _link("compute-power", "floor + (top - floor) exp(-(C0/C)^alpha)", "log C"),
    _link("size-tokens-power", "floor + (top - floor) exp(-(N0/N)^alpha - (D0/D)^alpha)", "log N", "log D"),
)
LINKS = {link.name: link for link in _ALL}


def columns_of(link: Link, loss: Array, size: Array, tokens: Array) -> Array:
    """What the link reads (c, n) of runs (n,)."""
    known = {"-loss": -loss, "log C": np.log(size * tokens), "log N": np.log(size), "log D": np.log(tokens)}
    return np.stack([known[name] for name in link.reads])


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Runs that the links are fitted to, (n,) each. For each cut of the roll-outs, `levels` has the largest
    log-compute below and `law_loss` (cuts, n) the loss that the law of the runs below forecasts."""

    loss: Array
    size: Array
    tokens: Array
    accuracy: Array
    chance: float
    levels: Array
    law_loss: Array
    least_sigma: float = LEAST_SIGMA

    @property
    def log_c(self) -> Array:
        """Log of size times tokens."""
        return np.log(self.size * self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFit:
    """A fitted link: θ, and draws of it, at columns (x - centre) / scale; `sigma` is the scatter of a run.

    `errors` has the mean absolute error of the whole route after each cut of the roll-outs, `own_error` that
    of the link given the measured loss, `rollout` its root mean square in units of HORIZON_OFFSET + decades.
    """

    name: str
    theta: tuple[float, ...]
    centre: tuple[float, ...]
    scale: float
    sigma: float
    draws: tuple[tuple[float, ...], ...] = ()
    errors: tuple[float, ...] = ()
    own_error: float = math.nan
    rollout: float = math.nan

    @property
    def error(self) -> float:
        """Mean absolute error of the whole route over the cuts; NaN without any."""
        return float(np.mean(self.errors)) if self.errors else math.nan

    def standard(self, columns: Array) -> Array:
        """Columns in the units of θ."""
        return (columns - np.array(self.centre)[:, None]) / self.scale

    def accuracy(self, columns: Array, *, drawn: bool = False) -> Array:
        """Accuracy (B, m) at columns (c, m), clipped to [0, 1]; B is 1, or the number of draws."""
        theta = np.array(self.draws if drawn else [self.theta])
        return np.clip(curve(LINKS[self.name], self.standard(columns))(theta)[0], 0.0, 1.0)


def curve(link: Link, x: Array) -> Callable[[Array], tuple[Array, Array]]:
    """θ (B, p) → accuracy (B, n) and Jacobian (B, n, p) at standard columns x (c, n)."""

    def function(theta: Array) -> tuple[Array, Array]:
        floor, k = theta[:, :1], np.exp(theta[:, 1:2])
        u = [k * (column - theta[:, 2 + c : 3 + c]) for c, column in enumerate(x)]
        if "top" not in link.constants:
            h = np.exp(np.minimum(u[0], 5.0))
            return floor + h, np.stack([np.ones_like(h), h * u[0], -h * k], axis=2)
        if link.from_loss:
            h = 1 / (1 + np.exp(-np.clip(u[0], -40, 40)))
            by_u = [h * (1 - h)]
        else:
            terms = [np.exp(np.minimum(-item, 40.0)) for item in u]
            h = np.exp(-sum(terms))
            by_u = [h * term for term in terms]
        span = 1 / (1 + np.exp(-theta[:, -1:]))
        room = (1 - floor) * span
        by_slope = room * sum(slope * item for slope, item in zip(by_u, u, strict=True))
        by_place = [-room * slope * k for slope in by_u]
        slopes = [1 - span * h, by_slope, *by_place, room * (1 - span) * h]
        return floor + room * h, np.stack(slopes, axis=2)

    return function


def fit_link(link: Link, sample: Sample) -> LinkFit:
    """The link's minimum on all runs, its draws, and what it would have got wrong about dearer runs."""
    raw = columns_of(link, sample.loss, sample.size, sample.tokens)
    fitted = LinkFit(
        name=link.name,
        theta=(),
        centre=tuple(float(item) for item in raw.mean(axis=1)),
        scale=max(float(np.std(raw.sum(axis=0))), 1e-6),
        sigma=max(_FIRST_SIGMA, sample.least_sigma),
    )
    for _ in range(3):
        theta = _solve(fitted, sample, np.ones((1, len(sample.loss)), bool))[0]
        fitted = replace(fitted, theta=tuple(float(item) for item in theta))
        residual = np.abs(sample.accuracy - fitted.accuracy(raw)[0])
        clipped = np.minimum(residual, 3 * 1.4826 * np.median(residual) + 1e-9)
        scatter = math.sqrt(np.sum(clipped**2) / max(len(residual) - len(theta), 1))
        fitted = replace(fitted, sigma=max(scatter, sample.least_sigma))
    return _rolled(replace(fitted, draws=_draw(fitted, sample)), sample)


def _problem(fitted: LinkFit, sample: Sample, inside: Array) -> CurveProblem:
    link = LINKS[fitted.name]
    weight = np.exp(_WEIGHT_POWER * (sample.log_c - sample.log_c.max()))
    mean, spread = np.array(link.prior).T
    mean[0] = sample.chance
    return CurveProblem(
        function=curve(link, fitted.standard(columns_of(link, sample.loss, sample.size, sample.tokens))),
        data=Data(
            log_loss=sample.accuracy[None],
            weight=weight / weight.mean() * inside,
            delta=TUNING * fitted.sigma,
            sigma=fitted.sigma,
        ),
        prior=Prior(mean=mean[None], precision=spread**-2.0),
    )


def _solve(fitted: LinkFit, sample: Sample, inside: Array) -> Array:
    """Minima (B, p) on the runs of each row of `inside` (B, n), from a grid of slopes and places."""
    problem = _problem(fitted, sample, inside)
    grid = np.repeat(problem.prior.mean, 12, axis=0)
    grid[:, 1:3] = [(k, place) for k in (-0.7, 0.3, 1.2) for place in (-1.0, 0.5, 2.0, 4.0)]
    grid = np.concatenate([[fitted.theta], grid]) if fitted.theta else grid
    rows = np.repeat(np.arange(len(inside)), len(grid))
    found = minimise(problem, np.tile(grid, (len(inside), 1)), rows, tolerance=1e-9)
    best = found.value.reshape(len(inside), -1).argmin(axis=1)
    return found.theta.reshape(len(inside), len(grid), -1)[np.arange(len(inside)), best]


def _draw(fitted: LinkFit, sample: Sample) -> tuple[tuple[float, ...], ...]:
    """Draws of θ: noise on the fitted accuracies, and the priors' means drawn too, so that constants which
    the runs do not determine spread as widely as the prior says."""
    rng = np.random.default_rng(0)
    problem = _problem(fitted, sample, np.ones((1, len(sample.loss)), bool))
    expected = problem.function(np.array([fitted.theta]))[0]
    targets = expected + rng.normal(0, fitted.sigma, (_DRAWS, len(sample.loss)))
    spread = rng.normal(size=(_DRAWS, len(fitted.theta))) * problem.prior.precision**-0.5
    problem = replace(
        problem,
        data=replace(problem.data, log_loss=targets),
        prior=replace(problem.prior, mean=problem.prior.mean + spread),
    )
    starts = np.repeat([fitted.theta], _DRAWS, axis=0)
    found = minimise(problem, starts, max_iterations=40, tolerance=1e-8).theta
    return tuple(tuple(float(f"{item:.6g}") for item in row) for row in found)


def _rolled(fitted: LinkFit, sample: Sample) -> LinkFit:
    """Fit to the runs up to each cut and compare with the dearer ones: from their measured loss (the link
    alone), and from the loss that the law of the same cut forecasts (the whole route)."""
    if not len(sample.levels):
        return fitted
    link = LINKS[fitted.name]
    inside = sample.log_c[None] <= sample.levels[:, None] + 1e-9
    scaled, own, whole = [], [], []
    for k, theta in enumerate(_solve(fitted, sample, inside)):
        cut, out = replace(fitted, theta=tuple(theta)), ~inside[k]
        miss, route = (
            np.abs(sample.accuracy - cut.accuracy(columns_of(link, loss, sample.size, sample.tokens))[0])[out]
            for loss in (sample.loss, sample.law_loss[k])
        )
        scaled.append(miss / (HORIZON_OFFSET + (sample.log_c[out] - sample.levels[k]) / math.log(10)))
        own.append(float(miss.mean()))
        whole.append(float(route.mean()))
    # Errors above three robust standard deviations count as three, each cut counts once: as in `rollout`.
    limit = 3 * 1.4826 * float(np.median(np.concatenate(scaled)))
    squares = [float(np.mean(np.minimum(item, limit) ** 2)) for item in scaled]
    rollout = math.sqrt(float(np.mean(squares)))
    return replace(fitted, errors=tuple(whole), own_error=float(np.mean(own)), rollout=rollout)
