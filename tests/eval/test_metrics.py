import random

import numpy as np
import pytest

from stepladder.errors import TaskError
from stepladder.eval import metrics
from stepladder.eval.metrics import Resampling

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def labels(seed: int, count: int, classes: int) -> tuple[list[str], list[str]]:
    chooser = random.Random(seed)
    names = [f"c{at}" for at in range(classes)]
    gold = chooser.choices(names, k=count)
    return gold, [g if chooser.random() < 0.6 else chooser.choice([*names, "never gold"]) for g in gold]


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (7, 3), (500, 2), (2_000, 20)])
def test_metrics_equal_scikit_learn(count, classes):
    for seed in range(5):
        gold, predicted = labels(seed, count, classes)
        assert sklearn_metrics.accuracy_score(gold, predicted) == pytest.approx(
            metrics.accuracy(gold, predicted), abs=1e-12
        )
        expected = sklearn_metrics.f1_score(gold, predicted, average="macro", zero_division=0)
        assert expected == pytest.approx(metrics.macro_f1(gold, predicted), abs=1e-12)


def test_calibration_error_of_a_known_case():
    # Bin .9-1.0: two examples, accuracy .5, mean .95; bin .5-.6: two, accuracy 1, mean .55.
    gold, predicted = ["a", "a", "b", "b"], ["a", "x", "b", "b"]
    actual = metrics.calibration_error(gold, predicted, [0.95, 0.95, 0.55, 0.55])
    assert pytest.approx(actual, abs=1e-12) == 0.5 * 0.45 + 0.5 * 0.45


def coverage(method: str, groups_of: int, use_groups: bool) -> float:
    """Share of 300 simulated test sets whose 95 % interval holds the true accuracy of .8."""
    rng, held, total = np.random.default_rng(1), 0, 300
    for trial in range(total):
        # Beta(2, 0.5) accuracy per group: mean .8; members of one group share it (correlation 0.29).
        rates = rng.beta(2, 0.5, size=240 // groups_of) if groups_of > 1 else np.full(240, 0.8)
        right = rng.random(240) < np.repeat(rates, groups_of)
        gold = ["a"] * 240
        predicted = ["a" if ok else "b" for ok in right]
        groups = [str(at // groups_of) for at in range(240)]
        how = Resampling(method=method, draws=300, seed=trial)
        got = metrics.bootstrap(
            "accuracy", gold, [predicted], groups=groups if use_groups else None, resampling=how
        )
        held += got.low <= 0.8 <= got.high
    return held / total


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_cover_at_the_nominal_rate(method):
    assert pytest.approx(coverage(method, 1, use_groups=False), abs=0.03) == 0.95


def test_clustered_intervals_cover_and_plain_ones_do_not():
    assert pytest.approx(coverage("bca", 4, use_groups=True), abs=0.03) == 0.95
    assert coverage("bca", 4, use_groups=False) < 0.9


def test_paired_difference_is_tighter_than_two_intervals_and_finds_an_edge():
    chooser = random.Random(3)
    gold = chooser.choices("ab", k=1_000)
    weak = [g if chooser.random() < 0.8 else "x" for g in gold]
    strong = [w if w == g or chooser.random() > 0.2 else g for w, g in zip(weak, gold, strict=True)]
    gap = metrics.paired_difference("accuracy", gold, [strong], [weak])
    expected = metrics.accuracy(gold, strong) - metrics.accuracy(gold, weak)
    assert expected == pytest.approx(gap.value, abs=1e-12)
    assert 0 < gap.low < gap.value < gap.high
    alone = metrics.bootstrap("accuracy", gold, [weak])
    assert gap.high - gap.low < alone.high - alone.low
    none = metrics.paired_difference("macro_f1", gold, [weak], [weak])
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_seeds_are_averaged():
    gold, first = labels(0, 300, 3)
    _, second = labels(1, 300, 3)
    expected = (metrics.accuracy(gold, first) + metrics.accuracy(gold, second)) / 2
    got = metrics.bootstrap("accuracy", gold, [first, second])
    assert expected == pytest.approx(got.value, abs=1e-12)
    assert got.low < got.value < got.high


def test_the_same_seed_gives_the_same_interval():
    gold, predicted = labels(0, 200, 4)
    first, second = (metrics.bootstrap("macro_f1", gold, [predicted]) for _ in range(2))
    other = metrics.bootstrap("macro_f1", gold, [predicted], resampling=Resampling(seed=1))
    assert first == second
    assert first != other


def test_all_right_is_not_certain():
    got = metrics.bootstrap("accuracy", ["a"] * 50, [["a"] * 50])
    assert (got.value, got.high) == (1.0, 1.0)
    assert pytest.approx(got.low, abs=1e-12) == 0.025 ** (1 / 50)


def test_lengths_must_match():
    with pytest.raises(TaskError, match="do not match"):
        metrics.accuracy(["a"], ["a", "b"])
    with pytest.raises(TaskError, match="do not match"):
        metrics.accuracy([], [])
    with pytest.raises(TaskError, match="needs a group"):
        metrics.bootstrap("accuracy", ["a", "b"], [["a", "b"]], groups=["g"])
