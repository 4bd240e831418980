"""Seconds of a run from measured runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.errors import PlanError
from stepladder.plan.derive import within
from stepladder.plan.throughput import assumed_throughput, fit_throughput
from stepladder.records import Observation

SIZES = np.geomspace(1e5, 3e6, 10)


def runs(overhead: float, slope: float, noise: float = 0.0, seed: int = 0) -> list[Observation]:
    scatter = np.random.default_rng(seed).normal(0, noise, len(SIZES)) if noise else np.zeros(len(SIZES))
    return [
        Observation(
            run=f"r{index}",
            params=size / 6,
            tokens=1e6,
            loss=3.0,
            flops=size * 1e6,
            seconds=(overhead + slope * size) * 1e6 * math.exp(scatter[index]),
        )
        for index, size in enumerate(SIZES)
    ]


@given(
    overhead=st.floats(0, 1e-4),
    slope=st.floats(1e-12, 1e-9),
)
@settings(max_examples=50, deadline=None)
def test_an_exact_line_is_recovered(overhead, slope):
    fit = fit_throughput(runs(overhead, slope))
    size = 5e5
    assert fit.seconds_per_token(size).value == pytest.approx(overhead + slope * size, rel=1e-3)
    assert fit.left_out == pytest.approx(0, abs=1e-3)


@given(per_step=st.floats(1e-3, 1e-1), overhead=st.floats(0, 1e-4), slope=st.floats(1e-12, 1e-10))
@settings(max_examples=50, deadline=None)
def test_the_fixed_time_of_a_step_is_told_apart_by_batches(per_step, overhead, slope):
    batches = [512, 2048, 1024, 512, 4096, 1024, 2048, 512, 1024, 4096]
    rows = [
        replace(row, seconds=row.seconds + per_step * row.tokens / batch, notes={"batch_tokens": batch})
        for row, batch in zip(runs(overhead, slope), batches, strict=True)
    ]
    fit = fit_throughput(rows)
    expected = per_step / 8192 + overhead + slope * 5e5
    assert fit.seconds_per_token(5e5, 8192).value == pytest.approx(expected, rel=1e-3)


def test_intervals_of_eighty_per_cent_hold_about_that_often():
    overhead, slope, size = 5e-6, 2e-11, 1e6
    held = 0
    for seed in range(200):
        noise = np.random.default_rng(10_000 + seed).normal(0, 0.08)
        truth = (overhead + slope * size) * math.exp(noise)
        forecast = fit_throughput(runs(overhead, slope, 0.08, seed)).seconds_per_token(size)
        held += forecast.low <= truth <= forecast.high
    assert 0.72 < held / 200 < 0.93


def test_beyond_the_measured_sizes_the_interval_is_wider():
    fit = fit_throughput(runs(2e-5, 2e-11, 0.02))

    def width(size: float) -> float:
        forecast = fit.seconds_per_token(size)
        return forecast.high / forecast.low

    assert width(1e6) < width(3e7) < width(3e8)
    assert "beyond their sizes" in fit.seconds_per_token(3e7).how


def test_speedup_divides_and_widens():
    plain = fit_throughput(runs(0, 2e-11))
    faster = fit_throughput(runs(0, 2e-11), within(1.6, 1.2, "two threads", "measured"))
    assert faster.seconds_per_token(1e6).value == pytest.approx(plain.seconds_per_token(1e6).value / 1.6)
    ratio = faster.seconds_per_token(1e6)
    assert ratio.high / ratio.low > 1.4
    assert "divided by 1.6: two threads" in ratio.how


def test_few_runs_give_wide_intervals():
    one = fit_throughput(runs(0, 2e-11)[:1]).seconds_per_token(1e5)
    assert one.value == pytest.approx(2e-11 * 1e5, rel=1e-6)
    assert one.high / one.low > 1.4


def test_runs_without_seconds_are_refused():
    bare = [Observation(run="a", params=1, tokens=1, loss=1)]
    with pytest.raises(PlanError, match="no observation says how long it took"):
        fit_throughput(bare)


def test_an_assumed_rate_keeps_its_interval():
    fit = assumed_throughput(within(1e12, 1.5, "a guess", "prior"))
    forecast = fit.seconds_per_token(1e6)
    assert (forecast.value, forecast.source) == (pytest.approx(1e-6), "prior")
    assert forecast.high / forecast.low == pytest.approx(1.5**2)


def test_larger_models_that_ran_no_slower_do_not_give_a_negative_slope():
    rows = runs(1e-5, 1e-20, 0.05)
    fit = fit_throughput(rows)
    assert fit.seconds_per_flop > 0
    assert fit.seconds_per_token(1e6).value > 0
