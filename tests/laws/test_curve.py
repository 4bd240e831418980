"""Loss curves over a warm-up–stable–decay schedule."""

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.curve import CurveLaw, fit_curve, schedule_areas

TRUTH = CurveLaw(floor=2.0, amplitude=3.0, alpha=0.45, annealing=0.002, memory=0.997, rms_residual=0.0)


def schedule(steps: int, decay: float = 0.3) -> np.ndarray:
    step = np.arange(1, steps + 1)
    return np.minimum(1.0, np.minimum(step / 20, (steps - step + 1) / (decay * steps)))


def test_areas_count_progress_and_annealing():
    forward, area = schedule_areas(np.array([1.0, 1.0, 0.5, 0.0]), 0.5)
    assert forward.tolist() == [1.0, 2.0, 2.5, 2.5]
    assert area.tolist() == [0.0, 0.0, 0.5, 1.25]


def test_a_run_forecasts_the_end_of_a_longer_one():
    rng = np.random.default_rng(0)
    rates = schedule(1000)
    steps = np.arange(100, 1001, 20)
    losses = TRUTH.loss(rates)[steps - 1] * np.exp(rng.normal(0, 0.001, len(steps)))
    fitted = fit_curve(steps, losses, rates, memory=TRUTH.memory)
    longer = schedule(3000)
    assert fitted.rms_residual < 0.002
    assert fitted.loss(rates)[-1] == pytest.approx(TRUTH.loss(rates)[-1], rel=0.002)
    assert fitted.loss(longer)[-1] == pytest.approx(TRUTH.loss(longer)[-1], rel=0.02)


def test_a_constant_rate_or_a_handful_of_points_is_refused():
    flat = np.ones(200)
    with pytest.raises(LawError, match="no point lies in a decay"):
        fit_curve(np.arange(10, 200, 10), np.linspace(3, 2, 19), flat)
    with pytest.raises(LawError, match="too few points on the curve"):
        fit_curve(np.arange(1, 5), np.ones(4), flat)


def test_with_the_annealing_of_other_runs_the_part_before_the_decay_is_enough():
    rng = np.random.default_rng(1)
    rates = schedule(1000)
    steps = np.arange(100, 701, 5)
    losses = TRUTH.loss(rates)[steps - 1] * np.exp(rng.normal(0, 0.001, len(steps)))
    with pytest.raises(LawError, match="no point lies in a decay"):
        fit_curve(steps, losses, rates, memory=TRUTH.memory)
    fitted = fit_curve(steps, losses, rates, memory=TRUTH.memory, annealing=TRUTH.annealing)
    assert fitted.annealing == pytest.approx(TRUTH.annealing, rel=1e-6)
    assert fitted.loss(rates)[-1] == pytest.approx(TRUTH.loss(rates)[-1], rel=0.003)
