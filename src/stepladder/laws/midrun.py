"""Loss curves of finished runs in; what their losses would have been, had they ended earlier, out.

While the rate is constant, log training loss = a + b x + c x² with x = log(tokens / T); c is shared by the
runs of a ladder, whose noise hides their own. The decay then wins a share q of the loss, about the same in
all runs of a recipe: q = log(final held-out loss) - a. So a run that had decayed before t would have ended at
final · exp(b x + c x²). It would also have had its own batch: where batches grow with T, the longer run is
behind at the same tokens; runs of one size that ended there tell by how much (`behind`, per unit of x).

That mid-run points count once the decay is allowed for is of Hägele et al., arXiv:2405.18392, and Tissue et
al., arXiv:2408.11029; these equations are ours. On five ladders of 600 to 2,200 steps the end of a run is
foretold to .8 %, but forecasts of a target do not become better (bench/laws/midrun.py).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.solve import Array
from stepladder.records import Observation

# Below this share of a run its warm-up shows in the curve; below these steps no run of a ladder ends.
_FIRST_SHARE, _LEAST_STEPS = 0.12, 200
_LEAST_POINTS = 100
# What one run's loss is off by (seeds: .3 to .7 %), a derived one at least, and one that no pair checks.
_RUN_SIGMA, _LEAST_SIGMA, _UNCHECKED_SIGMA = 0.005, 0.01, 0.03
_SLOPE_SPREAD = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class MidrunCurve:
    """One finished run, a number a step: tokens so far, training loss, learning rate.

    `final_loss` is held out, in the unit of the law, at `tokens[-1]`; training losses may have another unit,
    since only their ratios count. `params` as the law counts them.
    """

    run: str
    params: float
    tokens: Array
    losses: Array
    rates: Array
    final_loss: float

    @property
    def stable(self) -> Array:
        """Steps of the constant rate, without the start."""
        peak = self.rates >= 0.999 * self.rates.max()
        return np.flatnonzero(peak & (self.tokens >= _FIRST_SHARE * self.tokens[-1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Midrun:
    """Curves of a ladder's runs: `slope` and `gain` (b and q) of each, with the shared `curvature` (c).

    `behind` comes from `pairs` of runs of one size; `sigma` is how far derived losses then lie from measured
    ones (1 % at least; 3 % is assumed where no pair tells).
    """

    curves: tuple[MidrunCurve, ...]
    slope: tuple[float, ...]
    gain: tuple[float, ...]
    curvature: float
    behind: float
    pairs: int
    sigma: float

    def loss(self, index: int, tokens: float) -> float:
        """Final loss of a run like `curves[index]` that ends at `tokens`."""
        curve = self.curves[index]
        x = math.log(tokens / curve.tokens[-1])
        return curve.final_loss * math.exp((self.slope[index] - self.behind) * x + self.curvature * x * x)

    def final_from_others(self, index: int) -> float:
        """The run's final loss from its own constant-rate part and the gains of the other runs."""
        others = np.delete(np.array(self.gain), index)
        return self.curves[index].final_loss * math.exp(float(others.mean()) - self.gain[index])


