"""Mean time between failures of a job, on one's own nodes and on spot."""

import math

import pytest

from stepladder.errors import PlanError
from stepladder.plan.derive import exact
from stepladder.plan.failures import job_mean_hours, spot_available, spot_mean_hours

RSC = exact(6.5, "RSC-1, arXiv:2410.21680")


@pytest.mark.parametrize(("devices", "hours"), [(16_384, 1.80), (131_072, 0.225)])
def test_published_jobs_are_reproduced(devices, hours):
    assert job_mean_hours(devices // 8, RSC).value == pytest.approx(hours, rel=0.003)


def test_the_prior_has_the_spread_of_clusters():
    found = job_mean_hours(100)
    assert found.value == pytest.approx(24_000 / 4.25 / 100, rel=0.02)
    assert math.log(found.high / found.low) == pytest.approx(2 * 1.2816 * 0.55, rel=0.01)


def test_lemons_and_software_change_the_rate_and_say_so():
    plain = job_mean_hours(100)
    clean, buggy = job_mean_hours(100, without_lemons=True), job_mean_hours(100, software_per_day=2.0)
    assert buggy.value < plain.value < clean.value
    assert clean.high / clean.low > plain.high / plain.low
    assert 1 / buggy.value - 1 / plain.value == pytest.approx(2 / 24)
    assert "again and again" in clean.how
    assert "2 stops a day by the job's own software" in buggy.how


@pytest.mark.parametrize(("nodes", "rate", "software"), [(0, 4.0, 0.0), (8, 0.0, 0.0), (8, 4.0, math.nan)])
def test_impossible_rates_are_refused(nodes, rate, software):
    with pytest.raises(PlanError, match="at least one node and rates above 0"):
        job_mean_hours(nodes, exact(rate, "a test"), software_per_day=software)


def test_spot_is_lost_sooner_the_more_machines_there_are():
    one, eight = spot_mean_hours(1), spot_mean_hours(8)
    assert one.value == pytest.approx(8 * eight.value)
    assert one.high / one.low > 5  # traces differ by an order of magnitude
    assert spot_mean_hours(4, 100.0).value == 25
    assert spot_mean_hours(4, 100.0).source == "user"
    assert 0 < spot_available().low < spot_available().high < 1
    with pytest.raises(PlanError, match="at least one machine"):
        spot_mean_hours(0)
