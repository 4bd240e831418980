"""Rounds in; what two cores are worth out: rungs side by side, one run on two processes or threads.

    python bench/train/scaling.py --rounds 3

Runs of a round start in turns, through the same doors as `stepladder ladder` and `stepladder train`. Rungs:
four equal runs by one worker against two, whole wall time. Strong: the same batch on one thread, two threads
and two data-parallel processes; weak: twice the batch on the two processes. Seconds of a step are medians
without the first ones. The share of communication is what the run's own clock says; the plan's forecast
of it is the traffic of an all-reduce over the link that `doctor` measured. A quiet machine is needed.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from cases import CASES, Case, plan_of, write_corpus, write_plan

from stepladder.launch.local import run_plan
from stepladder.launch.pool import run_many
from stepladder.models.count import count_params
from stepladder.plan.machine import measure_machine
from stepladder.records import Layout
from stepladder.train.metrics import METRICS_FILE, read_metrics

WARM, STEPS, RUNG_STEPS = 8, 40, 100
LAYOUTS = {
    "one thread": Layout(),
    "two threads": Layout(threads=2),
    "ddp, two processes": Layout(processes=2, shard="ddp"),
    "fsdp, two processes": Layout(processes=2, shard="fsdp"),
}


def main() -> int:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="1.3M")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    case = CASES[options.case]
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        write_corpus(case, folder / "corpus")
        rungs = [side_by_side(case, folder / f"rungs{at}") for at in range(options.rounds)]
        say("four rungs by two workers against one", rungs)
        single, steps, shares = {}, {}, {}
        for at in range(options.rounds):
            for label, layout in LAYOUTS.items():
                for scale in (1, 2) if layout.processes > 1 else (1,):
                    step, share = one_run(case, layout, scale, folder / f"run{at}")
                    steps.setdefault((label, scale), []).append(step)
                    shares.setdefault((label, scale), []).append(share)
            single[at] = steps["one thread", 1][at]
        for (label, scale), seconds in steps.items():
            ratios = [scale * single[at] / step for at, step in enumerate(seconds)]
            kind = "weak" if scale > 1 else "strong"
            say(f"{kind}, {label}", ratios, f"communication {statistics.median(shares[label, scale]):.1%}")
        print(forecast_share(case, statistics.median(single.values())))
    return 0


def side_by_side(case: Case, folder: Path) -> float:
    """Wall seconds of four equal runs by one worker over those by two, who has torch loaded in both."""
    seconds = {}
    for workers in (1, 2):
        jobs = []
        for at in range(4):
            out = folder / f"{workers}-{at}"
            out.mkdir(parents=True)
            plan = plan_of(case, folder.parent / "corpus", RUNG_STEPS, Layout())
            jobs.append((write_plan(plan, out.with_suffix(".json")), out))
        started = time.perf_counter()
        run_many(jobs, workers=workers)
        seconds[workers] = time.perf_counter() - started
    return seconds[1] / seconds[2]


def one_run(case: Case, layout: Layout, scale: int, folder: Path) -> tuple[float, float]:
    """Seconds of a step, and the share of it in communication."""
    name = f"{layout.processes}-{layout.threads}-{layout.shard}-{scale}"
    out = folder / name
    out.mkdir(parents=True)
    scaled = replace(case, sequences=scale * case.sequences)
    plan = plan_of(scaled, folder.parent / "corpus", STEPS, layout)
    run_plan(write_plan(plan, folder / f"{name}.json"), out, quiet=True)
    rows = list(read_metrics(out / METRICS_FILE))[WARM:]
    marks = [row["seconds"] for row in rows]
    step = statistics.median(after - before for before, after in pairwise(marks))
    shares = [row["communication_share"] for row in rows if "communication_share" in row]
    return step, statistics.median(shares) if shares else 0.0


def forecast_share(case: Case, single: float) -> str:
    """What two processes would wait if nothing hid the all-reduce of fp32 gradients."""
    link = measure_machine(rates="cached").allreduce_gbps
    if not link > 0:
        return "forecast of communication: doctor has measured no link"
    seconds = 4 * count_params(case.shape).total / (link * 1e9)
    step = single / 2 + seconds
    return f"forecast of communication with {link:.2g} GB/s, nothing hidden: {seconds / step:.1%} of a step"


def say(what: str, ratios: list[float], more: str = "") -> None:
    """Median, least and most."""
    middle = statistics.median(ratios)
    print(json.dumps({"what": what, "ratios": [round(ratio, 3) for ratio in ratios]}), flush=True)
    print(f"  {what}: {middle:.2f}x ({min(ratios):.2f} to {max(ratios):.2f}) {more}".rstrip(), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
