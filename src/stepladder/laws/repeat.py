"""Runs that repeat their data in; a law in which repetition is worth less than new tokens out.

L = E + A/N'^α + B/D'^β with D' = U + U R* (1 - exp(-R/R*)), where U are the unique tokens and R = D/U - 1 the
repetitions; N' likewise around the size that is optimal for U. Muennighoff et al., arXiv:2305.16264,
equations 5 and 6. The six constants of the law without repetition are given, R_D* and R_N* are fitted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.solve import Array, CurveProblem, Data, Prior, minimise
from stepladder.laws.table import Table

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


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatLaw:
    """A fitted pair. `low` and `high` bound R_D* and R_N* where the objective rises by 1 %."""

    base: Mapping[str, float]
    data_halflife: float
    size_halflife: float
    objective: float
    agreeing: int
    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def identified(self) -> bool:
        """Whether both bounds lie within a factor of four of each other."""
        return all(high < 4 * low for low, high in zip(self.low, self.high, strict=True))

    def loss(self, params: Array, tokens: Array, unique_tokens: Array) -> Array:
        """Predicted loss."""
        theta = np.log([[self.data_halflife, self.size_halflife]])
        return np.exp(_log_loss(theta, self.base, _parts(self.base, params, tokens, unique_tokens))[0][0])


def fit_repeat(table: Table, base: Mapping[str, float] = C4) -> RepeatLaw:
    """Fit R_D* and R_N* by the published objective (Huber δ = 1e-3 on log-loss, summed).

    Raises:
        LawError: unique_tokens are missing, or no run repeats any data.
    """
    if not np.isfinite(table.unique_tokens).all():
        raise LawError("a repeated-data law needs the column unique_tokens in every row")
    if not (table.tokens > 1.01 * table.unique_tokens).any():
        raise LawError("no run repeats its data", got="tokens <= unique_tokens in every row")
    parts = _parts(base, table.params, table.tokens, table.unique_tokens)
    problem = _problem(base, parts, np.log(table.loss))
    grid = np.log(np.array([(d, n) for d in (1.0, 4.0, 15.0, 60.0, 240.0) for n in (0.5, 1.5, 5.0, 20.0)]))
    found = minimise(problem, grid, np.zeros(len(grid), dtype=int), max_iterations=300)
    best = int(found.value.argmin())
    low, high = _profile(problem, found.theta[best], float(found.value[best]))
    pair = np.exp(found.theta[best])
    return RepeatLaw(
        base=dict(base),
        data_halflife=float(pair[0]),
        size_halflife=float(pair[1]),
        objective=float(found.value[best]),
        agreeing=int((found.value <= found.value[best] * (1 + 1e-6)).sum()),
        low=low,
        high=high,
    )


def repeat_objective(table: Table, pair: tuple[float, float], base: Mapping[str, float] = C4) -> float:
    """The published objective at a given (R_D*, R_N*)."""
    parts = _parts(base, table.params, table.tokens, table.unique_tokens)
    problem = _problem(base, parts, np.log(table.loss))
    return float(problem.value(np.log([pair]), np.array([0]))[0])


def _problem(
    base: Mapping[str, float], parts: tuple[Array, Array, Array, Array], log_loss: Array
) -> CurveProblem:
    data = Data(log_loss=log_loss[None], weight=np.ones((1, len(log_loss))), delta=HUBER_DELTA)
    flat = Prior(mean=np.zeros((1, 2)), precision=np.zeros(2))
    return CurveProblem(function=lambda theta: _log_loss(theta, base, parts), data=data, prior=flat)


def _parts(
    base: Mapping[str, float], params: Array, tokens: Array, unique: Array
) -> tuple[Array, Array, Array, Array]:
    """Unique tokens, their repetitions, the size that suits them, and its repetitions."""
    unique = np.minimum(unique, tokens)
    ratio = base["alpha"] * base["A"] / (base["beta"] * base["B"])
    # Compute-optimal size for U tokens: N_opt = G (C/6)^(β/(α+β)), D_opt = (C/6)^(α/(α+β)) / G.
    shares = base["alpha"] + base["beta"]
    scale = ratio ** (1 / shares)
    compute = (unique * scale) ** (shares / base["alpha"])
    optimal = scale * compute ** (base["beta"] / shares)
    suited = np.minimum(optimal, params)
    return unique, tokens / unique - 1.0, suited, np.maximum(params / suited - 1.0, 0.0)


def _log_loss(
    theta: Array, base: Mapping[str, float], parts: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array]:
    unique, again, suited, larger = parts
    data, data_slope = _effective(theta[:, :1], unique, again)
    size, size_slope = _effective(theta[:, 1:], suited, larger)
    size_term = base["A"] * size ** -base["alpha"]
    data_term = base["B"] * data ** -base["beta"]
    loss = base["E"] + size_term + data_term
    slopes = (
        -base["beta"] * data_term * data_slope / data / loss,
        -base["alpha"] * size_term * size_slope / size / loss,
    )
    return np.log(loss), np.stack(slopes, axis=2)


def _effective(log_halflife: Array, unique: Array, again: Array) -> tuple[Array, Array]:
    """U + U R* (1 - exp(-R/R*)) and its derivative by log R*."""
    halflife = np.exp(np.clip(log_halflife, -20, 20))
    decay = np.exp(-again / halflife)
    return unique * (1 + halflife * (1 - decay)), unique * (halflife * (1 - decay) - again * decay)


def _profile(
    problem: CurveProblem, theta: Array, value: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where each constant can go, the other refitted on a grid, before the objective rises by 1 %."""
    steps = np.linspace(-4, 4, 81)
    mesh = theta[None, None] + np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=2)
    flat = mesh.reshape(-1, 2)
    good = problem.value(flat, np.zeros(len(flat), dtype=int)).reshape(81, 81) <= value * 1.01
    bounds = [np.exp(theta[axis] + steps[good.any(axis=1 - axis)][[0, -1]]) for axis in (0, 1)]
    return (float(bounds[0][0]), float(bounds[1][0])), (float(bounds[0][1]), float(bounds[1][1]))
