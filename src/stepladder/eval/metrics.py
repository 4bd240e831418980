"""A kind of task in; its metrics, the first of which decides, out (no torch).

Every metric turns gold and predicted values into counts of each example and a formula of their sums, so that
its interval is drawn as `stepladder.eval.resample` says.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.eval import counts, texts
from stepladder.eval.predictions import Predictions
from stepladder.eval.resample import (
    Array,
    Measure,
    Ranks,
    Sums,
    correlation,
    group_numbers,
    grouped,
    weighted_sums,
)

Gold = Sequence[Any]
Groups = Sequence[str] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A name, the words of a table's head, and how predictions are measured."""

    name: str
    label: str
    measure: Callable[[Gold, Predictions, Groups], Measure]
    higher_is_better: bool = True
    digits: int = 3
    # Whether it says something about these gold values and predictions at all.
    applies: Callable[[Gold, Predictions], bool] = lambda gold, said: True

    def better(self, gap: float) -> float:
        """A difference of two values, above zero where the first one is better."""
        return gap if self.higher_is_better else -gap


def metrics_of(kind: str, gold: Gold, said: Predictions) -> tuple[Metric, ...]:
    """The metrics that these predictions of a kind of task have, the one that decides first."""
    return tuple(metric for metric in (*METRICS[kind], BITS_PER_BYTE) if metric.applies(gold, said))


def metric_named(name: str) -> Metric:
    """The metric that results.json calls so."""
    return next(one for group in (*METRICS.values(), (BITS_PER_BYTE,)) for one in group if one.name == name)


def _summed(count: Callable[..., Array], formula: Callable[[Array], Array], most: float = 1.0) -> Any:
    def measure(gold: Gold, said: Predictions, groups: Groups) -> Measure:
        return Sums(counts=grouped(count(gold, said.said), groups), formula=formula, span=(0.0, most))

    return measure


def _mean(scores: Callable[[Gold, Gold], Sequence[float] | Array]) -> Any:
    return _summed(lambda gold, said: counts.mean_counts(scores(gold, said)), counts.ratio)


def _absolute_error(gold: Gold, said: Predictions, groups: Groups) -> Measure:
    truth, guess = _numbers(gold, said)
    tally = grouped(counts.mean_counts(np.abs(truth - guess)), groups)
    return Sums(counts=tally, formula=counts.ratio, span=(0.0, float(np.ptp(truth)) or math.inf))


def _pearson(gold: Gold, said: Predictions, groups: Groups) -> Measure:
    # Centred, so that squares of large ratings do not round their spread away.
    truth, guess = (side - side.mean() for side in _numbers(gold, said))
    each = weighted_sums(truth[:, None], guess[:, None], np.ones((len(truth), 1)))
    return Sums(counts=grouped(each, groups), formula=correlation, span=(-1.0, 1.0))


def _spearman(gold: Gold, said: Predictions, groups: Groups) -> Measure:
    truth, guess = _numbers(gold, said)
    return Ranks(gold=truth, predicted=guess, group=group_numbers(groups, len(truth)))


def _numbers(gold: Gold, said: Predictions) -> tuple[Array, Array]:
    counts.check_lengths(gold, said.said)
    return np.asarray(gold, dtype=np.float64), np.asarray(said.said, dtype=np.float64)


def _answers(part: int, answered: bool | None = None) -> Any:
    """Exact match (part 0) or F1 (1), of all questions or of those that have an answer or have none."""

    def count(gold: Gold, said: Gold) -> Array:
        counts.check_lengths(gold, said)
        scores = [counts.answer_scores(*pair)[part] for pair in zip(gold, said, strict=True)]
        return counts.mean_counts(scores, None if answered is None else [bool(g) == answered for g in gold])

    return _summed(count, counts.ratio)


def _both_kinds(gold: Gold, said: Predictions) -> bool:
    return any(gold) and not all(gold)


def _rouge(order: int) -> Any:
    return _mean(lambda gold, said: texts.rouge_scores(gold, said, order))


def _bits(gold: Gold, said: Predictions, groups: Groups) -> Measure:
    nats, num_bytes = np.asarray(said.answer_nats), np.asarray(said.answer_bytes, dtype=np.float64)
    tally = grouped(np.stack([nats / math.log(2), num_bytes], axis=-1), groups)
    return Sums(counts=tally, formula=counts.ratio, span=(0.0, math.inf))


BITS_PER_BYTE = Metric(
    name="answer_bits_per_byte",
    label="bits per byte of gold answers",
    measure=_bits,
    higher_is_better=False,
    applies=lambda gold, said: bool(said.answer_nats),
)
_ANSWERS = (
    Metric(name="f1", label="F1", measure=_answers(1)),
    Metric(name="exact_match", label="exact match", measure=_answers(0)),
    Metric(name="answered_f1", label="F1, answered", measure=_answers(1, True), applies=_both_kinds),
    Metric(name="unanswerable", label="right, unanswerable", measure=_answers(0, False), applies=_both_kinds),
)
METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": (
        Metric(name="accuracy", label="accuracy", measure=_summed(counts.label_counts, counts.share_right)),
        Metric(name="macro_f1", label="macro-F1", measure=_summed(counts.label_counts, counts.macro_f1)),
    ),
    "multilabel": (
        Metric(name="micro_f1", label="micro-F1", measure=_summed(counts.label_set_counts, counts.micro_f1)),
        Metric(name="macro_f1", label="macro-F1", measure=_summed(counts.label_set_counts, counts.macro_f1)),
        Metric(
            name="subset_accuracy",
            label="subset accuracy",
            measure=_mean(lambda gold, said: [set(g) == set(p) for g, p in zip(gold, said, strict=True)]),
        ),
    ),
    "rating": (
        Metric(
            name="mean_absolute_error",
            label="mean absolute error",
            measure=_absolute_error,
            higher_is_better=False,
        ),
        Metric(name="pearson", label="Pearson", measure=_pearson),
        Metric(name="spearman", label="Spearman", measure=_spearman),
    ),
    "span": _ANSWERS,
    "answer": _ANSWERS,
    "translation": (
        Metric(name="chrf", label="chrF", measure=_summed(texts.chrf_counts, texts.chrf, 100.0), digits=1),
        Metric(name="bleu", label="BLEU", measure=_summed(texts.bleu_counts, texts.bleu, 100.0), digits=1),
    ),
    "summarisation": (
        Metric(name="rouge_l", label="ROUGE-L", measure=_rouge(0)),
        Metric(name="rouge_1", label="ROUGE-1", measure=_rouge(1)),
        Metric(name="rouge_2", label="ROUGE-2", measure=_rouge(2)),
    ),
}
