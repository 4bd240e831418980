import math

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws import labels
from stepladder.laws.labels import CurvePoints, fit_labels, forecast_labels, pays_until, purchase

SIZES = np.array([50, 100, 200, 400, 800, 1_600])


def measured(error, *, sizes=SIZES, test_rows=2_000, draws=3, blind=0.9, seed=0) -> CurvePoints:
    """Independent wrong rows with the chance `error(n)`."""
    draw = np.random.default_rng(seed)
    chance = np.array([error(size) for size in sizes])
    loss = (draw.random((draws, len(sizes), test_rows)) < chance[None, :, None]).astype(float)
    loss[:, -1] = loss[:1, -1]
    return CurvePoints(
        metric="accuracy",
        sizes=np.array(sizes),
        loss=loss,
        groups=np.arange(test_rows),
        blind=(draw.random(test_rows) < blind).astype(float),
        pool=int(sizes[-1]),
    )


def power_law(size: float) -> float:
    return 0.05 + 0.2 * (size / 1_600) ** -0.4


def test_slopes_are_those_of_the_form():
    theta, x = np.array([[-1.0, -0.5, -1.0, -2.0]]), np.array([-2.0, 0.0, 1.4])
    error = labels._log_error(x)
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-6
        slope = (error(theta + step)[0] - error(theta - step)[0]) / 2e-6
        np.testing.assert_allclose(error(theta)[1][:, :, k], slope, atol=1e-7)


def test_a_power_law_is_forecast_within_its_interval():
    curve = fit_labels(measured(power_law))
    said = forecast_labels(curve, 6_400)
    assert curve.refusal == ""
    assert said.low95 < said.low80 < said.value < said.high80 < said.high95
    assert said.held80(1 - power_law(6_400))
    assert abs(said.value - (1 - power_law(6_400))) < 0.03


def test_coverage_on_simulated_power_laws_is_near_nominal():
    draw, held = np.random.default_rng(3), []
    for seed in range(60):
        floor, last, b = draw.uniform(0, 0.15), draw.uniform(0.05, 0.2), draw.uniform(0.2, 0.6)

        def error(size, floor=floor, last=last, b=b):
            return min(floor + last * (size / 1_600) ** -b, 0.9)

        said = forecast_labels(fit_labels(measured(error, test_rows=500, seed=seed)), 6_400)
        held.append(said.held80(1 - (draw.random(500) < error(6_400)).mean()))
    # 60 trials at .8: three standard errors are .15.
    assert 0.65 <= np.mean(held) <= 0.98


def test_groups_and_fewer_test_rows_widen_the_interval():
    points = measured(power_law)
    plain = forecast_labels(fit_labels(points), 6_400)
    copies = CurvePoints(
        metric=points.metric,
        sizes=points.sizes,
        loss=np.repeat(points.loss[..., :500], 4, axis=-1),
        groups=np.repeat(np.arange(500), 4),
        blind=np.repeat(points.blind[:500], 4),
        pool=points.pool,
    )
    grouped = forecast_labels(fit_labels(copies), 6_400)
    few = forecast_labels(fit_labels(points), 6_400, test_rows=100)
    width = plain.high80 - plain.low80
    assert grouped.high80 - grouped.low80 > 1.2 * width
    assert few.high80 - few.low80 > 1.2 * width


def test_covariance_of_test_rows_is_that_of_means():
    points = measured(lambda size: 0.3, test_rows=5_000)
    covariance = labels.test_covariance(points)
    # The last size is one run: 0.3 · 0.7 / rows; the others are means of three independent ones.
    assert covariance[-1, -1] == pytest.approx(0.21 / 5_000, rel=0.05)
    assert covariance[0, 0] == pytest.approx(0.07 / 5_000, rel=0.05)
    assert abs(covariance[0, 1]) < 0.1 * covariance[0, 0]


def test_a_flat_curve_is_refused():
    assert "flat" in fit_labels(measured(lambda size: 0.3)).refusal


def test_a_curve_that_is_not_above_guessing_is_refused():
    refusal = fit_labels(measured(lambda size: 0.5 - 0.001 * math.log(size), blind=0.5)).refusal
    assert "standard errors better than an answer that reads nothing" in refusal


def test_three_sizes_are_too_few():
    with pytest.raises(LawError, match="too few sizes") as caught:
        fit_labels(measured(power_law, sizes=SIZES[-3:]))
    assert "4 or more, from 200 labels" in str(caught.value)


def test_a_purchase_costs_what_its_labels_cost():
    curve = fit_labels(measured(power_law))
    twice, often = purchase(curve, 3_200, 0.5), purchase(curve, 12_800, 0.5)
    assert twice.usd == 800
    assert twice.usd_per_point == pytest.approx(800 / twice.gain)
    assert twice.gain_low < twice.gain < twice.gain_high
    assert 0 < twice.gain < often.gain
    assert often.usd_per_point > twice.usd_per_point
    assert twice.gain == pytest.approx(100 * (power_law(1_600) - power_law(3_200)), abs=1.5)


def test_labels_pay_until_a_point_costs_more_than_it_is_worth():
    curve = fit_labels(measured(power_law))
    assert pays_until(curve, 1.0, 1.0) == 1_600
    assert pays_until(curve, 1e-6, 100.0) == pytest.approx(8 * 1_600)
    until = pays_until(curve, 1.0, 600.0)
    assert 1_600 < until < 8 * 1_600
    step = purchase(curve, round(until) + 100).gain - purchase(curve, round(until)).gain
    assert 100 / step == pytest.approx(600, rel=0.1)
