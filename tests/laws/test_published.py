"""Published answers, reproduced from the published runs."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.crosscheck import akima, isoflop_exponent, least_squares
from stepladder.laws.estimate import FitOptions, fit_form
from stepladder.laws.forms import FORMS, predict, to_constants
from stepladder.laws.repeat import PUBLISHED_PAIR, fit_repeat, repeat_objective
from stepladder.laws.table import Table, read_observations
from stepladder.records import Observation

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the folder ../shared/reference/laws is absent"
)
PLAIN = FitOptions(method="plain")


def rows(name):
    with (REFERENCE / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(chosen) -> Table:
    return read_observations(
        [
            Observation(
                run=row["run_id"],
                params=float(row["params"]),
                tokens=float(row["tokens"]),
                loss=float(row["loss"]),
                flops=float(row["flops"]),
            )
            for row in chosen
            if row["loss"] and row["params"]
        ]
    )


def chinchilla() -> Table:
    return table(row for row in rows("chinchilla_epoch") if "dropped" not in row["notes"])


@needs_reference
@pytest.mark.parametrize("seeds", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_chinchilla_optimum_whatever_the_starts(seeds):
    runs = chinchilla()
    found = [fit_form(FORMS["chinchilla"], runs, replace(PLAIN, seed=seed)) for seed in range(seeds)]
    objectives = np.array([item.objective for item in found])
    assert len(runs) == 240
    assert np.all(np.abs(objectives / 0.001018274 - 1) < 1e-6)
    assert min(item.agreeing for item in found) >= 3


@needs_reference
def test_chinchilla_constants():
    fitted = fit_form(FORMS["chinchilla"], chinchilla(), PLAIN)
    constants = to_constants(fitted.form, fitted.theta, fitted.columns.centre)
    assert constants["E"] == pytest.approx(1.8172, abs=5e-5)
    assert constants["A"] == pytest.approx(477.83, abs=0.05)
    assert constants["B"] == pytest.approx(2143.4, abs=0.5)
    assert constants["alpha"] == pytest.approx(0.34731, abs=5e-6)
    assert constants["beta"] == pytest.approx(0.36717, abs=5e-6)


@needs_reference
def test_gadre_forecasts_two_dear_runs():
    runs = table(
        row
        for row in rows("gadre_overtrain")
        if row["family"] == "open_lm/rpj" and "c4_val" in row["loss_kind"]
    )
    ratio = np.round(runs.tokens / runs.params).astype(int)

    def pick(size: float, multiple: int) -> int:
        return int(np.flatnonzero((np.abs(runs.params / size - 1) < 0.03) & (ratio == multiple))[0])

    small = [pick(size, 20) for size in (1.057e7, 7.89e7, 1.537e8, 4.116e8)] + [pick(1.057e7, 320)]
    constants = least_squares("gadre", runs.take(np.array(small)))
    assert constants["eta"] == pytest.approx(0.1364, abs=1e-4)
    for size, multiple, error in ((1.44e9, 640, 0.7103), (6.89e9, 20, 0.7320)):
        row = pick(size, multiple)
        loss = predict("gadre", constants, runs.params[row], runs.tokens[row])
        assert 100 * abs(float(loss) / runs.loss[row] - 1) == pytest.approx(error, abs=0.002)


@needs_reference
@pytest.mark.parametrize(
    ("recipe", "exponent"),
    [
        ("hparams=base;warmup=long;decay=kaplan;param_count=kaplan", 0.834),
        ("hparams=base;warmup=long;decay=kaplan;param_count=standard", 0.701),
        ("hparams=base;warmup=short;decay=kaplan;param_count=standard", 0.604),
        ("hparams=base;warmup=short;decay=chinchilla;param_count=standard", 0.571),
        ("hparams=tuned;warmup=short;decay=const;param_count=standard", 0.497),
    ],
)
def test_porian_exponents(recipe, exponent):
    runs = table(
        row for row in rows("porian_isoflop") if (row["family"], row["notes"]) == ("open_lm/rw", recipe)
    )
    assert isoflop_exponent(runs).exponent == pytest.approx(exponent, abs=0.01)


@needs_reference
def test_muennighoff_objective_and_unidentified_pair():
    runs = read_observations(REFERENCE / "datablations_182fit.csv")
    fitted = fit_repeat(runs)
    assert repeat_objective(runs, PUBLISHED_PAIR) == pytest.approx(0.0158259, abs=5e-8)
    assert fitted.objective == pytest.approx(0.0158047, abs=5e-8)
    assert (fitted.data_halflife, fitted.size_halflife) == pytest.approx((95.4, 1.71), rel=0.01)
    assert fitted.agreeing >= 3
    assert not fitted.identified


def test_repeat_law_needs_repetition():
    once = [
        Observation(run=str(i), params=1e6 * (i + 1), tokens=1e8, unique_tokens=1e8, loss=3.0)
        for i in range(5)
    ]
    with pytest.raises(LawError, match="no run repeats its data"):
        fit_repeat(read_observations(once))


def test_akima_agrees_with_scipy():
    from scipy.interpolate import Akima1DInterpolator

    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(0, 5, 9))
    y = rng.normal(size=9)
    at = np.linspace(x[0], x[-1], 200)
    assert akima(x, y, at) == pytest.approx(Akima1DInterpolator(x, y)(at), abs=1e-9)
