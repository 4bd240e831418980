"""Runs in; answers of published procedures, cross-checks and no more, out.

Each has a known bias: a parabola through an isoFLOP level leans to the side where its grid reaches further
from the optimum, because the loss rises unevenly on both sides; an envelope takes the runs that happen to lie
lowest, so it reads the grid as much as the law. `cross_checks` measures the bias on the fitted law itself:
the same procedure at the same runs, with the law's own losses in place of the measured ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.estimate import FitOptions, columns_of, start_points
from stepladder.laws.forms import Form, design, form_named, predict, to_constants
from stepladder.laws.solve import Array, CurveProblem, Data, Prior, minimise
from stepladder.laws.table import Table

_FINE = 2000
_LEVEL_RUNS, _LEVELS = 5, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class IsoFlop:
    """N_opt = scale · C^exponent over the compute levels whose minimum lies inside their grid."""

    exponent: float
    scale: float
    flops: Array
    optimal_params: Array


def isoflop_exponent(table: Table) -> IsoFlop:
    """Minimum of an Akima curve through log-loss over log N at each compute; then a line in logs.

    As Porian et al., arXiv:2406.19146, section 3. The column `flops` names the levels.

    Raises:
        LawError: fewer than two compute levels have five runs around a minimum.
    """
    flops, sizes = [], []
    for level in np.unique(table.flops[np.isfinite(table.flops)]):
        rows = np.flatnonzero(table.flops == level)
        order = rows[np.argsort(table.params[rows])]
        log_n, log_loss = np.log(table.params[order]), np.log(table.loss[order])
        log_n, first = np.unique(log_n, return_index=True)
        if len(log_n) < 5:
            continue
        fine = np.linspace(log_n[0], log_n[-1], _FINE)
        place = int(akima(log_n, log_loss[first], fine).argmin())
        if 0 < place < _FINE - 1:
            flops.append(level)
            sizes.append(np.exp(fine[place]))
    if len(flops) < 2:
        raise LawError(
            "an isoFLOP exponent needs at least two compute levels with a minimum inside",
            got=f"{len(flops)} such levels (column flops, five or more sizes each)",
        )
    exponent, offset = np.polyfit(np.log(flops), np.log(sizes), 1)
    return IsoFlop(
        exponent=float(exponent),
        scale=float(np.exp(offset)),
        flops=np.array(flops),
        optimal_params=np.array(sizes),
    )


def cross_checks(table: Table, form_name: str, constants: Mapping[str, float]) -> dict[str, float]:
    """Exponents of N_opt in C by isoFLOP parabolas and by the envelope, and how far each misreads the law.

    Keys: law_exponent, then parabola_exponent and parabola_bias, envelope_exponent and envelope_bias where
    the runs allow them. Only for the joint laws with two exponents, whose optimum is
    the same whatever κ.
    """
    if form_name not in ("coupled", "chinchilla") or min(constants["alpha"], constants["beta"]) <= 0:
        return {}
    true = constants["beta"] / (constants["alpha"] + constants["beta"])
    found = {"law_exponent": true}
    levels = _levels(table)
    own = predict(form_name, constants, table.params, table.tokens)
    for name, read in (("parabola", _parabolas), ("envelope", _envelope)):
        measured, expected = (read(table, levels, loss) for loss in (table.loss, own))
        if np.isfinite(measured) and np.isfinite(expected):
            found |= {f"{name}_exponent": measured, f"{name}_bias": expected - true}
    return found


def _levels(table: Table) -> Array:
    """Compute of each run; runs within 5 % of each other count as one level."""
    flops = np.where(np.isfinite(table.flops), table.flops, 6 * table.params * table.tokens)
    order = np.argsort(flops)
    level = np.cumsum(np.diff(np.log(flops[order]), prepend=np.log(flops[order[0]])) > 0.05)
    middle = np.array([flops[order][level == k].mean() for k in range(level[-1] + 1)])
    out = np.empty(len(flops))
    out[order] = middle[level]
    return out


def _parabolas(table: Table, levels: Array, loss: Array) -> float:
    """Hoffmann et al., approach 2: a parabola in log N at each level, a line through the minima; or NaN."""
    flops, minima = [], []
    for level in np.unique(levels):
        rows = np.flatnonzero(levels == level)
        x = np.log(table.params[rows])
        if len(np.unique(x)) < _LEVEL_RUNS:
            continue
        curve, slope, _ = np.polyfit(x - x.mean(), loss[rows], 2)
        place = -slope / (2 * curve) + x.mean() if curve > 0 else np.nan
        if x.min() < place < x.max():
            flops.append(level)
            minima.append(place)
    return float(np.polyfit(np.log(flops), minima, 1)[0]) if len(flops) >= _LEVELS else np.nan


def _envelope(table: Table, levels: Array, loss: Array) -> float:
    """Hoffmann et al., approach 1, on finished runs: sizes of those that no cheaper run beats; or NaN."""
    order = np.lexsort((loss, levels))
    best = np.minimum.accumulate(loss[order])
    first = np.concatenate([[True], best[1:] < best[:-1]]) & (np.diff(levels[order], prepend=-1.0) > 0)
    chosen = order[first]
    if len(chosen) < _LEVEL_RUNS or np.ptp(np.log(levels[chosen])) < np.log(10):
        return np.nan
    return float(np.polyfit(np.log(levels[chosen]), np.log(table.params[chosen]), 1)[0])


def akima(x: Array, y: Array, at: Array) -> Array:
    """Akima's piecewise cubic (J. ACM 17, 1970): local, so one bad run does not bend the whole curve."""
    slope = np.diff(y) / np.diff(x)
    left = [3 * slope[0] - 2 * slope[1], 2 * slope[0] - slope[1]]
    right = [2 * slope[-1] - slope[-2], 3 * slope[-1] - 2 * slope[-2]]
    slope = np.concatenate([left, slope, right])
    change = np.abs(np.diff(slope))
    before, after = change[:-2], change[2:]
    both = before + after
    tangent = np.where(
        both > 1e-9 * both.max(),
        (after * slope[1:-2] + before * slope[2:-1]) / np.where(both > 0, both, 1.0),
        0.5 * (slope[1:-2] + slope[2:-1]),
    )
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    width = x[k + 1] - x[k]
    t = (at - x[k]) / width
    return (
        y[k] * (1 + 2 * t) * (1 - t) ** 2
        + y[k + 1] * t**2 * (3 - 2 * t)
        + width * (tangent[k] * t * (1 - t) ** 2 + tangent[k + 1] * t**2 * (t - 1))
    )


def least_squares(form_name: str, table: Table) -> dict[str, float]:
    """Constants by plain least squares on the loss itself, as Gadre et al., arXiv:2403.08540, section 2.2."""
    form: Form = form_named(form_name)
    columns = columns_of(form, table.params, table, 0.0)
    matrix = design(form, columns.centred)

    def loss_and_slope(theta: Array) -> tuple[Array, Array]:
        terms = np.exp(np.einsum("bp,knp->bkn", theta, matrix))
        return terms.sum(axis=1), np.einsum("bkn,knp->bnp", terms, matrix)

    flat = Prior(mean=np.zeros((1, len(form.names))), precision=np.zeros(len(form.names)))
    # A Huber loss whose corner is out of reach is least squares.
    data = Data(log_loss=table.loss[None], weight=np.ones((1, len(table))), delta=1e6)
    problem = CurveProblem(function=loss_and_slope, data=data, prior=flat)
    starts = start_points(form, columns, matrix, FitOptions(form=form_name))
    found = minimise(problem, starts, np.zeros(len(starts), dtype=int), max_iterations=300)
    return to_constants(form, found.theta[found.value.argmin()], columns.centre)
