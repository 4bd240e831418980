"""Mid-run points: a ladder whose curves and finals are known gives them back, and damaged folders say so."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.midrun import MidrunCurve, fit_midrun, midrun_observations, read_curve, read_curves
from stepladder.laws.table import read_observations
from stepladder.records import Observation

SLOPES = {1e5: -0.10, 2e5: -0.12, 4e5: -0.14}
CURVATURE, GAIN, BEHIND = 0.012, -0.06, -0.02


def curve(params: float, steps: int, *, noise=0.03, seed=0, run="r") -> MidrunCurve:
    """A run of 1,000 tokens a step on a warm-up-stable-decay schedule; the decay wins 6 %.

    Final losses follow the slope less what longer runs are behind at the same tokens.
    """
    step = np.arange(1, steps + 1)
    rates = np.minimum(1.0, np.minimum(step / (0.03 * steps), (steps - step + 1) / (0.3 * steps)))
    end = math.log(steps / 1000)
    final = 2.0 * math.exp((SLOPES[params] - BEHIND) * end + CURVATURE * end**2)
    x = np.log(step / steps)
    # Seen from its own end, a parabola in log(t) has another slope but the same curvature.
    slope = SLOPES[params] + 2 * CURVATURE * end
    losses = final * np.exp(-GAIN + slope * x + CURVATURE * x**2)
    losses *= np.exp(GAIN * np.clip((step / steps - 0.7) / 0.3, 0, 1))
    losses *= np.exp(np.random.default_rng(seed).normal(0, noise, steps))
    return MidrunCurve(
        run=run, params=params, tokens=1000.0 * step, losses=losses, rates=rates, final_loss=final
    )


def ladder(**options) -> list[MidrunCurve]:
    shapes = [(1e5, 700), (1e5, 1200), (1e5, 3000), (2e5, 800), (2e5, 1500), (4e5, 1000)]
    return [curve(n, steps, seed=i, run=f"r{i}", **options) for i, (n, steps) in enumerate(shapes)]


def test_slopes_gains_and_lag_of_a_ladder():
    fitted = fit_midrun(ladder())
    # A pair is one size, the shorter run between .12 and .7 of the longer.
    assert fitted.pairs == 4
    assert fitted.curvature == pytest.approx(CURVATURE, abs=0.006)
    assert fitted.behind == pytest.approx(BEHIND, abs=0.006)
    assert np.array(fitted.gain) == pytest.approx(GAIN, abs=0.015)
    assert fitted.sigma == 0.01
    for index, run in enumerate(fitted.curves):
        assert fitted.final_from_others(index) == pytest.approx(run.final_loss, rel=0.015)


def test_derived_observations_and_their_weights():
    rows = midrun_observations(ladder(noise=0.005), (0.25, 0.5, 0.6))
    by_run = {name: [row for row in rows if row.run.startswith(name)] for name in ("r0", "r2", "r5")}
    # A quarter of 700 steps is below 200: such a run would be all warm-up.
    assert [row.run for row in by_run["r0"]] == ["r0:0.50", "r0:0.60"]
    for name in by_run:
        assert sum(row.weight for row in by_run[name]) == pytest.approx(0.25)
    for row in rows:
        expected = curve(row.params, round(row.tokens / 1000), noise=0).final_loss
        assert row.loss == pytest.approx(expected, rel=0.006)
        assert "as if it had ended here" in str(row.notes["derived"])


def test_a_ladder_without_pairs_is_not_trusted():
    fitted = fit_midrun([curve(n, 1000) for n in SLOPES])
    assert (fitted.pairs, fitted.behind, fitted.sigma) == (0, 0.0, 0.03)
    rows = midrun_observations([curve(1e5, 1000)], (0.5,))
    assert [row.weight for row in rows] == [pytest.approx((0.005 / 0.03) ** 2)]


def test_what_no_curve_can_be_fitted_to():
    with pytest.raises(LawError, match="no run to take mid-run points from"):
        fit_midrun([])
    with pytest.raises(LawError, match="the loss curve of r is too short"):
        fit_midrun([curve(1e5, 120)])
    whole = curve(1e5, 1000)
    broken = replace(whole, losses=np.full(1000, np.nan))
    with pytest.raises(LawError, match="got:     0 finite losses"):
        fit_midrun([broken])
    with pytest.raises(LawError, match="mid-run points lie within a run"):
        midrun_observations([whole], (0.5, 1.0))


def write(folder, run: MidrunCurve, **last: float) -> None:
    folder.mkdir()
    lines = [
        {"step": k + 1, "tokens": run.tokens[k], "loss": run.losses[k], "lr": run.rates[k]}
        for k in range(len(run.tokens))
    ]
    lines[-1] |= last
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "plan.json").write_text(json.dumps({"params": {"value": run.params, "low": 0, "high": 0}}))


def test_reading_a_run_folder(tmp_path):
    run = curve(2e5, 300)
    write(tmp_path / "r07@1", run, heldout_bits_per_byte=run.final_loss, heldout_loss=3.0)
    read = read_curve(tmp_path / "r07@1")
    assert (read.run, read.params, read.final_loss) == ("r07", 2e5, run.final_loss)
    assert np.array_equal(read.losses, run.losses)
    assert np.array_equal(read.stable, run.stable)


def test_a_folder_that_is_no_finished_run(tmp_path):
    with pytest.raises(LawError, match="cannot read the loss curve of absent"):
        read_curve(tmp_path / "absent")
    write(tmp_path / "r1@1", curve(1e5, 50))
    with pytest.raises(LawError, match="r1@1 has no final held-out loss"):
        read_curve(tmp_path / "r1@1")
    (tmp_path / "r1@1" / "metrics.jsonl").write_text('{"tokens": 1}\n')
    with pytest.raises(LawError, match="KeyError: 'loss'"):
        read_curve(tmp_path / "r1@1")
    (tmp_path / "r1@1" / "metrics.jsonl").write_text("{half a li")
    with pytest.raises(LawError, match="JSONDecodeError"):
        read_curve(tmp_path / "r1@1")
    (tmp_path / "r1@1" / "metrics.jsonl").write_text("")
    with pytest.raises(LawError, match="got:     0 steps"):
        read_curve(tmp_path / "r1@1")


def test_a_table_takes_derived_rows_with_a_note():
    rows = [
        Observation(run=str(i), params=1e6 * (i + 1), tokens=1e8, loss=3.0, notes={"lr": 0.1})
        for i in range(4)
    ]
    more = [Observation(run="0:0.50", params=1e6, tokens=5e7, loss=3.2, weight=0.1)]
    table = read_observations(rows, "bits_per_byte").joined(more, "one point derived")
    assert len(table) == 5
    assert table.loss_unit == "bits_per_byte"
    assert table.weight.tolist() == [1, 1, 1, 1, 0.1]
    assert table.run[-1] == "0:0.50"
    assert math.isnan(table.extra["lr"][-1])
    assert table.notes[-1] == "one point derived"


def test_a_folder_without_finished_runs_is_one_error(tmp_path):
    with pytest.raises(LawError, match="holds no ladder with loss curves"):
        read_curves(tmp_path)
