"""Print how the chain from rungs to a task compares with one sigmoid in log compute fitted to the same rungs.

    python bench/tasks/forecasts.py --public
    python bench/tasks/forecasts.py --out forecasts [--seed 0]

The first line takes published runs: the hold-outs of bench/laws/tasks.py (Gadre et al., MIT). The second
trains eleven rungs, probes them on three tasks, freezes what a target of four times the compute of the
dearest rung will score, then trains and probes the target; what an earlier call finished is kept. Six CPU
minutes.
The sigmoid has its four constants by least squares from many starts, its intervals from its residuals.
"""

import argparse
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tasks as public_tasks
from sets import load, split

from stepladder.brief_nouns import Brief, DataBrief
from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.ladder.collect import usable
from stepladder.ladder.design import Rung
from stepladder.ladder.run import run_ladder, rung_plans, train_side_by_side
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.known import KNOWN
from stepladder.laws.registry import find_forecasts
from stepladder.laws.table import read_observations
from stepladder.models.count import train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_rule
from stepladder.records import Forecast, Interval, Layout, Plan, from_json, to_json
from stepladder.stages import LOSS_UNIT, Climb
from stepladder.store import write_json
from stepladder.task_stages import FORETOLD_FILE, TaskProbe, foretell, probe_rungs, tell_tasks
from stepladder.tune.probing import ANSWERS, FROZEN

TASKS = ("example:docstring-summary", "example:docstring-topic", "example:text-kind")
# (width, million tokens); the target is four times as dear as the dearest rung.
RUNGS = ((24, 0.25), (24, 0.5), (24, 1.0), (32, 0.25), (32, 0.5), (32, 1.0), (48, 0.25), (48, 0.5), (48, 1.0))
RUNGS += ((64, 0.25), (64, 0.5))
TARGET = (64, 2.6)
_FLOPS_PER_SECOND = 3e10


@dataclass(frozen=True, kw_only=True)
class Row:
    """One forecast of the chain and of the sigmoid beside the outcome. `scale` makes errors comparable."""

    name: str
    chain: Interval
    sigmoid: Interval
    outcome: float
    is_refused: bool
    scale: float = 1.0


