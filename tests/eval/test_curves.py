import random

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.feature_extraction.text import TfidfVectorizer

from stepladder.errors import TaskError
from stepladder.eval.baselines import TaskRows, linear, ridge
from stepladder.eval.curves import (
    curve_sizes,
    feature_learner,
    linear_learner,
    measure_curve,
    row_order,
)
from stepladder.eval.linear import WordCounts, linear_logits

WORDS = {"fruit": "apple pear plum cherry", "tool": "hammer saw drill pliers"}


def texts(count: int, seed: int) -> list[dict]:
    chooser, rows = random.Random(seed), []
    for at in range(count):
        label = chooser.choice(sorted(WORDS))
        filler = chooser.choices(["the", "of", "and", "red", "old", "big", "a,", "b.", "(c)"], k=6)
        rows.append({"text": " ".join([*filler, chooser.choice(WORDS[label].split())]), "label": label})
        rows[-1]["group"] = str(at // 2)
    return rows


@pytest.fixture(scope="module")
def task() -> TaskRows:
    rows = {"train": texts(96, 0), "dev": texts(30, 1), "test": texts(60, 2)}
    return TaskRows(name="words", kind="classification", rows=rows)


def test_weights_are_those_of_the_part_alone(task):
    rows = np.array([5, 3, 17, 40, 41])
    counts = WordCounts(task.asked("train"), task.asked("dev"))
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]+")
    train = vectoriser.fit_transform([task.asked("train")[row] for row in rows])
    found = counts.tfidf(rows)
    np.testing.assert_allclose(found[0].toarray(), train.toarray(), rtol=1e-14)
    dev = vectoriser.transform(task.asked("dev"))
    np.testing.assert_allclose(found[1].toarray(), dev.toarray(), rtol=1e-14)


def test_all_rows_give_what_the_table_has(task):
    every = np.arange(len(task.rows["train"]))
    assert linear(task)[0] == linear_learner(task)(every, "")
    numbers = {
        split: [{**row, "rating": len(row["text"])} for row in rows] for split, rows in task.rows.items()
    }
    rated = TaskRows(name="lengths", kind="rating", rows=numbers)
    assert ridge(rated)[0] == linear_learner(rated)(every, "")


def test_sizes_halve_and_subsets_are_nested(task):
    assert curve_sizes(1_000) == [31, 62, 125, 250, 500, 1_000]
    assert curve_sizes(50) == [12, 25, 50]
    seen = []

    def learn(rows, name):
        seen.append((name, set(rows)))
        return linear_learner(task)(rows, name)

    points = measure_curve(task, learn, draws=2)
    assert points.sizes.tolist() == [12, 24, 48, 96]
    assert points.loss.shape == (2, 4, 60)
    by_name = dict(seen)
    # All rows are learned from once.
    assert {f"{size}-{draw}" for size in (12, 24, 48) for draw in (0, 1)} | {"96-0"} == set(by_name)
    assert by_name["12-1"] < by_name["24-1"] < by_name["48-1"]
    assert by_name["48-0"] != by_name["48-1"]
    assert points.error[-1] < points.error[0]
    assert points.groups.max() == 29


def test_the_first_two_rows_differ():
    gold = ["a"] * 99 + ["b"]
    for seed in range(5):
        order = row_order(gold, seed)
        assert sorted(order) == list(range(100))
        assert gold[order[0]] != gold[order[1]]


def test_a_head_on_features_learns_from_the_chosen_rows(task):
    known = {
        split: np.array([[row["label"] == "tool", 1.0] for row in rows], float)
        for split, rows in task.rows.items()
    }
    said = feature_learner(task, known)(np.arange(20), "")
    assert said == task.gold("test")


def test_logits_of_two_labels_have_two_columns(task):
    from sklearn.linear_model import LogisticRegression

    features = np.array([[0.0], [1.0], [0.2], [0.9]])
    model = LogisticRegression().fit(features, ["a", "b", "a", "b"])
    logits = linear_logits(model, features)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, model.predict_proba(features))


def test_kinds_and_rows_without_a_curve_are_refused(task):
    few = TaskRows(name="few", kind="classification", rows={**task.rows, "train": task.rows["train"][:5]})
    with pytest.raises(TaskError, match="no learning curve can be drawn from few"):
        measure_curve(few, linear_learner(few))
    other = TaskRows(name="other", kind="translation", rows=task.rows)
    with pytest.raises(TaskError, match="kind without a learning curve"):
        measure_curve(other, linear_learner(task))
