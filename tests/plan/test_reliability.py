"""Time lost to failures, beside a simulation and a published Monte-Carlo table."""

import csv
from pathlib import Path

import numpy as np
import pytest

from stepladder.plan.reliability import _share, goodput, interval_hours, mean_hours

TABLE = Path(__file__).parents[2].parent / "shared" / "reference" / "compute" / "goodput_table.csv"


def test_one_node_loses_almost_nothing_and_many_lose_much():
    assert goodput(1).value > 0.995
    assert goodput(2_048).value < 0.9
    assert goodput(64).low < goodput(64).value < goodput(64).high < 1


def simulated(mean: float, seed: int = 0) -> float:
    """Share of useful time over a long run with exponential failures; checkpoints 1 min, restarts 15 min."""
    generator = np.random.default_rng(seed)
    interval, done, clock = interval_hours(mean), 0.0, 0.0
    next_failure = generator.exponential(mean)
    while done < 3_000 * interval:
        end = clock + interval + 1 / 60
        if next_failure >= end:
            clock, done = end, done + interval
            continue
        clock = next_failure
        while True:  # a failure during the restart starts it again
            next_failure = clock + generator.exponential(mean)
            clock += 15 / 60
            if next_failure >= clock:
                break
            clock = next_failure
    return done / clock


@pytest.mark.parametrize("mean", [1.0, 5.0, 50.0, 500.0])
def test_the_formula_is_within_a_point_of_simulation(mean):
    assert _share(mean) == pytest.approx(simulated(mean), abs=0.01)


def test_the_formula_is_within_a_point_of_published_monte_carlo():
    if not TABLE.exists():
        pytest.skip("needs ../shared/reference/compute")
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["mtbf_h"]) >= 1]
    assert len(rows) >= 25
    for row in rows:
        mean = mean_hours(int(row["nodes"]), float(row["rate_per_1000_node_days"]))
        assert mean == pytest.approx(float(row["mtbf_h"]), rel=0.01)
        assert _share(mean) == pytest.approx(float(row["goodput_mc_exp"]), abs=0.01)
