"""The published procedures, on runs whose law is known."""

import numpy as np
import pytest

from stepladder.laws.crosscheck import cross_checks
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import predict
from stepladder.laws.table import read_observations
from stepladder.records import Observation

TRUTH = {"E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.30, "beta": 0.40}
EXPONENT = 0.40 / 0.70


def isoflops(shift=0.0, noise=0.0, sizes=9):
    """Five levels of compute; sizes within a factor of 4 around `shift` decades off the best."""
    rng = np.random.default_rng(0)
    ratio = (TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])) ** (1 / 0.70)
    rows = []
    for level in 10 ** np.linspace(18, 20, 5):
        best = ratio * (level / 6) ** EXPONENT
        for n in best * 10 ** (shift + np.linspace(-0.6, 0.6, sizes)):
            d = level / 6 / n
            loss = float(predict("chinchilla", TRUTH, n, d)) * np.exp(rng.normal(0, noise))
            rows.append(Observation(run=f"r{len(rows)}", params=n, tokens=d, loss=loss))
    return read_observations(rows)


def test_parabolas_read_the_exponent_where_grids_are_centred():
    found = cross_checks(isoflops(), "chinchilla", TRUTH)
    assert found["law_exponent"] == pytest.approx(EXPONENT)
    assert found["parabola_exponent"] == pytest.approx(EXPONENT, abs=0.01)
    assert found["parabola_bias"] == pytest.approx(found["parabola_exponent"] - EXPONENT)
    assert abs(found["envelope_bias"]) < 0.03


def test_a_grid_that_drifts_off_the_best_misleads_the_envelope():
    table = isoflops()
    level = np.log(table.params * table.tokens)
    # Only sizes ever further above the best: the envelope follows the grid, and says so by its bias.
    keep = np.log(table.params) > EXPONENT * level + np.median(
        np.log(table.params) - EXPONENT * level
    ) + 0.25 * (level - level.min())
    found = cross_checks(table.take(np.flatnonzero(keep)), "chinchilla", TRUTH)
    assert found["envelope_exponent"] - EXPONENT > 0.05
    assert found["envelope_bias"] == pytest.approx(found["envelope_exponent"] - EXPONENT, abs=1e-9)


def test_without_levels_or_with_another_form_there_is_nothing_to_check():
    assert cross_checks(isoflops(sizes=3), "chinchilla", TRUTH).keys() & {"parabola_exponent"} == set()
    assert cross_checks(isoflops(), "gadre", {"E": 1.0, "a": 1.0, "b": 1.0, "eta": 0.1}) == {}


def test_a_law_and_parabolas_that_disagree_are_warned_about():
    table = isoflops(noise=0.001)
    agreed = fit_law(table)
    assert agreed.quality["parabola_exponent"] == pytest.approx(agreed.quality["law_exponent"], abs=0.05)
    assert not [text for text in agreed.warnings if "isoFLOP parabolas" in text]
    # Losses that bend with the ratio of tokens to parameters, the more so the dearer the run.
    level = np.log(table.params * table.tokens)
    tilt = 0.02 * (level - level.mean()) * (np.log(table.tokens / table.params) - np.log(20.0))
    tilted = [
        Observation(run=f"r{i}", params=n, tokens=d, loss=y * np.exp(t))
        for i, (n, d, y, t) in enumerate(zip(table.params, table.tokens, table.loss, tilt, strict=True))
    ]
    law = fit_law(read_observations(tilted))
    gap = law.quality["parabola_exponent"] - law.quality["parabola_bias"] - law.quality["law_exponent"]
    told = [text for text in law.warnings if "isoFLOP parabolas" in text]
    assert bool(told) == (abs(gap) > 0.1 and abs(law.quality["parabola_bias"]) < 0.05)
    assert told
