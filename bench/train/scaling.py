"""Rounds in; what two cores are worth out: rungs side by side, one run on two processes or threads.

    python bench/train/scaling.py --rounds 3

Runs of a round start in turns, through the same doors as `stepladder ladder` and `stepladder train`. Rungs:
four equal runs by one worker against two, whole wall time. Strong: the same batch on one thread, two threads
and two processes; weak: twice the batch on the two processes. Seconds of a step are medians without the
first ones; the share of communication is what the run's own clock says. Beside both stands the plan's
forecast (plan/cpusteps.py), whose prices have seen the one-thread step of the round and nothing else of it.
A round takes 5 to 8 minutes of a machine that does nothing else.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from cases import CASES, Case, plan_of, write_corpus, write_plan

from stepladder.launch.local import run_plan
from stepladder.launch.pool import run_many
from stepladder.plan.cpusteps import fit_prices, step_seconds, step_terms
from stepladder.plan.measured import step_of
from stepladder.records import Layout
from stepladder.train.metrics import METRICS_FILE, read_metrics

WARM, STEPS, RUNG_STEPS = 8, 40, 60
LAYOUTS = {
    "two threads": Layout(threads=2),
    "ddp, two processes": Layout(processes=2, shard="ddp"),
    "fsdp, two processes": Layout(processes=2, shard="fsdp"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Times as fast as one thread or worker, the share of a step in communication, and forecasts of both."""

    ratio: float
    ratio_forecast: float | None = None
    share: float | None = None
    share_forecast: float | None = None


def main() -> int:
    """Print a line for every figure as soon as it is there, then each figure over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="1.3M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=("rungs", "layouts"), default=("rungs", "layouts"))
    options = parser.parse_args()
    case = CASES[options.case]
    found: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        write_corpus(case, folder / "corpus", 100_000)
        for at in range(options.rounds):
            if "rungs" in options.parts:
                ratio = side_by_side(case, folder / f"rungs{at}")
                note(found, "four rungs, two workers against one", Figure(ratio=ratio))
            if "layouts" in options.parts:
                for label, figure in layouts(case, folder / f"run{at}"):
                    note(found, label, figure)
    print(f"\nover {options.rounds} rounds: median (least to most)")
    for label, figures in found.items():
        ratios = [figure.ratio for figure in figures]
        told = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        told += middle("forecast {:.2f}x", [figure.ratio_forecast for figure in figures])
        told += middle("communication {:.1%}", [figure.share for figure in figures])
        told += middle("forecast {:.1%}", [figure.share_forecast for figure in figures])
        print(f"{label}: {told}")
    return 0


def note(found: dict[str, list[Figure]], label: str, figure: Figure) -> None:
    """Keep a figure and print it."""
    found.setdefault(label, []).append(figure)
    print(json.dumps({"what": label} | asdict(figure)), flush=True)


def middle(template: str, values: list[float | None]) -> str:
    """The median of what there is, in words; nothing where there is nothing."""
    there = [value for value in values if value is not None]
    return ", " + template.format(statistics.median(there)) if there else ""


def layouts(case: Case, folder: Path) -> Iterator[tuple[str, Figure]]:
    """Each layout's speed over one thread's of the same round, strong and weak."""
    alone = one_run(case, Layout(), folder)[0]
    plan = plan_of(case, folder.parent / "corpus", STEPS, Layout())
    shape, recipe = plan.shape, plan.recipe
    prices = fit_prices([step_of(plan, alone, 0.0, "cpu")])
    for label, layout in LAYOUTS.items():
        for scale in (1, 2) if layout.processes > 1 else (1,):
            scaled = replace(case, sequences=scale * case.sequences)
            step, share = one_run(scaled, layout, folder)
            terms = step_terms(shape, replace(recipe, batch_tokens=scaled.step_tokens), layout, prices)
            total = sum(terms.values())
            waits = (terms["messages"] + terms["traffic"]) / total
            kind = "weak" if scale > 1 else "strong"
            yield (
                f"{kind}, {label}",
                Figure(
                    ratio=scale * alone / step,
                    ratio_forecast=scale * step_seconds(shape, recipe, Layout(), prices) / total,
                    share=share,
                    share_forecast=waits if layout.processes > 1 else None,
                ),
            )


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


def one_run(case: Case, layout: Layout, folder: Path) -> tuple[float, float | None]:
    """Seconds of a step, and the share of it in communication where there is any."""
    name = f"{layout.processes}-{layout.threads}-{layout.shard}-{case.sequences}"
    out = folder / name
    out.mkdir(parents=True)
    plan = plan_of(case, folder.parent / "corpus", STEPS, layout)
    run_plan(write_plan(plan, folder / f"{name}.json"), out, quiet=True)
    rows = list(read_metrics(out / METRICS_FILE))[WARM:]
    marks = [row["seconds"] for row in rows]
    step = statistics.median(after - before for before, after in pairwise(marks))
    shares = [row["communication_share"] for row in rows if "communication_share" in row]
    return step, statistics.median(shares) if shares and layout.processes > 1 else None


if __name__ == "__main__":
    raise SystemExit(main())
