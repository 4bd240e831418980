"""Time lost to failures, beside a simulation and a published Monte-Carlo table."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from stepladder.errors import PlanError
from stepladder.plan.derive import exact
from stepladder.plan.reliability import USUAL, Recovery, best_interval, goodput, share_at

TABLE = Path(__file__).parents[2].parent / "shared" / "reference" / "compute" / "goodput_table.csv"


def test_one_node_loses_almost_nothing_and_many_lose_much():
    assert goodput(1).value > 0.995
    assert goodput(2_048).value < 0.9
    assert goodput(64).low < goodput(64).value < goodput(64).high < 1


def simulated(mean: float, recovery: Recovery = USUAL, seed: int = 0) -> float:
    """Share of useful time over a long run with exponential failures."""
    draw = np.random.default_rng(seed)
    interval, done, clock = best_interval(mean, recovery), 0.0, 0.0
    next_failure = draw.exponential(mean)
    while done < 3_000 * interval:
        end = clock + interval + recovery.checkpoint_hours
        if next_failure >= end:
            clock, done = end, done + interval
            continue
        clock = next_failure
        while True:  # a failure during the restart starts it again
            next_failure = clock + draw.exponential(mean)
            by_hand = draw.random() < recovery.by_hand
            clock += recovery.by_hand_hours if by_hand else recovery.restart_hours
            if next_failure >= clock:
                break
            clock = next_failure
    return done / clock


@pytest.mark.parametrize("mean", [1.0, 5.0, 50.0, 500.0])
@pytest.mark.parametrize("recovery", [USUAL, Recovery(by_hand=0.3)])
def test_the_formula_is_within_a_point_of_simulation(mean, recovery):
    assert share_at(mean, recovery) == pytest.approx(simulated(mean, recovery), abs=0.01)


def test_the_formula_is_within_a_point_of_published_monte_carlo():
    if not TABLE.exists():
        pytest.skip("needs ../shared/reference/compute")
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["mtbf_h"]) >= 1]
    assert len(rows) >= 25
    for row in rows:
        assert share_at(float(row["mtbf_h"])) == pytest.approx(float(row["goodput_mc_exp"]), abs=0.01)


@pytest.mark.parametrize("mean", [0.3, 2.0, 40.0])
def test_no_interval_is_better_than_the_best_one(mean):
    best = share_at(mean)
    grid = best_interval(mean) * np.geomspace(0.2, 5, 101)
    assert best > max(share_at(mean, interval=float(one)) for one in grid) - 1e-4


def test_intervals_follow_young_where_failures_are_rare():
    assert best_interval(1_000.0) == pytest.approx(math.sqrt(2 / 60 * 1_000), rel=0.01)
    assert best_interval(1 / 240) == 1 / 240  # a checkpoint takes longer than the job lives


def test_people_who_must_be_woken_cost_more_than_a_scheduler():
    shares = [goodput(128, Recovery(by_hand=share)).value for share in (0.0, 3 / 419, 1 / 3, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert "33.3% of them by hand in 2 h" in goodput(128, Recovery(by_hand=1 / 3)).how


def test_a_segment_far_longer_than_the_time_between_failures_never_ends():
    assert share_at(0.001, interval=10.0) == 0.0


def test_a_users_rate_replaces_the_published_one():
    yours = goodput(64, rate=exact(1.0, "our cluster", "user"))
    assert yours.source == "user"
    assert "our cluster" in yours.how
    assert yours.value > goodput(64).value


@pytest.mark.parametrize("wrong", [{"by_hand": 1.5}, {"restart_hours": -1.0}, {"checkpoint_hours": 0.0}])
def test_impossible_recoveries_are_refused(wrong):
    with pytest.raises(PlanError, match="a recovery takes time"):
        Recovery(**wrong)
