"""Nothing in; step seconds of real runs on this CPU beside the plan's forecast, each left out in turn, out.

    python bench/plan/own_steps.py [--rounds 2] [--keep steps.csv]

About six minutes a round, on a machine that does nothing else. Twenty-one configurations of one and two
gloo processes (none, ddp, fsdp, tensor; one and two threads) train for forty steps; a step's seconds are the
lower quartile without the first ones, of the fastest round: what the machine does when nobody disturbs it.
With --keep the table stays, and a second call scores it without training.
"""

import argparse
import itertools
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from cases import Case, plan_of, write_corpus, write_plan

from stepladder.launch.local import run_plan
from stepladder.plan.cpusteps import FITTED, CpuPrices, fit_prices, step_seconds, step_terms
from stepladder.plan.measured import MeasuredStep, read_measured, step_of, write_measured
from stepladder.records import Degrees, Layout
from stepladder.train.metrics import METRICS_FILE, read_metrics

WARM, STEPS = 8, 40
# What was thought of the prices before anything was measured: forecasts of left-out runs start from it.
BEFORE = CpuPrices(
    products=1.25e-11,
    passes=2e-10,
    scores=3.3e-10,
    logits=3.3e-10,
    optimiser=2e-10,
    step=2e-3,
    layers=2e-3,
    messages=3e-4,
    traffic=1e-9,
)
ONE, TWO = Layout(), Layout(threads=2)
DDP, FSDP = (Layout(processes=2, shard=shard) for shard in ("ddp", "fsdp"))
TENSOR = Layout(processes=2, degrees=Degrees(tensor=2))
SMALL = Case(width=64, layers=3, vocabulary=2048, context=128, sequences=16)
MIDDLE = Case(width=128, layers=4, vocabulary=2048, context=128, sequences=16)
LONG = Case(width=128, layers=4, vocabulary=4096, context=256, sequences=8)
WIDE = Case(width=256, layers=4, vocabulary=4096, context=128, sequences=16)
DEEP = Case(width=128, layers=10, vocabulary=2048, context=128, sequences=8)
RUNS = (
    *((case, ONE) for case in (SMALL, MIDDLE, LONG, WIDE, DEEP)),
    *((case, TWO) for case in (MIDDLE, LONG, WIDE, DEEP)),
    *((case, layout) for case in (MIDDLE, LONG, WIDE, DEEP) for layout in (DDP, FSDP, TENSOR)),
)


def main() -> int:
    """Train, then score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="table to write, or to score if it is there")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        steps = read_measured(options.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="own-steps-") as name:
            rounds = [train_all(Path(name), at) for at in range(options.rounds)]
        steps = [min(turns, key=lambda one: one.seconds) for turns in zip(*rounds, strict=True)]
        apart = [max(turns, key=lambda one: one.seconds).seconds for turns in zip(*rounds, strict=True)]
        spread = statistics.median(slow / step.seconds - 1 for slow, step in zip(apart, steps, strict=True))
        print(f"the same configuration in {options.rounds} rounds: median {spread:.1%} apart")
        if options.keep:
            write_measured(options.keep, steps)
    fitted = fit_prices(steps, BEFORE)
    print(
        "fitted to all: " + ", ".join(f"{one.name} {getattr(fitted, one.name):.3g}" for one in fields(fitted))
    )
    score("each configuration from the others", steps, lambda at, other: at != other)
    kinds = [kind(one.layout) for one in steps]
    score("each way of sharing from the others", steps, lambda at, other: kinds[at] != kinds[other])
    widths = [(one.shape.width, one.shape.num_layers, one.shape.context_tokens) for one in steps]
    score("each network from the others", steps, lambda at, other: widths[at] != widths[other])
    shipped = [off(one, FITTED) for one in steps]
    print(f"as shipped, which saw them all: median {statistics.median(map(abs, shipped)):.1%}")
    return 0


def train_all(folder: Path, turn: int) -> list[MeasuredStep]:
    """All runs once."""
    found = []
    for at, (case, layout) in enumerate(RUNS):
        corpus = folder / f"corpus-{case.vocabulary}-{case.context}"
        if not corpus.exists():
            write_corpus(case, corpus, 100_000)
        out = folder / f"{turn}-{at}"
        name = f"w{case.width} l{case.layers} T{case.context} {layout.processes} x {kind(layout)}"
        plan = replace(plan_of(case, corpus, STEPS, layout), name=name)
        run = run_plan(write_plan(plan, out.with_suffix(".json")), out, quiet=True)
        marks = [row["seconds"] for row in read_metrics(out / METRICS_FILE)]
        gaps = [after - before for before, after in itertools.pairwise(marks)][WARM:-1]
        seconds = statistics.quantiles(gaps, n=4)[0]
        print(f"  {name}: {seconds * 1e3:.1f} ms (median {statistics.median(gaps) * 1e3:.1f})", flush=True)
        found.append(step_of(plan, seconds, run.peak_bytes / layout.processes, "cpu"))
    return found


def score(name: str, steps: Sequence[MeasuredStep], is_seen: Callable[[int, int], bool]) -> None:
    """Forecast every step from prices that were fitted to the steps it may see."""
    errors = []
    for at, step in enumerate(steps):
        seen = [other for place, other in enumerate(steps) if is_seen(at, place)]
        errors.append(off(step, fit_prices(seen, BEFORE)))
        if name.startswith("each configuration"):
            print(f"  {step.name}: {step.seconds * 1e3:.0f} ms, forecast {errors[-1]:+.1%}, {largest(step)}")
    sizes = list(map(abs, errors))
    root = math.sqrt(statistics.mean(math.log1p(one) ** 2 for one in errors))
    print(
        f"{name}: median {statistics.median(sizes):.1%}, worst {max(sizes):.1%} of {len(sizes)}, "
        f"log sd {root:.3f}"
    )


def off(step: MeasuredStep, prices: CpuPrices) -> float:
    """Relative error of the forecast."""
    return step_seconds(step.shape, step.recipe, step.layout, prices) / step.seconds - 1


def largest(step: MeasuredStep) -> str:
    """The two largest terms, as shipped."""
    terms = step_terms(step.shape, step.recipe, step.layout)
    total = sum(terms.values())
    first = sorted(terms, key=lambda name: -terms[name])[:2]
    return ", ".join(f"{name} {terms[name] / total:.0%}" for name in first)


def kind(layout: Layout) -> str:
    """How processes share the work."""
    if layout.degrees.tensor > 1:
        return "tensor"
    return "threads" if layout.threads > 1 else layout.shard


if __name__ == "__main__":
    raise SystemExit(main())
