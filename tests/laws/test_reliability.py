"""Reliability of many forecasts: levels, shares, bias, buckets; which scores count; outcomes of climbs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from stepladder.errors import LawError, StoreError
from stepladder.laws.registry import find_forecasts, freeze, record_outcome, scored_of, write_forecasts
from stepladder.laws.score import (
    LEVELS,
    Z80,
    Z95,
    Scored,
    bias_of,
    bucket,
    calibrate,
    reliability,
    surprise,
    tail,
    wilson,
)
from stepladder.records import Forecast, Interval, Score, to_json


def interval(value=2.0, sd=0.02, wider=1.0):
    ends = [value * math.exp(z * sd) for z in (-Z80, Z80, -Z95 * wider, Z95 * wider)]
    return Interval(value=value, low80=ends[0], high80=ends[1], low95=ends[2], high95=ends[3])


def result(outcome, quantity="loss_bits_per_byte", **shape):
    return Score(run="r", quantity=quantity, forecast=interval(**shape), outcome=outcome)


def test_surprise_counts_normal_deviations_on_either_side():
    for z in (-2.5, -1.5, -0.3, 0.0, 0.7, 1.7, 2.2):
        assert surprise(result(2.0 * math.exp(0.02 * z))) == pytest.approx(abs(z))


def test_levels_between_those_given_are_linear_in_the_normal_quantile():
    # The 95 % interval is twice as wide as a normal one: 90 % lies on the line from 80 to 95 %.
    slope = (2 * Z95 - Z80) / (Z95 - Z80)
    for level, z in LEVELS.items():
        reach = z if z <= Z80 else Z80 + (z - Z80) * slope
        inside, outside = (result(2.0 * math.exp(0.02 * reach * k), wider=2.0) for k in (0.999, 1.001))
        assert surprise(inside) < z < surprise(outside), level


def test_an_outcome_on_the_limit_is_inside_like_held80_and_held95():
    said = interval()
    for end in (said.low80, said.high80, said.low95, said.high95):
        item = Score(run="r", quantity="loss", forecast=said, outcome=end)
        (row,) = reliability([Scored(score=item)])
        held = {share.level: share.held for share in row.shares}
        assert (held[0.8], held[0.95]) == (said.held80(end), said.held95(end))


def test_an_interval_without_width_holds_only_its_value():
    point = Interval(value=2.0, low80=2.0, high80=2.0, low95=2.0, high95=2.0)
    assert surprise(Score(run="r", quantity="loss", forecast=point, outcome=2.0)) == 0
    assert surprise(Score(run="r", quantity="loss", forecast=point, outcome=2.01)) == math.inf


def test_true_forecasts_are_found_reliable_and_narrow_ones_not():
    rng = np.random.default_rng(0)
    truth = [Scored(score=result(2.0 * math.exp(0.02 * z))) for z in rng.normal(size=2000)]
    narrow = [Scored(score=result(2.0 * math.exp(0.04 * z))) for z in rng.normal(size=2000)]
    for share in reliability(truth)[0].shares:
        assert share.share == pytest.approx(share.level, abs=0.03)
    at80 = reliability(narrow)[0].shares[1]
    assert at80.high < 0.8
    assert at80.share == pytest.approx(0.478, abs=0.04)  # P(|z| < 1.2816 / 2)


def test_wilson_interval_and_binomial_tail_agree_with_the_tables():
    # Wilson's 95 % interval of 7 in 10 (Newcombe, Stat. Med. 17, 1998, method 3, by its formula).
    assert wilson(0.7, 10, 1.959964) == pytest.approx((0.39678, 0.89221), abs=1e-5)
    assert wilson(1.0, 5) == pytest.approx((5 / (5 + Z80**2), 1.0))
    assert wilson(0.0, 5) == pytest.approx((0.0, Z80**2 / (5 + Z80**2)))
    assert tail(2, 5, 0.8) == pytest.approx(0.05792)
    assert tail(5, 5, 0.8) == pytest.approx(1.0)
    assert tail(-1, 5, 0.8) == 0


def test_bias_is_the_mean_log_error_with_its_standard_error():
    scores = [result(2.0 * math.exp(-error)) for error in (0.01, 0.02, 0.03)]
    assert bias_of(scores) == (pytest.approx(0.02), pytest.approx(0.01 / math.sqrt(3)), 3)
    mean, error, count = bias_of(scores[:1])
    assert (mean, count) == (pytest.approx(0.01), 1)
    assert math.isnan(error)
    with pytest.raises(LawError, match="no scored forecast yet"):
        bias_of([])


def test_forecasts_of_one_law_count_as_one():
    errors = [0.01, 0.012, 0.03]
    laws = ["a", "a", "b"]
    scored = [
        Scored(score=result(2 * math.exp(-error)), law=law) for error, law in zip(errors, laws, strict=True)
    ]
    (row,) = reliability(scored)
    assert (row.count, row.laws, row.too_high) == (3, 2, 2)
    assert row.bias == pytest.approx((0.011 + 0.03) / 2)
    assert row.shares[1].share == pytest.approx(2 / 3)
    assert (row.shares[1].low, row.shares[1].high) == wilson(2 / 3, 2)
    (alone,) = reliability([replace(item, law="") for item in scored])
    assert alone.laws == 3
    assert alone.shares[1].low > row.shares[1].low


def test_rows_by_quantity_and_horizon_of_which_empty_ones_are_left_out():
    horizons = (2.0, 10.2, 30.0, 40.0, 500.0, math.nan)
    scored = [Scored(score=result(2.0), horizon=horizon) for horizon in horizons]
    scored.append(Scored(score=result(2.0, quantity="loss_nats_per_token"), horizon=2.5))
    scored.append(Scored(score=result(2.0, quantity="seconds"), horizon=5.0))
    rows = [(row.quantity, row.horizon, row.count) for row in reliability(scored)]
    assert rows == [
        ("loss", "all", 7),
        ("loss", "<3x", 2),
        ("loss", "3-10x", 1),
        ("loss", "10-30x", 1),
        ("loss", ">30x", 2),
        ("loss", "unknown", 1),
        ("seconds", "all", 1),
    ]
    assert bucket(10.4) == "3-10x"
    assert bucket(10.6) == "10-30x"


def said(run="target", created="2026-01-02T03:04:05+00:00", **changes):
    loss, seconds = interval(), interval(100.0, 0.1)
    whole = Forecast(run=run, params=1e6, tokens=1e7, loss=loss, loss_unit="bits_per_byte", horizon=8.0)
    return freeze(replace(whole, costs={"seconds": seconds}, **changes), created=created)


def climbed(folder, forecast, loss=2.01, seconds=120.0):
    """Write what a climb leaves behind."""
    write_forecasts(folder / "forecast.json", [forecast])
    pairs = (("loss_bits_per_byte", forecast.loss, loss), ("seconds", forecast.costs["seconds"], seconds))
    scores = [Score(run=forecast.run, quantity=q, forecast=f, outcome=y) for q, f, y in pairs]
    (folder / "score.json").write_text(json.dumps({"scores": [to_json(item) for item in scores]}))


def test_scores_of_climbs_are_found_with_loss_and_seconds(tmp_path):
    climbed(tmp_path / "one", said())
    climbed(tmp_path / "two", said(tokens=2e7), loss=math.nan)
    first, second = find_forecasts(tmp_path)
    assert first.score.outcome == 2.01
    assert [(item.quantity, item.outcome) for item in first.others] == [("seconds", 120.0)]
    assert second.score is None
    assert [(item.quantity, item.name, item.horizon) for item in scored_of([first, second])] == [
        ("loss", "one/target", 8.0),
        ("seconds", "one/target", 8.0),
        ("seconds", "two/target", 8.0),
    ]


def test_an_outcome_by_hand_stands_before_the_climbs(tmp_path):
    climbed(tmp_path, said())
    record_outcome(tmp_path / "forecast.json", 2.2)
    (item,) = find_forecasts(tmp_path)
    assert item.score.outcome == 2.2
    assert len(item.others) == 1


def test_scores_of_another_forecast_or_run_are_not_taken(tmp_path):
    climbed(tmp_path, said())
    write_forecasts(tmp_path / "forecast.json", [said(loss=interval(3.0))])
    (item,) = find_forecasts(tmp_path)
    assert item.score is None
    assert item.uncounted == "score.json beside it scores another forecast"
    write_forecasts(tmp_path / "forecast.json", [said(run="other")])
    (item,) = find_forecasts(tmp_path)
    assert (item.score, item.others, item.uncounted) == (None, (), "")


def test_changed_forecasts_do_not_count(tmp_path):
    climbed(tmp_path, replace(said(), horizon=5.0))
    (item,) = find_forecasts(tmp_path)
    assert not item.intact
    assert item.uncounted == "it was changed after it was frozen"
    assert scored_of([item]) == []


def test_copies_and_later_forecasts_of_a_run_count_once(tmp_path):
    climbed(tmp_path / "one", said())
    climbed(tmp_path / "copy", said())
    late = said(created="2027-01-01T00:00:00+00:00", loss=interval(2.1))
    write_forecasts(tmp_path / "one" / "late-forecast.json", [late])
    assert len(scored_of(find_forecasts(tmp_path))) == 2
    record_outcome(tmp_path / "one" / "late-forecast.json", 2.0)
    found = {str(item.path.relative_to(tmp_path)): item for item in find_forecasts(tmp_path)}
    assert sum(item.uncounted == "" for item in found.values()) == 1
    assert found["one/forecast.json"].uncounted.startswith("it is a copy of")
    folder = {str(item.path.name): item for item in find_forecasts(tmp_path / "one")}
    assert folder["forecast.json"].uncounted == ""
    assert folder["late-forecast.json"].uncounted.startswith("its run was forecast before in")


def test_two_forecasts_of_one_run_in_one_file_count_once(tmp_path):
    path = tmp_path / "forecast.json"
    write_forecasts(path, [said(), said(created="2027-01-01T00:00:00+00:00")])
    record_outcome(path, 2.0, run="target")
    first, second = find_forecasts(path)
    assert (first.uncounted, bool(second.uncounted)) == ("", True)


@pytest.mark.parametrize("text", ["{", "[]", '{"scores": [{"run": "target"}]}', '{"scores": 3}', "{}"])
def test_a_damaged_score_file_is_named(tmp_path, text):
    climbed(tmp_path, said())
    (tmp_path / "score.json").write_text(text)
    with pytest.raises(StoreError, match=r"score\.json"):
        find_forecasts(tmp_path)


def test_calibrate_tells_the_median_of_even_and_odd_sets():
    scores = [result(2.0 / (1 + error)) for error in (0.01, -0.02, 0.04)]
    assert calibrate(scores).median_error == pytest.approx(0.02)
    assert calibrate(scores[1:]).median_error == pytest.approx(0.03)
    assert calibrate(scores).mean_signed_error == pytest.approx(0.01)
    assert (calibrate(scores).share80, calibrate(scores).share95) == (2 / 3, 2 / 3)
