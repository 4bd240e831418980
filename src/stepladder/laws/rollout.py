"""A fitted law in; how wrong it would have been on its own dearer runs, and draws of its constants, out."""

from dataclasses import dataclass

import numpy as np

from stepladder.laws.estimate import Estimate, noise, with_rows
from stepladder.laws.solve import Array, minimise

# Width of a forecast in units of the roll-out error at horizon h = log10(C / C_fit): own measurement over
# ten public sets, see docs/forecasting.md.
HORIZON_OFFSET = 0.35
_CUTS = 8
_LEAST_SHARE = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """Errors log(observed / forecast) on held-out dearer runs, their horizons, and which cut made them."""

    error: Array
    horizon: Array
    cut: Array

    @property
    def scaled(self) -> Array:
        """Errors in units of one: divided by (0.35 + horizon)."""
        return self.error / (HORIZON_OFFSET + self.horizon)

    @property
    def rms(self) -> float:
        """Root mean square of the scaled errors, each cut counting once; NaN without a roll-out.

        Errors above three robust standard deviations count as three: a diverged run held out says
        nothing about the law.
        """
        if not len(self.error):
            return float("nan")
        size = np.abs(self.scaled)
        return float(np.sqrt(self._mean(np.minimum(size, 3 * 1.4826 * np.median(size)) ** 2)))

    @property
    def bias(self) -> float:
        """Mean scaled error: negative when the law over-predicts the loss of dearer runs."""
        return self._mean(self.scaled) if len(self.error) else float("nan")

    def _mean(self, values: Array) -> float:
        return float(np.mean([values[self.cut == cut].mean() for cut in np.unique(self.cut)]))


def roll_out(fitted: Estimate) -> Rollout:
    """Fit on the cheapest runs up to eight cut-offs, forecast all dearer ones; all fits in one batch."""
    columns = fitted.columns
    log_c = columns.log_n + columns.log_d
    levels = cut_levels(log_c, len(fitted.theta) + 1, _CUTS)
    if not len(levels):
        return Rollout(error=np.zeros(0), horizon=np.zeros(0), cut=np.zeros(0, dtype=int))
    inside = log_c[None, :] <= levels[:, None] + 1e-9
    weight = fitted.problem.data.weight * inside
    problem = with_rows(fitted, weight=weight)
    starts = np.concatenate([fitted.theta[None], fitted.starts[:3]])
    rows = np.repeat(np.arange(len(levels)), len(starts))
    found = minimise(problem, np.tile(starts, (len(levels), 1)), rows, tolerance=1e-9)
    value = found.value.reshape(len(levels), -1)
    theta = found.theta.reshape(len(levels), len(starts), -1)
    theta = theta[np.arange(len(levels)), value.argmin(axis=1)]
    error = columns.log_loss - problem.log_loss(theta)
    horizon = (log_c[None, :] - levels[:, None]) / np.log(10.0)
    cut = np.broadcast_to(np.arange(len(levels))[:, None], inside.shape)
    return Rollout(error=error[~inside], horizon=horizon[~inside], cut=cut[~inside])


def cut_levels(log_c: Array, least_below: int, cuts: int) -> Array:
    """Up to `cuts` levels of log-compute with 40 % of the runs, and `least_below`, below and one above."""
    ordered = np.sort(log_c)
    n = len(ordered)
    least = max(least_below, int(np.ceil(_LEAST_SHARE * n)))
    # A cut between two runs of (nearly) equal compute would hold out replicates, not dearer runs.
    places = [k for k in range(least, n) if ordered[k] - ordered[k - 1] > 0.02]
    picked = np.unique(np.linspace(0, len(places) - 1, min(cuts, len(places))).round().astype(int))
    return ordered[[places[i] - 1 for i in picked]]


def draw(fitted: Estimate, count: int, seed: int) -> Array:
    """Draws of θ: residual bootstrap in which the priors' means are drawn too.

    Re-sampling data and prior together draws from the posterior of a linear model with normal noise, so
    that constants which the data do not determine spread as widely as the prior says.
    """
    rng = np.random.default_rng(seed + 1)
    columns, prior = fitted.columns, fitted.problem.prior
    n = len(columns.log_loss)
    residual = fitted.residual - np.average(fitted.residual, weights=columns.weight)
    scale = noise(fitted, local=True)
    own = residual * (scale / max(float(residual.std()), 1e-9))
    # With few points the residuals are a poor sample of the noise: half of it is drawn from a normal.
    mixed = rng.choice(own, (count, n)) * np.sqrt(0.5) + rng.normal(0, scale, (count, n)) * np.sqrt(0.5)
    predicted = columns.log_loss - fitted.residual
    mean = prior.mean
    known = prior.precision > 0
    spread = np.where(known, 1 / np.sqrt(np.where(known, prior.precision, 1.0)), 0.0)
    mean = mean + rng.normal(size=(count, len(fitted.theta))) * spread
    own_scale = scale if fitted.problem.data.sigma < 1 else None
    problem = with_rows(fitted, log_loss=predicted + mixed, prior_mean=mean, sigma=own_scale)
    return minimise(
        problem, np.repeat(fitted.theta[None], count, axis=0), max_iterations=40, tolerance=1e-9
    ).theta