def read_curve(folder: Path) -> MidrunCurve:
    """The curve in a run's folder: metrics.jsonl, and params from plan.json.

    Raises:
        LawError: a file is missing or damaged, or the run has no final held-out loss.
    """
    try:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line]
        plan = json.loads((folder / "plan.json").read_text())
        columns = {name: np.array([line[name] for line in lines], float) for name in ("tokens", "loss", "lr")}
        params = float(plan["params"]["value"])
        final = float((lines[-1].get("heldout_bits_per_byte") if lines else None) or math.nan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LawError(
            f"cannot read the loss curve of {folder.name}",
            got=f"{type(error).__name__}: {error}",
            allowed="metrics.jsonl with tokens, loss and lr on each line, and plan.json with params",
        ) from error
    if not (lines and math.isfinite(final)):
        raise LawError(
            f"{folder.name} has no final held-out loss",
            got=f"{len(lines)} steps",
            allowed="a finished run: heldout_bits_per_byte on the last line of metrics.jsonl",
        )
    return MidrunCurve(
        run=folder.name.partition("@")[0],
        params=params,
        tokens=columns["tokens"],
        losses=columns["loss"],
        rates=columns["lr"],
        final_loss=final,
    )


def fit_midrun(curves: Sequence[MidrunCurve]) -> Midrun:
    """Fit the curves of one ladder (one corpus, one recipe, one schedule).

    Raises:
        LawError: no run, or one with too few finite losses at a constant rate.
    """
    if not curves:
        raise LawError("no run to take mid-run points from", allowed="at least one finished run")
    curvature = _shared_curvature(curves)
    slopes, gains = [], []
    for curve in curves:
        x, y = _stable_logs(curve)
        slope, level = np.polyfit(x, y - curvature * x * x, 1)
        slopes.append(float(slope))
        gains.append(float(np.log(curve.final_loss) - level))
    raw = Midrun(
        curves=tuple(curves),
        slope=tuple(slopes),
        gain=tuple(gains),
        curvature=curvature,
        behind=0.0,
        pairs=0,
        sigma=_UNCHECKED_SIGMA,
    )
    return _checked(raw)


def midrun_observations(
    curves: Sequence[MidrunCurve], shares: Sequence[float] = (0.25, 0.5)
) -> list[Observation]:
    """Derived observations at shares of each run's tokens (above 200 steps and within its constant rate).

    All points of a run stand on one slope and one final loss, so their errors agree: together they weigh
    (.5 %)² / sigma² of one run, a quarter at most, whatever their number.

    Raises:
        LawError: as `fit_midrun`, or a share outside (0, 1).
    """
    if not all(0 < share < 1 for share in shares):
        raise LawError("mid-run points lie within a run", got=str(tuple(shares)), allowed="shares in (0, 1)")
    fitted = fit_midrun(curves)
    rows = []
    for index, curve in enumerate(curves):
        stable = curve.stable
        wanted = [np.searchsorted(curve.tokens, share * curve.tokens[-1]) for share in shares]
        kept = [step for step in wanted if max(_LEAST_STEPS, stable[0]) <= step <= stable[-1]]
        weight = (_RUN_SIGMA / fitted.sigma) ** 2 / max(len(kept), 1)
        for step in kept:
            tokens = float(curve.tokens[step])
            rows.append(
                Observation(
                    run=f"{curve.run}:{tokens / curve.tokens[-1]:.2f}",
                    params=curve.params,
                    tokens=tokens,
                    loss=fitted.loss(index, tokens),
                    weight=weight,
                    notes={"derived": f"from the loss curve of {curve.run}, as if it had ended here"},
                )
            )
    return rows


def read_curves(folder: Path) -> list[MidrunCurve]:
    """The curves of all finished runs in a ladder's folder.

    Raises:
        LawError: fewer than two runs, or one that cannot be read.
    """
    places = sorted(path.parent for path in folder.glob("*/metrics.jsonl"))
    finished = [place for place in places if (place / "run.json").exists()]
    if len(finished) < 2:
        raise LawError(
            f"{folder} holds no ladder with loss curves",
            got=f"{len(finished)} finished runs",
            allowed="a folder of run folders with metrics.jsonl, plan.json and run.json",
        )
    return [read_curve(place) for place in finished]


def _stable_logs(curve: MidrunCurve) -> tuple[Array, Array]:
    stable = curve.stable
    losses = curve.losses[stable]
    good = np.isfinite(losses) & (losses > 0)
    if good.sum() < _LEAST_POINTS:
        raise LawError(
            f"the loss curve of {curve.run} is too short",
            got=f"{int(good.sum())} finite losses at a constant rate after {_FIRST_SHARE:.0%} of the run",
            allowed=f"at least {_LEAST_POINTS}: a warm-up-stable-decay schedule, every step logged",
        )
    return np.log(curve.tokens[stable][good] / curve.tokens[-1]), np.log(losses[good])


def _shared_curvature(curves: Sequence[MidrunCurve]) -> float:
    """Mean of the curvatures by their precision."""
    found = []
    for curve in curves:
        fit, covariance = np.polyfit(*_stable_logs(curve), 2, cov=True)
        found.append((float(fit[0]), 1.0 / max(float(covariance[0, 0]), 1e-12)))
    values, precision = np.array(found).T
    return float(np.average(values, weights=precision))


def _checked(raw: Midrun) -> Midrun:
    """Compare derived with measured losses where runs of one size ended at a quarter to .7 of another."""
    rows = []
    for index, curve in enumerate(raw.curves):
        for other in raw.curves:
            share = float(other.tokens[-1] / curve.tokens[-1])
            if abs(other.params / curve.params - 1) < 0.01 and _FIRST_SHARE < share <= 0.7:
                derived = raw.loss(index, float(other.tokens[-1]))
                rows.append((math.log(share), math.log(derived / other.final_loss)))
    if not rows:
        return raw
    x, error = np.array(rows).T
    behind = float(x @ error / (x @ x + (_LEAST_SIGMA / _SLOPE_SPREAD) ** 2))
    left = error - behind * x
    # One number was fitted to the pairs, and pairs share runs: never better than 1 %.
    sigma = max(float(np.sqrt(np.sum(left**2) / max(len(rows) - 1, 1))), _LEAST_SIGMA)
    return replace(raw, behind=behind, pairs=len(rows), sigma=sigma)
