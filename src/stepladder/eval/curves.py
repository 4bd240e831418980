"""A task and a way to learn from part of it in; errors at growing numbers of labels out (no torch).

Sizes are a geometric series up to all training rows. In each draw the rows stand in a new random order, and
each size takes the first ones: subsets are nested. Dev and test are the same for all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stepladder.errors import TaskError
from stepladder.eval.baselines import MAJORITY, MEDIAN, TaskRows, label_baselines
from stepladder.eval.linear import WordCounts, fit_logistic, fit_ridge, sklearn_alone
from stepladder.eval.resample import group_numbers
from stepladder.laws.labels import CurvePoints

# From training rows and a name of the run to what is said of every test row.
Learner = Callable[[np.ndarray, str], Sequence[Any]]
LEAST_ROWS = 12
METRICS = {"classification": "accuracy", "rating": "mean absolute error"}


def curve_sizes(rows: int, count: int = 6, least: int = LEAST_ROWS) -> list[int]:
    """Halves of `rows`, at most `count` of them with the whole, none below `least`; ascending."""
    return sorted({size for k in range(count) if (size := rows >> k) >= least})


def measure_curve(
    task: TaskRows, learn: Learner, *, draws: int = 3, sizes: Sequence[int] = (), seed: int = 0
) -> CurvePoints:
    """Errors of each draw, size and test row.

    Raises:
        TaskError: a kind of task whose errors are not means over rows, or too few rows.
    """
    check_kind(task.kind, task.name)
    gold, rows = task.gold("train"), len(task.rows["train"])
    sizes = sorted(sizes or curve_sizes(rows))
    if not sizes or draws < 1 or sizes[-1] > rows or sizes[0] < 2:
        raise TaskError(
            f"no learning curve can be drawn from {task.name}",
            got=f"{rows} training rows, sizes {', '.join(map(str, sizes)) or 'none'}, {draws} draws",
            allowed=f"{LEAST_ROWS} or more training rows, one or more draws",
        )
    loss = np.empty((draws, len(sizes), len(task.rows["test"])))
    for draw in range(draws):
        order = row_order(gold, seed + draw)
        for at, size in enumerate(sizes):
            if draw and size == rows:
                loss[draw, at] = loss[0, at]  # all rows are the same rows in any order
                continue
            loss[draw, at] = row_errors(task, learn(order[:size], f"{size}-{draw}"))
    return CurvePoints(
        metric=METRICS[task.kind],
        sizes=np.array(sizes),
        loss=loss,
        groups=test_groups(task),
        blind=row_errors(task, blind(task)),
        pool=rows,
    )


def check_kind(kind: str, name: str) -> None:
    """Refuse what has no learning curve here."""
    if kind not in METRICS:
        raise TaskError(f"{name} is of a kind without a learning curve", got=kind, allowed=", ".join(METRICS))


def row_order(gold: Sequence[Any], seed: int) -> np.ndarray:
    """Row numbers in random order, the first two with different gold values: one alone cannot be learned."""
    order = np.random.default_rng(seed).permutation(len(gold))
    other = next((at for at, row in enumerate(order) if gold[row] != gold[order[0]]), 0)
    order[[1, other]] = order[[other, 1]] if other else order[[1, other]]
    return order


def row_errors(task: TaskRows, said: Sequence[Any]) -> np.ndarray:
    """1 for a wrong label, or how far off a rating is, of each test row."""
    gold = task.gold("test")
    if task.kind == "rating":
        return np.abs(np.asarray(said, float) - np.asarray(gold, float))
    return np.array([one != other for one, other in zip(said, gold, strict=True)], float)


def blind(task: TaskRows) -> Sequence[Any]:
    """What is said best without reading: the commonest label, or the median rating."""
    return label_baselines(task)[MEDIAN if task.kind == "rating" else MAJORITY](task, 0)[0]


def test_groups(task: TaskRows) -> np.ndarray:
    """The number of the group of each test row."""
    names = [str(row.get("group", at)) for at, row in enumerate(task.rows["test"])]
    return group_numbers(names, len(names))


def linear_learner(task: TaskRows, seed: int = 0) -> Learner:
    """The linear model of the table on TF-IDF of the chosen rows alone; words are counted once."""
    with sklearn_alone():
        counts = WordCounts(*map(task.asked, ("train", "dev", "test")))
    gold, dev_gold = task.gold("train"), task.gold("dev")

    def learn(rows: np.ndarray, name: str) -> Sequence[Any]:
        with sklearn_alone():
            return _said(task.kind, counts.tfidf(rows), [gold[row] for row in rows], dev_gold, seed)

    return learn


def feature_learner(task: TaskRows, features: dict[str, np.ndarray], seed: int = 0) -> Learner:
    """The linear model on fixed features (rows, D) of each split, standardised by the chosen rows."""
    gold, dev_gold = task.gold("train"), task.gold("dev")

    def learn(rows: np.ndarray, name: str) -> Sequence[Any]:
        chosen = features["train"][rows]
        mean, spread = chosen.mean(axis=0), chosen.std(axis=0) + 1e-6
        parts = [(part - mean) / spread for part in (chosen, features["dev"], features["test"])]
        with sklearn_alone():
            return _said(task.kind, parts, [gold[row] for row in rows], dev_gold, seed)

    return learn


def _said(
    kind: str, parts: Sequence[Any], gold: Sequence[Any], dev_gold: Sequence[Any], seed: int
) -> list[Any]:
    """Predictions of the test rows from features of train, dev and test; ratings within those seen."""
    train, dev, test = parts
    if kind == "rating":
        said = fit_ridge(train, gold, dev, dev_gold, seed).predict(test)
        return np.clip(said, min(gold), max(gold)).tolist()
    return fit_logistic(train, gold, dev, dev_gold, seed).predict(test).tolist()
