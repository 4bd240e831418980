"""Forecasts: coverage on synthetic truth, refusals with a cure, warnings with their number, registry."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.diagnose import crossed, curvature
from stepladder.laws.estimate import FitOptions, fit_form, neighbour_agreement, replicate_noise
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import FORMS, form_named, predict
from stepladder.laws.intervals import components, forecast, target_warnings
from stepladder.laws.nextrun import next_run, next_runs
from stepladder.laws.optimum import Prices, best_for_budget, cheapest_for_loss
from stepladder.laws.registry import find_forecasts, freeze, is_intact, record_outcome, write_forecasts
from stepladder.laws.rollout import cut_levels
from stepladder.laws.score import calibrate, score
from stepladder.laws.show import law_text
from stepladder.laws.table import read_observations
from stepladder.records import Law, Observation, from_json, to_json

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}
TARGET = (4e8, 8e9)


def runs(points=13, noise=0.005, seed=0, ratios=(2.0, 60.0), truth=TRUTH, **notes):
    rng = np.random.default_rng(seed)
    flops = 10 ** np.linspace(16, 18, points)
    ratio = np.exp(rng.uniform(*np.log(ratios), points))
    params = np.sqrt(flops / 6 / ratio)
    loss = predict("chinchilla", truth, params, params * ratio) * np.exp(rng.normal(0, noise, points))
    return [
        Observation(run=f"r{i}", params=n, tokens=n * r, loss=y, notes=notes)
        for i, (n, r, y) in enumerate(zip(params, ratio, loss, strict=True))
    ]


@pytest.fixture(scope="module")
def law() -> Law:
    return fit_law(read_observations(runs()))


def test_a_tenfold_forecast_is_near_the_truth(law):
    found = forecast(law, *TARGET)
    true = float(predict("chinchilla", TRUTH, *TARGET))
    assert found.status == "ok"
    assert found.horizon == pytest.approx(6 * TARGET[0] * TARGET[1] / 1e18, rel=1e-6)
    assert found.loss.value == pytest.approx(true, rel=0.03)
    assert found.loss.low95 < found.loss.low80 < found.loss.value < found.loss.high80 < found.loss.high95


def test_intervals_hold_on_small_noisy_ladders():
    inside80 = inside95 = 0
    errors = []
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        truth = TRUTH | {"E": rng.uniform(0.5, 2.5), "alpha": rng.uniform(0.28, 0.45)}
        truth["A"] = 1.2 * 1e6 ** truth["alpha"]
        fitted = fit_law(read_observations(runs(12, 0.005, seed, truth=truth)), FitOptions(bootstraps=100))
        outcome = float(predict("chinchilla", truth, *TARGET)) * math.exp(rng.normal(0, 0.005))
        result = score(forecast(fitted, *TARGET), outcome)
        inside80 += result.forecast.held80(outcome)
        inside95 += result.forecast.held95(outcome)
        errors.append(abs(result.relative_error))
    # Thirty draws of an 80 % interval fall below 19 with probability .01, of a 95 % one below 25 too.
    assert inside80 >= 19
    assert inside95 >= 25
    assert np.median(errors) < 0.02


def test_intervals_grow_with_the_horizon(law):
    widths = [
        item.loss.high95 / item.loss.low95 for item in (forecast(law, 2e7 * k, 4e8 * k) for k in (1, 4, 16))
    ]
    assert widths == sorted(widths)


def test_the_same_runs_give_the_same_law_and_json_carries_it(law):
    again = fit_law(read_observations(runs()))
    assert again.fingerprint == law.fingerprint
    assert forecast(again, *TARGET) == forecast(law, *TARGET)
    carried = from_json(Law, json.loads(json.dumps(to_json(law))))
    assert forecast(carried, *TARGET).loss == forecast(law, *TARGET).loss


def test_a_heteroscedastic_replicate_pair_does_not_break_roll_outs():
    assert list(cut_levels(np.array([0.0, 0.0, 1, 2, 3, 4, 5, 5.001, 6]), 4, 8)) == [2.0, 3.0, 4.0, 5.001]


def refusal(rows):
    return forecast(fit_law(read_observations(rows)), *TARGET)


def test_constant_ratio_is_refused_with_a_cure_and_a_wide_interval(law):
    found = refusal(runs(ratios=(20.0, 20.0)))
    assert found.status == "refused"
    assert found.reason.startswith(
        "tokens per parameter are nearly constant (20 to 20): size and data cannot"
    )
    assert "a run of 9.13M parameters on 1.46B tokens" in found.reason
    assert found.loss.held80(float(predict("chinchilla", TRUTH, *TARGET)))
    assert (
        found.loss.high95 / found.loss.low95
        > forecast(law, *TARGET).loss.high95 / forecast(law, *TARGET).loss.low95
    )


def test_one_size_only_is_refused():
    rows = [replace(row, params=1e7, tokens=2e7 * 1.4**i) for i, row in enumerate(runs())]
    found = refusal(rows)
    assert found.status == "refused"
    assert found.reason.startswith("all runs have nearly one size (10M to 10M): its effect is unknown; the")


def test_too_few_runs_are_refused_and_two_are_an_error():
    found = refusal(runs(6))
    assert found.status == "refused"
    assert found.reason.startswith("6 runs cannot determine 5 constants and show their own error: 7 or more")
    assert "the cheapest cure is a run of" in found.reason
    with pytest.raises(LawError) as caught:
        fit_law(read_observations(runs(1)))
    assert str(caught.value) == (
        "too few runs for any law\n  got:     1 run\n  allowed: at least 3; a forecast that is not refused "
        "needs 7 or more"
    )


def test_a_law_that_turns_down_is_refused():
    rows = runs(40, 0.001)
    turned = [
        replace(row, loss=row.loss * (1 - 0.05 * max(math.log10(6 * row.params * row.tokens / 1e17), 0) ** 2))
        for row in rows
    ]
    fitted = fit_form(FORMS["chinchilla"], read_observations(turned), FitOptions(weight_power=0.25))
    straight = fit_form(FORMS["chinchilla"], read_observations(rows), FitOptions(weight_power=0.25))
    assert curvature(fitted)[1] > 4 > curvature(straight)[1]
    assert neighbour_agreement(fitted)[0] > 0.2 > neighbour_agreement(straight)[0]


def test_an_interval_that_says_nothing_is_refused():
    found = forecast(fit_law(read_observations(runs(9, 0.12))), 1e12, 2e13)
    assert found.status == "refused"
    assert "the runs do not determine it" in found.reason or "not identified" in found.reason


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda i, row: replace(row, nonembed_params=row.params * (0.3 if i < 6 else 0.9)),
            "embeddings are 10% to 70%",
        ),
        (lambda i, row: replace(row, notes={"schedule": ["cosine", "wsd"][i % 2]}), "2 different schedules"),
        (
            lambda i, row: replace(row, notes={"tokenizer": ["a", "b"][i % 2]}),
            "2 different tokenizers (a, b)",
        ),
        (lambda i, row: replace(row, notes={"lr": [1e-3, 4e-3][i % 2]}), "learning rates follow no rule"),
        (
            lambda i, row: replace(row, notes={"in_context_score": i - 6.5}),
            "6 of 13 runs have an in-context score",
        ),
        (lambda i, row: replace(row, notes={"in_context_score": -0.01}), "no run has passed the in-context"),
        (lambda i, row: replace(row, run="one", params=1e7), "12 points look like the middle of longer runs"),
        (
            lambda i, row: replace(row, loss=row.loss * (1 / math.log(2) if i in (3, 7, 9) else 1)),
            "bits and nats",
        ),
    ],
)
def test_each_warning_names_its_number(change, text):
    rows = [change(i, row) for i, row in enumerate(runs())]
    assert any(text in warning for warning in fit_law(read_observations(rows)).warnings)


def test_replicates_measure_the_noise_and_expose_a_wrong_law():
    rows = runs()
    twice = rows + [replace(row, loss=row.loss * 1.001, seed=1) for row in rows]
    noise, freedom = replicate_noise(read_observations(twice))
    assert freedom == len(rows)
    assert noise == pytest.approx(math.log(1.001) / math.sqrt(2), rel=1e-6)
    wrong = [replace(row, loss=row.loss * (1 + 0.03 * (-1) ** (i % 13))) for i, row in enumerate(twice)]
    assert any("seeds differ by 0.07%" in warning for warning in fit_law(read_observations(wrong)).warnings)


def test_clean_runs_give_no_warning_about_runs(law):
    words = ("embeddings", "schedules", "learning rates", "middle of longer", "bits and nats", "in-context")
    assert not [warning for warning in law.warnings if any(word in warning for word in words)]


def test_targets_far_away_or_outside_the_box_are_named(law):
    far = forecast(law, 4e9, 8e10, run="far")
    thin = forecast(law, 4e9, 4e8, run="thin")
    assert target_warnings(law, [forecast(law, *TARGET)]) == ()
    assert target_warnings(law, [far])[0].startswith("far lies 1.92e+03 times above the fitted compute")
    assert any("thin has 0.1 tokens per parameter" in text for text in target_warnings(law, [thin]))


def test_repeated_tokens_cost_loss_and_width(law):
    fresh, repeated = forecast(law, *TARGET), forecast(law, *TARGET, unique_tokens=TARGET[1] / 20)
    assert repeated.loss.value > fresh.loss.value
    assert repeated.loss.high80 / repeated.loss.low80 > fresh.loss.high80 / fresh.loss.low80


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_targets_are_errors(law, bad):
    with pytest.raises(LawError, match="must be a number above zero"):
        forecast(law, bad, 1e9)


def test_next_run_narrows_and_stays_within_the_ladder(law):
    run = next_run(law, *TARGET)
    assert 0 < run.narrows <= 1
    assert run.flops <= law.largest_flops * 1.1


def test_unknown_form_is_named():
    with pytest.raises(LawError, match='did you mean "chinchilla"'):
        form_named("chinchila")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_and_forecasts(form):
    fitted = fit_law(read_observations(runs()), FitOptions(form=form, bootstraps=40))
    assert set(fitted.terms) == set(FORMS[form].names)
    assert forecast(fitted, *TARGET).loss.value == pytest.approx(
        float(predict(form, fitted.terms, *TARGET)), rel=1e-9
    )


def test_compute_optimum_agrees_with_the_closed_form(law):
    exact = replace(law, form="chinchilla", terms=TRUTH)
    best = best_for_budget(exact, 1e20)
    ratio = TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])
    shares = TRUTH["alpha"] + TRUTH["beta"]
    params = ratio ** (1 / shares) * (1e20 / 6) ** (TRUTH["beta"] / shares)
    assert best.params == pytest.approx(params, rel=0.01)
    cheapest = cheapest_for_loss(exact, best.loss)
    assert cheapest.cost == pytest.approx(1e20, rel=1e-4)


def test_serving_makes_the_best_model_smaller_and_unreachable_losses_are_named(law):
    exact = replace(law, form="chinchilla", terms=TRUTH)
    plain, served = (cheapest_for_loss(exact, 2.4, inference_tokens=tokens) for tokens in (0.0, 1e13))
    assert served.params < plain.params
    assert served.tokens > plain.tokens
    dear = cheapest_for_loss(exact, 2.4, inference_tokens=1e13, prices=Prices(training=1.0, inference=3.0))
    assert dear.params < served.params
    with pytest.raises(LawError, match=r"above the floor 1\.7"):
        cheapest_for_loss(exact, 1.6)
    with pytest.raises(LawError, match="does not pay for serving"):
        best_for_budget(exact, 1.0, inference_tokens=1e15)


def test_frozen_forecasts_are_found_scored_and_guarded(tmp_path, law):
    path = tmp_path / "forecast.json"
    frozen = freeze(forecast(law, *TARGET, run="target"), created="2026-01-02T03:04:05+00:00")
    assert is_intact(frozen)
    write_forecasts(path, [frozen], note="kept")
    outcome = frozen.loss.value * 1.001
    assert record_outcome(path, outcome).relative_error == pytest.approx(-0.000999, rel=1e-3)
    (item,) = find_forecasts(tmp_path)
    assert item.score is not None
    assert item.score.outcome == outcome
    calibration = calibrate([item.score])
    assert (calibration.count, calibration.share80, calibration.share95) == (1, 1.0, 1.0)
    changed = replace(frozen, loss=replace(frozen.loss, high80=9.0))
    write_forecasts(path, [changed])
    assert not find_forecasts(path)[0].intact
    with pytest.raises(LawError, match="was changed after it was frozen"):
        record_outcome(path, outcome)


def test_registry_errors(tmp_path, law):
    with pytest.raises(LawError, match="no frozen forecast in"):
        find_forecasts(tmp_path)
    with pytest.raises(LawError, match="does not exist"):
        find_forecasts(tmp_path / "absent")
    write_forecasts(
        tmp_path / "forecast.json", [freeze(forecast(law, *TARGET, run=name)) for name in ("one", "two")]
    )
    with pytest.raises(LawError, match="holds 2 forecasts"):
        record_outcome(tmp_path / "forecast.json", 2.0)
    with pytest.raises(LawError, match='did you mean "two"'):
        record_outcome(tmp_path / "forecast.json", 2.0, run="twoo")
    with pytest.raises(LawError, match="finite loss above zero"):
        record_outcome(tmp_path / "forecast.json", math.nan, run="two")
    with pytest.raises(LawError, match="no scored forecast yet"):
        calibrate([])


def test_components_are_the_sources_of_the_width(law):
    parts = components(law, *TARGET)
    sources = {"draws", "rivals", "rollout", "bias", "noise", "earlier"}
    assert set(parts) == {"log_loss", "horizon"} | sources
    assert all(parts[name] > 0 for name in ("draws", "rivals", "rollout", "noise"))
    assert parts["earlier"] == 0


def test_what_earlier_ladders_missed_by_widens_the_interval_in_squares(law):
    wider = fit_law(read_observations(runs()), FitOptions(earlier_rms=0.02))
    parts, before = components(wider, *TARGET), forecast(law, *TARGET).loss
    assert parts["earlier"] == pytest.approx(0.02 * (0.35 + parts["horizon"]))
    after = forecast(wider, *TARGET).loss
    assert after.value == before.value
    half = [math.log(item.high80 / item.value) for item in (before, after)]
    assert half[1] == pytest.approx(math.hypot(half[0], 1.2 * parts["earlier"]))
    assert "earlier    ladders of this kind" in law_text(wider)
    assert "earlier " not in law_text(law)


def test_each_next_run_narrows_what_the_ones_before_left(law):
    found = next_runs(law, *TARGET, 5)
    spread = components(law, *TARGET)
    assert found[0] == next_run(law, *TARGET)
    left = [item.left for item in found]
    assert left == sorted(left, reverse=True)
    assert sum(item.narrows for item in found) < 1
    assert left[0] < 1.3 * spread["draws"]


def test_the_next_run_narrows_as_much_as_it_says(law):
    rows = runs()
    wanted = next_run(law, *TARGET)
    loss = float(predict("chinchilla", TRUTH, wanted.params, wanted.tokens))
    more = [Observation(run="next", params=wanted.params, tokens=wanted.tokens, loss=loss)]
    after = components(fit_law(read_observations(rows + more)), *TARGET)["draws"]
    before = components(fit_law(read_observations(rows)), *TARGET)["draws"]
    assert after < before
    assert after == pytest.approx(wanted.left, rel=0.5)


def test_a_target_that_uses_its_context_as_no_rung_did_has_crossed():
    assert crossed([0.034, 0.058], 0.144).startswith("a transition lies between ladder and target")
    assert crossed([0.034, 0.058], 0.07) == ""
    assert crossed([], 0.3) == ""
    assert crossed([0.01], math.nan) == ""
