"""A task's rows in; predictions of the cheap methods that a network has to beat out (no torch).

Learned ones take TF-IDF features of the training texts; the rest knows frequencies or nothing. Those whose
answers are texts are in `stepladder.eval.text_baselines`.
"""

import random
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.eval import counts
from stepladder.eval.linear import PENALTIES, WordCounts, fit_logistic, fit_ridge, sklearn_alone
from stepladder.eval.predictions import Row, asked_of, gold_of
from stepladder.plan.machine import cache_folder

LINEAR, ONE_VS_REST, RIDGE = "TF-IDF + logistic regression", "TF-IDF + one-vs-rest", "TF-IDF + ridge"
LEXICON, MAJORITY, CHANCE = "VADER lexicon", "majority class", "chance"
COMMON_LABELS, MEAN, MEDIAN = "commonest labels", "mean rating", "median rating"
# Hutto and Gilbert 2014: 7,500 words rated from -4 to 4; their score is sum / sqrt(sum² + 15).
_LEXICON = "vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt"
_LEXICON_SCALE = 15.0
_SENTIMENTS = {"positive", "negative", "neutral", "pos", "neg"}
Said = tuple[list[Any], list[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRows:
    """The three splits of a task as what is asked and the gold values."""

    name: str
    kind: str
    rows: dict[str, list[Row]]

    def asked(self, split: str) -> list[str]:
        return [asked_of(row, self.kind) for row in self.rows[split]]

    def gold(self, split: str) -> list[Any]:
        return [gold_of(row, self.kind) for row in self.rows[split]]

    @property
    def about_sentiment(self) -> bool:
        """Whether a lexicon of sentiment may know something about it."""
        if self.kind == "classification":
            return set(self.gold("train")) <= _SENTIMENTS or "sentiment" in self.name
        return self.kind == "rating"


Baseline = Callable[[TaskRows, int], Said]


def label_baselines(task: TaskRows) -> dict[str, Baseline]:
    """By name, of classification, multilabel and rating; the learned ones first."""
    lexicon: dict[str, Baseline] = {LEXICON: by_lexicon} if task.about_sentiment and lexicon_file() else {}
    if task.kind == "classification":
        return {LINEAR: linear, **lexicon, MAJORITY: majority, CHANCE: chance}
    if task.kind == "multilabel":
        return {ONE_VS_REST: one_vs_rest, COMMON_LABELS: common_labels, CHANCE: chance_labels}
    return {RIDGE: ridge, **lexicon, MEDIAN: median_rating, MEAN: mean_rating, CHANCE: chance_rating}


def majority(task: TaskRows, seed: int = 0) -> Said:
    """The commonest training label for every example; ties go to the first in alphabetical order."""
    found = Counter(task.gold("train"))
    label = min(found, key=lambda label: (-found[label], label))
    count = len(task.rows["test"])
    return [label] * count, [found[label] / found.total()] * count


def chance(task: TaskRows, seed: int = 0) -> Said:
    """Labels drawn with the frequencies of the training labels."""
    labels = sorted(task.gold("train"))
    drawn = random.Random(seed).choices(labels, k=len(task.rows["test"]))
    shares = Counter(labels)
    return drawn, [shares[label] / len(labels) for label in drawn]


def common_labels(task: TaskRows, seed: int = 0) -> Said:
    """All labels that half of the training examples have; the commonest one where there is none."""
    found = Counter(label for labels in task.gold("train") for label in labels)
    often = sorted(label for label in found if 2 * found[label] >= len(task.rows["train"]))
    said = often or [min(found, key=lambda label: (-found[label], label))]
    return [said] * len(task.rows["test"]), []


def chance_labels(task: TaskRows, seed: int = 0) -> Said:
    """The labels of a training example drawn by chance."""
    return random.Random(seed).choices(task.gold("train"), k=len(task.rows["test"])), []


def median_rating(task: TaskRows, seed: int = 0) -> Said:
    """The constant with the least mean absolute error on the training examples."""
    return [float(np.median(task.gold("train")))] * len(task.rows["test"]), []


def mean_rating(task: TaskRows, seed: int = 0) -> Said:
    """The mean of the training ratings."""
    return [float(np.mean(task.gold("train")))] * len(task.rows["test"]), []


def chance_rating(task: TaskRows, seed: int = 0) -> Said:
    """Training ratings drawn by chance."""
    return random.Random(seed).choices(task.gold("train"), k=len(task.rows["test"])), []


def linear(task: TaskRows, seed: int = 0) -> Said:
    """Logistic regression on TF-IDF of words and pairs of words; the penalty with the best dev accuracy.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    with sklearn_alone():
        train, dev, test = features(task)
        return _likeliest(fit_logistic(train, task.gold("train"), dev, task.gold("dev"), seed), test)


def one_vs_rest(task: TaskRows, seed: int = 0) -> Said:
    """A logistic regression for each label, which is said from a probability of one half on."""
    with sklearn_alone():
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.preprocessing import MultiLabelBinarizer

        train, dev, test = features(task)
        coder = MultiLabelBinarizer().fit(task.gold("train"))
        truth, wanted = coder.transform(task.gold("train")), task.gold("dev")

        def quality(model: Any) -> float:
            said = _label_sets(coder, model.predict(dev))
            return float(counts.micro_f1(counts.label_set_counts(wanted, said).sum(axis=0)))

        models = [
            OneVsRestClassifier(LogisticRegression(C=penalty, max_iter=200, random_state=seed)).fit(
                train, truth
            )
            for penalty in PENALTIES
        ]
        return _label_sets(coder, max(models, key=quality).predict(test)), []


def ridge(task: TaskRows, seed: int = 0) -> Said:
    """Ridge regression on TF-IDF; the penalty with the least mean absolute error on dev."""
    with sklearn_alone():
        train, dev, test = features(task)
        gold = task.gold("train")
        best = fit_ridge(train, gold, dev, task.gold("dev"), seed)
        return np.clip(best.predict(test), min(gold), max(gold)).tolist(), []


def by_lexicon(task: TaskRows, seed: int = 0) -> Said:
    """The sum of the ratings of a text's words, and a line or a curve for each label that train has."""
    with sklearn_alone():
        from sklearn.linear_model import LinearRegression, LogisticRegression

        words = read_lexicon()
        train, test = ([[_sentiment(text, words)] for text in task.asked(part)] for part in ("train", "test"))
        gold = task.gold("train")
        if task.kind == "rating":
            said = LinearRegression().fit(train, gold).predict(test)
            return np.clip(said, min(gold), max(gold)).tolist(), []
        return _likeliest(LogisticRegression(C=100.0, random_state=seed).fit(train, gold), test)


def lexicon_file() -> Path | None:
    """The archive with VADER's lexicon (MIT licence) where `stepladder data example` has fetched it."""
    path = cache_folder() / "vaderSentiment-3.3.2.tar.gz"
    return path if path.exists() else None


def read_lexicon() -> dict[str, float]:
    """Word → mean rating from -4 to 4."""
    archive = lexicon_file()
    assert archive is not None
    with tarfile.open(archive) as files:
        member = files.extractfile(_LEXICON)
        lines = member.read().decode("utf-8").splitlines() if member else []
    return {cells[0]: float(cells[1]) for cells in (line.split("\t") for line in lines) if len(cells) > 1}


def features(task: TaskRows) -> tuple[Any, Any, Any]:
    """TF-IDF of train, dev and test."""
    train, dev, test = WordCounts(*map(task.asked, ("train", "dev", "test"))).tfidf()
    return train, dev, test


def _likeliest(model: Any, test: Any) -> Said:
    chances = model.predict_proba(test)
    return [str(model.classes_[row.argmax()]) for row in chances], [float(row.max()) for row in chances]


def _label_sets(coder: Any, rows: Any) -> list[list[str]]:
    return [sorted(map(str, labels)) for labels in coder.inverse_transform(rows)]


def _sentiment(text: str, words: dict[str, float]) -> float:
    tokens = (token.strip(".,!?;:\"'()[]") or token for token in text.lower().split())
    total = sum(words.get(token, 0.0) for token in tokens)
    return total / (total * total + _LEXICON_SCALE) ** 0.5
