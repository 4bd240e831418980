"""Size and tokens in; a peak learning rate and a batch out, from a published law refined by one's own runs.

The prior is StepLaw (Li et al., arXiv:2503.04715, equation 1): lr = 1.79 N^-.713 D^.307, batch = 0.58 D^.571
tokens, N without embeddings, AdamW. Own sweeps shift it by the minimum of one quadratic that all cells
(size, tokens) share in log lr and log batch around the prior.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.table import Table

# Runs within .5 % of their cell's best say where the minimum is; further out the bowl is lopsided (a rate
# twice too high costs more than one twice too low) and drags the minimum down.
_NEAR = 0.005
_LEAST_RUNS = 6
# Standard deviation of the shift that is believed before any run, in log units of rate and batch.
_PRIOR_SD = 0.5
_NOISE = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One finished run of a sweep."""

    params: float
    tokens: float
    lr: float
    batch_tokens: float
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLaw:
    """StepLaw times own factors; `runs` is how many own runs they rest on."""

    lr_factor: float = 1.0
    batch_factor: float = 1.0
    runs: int = 0

    def recommend(self, params: float, tokens: float) -> tuple[float, float]:
        """Peak learning rate and tokens a batch."""
        lr, batch = steplaw(params, tokens)
        return lr * self.lr_factor, batch * self.batch_factor


def steplaw(params: float, tokens: float) -> tuple[float, float]:
    """Published rate and batch in tokens."""
    return 1.79 * params**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def trials_of(table: Table) -> list[Trial]:
    """Runs of a sweep; sizes without embeddings where the table has them.

    Raises:
        LawError: a run lacks its rate or its batch.
    """
    for name in ("lr", "batch_tokens"):
        values = np.array(table.extra.get(name, [np.nan]), dtype=float)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise LawError(f"a sweep needs {name} of every run", next_command=f"add a column {name}")
    inner = table.nonembed_params
    sizes = inner if np.isfinite(inner).all() else table.params
    rows = zip(sizes, table.tokens, table.extra["lr"], table.extra["batch_tokens"], table.loss, strict=True)
    return [
        Trial(params=float(n), tokens=float(d), lr=float(lr), batch_tokens=float(batch), loss=float(loss))
        for n, d, lr, batch, loss in rows
    ]


def fit_rates(trials: Sequence[Trial]) -> RateLaw:
    """Shift StepLaw to the minimum of the trials' shared bowl; without a bowl the prior stays."""
    cells: dict[tuple[float, float], list[Trial]] = {}
    for trial in trials:
        cells.setdefault((trial.params, trial.tokens), []).append(trial)
    rows, targets, used = [], [], 0
    for index, group in enumerate(cells.values()):
        best = min(item.loss for item in group)
        near = [item for item in group if item.loss <= best * (1 + _NEAR)]
        used += len(near)
        for item in near:
            lr, batch = steplaw(item.params, item.tokens)
            u, v = math.log(item.lr / lr), math.log(item.batch_tokens / batch)
            rows.append([u, v, u * u / 2, u * v, v * v / 2, *(float(index == k) for k in range(len(cells)))])
            targets.append(math.log(item.loss))
    if used < _LEAST_RUNS + len(cells):
        return RateLaw()
    basis, target = np.array(rows), np.array(targets)
    coefficients, *_ = np.linalg.lstsq(basis, target, rcond=None)
    bowl = np.array([[coefficients[2], coefficients[3]], [coefficients[3], coefficients[4]]])
    if np.linalg.eigvalsh(bowl).min() <= 0:
        return RateLaw()
    minimum = np.linalg.solve(bowl, -coefficients[:2])
    # Covariance of the minimum: its equation is slope + bowl · minimum = 0, linear in the coefficients.
    left = target - basis @ coefficients
    variance = max(float(left @ left) / max(len(left) - basis.shape[1], 1), _NOISE**2)
    equation = np.array([[1, 0, minimum[0], minimum[1], 0], [0, 1, 0, minimum[0], minimum[1]]])
    spread = equation @ (np.linalg.pinv(basis.T @ basis)[:5, :5] * variance) @ equation.T
    information = bowl @ np.linalg.pinv(spread) @ bowl
    shift = np.linalg.solve(information + np.eye(2) / _PRIOR_SD**2, information @ minimum)
    return RateLaw(lr_factor=math.exp(shift[0]), batch_factor=math.exp(shift[1]), runs=used)


def nearest_regret(law: RateLaw, trials: Sequence[Trial]) -> float:
    """Relative loss above the cell's best at the grid point nearest to the recommendation (one cell)."""
    lr, batch = law.recommend(trials[0].params, trials[0].tokens)
    nearest = min(
        trials, key=lambda item: math.log(item.lr / lr) ** 2 + math.log(item.batch_tokens / batch) ** 2
    )
    return nearest.loss / min(item.loss for item in trials) - 1.0
