"""From one loss to another: known lines are found, intervals hold, and what cannot be told is refused."""

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import predict
from stepladder.laws.losslink import LinkedRuns, fit_loss_link, forecast_linked
from stepladder.laws.table import read_observations
from stepladder.records import Law as LawRecord
from stepladder.records import Observation, from_json, to_json

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}
TARGET = (3e8, 6e9)


def runs_of(points=11, seed=0, slope=0.8, noise=0.01, **more):
    rng = np.random.default_rng(seed)
    flops = 10 ** np.linspace(16.5, 18.5, points)
    ratio = np.exp(rng.uniform(np.log(5), np.log(60), points))
    params = np.sqrt(flops / 6 / ratio)
    loss = predict("chinchilla", TRUTH, params, params * ratio) * np.exp(rng.normal(0, 0.004, points))
    table = read_observations(
        [
            Observation(run=f"r{i}", params=n, tokens=d, loss=y)
            for i, (n, d, y) in enumerate(zip(params, params * ratio, loss, strict=True))
        ]
    )
    values = 0.9 * table.loss**slope * np.exp(rng.normal(0, noise, points))
    return LinkedRuns(table=table, values=values, metric="answer_bits_per_byte", **more)


def link_of(runs):
    return fit_loss_link(runs, fit_law(runs.table, FitOptions(bootstraps=100)))


def outcome_of(seed, slope=0.8, noise=0.01):
    loss = predict("chinchilla", TRUTH, np.array([TARGET[0]]), np.array([TARGET[1]]))[0]
    return 0.9 * loss**slope * np.exp(np.random.default_rng(900 + seed).normal(0, noise))


def test_a_line_without_noise_is_found():
    link = link_of(runs_of(noise=0.0))
    assert link.line.slope == pytest.approx(0.8, abs=0.01)
    assert link.refusal == ""
    at = np.array([3.0])
    assert float(np.exp(link.line.at(at))[0]) == pytest.approx(0.9 * 3.0**0.8, rel=2e-3)


def test_intervals_hold_where_the_truth_is_known():
    inside80 = inside95 = 0
    for seed in range(6):
        said = forecast_linked(link_of(runs_of(seed=seed)), *TARGET)
        assert said.status == "ok"
        outcome = outcome_of(seed)
        inside80 += said.loss.held80(outcome)
        inside95 += said.loss.held95(outcome)
    assert inside80 >= 4
    assert inside95 >= 5


def test_the_interval_of_the_loss_widens_that_of_the_link():
    runs = runs_of()
    law = fit_law(runs.table, FitOptions(bootstraps=100))
    wide = from_json(LawRecord, {**to_json(law), "quality": {**law.quality, "sigma": 0.1}})
    narrow, wider = (forecast_linked(fit_loss_link(runs, one), *TARGET).loss for one in (law, wide))
    assert wider.value == pytest.approx(narrow.value)
    assert wider.high95 > narrow.high95
    assert wider.low95 < narrow.low95


def test_noise_is_refused_in_words():
    said = forecast_linked(link_of(runs_of(slope=0.0, noise=0.05)), *TARGET)
    assert said.status == "refused"
    assert "does not follow the loss" in said.reason


def test_a_loss_that_stays_near_that_of_guessing_is_refused():
    runs = runs_of(noise=0.001)
    law = fit_law(runs.table, FitOptions(bootstraps=100))
    value = forecast_linked(fit_loss_link(runs, law), *TARGET).loss.value
    errors = np.full(11, 0.01)
    near = runs_of(noise=0.001, chance=value + 0.02, errors=errors)
    far = runs_of(noise=0.001, chance=value + 0.06, errors=errors)
    said = forecast_linked(fit_loss_link(near, law), *TARGET)
    assert "within 3 standard errors of guessing" in said.reason
    assert forecast_linked(fit_loss_link(far, law), *TARGET).status == "ok"


def test_few_runs_are_refused_and_too_few_an_error():
    runs = runs_of(points=9)
    some = runs.values.copy()
    some[4:] = np.nan
    few = fit_loss_link(LinkedRuns(table=runs.table, values=some, metric="m"))
    assert "4 runs for a line" in few.refusal or "does not follow" in few.refusal
    some[2:] = np.nan
    with pytest.raises(LawError, match="too few runs with m"):
        fit_loss_link(LinkedRuns(table=runs.table, values=some, metric="m"))
    with pytest.raises(LawError, match="above zero"):
        fit_loss_link(LinkedRuns(table=runs.table, values=0 * runs.values, metric="m"))
