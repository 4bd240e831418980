"""Repeated data: half-lives and the cost of over-fitting recovered, and what repeated tokens are worth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.discount import discount, effective_tokens, most_useful_epochs
from stepladder.laws.repeat import (
    C4,
    PUBLISHED_PAIR,
    RepeatLaw,
    fit_repeat,
    harmful_runs,
)
from stepladder.laws.table import Table, read_observations
from stepladder.records import Observation

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the folder ../shared/reference/laws is absent"
)
NOWHERE = (float("nan"), float("nan"))
GENTLE = RepeatLaw(
    base={"E": 1.9, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    data_halflife=12.0,
    size_halflife=6.0,
    objective=0.0,
    agreeing=0,
    low=NOWHERE,
    high=NOWHERE,
)
# At 1e8 parameters and 1e8 tokens, twenty repetitions cost .1 and very many .5.
HARM = {"F": 0.5, "kappa": 1.2, "lambda": 1.2, "delta": 1.5, "R1": 60.0, "C": 9.0}
HARMFUL = replace(GENTLE, harm=HARM)


def runs(law: RepeatLaw, *, epochs=(1, 1, 2, 4, 8, 16, 32, 64, 128), noise=0.003) -> Table:
    """Three corpora, five sizes each."""
    rows = [(n, u * e, u) for u in (1e8, 1e9, 5e9) for n in (3e7, 1e8, 3e8, 1e9, 3e9) for e in epochs]
    params, tokens, unique = np.array(rows).T
    loss = law.loss(params, tokens, unique)
    loss = loss * np.exp(np.random.default_rng(7).normal(0, noise, len(rows)))
    return read_observations(
        [
            Observation(run=str(i), params=n, tokens=d, unique_tokens=u, loss=y, seed=i)
            for i, (n, d, u, y) in enumerate(zip(params, tokens, unique, loss, strict=True))
        ]
    )


def test_half_lives_and_base_come_from_the_runs():
    table = runs(GENTLE)
    together, single_first = (fit_repeat(table, None, single_first=first) for first in (False, True))
    assert together.low[0] < GENTLE.data_halflife < together.high[0]
    assert together.low[1] < GENTLE.size_halflife < together.high[1]
    for law in (together, single_first):
        assert (law.harm, law.harmful, law.identified) == ({}, 0, True)
        assert "no run shows over-fitting" in law.source
        assert law.data_halflife == pytest.approx(GENTLE.data_halflife, rel=0.05)
        assert law.size_halflife == pytest.approx(GENTLE.size_halflife, rel=0.2)
        assert law.rms_residual == pytest.approx(0.003, rel=0.15)


def test_noise_is_not_taken_for_over_fitting():
    table = runs(GENTLE, noise=0.01)
    assert harmful_runs(table) > 0
    law = fit_repeat(table, None)
    assert (law.harm, law.harmful) == ({}, 0)
    assert law.data_halflife == pytest.approx(GENTLE.data_halflife, rel=0.1)


def test_over_fitting_is_detected_and_described():
    table = runs(HARMFUL)
    law = fit_repeat(table, None)
    assert law.harmful == harmful_runs(table) > 5
    assert f"{law.harmful} runs show" in law.source
    assert law.rms_residual < 0.004
    assert fit_repeat(table, None, harm=False).rms_residual > 5 * law.rms_residual
    for size, unique in ((1e8, 1e8), (1e9, 1e9), (3e9, 1e8)):
        assert most_useful_epochs(law, size, unique) == pytest.approx(
            most_useful_epochs(HARMFUL, size, unique), rel=0.15
        )


def test_effective_tokens_end_at_the_same_loss():
    params, unique = np.array([1e8, 1e9, 1e9, 1e9]), np.array([1e9, 1e9, 1e9, np.nan])
    tokens = np.array([1e9, 4e9, 6e10, 4e9])
    worth = effective_tokens(params, tokens, unique, HARMFUL)
    assert worth[[0, 3]].tolist() == [1e9, 4e9]
    assert 2e9 < worth[1] < 4e9
    assert HARMFUL.loss(params, worth, worth) == pytest.approx(HARMFUL.loss(params, tokens, unique), rel=1e-6)
    # Without discount of the size, equation 5 says it in closed form.
    law = replace(GENTLE, size_halflife=float("inf"))
    again = np.array([0.5, 3.0, 40.0])
    expected = 1e9 * (1 + 12 * -np.expm1(-again / 12))
    found = effective_tokens(np.full(3, 1e9), 1e9 * (1 + again), np.full(3, 1e9), law)
    assert found == pytest.approx(expected, rel=1e-6)


def test_most_useful_epochs():
    law = replace(GENTLE, size_halflife=float("inf"))
    useful, harmful = most_useful_epochs(law, 1e8, 1e9)
    # A token is worth exp(-R/R*) of a new one.
    assert useful == pytest.approx(1 + 12 * np.log(10), rel=0.02)
    assert harmful == float("inf")
    useful, harmful = most_useful_epochs(HARMFUL, 1e9, 1e8)
    assert 1 < useful <= harmful < 20


def test_discount_says_which_half_life_it_used():
    table = runs(GENTLE)
    law, worth = discount(table)
    assert law.source.startswith("base fitted on the runs of one epoch first on 105 repeated runs of 135")
    single = table.tokens == table.unique_tokens
    assert np.array_equal(worth[single], table.tokens[single])
    assert (worth[~single] < table.tokens[~single]).all()
    some = table.take(np.flatnonzero(table.tokens <= 2 * table.unique_tokens)[:18])
    law, worth = discount(some)
    assert law.source.startswith("base and half-lives fitted together on 6 repeated runs of 18")
    assert law.source.endswith("R_D* is not identified (prior: the published one)")
    assert worth == pytest.approx(
        effective_tokens(some.params, some.tokens, some.unique_tokens, GENTLE), rel=0.05
    )
    few = table.take(np.flatnonzero(table.tokens <= 2 * table.unique_tokens)[:9])
    law, worth = discount(few)
    assert law.source.startswith("published half-life of data (arXiv:2305.16264): 3 repeated runs")
    again = few.tokens / few.unique_tokens - 1
    expected = few.unique_tokens * (1 + PUBLISHED_PAIR[0] * -np.expm1(-again / PUBLISHED_PAIR[0]))
    assert worth == pytest.approx(expected, rel=1e-6)


def test_a_missing_number_of_unique_tokens():
    table = runs(GENTLE)
    unique = np.where(table.tokens == table.unique_tokens, np.nan, table.unique_tokens)
    missing = replace(table, unique_tokens=unique)
    assert fit_repeat(missing, None).data_halflife == fit_repeat(table, None).data_halflife
    with pytest.raises(LawError, match="needs the column unique_tokens in every row"):
        fit_repeat(missing, C4)


@needs_reference
def test_over_fitting_describes_the_rows_that_the_paper_leaves_out():
    table = read_observations(REFERENCE / "datablations_c4.csv")
    with_harm, without = fit_repeat(table, None), fit_repeat(table, None, harm=False)
    assert len(table) == 296
    assert (with_harm.harmful, without.harmful) == (36, 0)
    assert with_harm.rms_residual < 0.06 < 0.15 < without.rms_residual
    # 1.1e9 parameters on 1e8 tokens: best of the measured 15, 27, 39, 59 epochs at 15.
    assert 8 < most_useful_epochs(with_harm, 1.1e9, 1e8)[1] < 27
    # 1.46e8 parameters: best at 59 epochs of 39, 59, 75, 140.
    assert 39 < most_useful_epochs(with_harm, 1.46e8, 1e8)[1] < 140
