"""Exposure is a rank among candidates, 1.44 bits by chance, and goes on below the last of them."""

import numpy as np
import pytest
from scipy.stats import norm, skewnorm

from stepladder.errors import LawError
from stepladder.laws.exposure import CHANCE_BITS, Memory, exposures, forecast_exposure


def test_a_rank_in_bits():
    candidates = np.arange(1.0, 1024.0)
    assert [10.0, 9.0, 0.0] == exposures(np.array([1.0, 2.0, 2000.0]), candidates).tolist()
    assert exposures(np.array([1.5]), candidates)[0] == pytest.approx(10 - np.log2(1.5))


def test_what_was_never_seen_has_the_bits_of_chance():
    draw = np.random.default_rng(0)
    bits = [exposures(draw.normal(size=200), draw.normal(size=511)).mean() for _ in range(20)]
    assert np.mean(bits) == pytest.approx(CHANCE_BITS, abs=0.1)


@pytest.mark.parametrize(("law", "name"), [(norm(20, 2), "normal"), (skewnorm(-3, 20, 2), "skewed")])
def test_the_tail_is_that_of_the_candidates_distribution(law, name):
    candidates = law.rvs(20_000, random_state=1)
    far = law.ppf(2.0 ** -np.array([16.0, 20.0, 26.0]))
    assert exposures(far, candidates) == pytest.approx([16.0, 20.0, 26.0], abs=1.5), name


def test_no_canary_has_more_bits_than_were_drawn():
    candidates = norm(20, 2).rvs(500, random_state=2)
    assert exposures(np.array([0.0]), candidates, 26.6).tolist() == [26.6]


def test_a_known_law_is_forecast_within_its_interval():
    draw = np.random.default_rng(0)

    def group(params, met):
        above = 0.05 * met * (params / 1e5) ** 0.8
        return Memory(params=params, met=met, bits=tuple(draw.normal(CHANCE_BITS + above, 0.5, 16)))

    rungs = [group(params, met) for params in (6e4, 9e4, 15e4) for met in (1, 4, 16, 64)]
    said = forecast_exposure(rungs, 3e5, 64, 16)
    truth = CHANCE_BITS + 0.05 * 64 * 3**0.8
    assert said.low95 < said.low80 < truth < said.high80 < said.high95
    assert said.value == pytest.approx(truth, rel=0.2)
    with pytest.raises(LawError, match="too few groups"):
        forecast_exposure(rungs[:3], 3e5, 64, 16)
