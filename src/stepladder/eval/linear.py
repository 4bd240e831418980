"""Texts and gold values in; TF-IDF features and linear models on them out (no torch).

For parts of the training texts words are counted once; weights are those that the part alone would give.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from stepladder.errors import MissingExtraError

# Inverse strengths of the L2 penalty that the dev split chooses from.
PENALTIES = (1.0, 10.0, 100.0)
_MAX_FEATURES = 200_000
_ROUNDS = 200


class WordCounts:
    """Counts of words and pairs of words in training texts and others (dev, test, a pool).

    Every run of letters or digits, and every mark, is a word.
    """

    def __init__(self, train: Sequence[str], *others: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        vectoriser = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]+")
        counts = vectoriser.fit_transform([*train, *(text for part in others for text in part)])
        ends = np.cumsum([len(train), *map(len, others)])
        self._train = counts[: len(train)]
        self._others = [counts[at:end] for at, end in itertools.pairwise(ends)]

    def tfidf(self, rows: np.ndarray | None = None) -> list[Any]:
        """Sparse features of the training texts `rows` (all), then of the other texts; words that no training
        text of them has count for nothing, and of more than 200,000 the commonest stay.
        """
        from sklearn.feature_extraction.text import TfidfTransformer

        train = self._train if rows is None else self._train[rows]
        total = np.asarray(train.sum(axis=0)).ravel()
        columns = np.flatnonzero(total)
        if len(columns) > _MAX_FEATURES:
            columns = np.sort(columns[(-total[columns]).argsort()[:_MAX_FEATURES]])
        weigh = TfidfTransformer(sublinear_tf=True).fit(train[:, columns])
        return [weigh.transform(part[:, columns]) for part in (train, *self._others)]


def fit_logistic(train: Any, gold: Sequence[Any], dev: Any, dev_gold: Sequence[Any], seed: int = 0) -> Any:
    """Logistic regression; the penalty with the best dev accuracy."""
    from sklearn.linear_model import LogisticRegression

    models = [
        LogisticRegression(C=penalty, max_iter=_ROUNDS, random_state=seed).fit(train, gold)
        for penalty in PENALTIES
    ]
    return max(models, key=lambda model: float(model.score(dev, dev_gold)))


def fit_ridge(train: Any, gold: Sequence[float], dev: Any, dev_gold: Sequence[float], seed: int = 0) -> Any:
    """Ridge regression; the penalty with the least mean absolute error on dev."""
    from sklearn.linear_model import Ridge

    truth = np.asarray(gold)
    models = [Ridge(alpha=1 / penalty, random_state=seed).fit(train, truth) for penalty in (0.1, *PENALTIES)]
    return min(models, key=lambda model: float(np.abs(model.predict(dev) - np.asarray(dev_gold)).mean()))


@contextmanager
def sklearn_alone() -> Iterator[None]:
    """One thread, no warnings of fits that stopped early; MissingExtraError where it is not installed."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError("the linear baseline", "train") from error
    # Threads that wait for each other on small matrices cost 10x on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Label .* is present in all training examples")
        yield


def linear_logits(model: Any, features: Any) -> np.ndarray:
    """Logits (N, labels) of a logistic regression, also where it knows two labels only."""
    found = np.asarray(model.decision_function(features))
    return found if found.ndim > 1 else np.stack([-found / 2, found / 2], axis=1)