def main() -> int:
    """One part or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    if options.public:
        public()
    if options.out:
        own(options.out, options.seed)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    spent = sum(one.ru_utime + one.ru_stime for one in used)
    print(f"{time.perf_counter() - started:.0f} s, of which {spent:.0f} CPU seconds of this call")
    return 0


def public() -> None:
    """Errors in points over the tasks that rise, and over the mean of all."""
    names = [name for name in public_tasks.TASKS if public_tasks.rises(name)]
    rows = {name: hold_out(name) for name in (*names, public_tasks.MEAN)}
    single = [row for name in names for row in rows[name]]
    print(f"published runs, {len(names)} tasks, dearest 20 and 30 % held out; errors in points")
    report("tasks, not refused", [row for row in single if not row.is_refused])
    report("tasks, refused", [row for row in single if row.is_refused])
    report("tasks, all", single)
    report(public_tasks.MEAN, rows[public_tasks.MEAN])
    better = sum(error(rows[name], "chain") < error(rows[name], "sigmoid") for name in names)
    print(f"the chain errs less on {better} of {len(names)} tasks")


def hold_out(name: str) -> list[Row]:
    """All held-out runs of one task."""
    rows, found = [], iter(public_tasks.hold_out(name, "chosen"))
    for corpus in public_tasks.CORPORA:
        for share in public_tasks.SHARES:
            train, held = split(load(corpus), share)
            runs = public_tasks.runs_of(train, name)
            rival = fit_sigmoid(np.log(train.params * train.tokens), runs.values, (runs.chance, 0.9))
            for log_c in np.log(held.params * held.tokens):
                said, outcome, _ = next(found)
                refused = said.status == "refused"
                rows.append(
                    Row(
                        name=name,
                        chain=said.loss,
                        sigmoid=rival(log_c),
                        outcome=outcome,
                        is_refused=refused,
                        scale=0.01,
                    )
                )
    return rows


def own(out: Path, seed: int) -> None:
    """One ladder of our own, target and all."""
    climb = Climb(brief=Brief(name="forecasts", data=DataBrief(sources=(), tasks=TASKS)), folder=out)
    plans = make_plans(out, seed)
    rungs = run_ladder(plans[:-1], out / "ladder", workers=2)
    law = fit_law(read_observations(usable(rungs), LOSS_UNIT), KNOWN)
    probes = probe_rungs(climb, rungs, share=math.inf, steps=(ANSWERS, FROZEN))
    plan = plans[-1]
    foretell(climb, plan, law, probes)
    said = forecast(law, plan.numbers["params"].value, plan.tokens)
    if failures := train_side_by_side([plan], out, workers=1):
        raise SystemExit(str(failures))
    frozen = {item.forecast.run: item for item in find_forecasts(out / FORETOLD_FILE)}
    outcomes = tell_tasks(climb, [item.forecast for item in frozen.values()], probes)
    measured = {score.run: score.outcome for score in outcomes}
    print(f"loss forecast {said.loss.value:.4f} (80 %: {said.loss.low80:.4f} to {said.loss.high80:.4f})")
    print(f"{'task, method':<34} {'chain':>7} {'80 %':>15} {'sigmoid':>8} {'measured':>8}  held")
    rows = []
    for run, item in frozen.items():
        series = [probe for probe in probes if run.endswith(f" {probe.figure.name}")]
        row = rival_row(series, plan, item.forecast, measured[run])
        rows.append(row)
        held = "80" if row.chain.held80(row.outcome) else "95" if row.chain.held95(row.outcome) else "NO"
        print(
            f"{row.name:<34} {row.chain.value:7.3f} {row.chain.low80:7.3f}–{row.chain.high80:<7.3f} "
            f"{row.sigmoid.value:8.3f} {row.outcome:8.3f}  {held}{', refused' if row.is_refused else ''}"
        )
    print("errors in per cent of the outcome")
    report("not refused", [row for row in rows if not row.is_refused])
    report("all", rows)


def make_plans(out: Path, seed: int) -> list[Plan]:
    """All rungs, and last the target."""
    corpus = prepare_corpus(
        ("python:prose", "python:docstrings"),
        out / "corpus",
        CorpusOptions(vocab_size=1024, max_bytes=30_000_000),
    )
    rungs = []
    for width, million in (*RUNGS, TARGET):
        shape = shape_for_width(width, vocab_size=1024, context_tokens=96, num_layers=2, num_heads=2)
        tokens = int(million * 1e6)
        seconds = train_flops_per_token(shape) * tokens / _FLOPS_PER_SECOND
        rungs.append(Rung(shape=shape, tokens=tokens, seed=0, seconds=seconds))
    place = {"corpus": "../../corpus", "corpus_fingerprint": corpus.fingerprint, "seed": seed}
    *plans, target = rung_plans(rungs, recipe_rule({}), layout=Layout(threads=1, precision="fp32"), **place)
    value = to_json(target) | {"name": "target", "corpus": "../corpus"}
    write_json(out / "plan.json", value)
    return [*plans, from_json(Plan, value)]


def rival_row(series: Sequence[TaskProbe], plan: Plan, said: Forecast, outcome: float) -> Row:
    """The sigmoid on the same probes; bits per byte fall with compute, shares rise."""
    values = np.array([probe.figure.value for probe in series])
    log_c = np.log([probe.run.flops for probe in series])
    chance = series[0].figure.chance
    ends = (chance, 0.9) if math.isfinite(chance) else (0.7 * values.min(), values.max())
    rival = fit_sigmoid(log_c, values, ends)
    at = math.log(train_flops_per_token(plan.shape) * plan.tokens)
    return Row(
        name=series[0].figure.name,
        chain=said.loss,
        sigmoid=rival(at),
        outcome=outcome,
        is_refused=said.status == "refused",
        scale=0.01 * outcome,
    )


def fit_sigmoid(
    log_c: np.ndarray, values: np.ndarray, ends: tuple[float, float]
) -> Callable[[float], Interval]:
    """floor + (top - floor) / (1 + exp(-k (log C - c0))), floor and top free from `ends` on."""
    middle, spread = log_c.mean(), log_c.std()
    x = (log_c - middle) / spread

    def curve(p: np.ndarray, x: np.ndarray | float) -> np.ndarray:
        return p[0] + (p[1] - p[0]) / (1 + np.exp(-np.exp(p[2]) * (x - p[3])))

    most = max(1.0, 1.5 * float(values.max()))
    starts = [
        (*pair, slope, place)
        for pair in (ends, ends[::-1])
        for slope in (-1, 0, 1)
        for place in (-1, 0, 1, 3)
    ]
    limits = ([0, 0, -4, -6], [most, most, 3, 12])
    found = [least_squares(lambda p: curve(p, x) - values, start, bounds=limits) for start in starts]
    best = min(found, key=lambda one: one.cost)
    freedom = max(len(values) - 4, 1)
    noise = math.sqrt(2 * best.cost / freedom)

    def at(log_compute: float) -> Interval:
        value = float(curve(best.x, (log_compute - middle) / spread))
        half80, half95 = (float(t.ppf(q, freedom)) * noise for q in (0.9, 0.975))
        return Interval(
            value=value,
            low80=value - half80,
            high80=value + half80,
            low95=value - half95,
            high95=value + half95,
        )

    return at


def error(rows: Sequence[Row], which: str) -> float:
    """Mean absolute error."""
    return float(np.mean([abs(getattr(row, which).value - row.outcome) / row.scale for row in rows]))


def report(name: str, rows: Sequence[Row]) -> None:
    """Error and coverage of both."""
    if not rows:
        print(f"{name:<22} none")
        return
    print(f"{name:<22} {len(rows):>4} runs", end="")
    for which in ("chain", "sigmoid"):
        held = [
            np.mean([getattr(getattr(row, which), f"held{level}")(row.outcome) for row in rows])
            for level in (80, 95)
        ]
        print(f"   {which} {error(rows, which):5.2f}, in 80 % {held[0]:.0%}, in 95 % {held[1]:.0%}", end="")
    print()


if __name__ == "__main__":
    sys.exit(main())
