import random

import numpy as np
import pytest

from stepladder.errors import TaskError
from stepladder.eval.metrics import METRICS
from stepladder.eval.predictions import Predictions
from stepladder.eval.resample import Resampling, bootstrap, paired_difference


def measured(kind: str, name: str, gold, said, groups=None):
    metric = next(one for one in METRICS[kind] if one.name == name)
    return metric.measure(gold, Predictions(said=tuple(said)), groups)


def labels(seed: int, count: int, classes: int) -> tuple[list[str], list[str]]:
    chooser = random.Random(seed)
    names = [f"c{at}" for at in range(classes)]
    gold = chooser.choices(names, k=count)
    return gold, [g if chooser.random() < 0.6 else chooser.choice(names) for g in gold]


def coverage(method: str, groups_of: int, use_groups: bool) -> float:
    """Share of 300 simulated test sets whose 95 % interval holds the true accuracy of .8."""
    rng, held, total = np.random.default_rng(1), 0, 300
    for trial in range(total):
        # Beta(2, 0.5) accuracy per group: mean .8; members of one group share it (correlation 0.29).
        rates = rng.beta(2, 0.5, size=240 // groups_of) if groups_of > 1 else np.full(240, 0.8)
        right = rng.random(240) < np.repeat(rates, groups_of)
        said = ["a" if ok else "b" for ok in right]
        groups = [str(at // groups_of) for at in range(240)] if use_groups else None
        got = bootstrap(
            [measured("classification", "accuracy", ["a"] * 240, said, groups)],
            Resampling(method=method, draws=300, seed=trial),
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
    low, high = (measured("classification", "accuracy", gold, said) for said in (weak, strong))
    gap = paired_difference([high], [low])
    assert high.value() - low.value() == pytest.approx(gap.value, abs=1e-12)
    assert 0 < gap.low < gap.value < gap.high
    alone = bootstrap([low])
    assert gap.high - gap.low < alone.high - alone.low
    assert 0 < gap.error < alone.error
    none = paired_difference([low], [low])
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_seeds_are_averaged():
    gold, first = labels(0, 300, 3)
    _, second = labels(1, 300, 3)
    both = [measured("classification", "macro_f1", gold, said) for said in (first, second)]
    got = bootstrap(both)
    assert (both[0].value() + both[1].value()) / 2 == pytest.approx(got.value, abs=1e-12)
    assert got.low < got.value < got.high


def test_the_same_seed_gives_the_same_interval():
    measure = measured("classification", "macro_f1", *labels(0, 200, 4))
    first, second = bootstrap([measure]), bootstrap([measure])
    other = bootstrap([measure], Resampling(seed=1))
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("kind", "name", "gold", "other"),
    [
        ("multilabel", "micro_f1", [["a"], ["a", "b"], [], ["b"]], ["a"]),
        ("rating", "pearson", [1.0, 2.0, 3.0, 5.0], 2.5),
        ("rating", "spearman", [1.0, 2.0, 2.0, 5.0], 2.0),
        ("rating", "mean_absolute_error", [1.0, 2.0, 2.0, 5.0], 2.0),
        ("translation", "bleu", ["a b c d e f", "g h i j k", "l m n o p q", "r s"], "a b c d h i"),
        ("translation", "chrf", ["a b c d e f", "g h i j k", "l m n o p q", "r s"], "a b c d h i"),
    ],
)
def test_a_draw_is_the_metric_of_the_repeated_examples(kind, name, gold, other):
    said = [gold[0], other, gold[2], other]
    measure = measured(kind, name, gold, said)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 1, 3, 0]])
    expected = []
    for row in weights:
        chosen = np.repeat(np.arange(4), row)
        repeated = measured(kind, name, [gold[at] for at in chosen], [said[at] for at in chosen])
        expected.append(repeated.value())
    assert pytest.approx(expected, abs=1e-12) == measure.drawn(weights).tolist()
    without = [[at for at in range(4) if at != left] for left in range(4)]
    expected = [
        measured(kind, name, [gold[at] for at in some], [said[at] for at in some]).value() for some in without
    ]
    assert pytest.approx(expected, abs=1e-12) == measure.left_out().tolist()


def test_groups_are_drawn_as_wholes():
    gold, said, groups = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], ["x", "x", "y", "y"]
    for name in ("pearson", "spearman"):
        measure = measured("rating", name, gold, said, groups)
        twice = measured("rating", name, gold[:2] * 2, said[:2] * 2)
        assert 2 == measure.groups
        assert pytest.approx(twice.value(), abs=1e-12) == measure.drawn(np.array([[2, 0]]))[0]


def test_all_right_is_not_certain():
    got = bootstrap([measured("classification", "accuracy", ["a"] * 50, ["a"] * 50)])
    assert (got.value, got.high) == (1.0, 1.0)
    assert pytest.approx(got.low, abs=1e-12) == 0.025 ** (1 / 50)
    rated = bootstrap([measured("rating", "mean_absolute_error", [1.0, 5.0] * 25, [1.0, 5.0] * 25)])
    assert (rated.value, rated.low) == (0.0, 0.0)
    assert pytest.approx(rated.high, abs=1e-12) == 4 * (1 - 0.025 ** (1 / 50))


def test_two_groups_have_an_interval():
    got = bootstrap(
        [measured("rating", "mean_absolute_error", [1.0, 5.0, 9.0], [1.5, 5.1, 9.9], ["x", "x", "y"])]
    )
    assert got.low <= got.value <= got.high


def test_every_example_needs_a_group():
    with pytest.raises(TaskError, match="needs a group"):
        measured("classification", "accuracy", ["a", "b"], ["a", "b"], ["g"])
