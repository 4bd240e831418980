"""Losses of planted lines, and of others that could have been planted, in; exposure and a law of it out.

Exposure (Carlini et al. 2019, arXiv:1802.08232, definition 2) is log2 of all candidates minus log2 of a
line's rank among them by the model's loss. A line that was never seen has log2(e) = 1.44 bits in the mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares
from scipy.special import log_ndtr, logsumexp

from stepladder.errors import LawError
from stepladder.records import Interval

CHANCE_BITS = math.log2(math.e)
# Largest skewness that a skew-normal distribution can have is .9953.
_MOST_SKEW, _GRID, _REACH = 0.99, 2_000, 12.0
_LEAST_GROUPS, _DRAWS, _MOST_LOG = 4, 400, 5.0
_LEAST_NOISE = 0.01
# Weak prior of the two exponents: in proportion to copies, with the root of size.
_USUAL, _USUAL_SPREAD = np.array([1.0, 0.5]), np.array([0.5, 0.5])


def exposures(losses: np.ndarray, candidates: np.ndarray, most_bits: float = math.inf) -> np.ndarray:
    """Bits of each loss (nats) among those of `candidates`.

    Between two candidates the rank is interpolated. Below all of them it is extrapolated by the skew-normal
    distribution that has the candidates' mean, variance and skewness (section 4.3 of the paper), joined to
    rank 1 at the lowest candidate. `most_bits` is the entropy of what was drawn at random.
    """
    known = np.sort(np.asarray(candidates, dtype=float))
    losses = np.asarray(losses, dtype=float)
    rank = np.interp(losses, known, np.arange(1.0, len(known) + 1.0), right=len(known) + 1.0)
    bits = math.log2(len(known) + 1) - np.log2(rank)
    below = losses < known[0]
    if below.any():
        tail = _log_share(np.append(losses[below], known[0]), known)
        bits[below] += (tail[-1] - tail[:-1]) / math.log(2)
    return np.minimum(bits, most_bits)


def _log_share(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """log of the share of a fitted skew-normal distribution that lies below each value."""
    mean, spread = known.mean(), known.std()
    skew = float(np.clip(((known - mean) ** 3).mean() / spread**3, -_MOST_SKEW, _MOST_SKEW))
    # Half of the samples of a normal distribution would else get a tail that is bits too long or too short.
    skew = skew if abs(skew) > 2 * math.sqrt(6 / len(known)) else 0.0
    # Moments of the skew-normal, solved for its three constants.
    root = abs(skew) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * root / (root + ((4 - math.pi) / 2) ** (2 / 3))), skew)
    scale = spread / math.sqrt(1 - 2 * delta**2 / math.pi)
    centre = mean - scale * delta * math.sqrt(2 / math.pi)
    shape = delta / math.sqrt(1 - delta**2)
    z = (values[:, None] - centre) / scale - np.linspace(0, _REACH, _GRID)
    density = -(z**2) / 2 + log_ndtr(shape * z)
    return logsumexp(density, axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Canaries of one run with equal copies: bits of each, and how many copies the run met in the mean."""

    params: float
    met: float
    bits: tuple[float, ...]


def forecast_exposure(
    rungs: Sequence[Memory], params: float, met: float, canaries: int, *, seed: int = 0
) -> Interval:
    """Mean bits of `canaries` canaries of which a run of `params` parameters meets `met` copies each.

    Bits above chance = a · met^b · params^c, fitted to the means of the rungs. The interval resamples rungs'
    groups and the canaries in them, and draws the target's own canaries with the spread of theirs.

    Raises:
        LawError: fewer than four groups.
    """
    if len(rungs) < _LEAST_GROUPS:
        raise LawError("too few groups of canaries", got=str(len(rungs)), allowed=f"{_LEAST_GROUPS} or more")
    generator = np.random.default_rng(seed)
    reach = np.array([math.log(met), math.log(params)])
    draws = []
    for _ in range(_DRAWS):
        chosen = [rungs[row] for row in generator.integers(0, len(rungs), len(rungs))]
        again = [replace(one, bits=tuple(generator.choice(one.bits, len(one.bits)))) for one in chosen]
        terms, noise = _fit(again)
        above = math.exp(min(terms[0] + reach @ terms[1:], _MOST_LOG))
        spread = noise * (above + CHANCE_BITS) / math.sqrt(canaries)
        draws.append(max(CHANCE_BITS + above + generator.normal(0, spread), 0.0))
    terms, _ = _fit(rungs)
    low95, low80, high80, high95 = np.quantile(draws, (0.025, 0.1, 0.9, 0.975)).tolist()
    value = CHANCE_BITS + math.exp(min(terms[0] + float(reach @ terms[1:]), _MOST_LOG))
    return Interval(value=value, low80=low80, high80=high80, low95=low95, high95=high95)


def _fit(rungs: Sequence[Memory]) -> tuple[np.ndarray, float]:
    """(log a, b, c) by least squares weighted for a spread that grows with the mean, and that spread."""
    design = np.array([[1.0, math.log(one.met), math.log(one.params)] for one in rungs])
    centre = design[:, 1:].mean(axis=0)
    design[:, 1:] -= centre
    means = np.array([np.mean(one.bits) for one in rungs])
    spreads = [np.std(one.bits) / max(np.mean(one.bits), CHANCE_BITS) for one in rungs]
    # A network that was never trained finds all lines alike.
    noise = max(float(np.mean(spreads)), _LEAST_NOISE)
    weight = np.sqrt([len(one.bits) for one in rungs]) / (noise * np.maximum(means, CHANCE_BITS))

    def residuals(terms: np.ndarray) -> np.ndarray:
        above = np.exp(np.minimum(design @ terms, _MOST_LOG)) - (means - CHANCE_BITS)
        return np.append(above * weight, (terms[1:] - _USUAL) / _USUAL_SPREAD)

    terms = least_squares(residuals, np.array([0.0, *_USUAL])).x
    terms[0] -= centre @ terms[1:]
    return terms, noise
