"""Forms that read more of a run than its size and tokens."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.estimate import FitOptions, fit_form, parse_floor
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import FORMS, bent_form, form_named, pooled_form, predict, to_constants
from stepladder.laws.intervals import forecast
from stepladder.laws.table import read_observations
from stepladder.records import Law, Observation, from_json, to_json

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"
TRUTH = {"E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37}
TARGET = (1e9, 2e10)


def runs(points, corpus="a", scale=1.0, seed=0, noise=0.002, **constants):
    """Runs of 1e17 to 1e19 FLOP on one corpus whose loss is `scale` times the truth's."""
    rng = np.random.default_rng(seed)
    flops, ratio = 10 ** rng.uniform(17, 19, points), 10 ** rng.uniform(0.3, 1.8, points)
    size = np.sqrt(flops / 6 / ratio)
    loss = scale * predict("chinchilla", TRUTH | constants, size, size * ratio)
    return [
        Observation(run=f"{corpus}{i}", params=n, tokens=d, loss=y, notes={"corpus": corpus})
        for i, (n, d, y) in enumerate(
            zip(size, size * ratio, loss * np.exp(rng.normal(0, noise, points)), strict=True)
        )
    ]


def clark_rows():
    """Last points of dense runs and of S-Base with one of two layers routed to one expert."""
    if not REFERENCE.is_dir():
        pytest.skip("the folder ../shared/reference/laws is absent")
    last = {}
    with (REFERENCE / "routing_clark2022.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["run_id"].rsplit("-st", 1)[0]
            if name not in last or float(row["step"]) > float(last[name]["step"]):
                last[name] = row
    kept = [
        row
        for row in last.values()
        if "Dense" in row["family"] or (row["k"], row["routing_frequency"]) == ("1", "0.5")
    ]
    return [
        Observation(
            run=row["run_id"],
            params=float(row["active_params"]),
            tokens=float(row["tokens"]),
            loss=float(row["loss"]),
            notes={"experts": float(row["experts"])},
        )
        for row in kept
    ]


def test_experts_reproduce_clark():
    table = read_observations(clark_rows())
    fitted = fit_form(form_named("experts"), table, FitOptions(method="plain", delta=1e6))
    constants = to_constants(fitted.form, fitted.theta, fitted.columns.centre)
    assert constants["alpha"] == pytest.approx(0.079, abs=6e-4)
    assert constants["beta"] == pytest.approx(0.083, abs=6e-4)
    # The published constants belong to logarithms to base 10.
    assert constants["gamma"] * math.log(10) == pytest.approx(0.0070, abs=1e-4)
    assert math.log10(constants["A"]) == pytest.approx(1.069, abs=2e-3)
    assert np.std(fitted.residual) / math.log(10) == pytest.approx(0.0055, abs=1e-4)


def test_more_experts_help_less_and_saturate():
    def loss(experts, form="experts", **more):
        constants = {"A": 12.0, "alpha": 0.08, "beta": 0.09, "gamma": 0.0034, **more}
        return predict(form, constants, 1e9, 1e11, {"experts": experts})

    gains = [float(loss([n]) / loss([4 * n])) for n in (1, 4, 16, 64)]
    assert min(gains) > 1
    capped = [float(loss([n], "experts[1.8, 314.0]")) for n in (1, 64, 10**6, 10**9)]
    assert capped == sorted(capped, reverse=True)
    assert capped[2] == pytest.approx(capped[3], rel=1e-4)


def test_saturation_is_found_where_the_runs_show_it():
    rng = np.random.default_rng(1)
    constants = {"A": 12.0, "alpha": 0.08, "beta": 0.09, "gamma": 0.0034}
    size, experts = 10 ** rng.uniform(7, 9, 60), 2.0 ** rng.integers(0, 11, 60)
    loss = predict("experts[1.8, 150.0]", constants, size, 1e11 * np.ones(60), {"experts": experts})
    rows = [
        Observation(run=str(i), params=n, tokens=1e11, loss=y * np.exp(e), notes={"experts": x})
        for i, (n, x, y, e) in enumerate(zip(size, experts, loss, rng.normal(0, 0.001, 60), strict=True))
    ]
    law = fit_law(read_observations(rows), FitOptions(form="experts"))
    assert law.form == "experts[1.8, 150.0]"
    assert from_json(Law, to_json(law)).spread == law.spread
    said = forecast(law, 3e9, 1e11, extra={"experts": [512]})
    truth = float(predict("experts[1.8, 150.0]", constants, 3e9, 1e11, {"experts": [512]}))
    assert said.status == "ok"
    assert said.loss.held95(truth)
    with pytest.raises(LawError, match="this law needs experts of every run"):
        forecast(law, 3e9, 1e11)
    with pytest.raises(LawError, match="experts must be numbers of one or more"):
        forecast(law, 3e9, 1e11, extra={"experts": [0.5]})


def test_experts_of_unequal_length_are_warned_about():
    rows = [
        Observation(
            run=str(i),
            params=1e7 * 2**i,
            tokens=1e10 * (1 + i % 2),
            loss=3.0 * 0.9**i,
            notes={"experts": 2.0},
        )
        for i in range(8)
    ]
    law = fit_law(read_observations(rows), FitOptions(form="experts", bootstraps=40))
    assert any("runs of 10B to 20B tokens: the law of experts" in text for text in law.warnings)


def test_corpora_share_exponents_and_keep_their_own_levels():
    rows = runs(30, "a") + runs(8, "b", 1.2, seed=1)
    law = fit_law(read_observations(rows))
    assert law.form == 'pooled["coupled", "a", "b"]'
    assert law.terms["log E b"] == pytest.approx(math.log(1.2), abs=0.05)
    for corpus, scale in (("a", 1.0), ("b", 1.2)):
        said = forecast(law, *TARGET, extra={"corpus": [corpus]})
        truth = scale * float(predict("chinchilla", TRUTH, *TARGET))
        assert said.loss.value == pytest.approx(truth, rel=0.02)
        assert said.loss.held95(truth)
    with pytest.raises(LawError, match="this law needs corpus of every run"):
        forecast(law, *TARGET)
    with pytest.raises(LawError, match="the law knows no such corpus"):
        forecast(law, *TARGET, extra={"corpus": ["c"]})


def test_a_corpus_of_few_runs_borrows_certainty():
    few = runs(8, "b", 1.2, seed=1)
    alone = forecast(fit_law(read_observations(few)), *TARGET).loss
    pooled = forecast(fit_law(read_observations(runs(40, "a") + few)), *TARGET, extra={"corpus": ["b"]}).loss
    assert pooled.high80 / pooled.low80 < alone.high80 / alone.low80


def test_one_corpus_is_fitted_as_before():
    assert fit_law(read_observations(runs(20))).form == "coupled"


def test_a_bend_is_seen_and_widens_only():
    table = read_observations(runs(40, noise=0.001))
    x = np.log(table.params) - np.log(table.params).mean()
    bent_rows = [
        Observation(run=str(i), params=n, tokens=d, loss=y * math.exp(0.01 * u * u))
        for i, (n, d, y, u) in enumerate(zip(table.params, table.tokens, table.loss, x, strict=True))
    ]
    form = bent_form(FORMS["chinchilla"])
    straight, bent = (
        dict(zip(form.names, fit_form(form, t, FitOptions()).theta, strict=True))
        for t in (table, read_observations(bent_rows))
    )
    assert bent["bend alpha"] > straight["bend alpha"] + 0.02
    wide, narrow = (forecast(fit_law(t), *TARGET).loss for t in (read_observations(bent_rows), table))
    assert wide.high80 / wide.low80 > narrow.high80 / narrow.low80


def test_forms_with_arguments_are_named_by_themselves():
    form = pooled_form(FORMS["gadre"], ["x y", 'quo"te'])
    assert form_named(form.name) == form
    assert form_named(bent_form(FORMS["gadre"]).name).terms[1].powers.keys() == {"eta", "bend eta"}


def test_replicates_set_the_noise_of_a_ladder():
    rows = runs(12, noise=0.0005)
    noisy = [
        Observation(run=row.run, seed=k, params=row.params, tokens=row.tokens, loss=row.loss * math.exp(e))
        for row in rows[:4]
        for k, e in enumerate((-0.02, 0.02))
    ]
    quiet = [
        Observation(run=row.run, seed=k, params=row.params, tokens=row.tokens, loss=row.loss * math.exp(e))
        for row in rows[:4]
        for k, e in enumerate((-0.0002, 0.0002))
    ]
    rest = [Observation(run=row.run, params=row.params, tokens=row.tokens, loss=row.loss) for row in rows[4:]]
    loud, still = (fit_law(read_observations(part + rest)).quality["sigma"] for part in (noisy, quiet))
    assert still < 0.004 < loud


@pytest.mark.parametrize(("text", "floor"), [("", ()), ("1.7", (1.7, 0.0)), ("1.7:0.1", (1.7, 0.1))])
def test_floor_is_read(text, floor):
    assert parse_floor(text) == floor


@pytest.mark.parametrize("text", ["x", "0", "-1", "1:2:3", "nan", "1:", "inf"])
def test_bad_floor_is_one_error(text):
    with pytest.raises(LawError, match="not a floor of the loss"):
        parse_floor(text)
