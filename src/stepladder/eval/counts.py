"""Gold and predicted labels, ratings and answers in; the counts of each example that metrics sum out.

Formulas take (..., columns) of sums. Labels equal scikit-learn's scores, answers the official script of
SQuAD 2.0 (Rajpurkar et al. 2018).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stepladder.errors import TaskError
from stepladder.eval.resample import Array

Labels = Sequence[str]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def label_counts(gold: Labels, predicted: Labels) -> Array:
    """(examples, 3, classes): one-hot right, gold, predicted."""
    return label_set_counts([[label] for label in gold], [[label] for label in predicted])


def label_set_counts(gold: Sequence[Labels], predicted: Sequence[Labels]) -> Array:
    """(examples, 3, labels): right, gold, predicted, of several labels an example."""
    check_lengths(gold, predicted)
    known = sorted({label for side in (gold, predicted) for labels in side for label in labels})
    names = {label: at for at, label in enumerate(known)}
    counts = np.zeros((len(gold), 3, max(len(names), 1)), dtype=np.float32)
    for side, rows in ((1, gold), (2, predicted)):
        pairs = [(at, names[label]) for at, labels in enumerate(rows) for label in labels]
        at, label = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
        counts[at, side, label] = 1
    counts[:, 0] = counts[:, 1] * counts[:, 2]
    return counts


def share_right(sums: Array) -> Array:
    """Accuracy: right over gold labels."""
    right, gold, _ = _sides(sums)
    return right.sum(axis=-1) / np.maximum(gold.sum(axis=-1), 1)


def micro_f1(sums: Array) -> Array:
    """2·right / (gold + predicted) over all labels; 0 where there are none."""
    right, gold, predicted = (side.sum(axis=-1) for side in _sides(sums))
    return 2 * right / np.maximum(gold + predicted, 1)


def macro_f1(sums: Array) -> Array:
    """Mean over the labels in gold or predicted of 2·right / (gold + predicted)."""
    right, gold, predicted = _sides(sums)
    both = gold + predicted
    present = both > 0
    each = np.divide(2 * right, both, out=np.zeros_like(both), where=present)
    return each.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def mean_counts(scores: Sequence[float] | Array, among: Sequence[bool] | Array | None = None) -> Array:
    """(examples, 2): the score and 1; both 0 for examples that are not `among` those that count."""
    values = np.asarray(scores, dtype=np.float64)
    counted = np.ones(len(values)) if among is None else np.asarray(among, dtype=np.float64)
    return np.stack([values * counted, counted], axis=-1)


def ratio(sums: Array) -> Array:
    """First column over the second; 0 where that is 0."""
    return np.divide(sums[..., 0], np.where(sums[..., 1] > 0, sums[..., 1], 1.0)) * (sums[..., 1] > 0)


def calibration_error(right: Sequence[bool], probability: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error: mean |accuracy - mean probability| over equal-width bins, by size."""
    truth, sure = np.asarray(right, dtype=float), np.asarray(probability, dtype=float)
    at = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(at, truth - sure, minlength=bins))
    return float(gaps.sum() / len(truth))


def normal_answer(text: str) -> str:
    """Lower case, without punctuation, articles and repeated white space, as SQuAD compares answers."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def answer_scores(gold: Sequence[str], predicted: str) -> tuple[float, float]:
    """(exact match, F1 of words), the best over the accepted answers; none of them: "" is right."""
    accepted = [answer for answer in gold if normal_answer(answer)] or [""]
    said = normal_answer(predicted)
    exact = float(any(normal_answer(answer) == said for answer in accepted))
    return exact, max(_word_f1(normal_answer(answer).split(), said.split()) for answer in accepted)


def check_lengths(gold: Sequence[object], predicted: Sequence[object]) -> None:
    """Raise TaskError where they differ or there are none."""
    if len(gold) != len(predicted) or not len(gold):
        raise TaskError(
            "gold and predicted labels do not match", got=f"{len(gold)} gold, {len(predicted)} predicted"
        )


def _word_f1(gold: list[str], said: list[str]) -> float:
    if not gold or not said:
        return float(gold == said)
    same = sum((Counter(gold) & Counter(said)).values())
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def _sides(sums: Array) -> tuple[Array, Array, Array]:
    right, gold, predicted = (sums[..., side, :].astype(np.float64) for side in range(3))
    return right, gold, predicted
