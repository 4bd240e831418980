import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.errors import TrainError
from stepladder.train.mixture import Mixture, mix

NAMES = ["web", "code", "books"]


def deviations(mixture: Mixture, num_samples: int) -> np.ndarray:
    """Count minus share x S of each source, for S = 0 to num_samples: (S + 1, sources)."""
    source, _ = mixture.sources(np.arange(num_samples))
    taken = source[:, None] == np.arange(len(mixture.names))
    counts = np.concatenate([np.zeros((1, taken.shape[1])), np.cumsum(taken, axis=0)])
    return counts - np.arange(num_samples + 1)[:, None] * mixture.weights / mixture.total


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=4))
def test_counts_stay_within_one_of_the_share(weights: list[int]) -> None:
    """Prefixes within one for up to four sources; any run within two, and within one for two sources."""
    mixture = Mixture([f"s{i}" for i in range(len(weights))], weights, [Fraction(w) for w in weights])
    off = deviations(mixture, 2500)
    assert np.abs(off).max() <= mixture.bound + 1e-9
    assert mixture.bound < 1
    assert np.ptp(off, axis=0).max() < 2 * mixture.bound + 1e-9
    if len(weights) == 2:
        assert 0.5 == mixture.bound


@given(st.lists(st.integers(1, 1000), min_size=5, max_size=40))
def test_many_sources_stay_within_the_stated_bound(weights: list[int]) -> None:
    mixture = Mixture([f"s{i}" for i in range(len(weights))], weights, [Fraction(w) for w in weights])
    assert np.abs(deviations(mixture, 2500)).max() <= mixture.bound + 1e-9


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any),
    st.integers(0, 10**12),
    st.integers(1, 300),
)
def test_source_and_place_are_functions_of_the_index(weights: list[int], start: int, length: int) -> None:
    mixture = Mixture([f"s{i}" for i in range(len(weights))], weights, [Fraction(w) for w in weights])
    source, place = mixture.sources(np.arange(start, start + length))
    alone = [mixture.sources(np.array([start + i])) for i in range(length)]
    assert source.tolist() == [int(s[0]) for s, _ in alone]
    assert place.tolist() == [int(p[0]) for _, p in alone]
    before = mixture.counts(start)
    for number in range(len(weights)):
        mine = place[source == number]
        assert list(range(int(before[number]), int(before[number]) + len(mine))) == mine.tolist()
    assert mixture.counts(start + length).sum() == start + length


def test_decimal_weights_are_exact() -> None:
    mixture = mix(NAMES, [10, 10, 10], {"web": 0.6, "code": 0.3, "books": 0.1})
    assert ([6, 3, 1], 10) == (mixture.weights.tolist(), mixture.total)
    assert [6 * 10**11, 3 * 10**11, 10**11] == mixture.counts(10**12).tolist()


def test_epochs_are_reached_exactly() -> None:
    mixture = mix(NAMES, [100, 30, 7], epochs={"web": 0.5, "code": 4, "books": 10})
    assert {"web": 0.5, "code": 4.0, "books": 10.0} == mixture.epochs(50 + 120 + 70)


def test_epochs_and_weights_share_a_run() -> None:
    mixture = mix(NAMES, [100, 30, 7], {"web": 2, "code": 1}, {"books": 3}, run_samples=321)
    assert [200, 100, 21] == mixture.counts(321).tolist()


def test_without_a_wish_each_source_is_seen_once() -> None:
    mixture = mix(NAMES, [100, 30, 7])
    assert {"web": 1.0, "code": 1.0, "books": 1.0} == mixture.epochs(137)


def test_a_source_that_is_not_named_is_left_out() -> None:
    mixture = mix(NAMES, [100, 30, 7], {"web": 1, "books": 1})
    assert {"web": 0.5, "code": 0.0, "books": 0.5} == mixture.shares()
    assert {0, 2} == set(mixture.sources(np.arange(50))[0].tolist())


def test_weights_finer_than_the_table_are_rounded_and_none_is_lost() -> None:
    mixture = mix(NAMES, [1, 1, 1], {"web": 1, "code": 1e-12, "books": 1 / 3})
    assert mixture.total < 2**31
    assert 1 == mixture.weights[1]
    assert abs(mixture.shares()["web"] - 0.75) < 1e-8


@pytest.mark.parametrize(
    ("weights", "epochs", "run_samples", "text"),
    [
        ({"wep": 1}, {}, 0, 'no source wep (did you mean "web"?)'),
        ({"web": -1}, {}, 0, "weight of web is -1"),
        ({"web": float("nan")}, {}, 0, "weight of web is nan"),
        ({}, {"code": -2}, 0, "epochs of code is -2"),
        ({"web": 1}, {"web": 1}, 100, "web has both a weight and epochs"),
        ({"web": 0}, {}, 0, "every weight is 0"),
        ({"books": 1}, {}, 0, "books has no sample to take"),
        ({"web": 1}, {"code": 4}, 100, "leave no samples"),
    ],
)
def test_refusals(weights: dict[str, float], epochs: dict[str, float], run_samples: int, text: str) -> None:
    with pytest.raises(TrainError, match=re.escape(text)) as caught:
        mix(NAMES, [100, 30, 0], weights, epochs, run_samples)
    assert caught.value.allowed
