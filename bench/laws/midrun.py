"""Print whether mid-run points improve the forecasts of finished climbs, and how well the curve law forecasts
the end of each rung from the part before its decay.

Run: .venv/bin/python bench/laws/midrun.py CLIMB... (folders with ladder/, score.json and target@1/)
"""

import json
import sys
from pathlib import Path

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.curve import fit_curve, schedule_areas
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.midrun import MidrunCurve, fit_midrun, midrun_observations, read_curve
from stepladder.laws.table import read_observations
from stepladder.records import Observation

FLOOR = (0.883, 0.302)  # what `ladder` gives to the climbs' fits


def main(climbs: list[Path]) -> None:
    """Print three blocks: rungs, pairs of one size, targets."""
    errors: dict[str, list[float]] = {}
    for climb in climbs:
        curves = [read_curve(folder) for folder in sorted((climb / "ladder").glob("r*@*"))]
        fitted = fit_midrun(curves)
        print(f"{climb.name}: curvature {fitted.curvature:+.4f}, behind {fitted.behind:+.4f}, ", end="")
        print(f"{fitted.pairs} pairs, sigma {fitted.sigma:.2%}")
        ends = [100 * (fitted.final_from_others(k) / c.final_loss - 1) for k, c in enumerate(curves)]
        errors.setdefault("end of a rung, shared curve", []).extend(ends)
        errors.setdefault("end of a rung, one curve each", []).extend(annealed(curves))
        for name, error in target(climb, curves).items():
            errors.setdefault(f"target, {name}", []).append(error)
    for name, values in errors.items():
        value = np.array(values)
        print(f"{name:<44} n {len(value):>3}  mean {value.mean():+.2f} %  mean abs {abs(value).mean():.2f} %")


def annealed(curves: list[MidrunCurve]) -> list[float]:
    """Error of each rung's end by the law of curve.py: constants from before the decay, C from the others."""
    gains, areas, levels, starts = [], [], [], []
    for curve in curves:
        rates = curve.rates / curve.rates.max()
        steps = np.arange(round(0.12 * len(rates)), len(rates) + 1)
        whole = fit_curve(steps, curve.losses[steps - 1], rates)
        # C times S2 at the end: runs of other lengths remember otherwise, but win the same.
        areas.append(float(schedule_areas(rates, whole.memory)[1][-1]))
        gains.append(whole.annealing * areas[-1])
        starts.append(steps[steps <= curve.stable[-1] + 1])
        levels.append(np.log(curve.final_loss / whole.loss(rates)[-1]))
    out = []
    for k, curve in enumerate(curves):
        rates = curve.rates / curve.rates.max()
        gain = float(np.median(np.delete(gains, k))) / areas[k]
        part = fit_curve(starts[k], curve.losses[starts[k] - 1], rates, annealing=gain)
        level = float(np.delete(levels, k).mean())
        out.append(100 * (part.loss(rates)[-1] * np.exp(level) / curve.final_loss - 1))
    return out


def target(climb: Path, curves: list[MidrunCurve]) -> dict[str, float]:
    """Error of the target's loss by each way of fitting, printed with intervals."""
    frozen = json.loads((climb / "forecast.json").read_text())["forecasts"][0]
    scores = json.loads((climb / "score.json").read_text())["scores"]
    outcome = next(item["outcome"] for item in scores if item["quantity"].startswith("loss"))
    measured = measured_rows(climb)
    derived = midrun_observations(curves)
    unlike = [Observation(run=r.run, params=r.params, tokens=r.tokens, loss=r.loss) for r in derived]
    out = {}
    for name, rows in (
        ("measured runs", measured),
        ("with mid-run points", [*measured, *derived]),
        ("with mid-run points at full weight", [*measured, *unlike]),
    ):
        law = fit_law(read_observations(rows), FitOptions(floor=FLOOR))
        found = forecast(law, frozen["params"], frozen["tokens"])
        out[name] = 100 * (found.loss.value / outcome - 1)
        width = found.loss.high95 / found.loss.low95 - 1
        inside = (
            "in 80" if found.loss.held80(outcome) else "in 95" if found.loss.held95(outcome) else "outside"
        )
        print(f"  {name:<36}{len(rows):>4} rows  {found.loss.value:.4f} against {outcome:.4f}  ", end="")
        print(f"{out[name]:+.2f} %  95 % width {width:.1%}  {inside}  beta {law.terms['beta']:.3f}")
    return out


def measured_rows(climb: Path) -> list[Observation]:
    """The rungs of observations.csv as observations."""
    table = read_observations(climb / "ladder" / "observations.csv")
    return [
        Observation(
            run=table.run[i],
            params=table.params[i],
            tokens=table.tokens[i],
            loss=table.loss[i],
            seed=int(table.seed[i]),
            notes={"in_context_score": table.extra["in_context_score"][i]},
        )
        for i in range(len(table))
    ]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise LawError("no climb to measure on", next_command="bench/laws/midrun.py CLIMB...")
    main([Path(item) for item in sys.argv[1:]])
