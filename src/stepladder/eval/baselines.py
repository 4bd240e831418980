"""Training and test texts in; predictions of the cheap methods that a network has to beat out (no torch)."""

import random
import warnings
from collections import Counter
from collections.abc import Sequence

from stepladder.errors import MissingExtraError

LINEAR, MAJORITY, CHANCE = "TF-IDF + logistic regression", "majority class", "chance"
# Inverse strengths of the L2 penalty that the dev split chooses from.
_PENALTIES = (1.0, 10.0, 100.0)
_MAX_FEATURES = 200_000


def majority(labels: Sequence[str], examples: int) -> list[str]:
    """The commonest training label for every example; ties go to the first in alphabetical order."""
    counts = Counter(labels)
    return [min(counts, key=lambda label: (-counts[label], label))] * examples


def chance(labels: Sequence[str], examples: int, seed: int = 0) -> list[str]:
    """Labels drawn with the frequencies of the training labels."""
    return random.Random(seed).choices(sorted(labels), k=examples)


def linear(
    train: tuple[Sequence[str], Sequence[str]],
    dev: tuple[Sequence[str], Sequence[str]],
    test: Sequence[str],
    seed: int = 0,
) -> tuple[list[str], list[float]]:
    """Labels and their probabilities from logistic regression on TF-IDF of words and pairs of words.

    (texts, labels) of train are fitted; the penalty is the one with the best accuracy on dev.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError("the linear baseline", "train") from error
    # Every run of letters, digits or marks counts, so that texts without words still have features.
    vectoriser = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]+", max_features=_MAX_FEATURES
    )
    fitted = vectoriser.fit_transform(train[0])
    held = vectoriser.transform(dev[0])
    best, best_score = None, -1.0
    # Threads that wait for each other on small matrices cost 10x on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in _PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=200, random_state=seed).fit(fitted, train[1])
            score = float(model.score(held, dev[1]))
            if score > best_score:
                best, best_score = model, score
    assert best is not None
    chances = best.predict_proba(vectoriser.transform(test))
    return [str(best.classes_[row.argmax()]) for row in chances], [float(row.max()) for row in chances]
