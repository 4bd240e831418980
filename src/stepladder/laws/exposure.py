"""Losses of planted lines, and of others that could have been planted, in; exposure and a law of it out.

Exposure (Carlini et al. 2019, arXiv:1802.08232, definition 2) is log2 of all candidates minus log2 of a
line's rank among them by the model's loss. A line that was never seen has log2(e) = 1.44 bits in the mean.
"""

import math

import numpy as np
from scipy.special import log_ndtr, logsumexp

CHANCE_BITS = math.log2(math.e)
# Largest skewness that a skew-normal distribution can have is .9953.
_MOST_SKEW, _GRID, _REACH = 0.99, 2_000, 12.0


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
