"""Held-out losses of paired runs in; the difference that one change makes, with an interval, out.

Both runs of a pair have the same seed and read the same held-out documents. What is uncertain is the seed
(few pairs) and the held-out text (many documents, the same for all pairs): both variances are added and the
interval is Student's with Welch's degrees of freedom (Satterthwaite 1946).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.errors import TrainError

Array = np.ndarray
_LEVEL, _NORMAL = 0.95, 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Bits per byte of both arms on some documents, and `without - with`: above 0, the change is worth it.

    `low` and `high` are its interval of 95 %; `verdict` is "helps", "harms" or "cannot tell". `pairs_needed`
    would tell a difference of this size; 0: no number of pairs would, for the held-out text is too small.
    """

    part: str
    with_it: float
    without: float
    difference: float
    low: float
    high: float
    documents: int
    pairs: int
    verdict: str
    pairs_needed: int


def compare(part: str, with_it: Sequence[Array], without: Sequence[Array], num_bytes: Array) -> Difference:
    """The difference over some documents.

    Args:
        part: what the documents are called.
        with_it: for each pair the nats of each document in the run with the change.
        without: the same of the run without.
        num_bytes: bytes of each document.

    Raises:
        TrainError: fewer than two pairs or two documents.
    """
    ours, others = np.stack(with_it), np.stack(without)
    pairs, documents = ours.shape
    if pairs < 2 or documents < 2:
        raise TrainError(
            "a difference needs two pairs of runs and two held-out documents",
            got=f"{pairs} pair(s), {documents} document(s) of {part}",
            allowed="--seeds 2 or more, and more held-out text",
        )
    scale = 1 / (math.log(2) * num_bytes.sum())
    gaps = (others - ours) * scale
    by_pair = gaps.sum(axis=1)
    value = float(by_pair.mean())
    # A ratio of sums over documents: its variance is that of the residuals (Cochran 1977, section 2.11).
    residual = gaps.mean(axis=0) - value * num_bytes / num_bytes.sum()
    spread = (by_pair.var(ddof=1) / pairs, documents / (documents - 1) * float((residual**2).sum()))
    total = max(sum(spread), 1e-300)
    freedom = total**2 / max(
        sum(v**2 / n for v, n in zip(spread, (pairs - 1, documents - 1), strict=True)), 1e-300
    )
    half = _quantile(freedom) * math.sqrt(total)
    verdict = "helps" if value > half else "harms" if value < -half else "cannot tell"
    return Difference(
        part=part,
        with_it=float(ours.sum(axis=1).mean() * scale),
        without=float(others.sum(axis=1).mean() * scale),
        difference=value,
        low=value - half,
        high=value + half,
        documents=documents,
        pairs=pairs,
        verdict=verdict,
        pairs_needed=_pairs_needed(value, pairs, spread) if verdict == "cannot tell" else pairs,
    )


def _pairs_needed(value: float, pairs: int, spread: tuple[float, float]) -> int:
    """Only the seed's part of the variance shrinks with more pairs."""
    of_seed, of_text = spread
    room = (value / _NORMAL) ** 2 - of_text
    return max(math.ceil(of_seed * pairs / room), pairs + 1) if room > 0 else 0


def _quantile(freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.5 + _LEVEL / 2, freedom))
