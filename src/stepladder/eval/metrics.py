"""Gold and predicted labels in; accuracy, macro-F1, calibration error and bootstrap intervals out (no torch).

Every metric here is a function of three counts per class (right, gold, predicted), so a bootstrap draw is a
weighting of precomputed counts: a matrix product instead of a loop over draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stepladder.errors import TaskError

Metric = Literal["accuracy", "macro_f1"]
Labels = Sequence[str]
METRICS: tuple[Metric, ...] = ("accuracy", "macro_f1")
# Enough draws that the end of a 95 % interval moves by about 0.06 standard errors between seeds.
_DRAWS = 2_000
# Weights in hand at once: 2 M cells of 28 bytes.
_CHUNK_CELLS = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How intervals are drawn: percentile, or bias-corrected and accelerated (Efron 1987)."""

    method: Literal["bca", "percentile"] = "bca"
    level: float = 0.95
    draws: int = _DRAWS
    seed: int = 0


def accuracy(gold: Labels, predicted: Labels) -> float:
    """Share of equal labels."""
    return float(_metric("accuracy", _counts(gold, predicted).sum(axis=0)))


def macro_f1(gold: Labels, predicted: Labels) -> float:
    """Mean over the labels in gold or predicted of 2·right / (gold + predicted); as scikit-learn's."""
    return float(_metric("macro_f1", _counts(gold, predicted).sum(axis=0)))


def calibration_error(gold: Labels, predicted: Labels, probability: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error: mean |accuracy - mean probability| over equal-width bins, by size."""
    right = np.asarray([g == p for g, p in zip(gold, predicted, strict=True)], dtype=float)
    sure = np.asarray(probability, dtype=float)
    at = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(at, right - sure, minlength=bins))
    return float(gaps.sum() / len(right))


def bootstrap(
    metric: Metric,
    gold: Labels,
    predictions: Sequence[Labels],
    *,
    groups: Sequence[str] | None = None,
    resampling: Resampling | None = None,
) -> Estimate:
    """The metric, averaged over `predictions` (one list per training seed), with its interval.

    Whole `groups` are resampled where given (sentences of one document are not independent), the same draw
    for all seeds. A metric that no draw can move (all right or all wrong) gets the exact binomial bound,
    (alpha / 2)^(1 / groups), in place of an interval of no width.
    """
    how = resampling or Resampling()
    tallies = [_grouped(_counts(gold, predicted), groups) for predicted in predictions]
    value = float(np.mean([_metric(metric, tally.sum(axis=0)) for tally in tallies]))
    draws = np.mean([_draw(metric, tally, how) for tally in tallies], axis=0)
    clusters = len(tallies[0])
    if np.ptp(draws) == 0:
        bound = 1 - ((1 - how.level) / 2) ** (1 / clusters)
        return Estimate(value=value, low=max(value - bound, 0.0), high=min(value + bound, 1.0))
    left_out = np.mean([_metric(metric, tally.sum(axis=0) - tally) for tally in tallies], axis=0)
    low, high = _ends(draws, value, left_out, how)
    return Estimate(value=value, low=low, high=high)


def paired_difference(
    metric: Metric,
    gold: Labels,
    first: Sequence[Labels],
    second: Sequence[Labels],
    *,
    groups: Sequence[str] | None = None,
    resampling: Resampling | None = None,
) -> Estimate:
    """metric(first) - metric(second), each averaged over its seeds, on the same draws of test examples."""
    how = resampling or Resampling()
    sides = [
        [_grouped(_counts(gold, predicted), groups) for predicted in predictions]
        for predictions in (first, second)
    ]
    values = [np.mean([_metric(metric, tally.sum(axis=0)) for tally in side]) for side in sides]
    draws = [np.mean([_draw(metric, tally, how) for tally in side], axis=0) for side in sides]
    left = [np.mean([_metric(metric, tally.sum(axis=0) - tally) for tally in side], axis=0) for side in sides]
    value = float(values[0] - values[1])
    if np.ptp(draws[0] - draws[1]) == 0:
        return Estimate(value=value, low=value, high=value)
    low, high = _ends(draws[0] - draws[1], value, left[0] - left[1], how)
    return Estimate(value=value, low=low, high=high)


def _counts(gold: Labels, predicted: Labels) -> np.ndarray:
    """(examples, 3, classes): one-hot right, gold, predicted."""
    if len(gold) != len(predicted) or not len(gold):
        raise TaskError(
            "gold and predicted labels do not match", got=f"{len(gold)} gold, {len(predicted)} predicted"
        )
    names = {label: at for at, label in enumerate(sorted({*gold, *predicted}))}
    truth = np.asarray([names[label] for label in gold])
    guess = np.asarray([names[label] for label in predicted])
    counts = np.zeros((len(gold), 3, len(names)), dtype=np.float32)
    rows = np.arange(len(gold))
    counts[rows, 1, truth] = counts[rows, 2, guess] = 1
    right = truth == guess
    counts[rows[right], 0, truth[right]] = 1
    return counts


def _grouped(counts: np.ndarray, groups: Sequence[str] | None) -> np.ndarray:
    """Counts summed within groups."""
    if groups is None:
        return counts
    if len(groups) != len(counts):
        raise TaskError("every example needs a group", got=f"{len(groups)} groups, {len(counts)} examples")
    _, at = np.unique(np.asarray(groups), return_inverse=True)
    summed = np.zeros((at.max() + 1, *counts.shape[1:]), dtype=np.float32)
    np.add.at(summed, at, counts)
    return summed


def _metric(metric: Metric, counts: np.ndarray) -> np.ndarray:
    """The metric of (..., 3, classes) counts."""
    right, gold, predicted = (counts[..., side, :].astype(np.float64) for side in range(3))
    if metric == "accuracy":
        return right.sum(axis=-1) / np.maximum(gold.sum(axis=-1), 1)
    both = gold + predicted
    present = both > 0
    each = np.divide(2 * right, both, out=np.zeros_like(both), where=present)
    return each.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def _draw(metric: Metric, tally: np.ndarray, how: Resampling) -> np.ndarray:
    """The metric of each bootstrap draw; the same seed gives every tally of one length the same draws."""
    rng, clusters = np.random.default_rng(how.seed), len(tally)
    flat = tally.reshape(clusters, -1)
    step = max(1, _CHUNK_CELLS // clusters)
    values = []
    for start in range(0, how.draws, step):
        chosen = rng.integers(0, clusters, size=(min(step, how.draws - start), clusters))
        offsets = chosen + np.arange(len(chosen))[:, None] * clusters
        weights = np.bincount(offsets.ravel(), minlength=chosen.size).reshape(chosen.shape)
        # float32 is exact: the sums are whole numbers far below 2^24.
        values.append(_metric(metric, (weights.astype(np.float32) @ flat).reshape(-1, *tally.shape[1:])))
    return np.concatenate(values)


def _ends(draws: np.ndarray, value: float, left_out: np.ndarray, how: Resampling) -> tuple[float, float]:
    from scipy.stats import norm

    tails = np.asarray([(1 - how.level) / 2, (1 + how.level) / 2])
    if how.method == "bca":
        below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
        bias = norm.ppf(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
        away = left_out.mean() - left_out
        spread = np.sum(away**2) ** 1.5
        skew = float(np.sum(away**3) / (6 * spread)) if spread > 0 else 0.0
        moved = bias + norm.ppf(tails)
        tails = norm.cdf(bias + moved / (1 - skew * moved))
    low, high = np.quantile(draws, tails)
    return float(low), float(high)
