"""Nothing in; peak resident memory of real runs on this CPU beside the plan's forecast, out.

    python bench/plan/own_memory.py [--keep measured.jsonl] [--fresh]

Two steps of each configuration, in fresh processes through the door of `stepladder train`: one process, and
two over gloo (ddp, fsdp, tensor, context, pipeline). The constants of a process on a CPU are fitted to every
second configuration and scored on the others; what ships is fitted to all. `--keep` reads what is there;
`--fresh` takes other configurations, which were measured when terms and constants stood.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from cases import Case, plan_of, write_corpus, write_plan

from stepladder.launch.local import run_plan
from stepladder.plan.memory import CPU, HeapRule, memory_terms
from stepladder.records import Degrees, Derived, Layout, Plan, from_json, to_json
from stepladder.train.schedule import KEEP_FILE

STEPS, KEEP_STEP = 2, 1
ONE, TWO = Layout(), Layout(processes=2)
DDP, FSDP = replace(TWO, shard="ddp"), replace(TWO, shard="fsdp")
TENSOR, PIPELINE = replace(TWO, degrees=Degrees(tensor=2)), replace(TWO, degrees=Degrees(pipeline=2))
CONTEXT = replace(DDP, degrees=Degrees(context=2))
BF16 = replace(ONE, precision="bf16")


def configurations() -> list[tuple[Case, Layout, str, bool]]:
    """(network and sequences of a step, layout, optimiser, whether a checkpoint is written)."""
    tiny, small = case(64, 2, 512, 64, 2), case(96, 6, 2048, 256, 4)
    deep, wide, middle = case(128, 8, 2048, 128, 16), case(384, 4, 4096, 128, 8), case(256, 6, 4096, 64, 16)
    long, tall = case(64, 4, 2048, 512, 4), case(256, 2, 8192, 128, 8)
    pair = case(384, 4, 4096, 128, 16)
    alone = [tiny, small, case(128, 4, 2048, 128, 8), deep, case(192, 4, 4096, 256, 4), middle, tall, wide]
    alone += [case(384, 2, 16384, 256, 2), long, case(256, 10, 2048, 64, 8), case(320, 6, 2048, 128, 16)]
    rows = [(one, ONE, "adamw", False) for one in alone]
    rows += [(one, ONE, "muon", False) for one in (deep, middle, wide, tall)]
    rows += [(one, BF16, "adamw", False) for one in (case(128, 4, 2048, 128, 8), wide)]
    rows += [(middle, BF16, "muon", False), (wide, ONE, "adamw", True), (middle, ONE, "muon", True)]
    big = case(256, 6, 4096, 128, 16)
    rows += [(big, replace(ONE, recompute=how), "adamw", False) for how in ("full", "selective")]
    rows += [(big, replace(ONE, micro_batch_sequences=4), "adamw", False)]
    rows += [(one, kind, "adamw", False) for one in (small, pair) for kind in (DDP, FSDP, TENSOR)]
    rows += [(tall, kind, "adamw", False) for kind in (DDP, FSDP, TENSOR)]
    rows += [(pair, kind, "muon", False) for kind in (DDP, FSDP, TENSOR)]
    rows += [(pair, kind, "adamw", False) for kind in (CONTEXT, PIPELINE)]
    return rows


def fresh_configurations() -> list[tuple[Case, Layout, str, bool]]:
    """As `configurations`; nothing was chosen with these in view."""
    split, piled = case(256, 4, 2048, 128, 16), case(192, 6, 4096, 64, 16)
    rows = [(one, ONE, "adamw", False) for one in (case(160, 5, 4096, 128, 12), case(224, 4, 8192, 256, 2))]
    rows += [(one, ONE, "adamw", False) for one in (case(128, 12, 2048, 64, 16), case(320, 3, 4096, 64, 16))]
    rows += [(one, ONE, "muon", False) for one in (case(288, 3, 2048, 64, 32), case(224, 6, 2048, 128, 8))]
    rows += [(case(352, 5, 2048, 128, 8), ONE, "adamw", True), (split, TENSOR, "adamw", False)]
    rows += [(case(320, 4, 2048, 128, 16), FSDP, "adamw", False), (piled, DDP, "muon", False)]
    return [*rows, (piled, FSDP, "adamw", True)]


def case(width: int, layers: int, vocabulary: int, context: int, sequences: int) -> Case:
    """In one line."""
    return Case(width=width, layers=layers, vocabulary=vocabulary, context=context, sequences=sequences)


def main() -> int:
    """Print one line a configuration, then the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="measured runs, read if there, else written")
    parser.add_argument("--fresh", action="store_true", help="configurations that nothing was chosen with")
    options = parser.parse_args()
    chosen = fresh_configurations() if options.fresh else configurations()
    if options.keep and options.keep.exists():
        rows = [json.loads(line) for line in options.keep.read_text().splitlines()]
    else:
        rows = measure_all(chosen)
        if options.keep:
            options.keep.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if options.fresh:
        for row in rows:
            print(f"{label(row)}: {row['peak'] / 1e6:.0f} MB, forecast {error(row, CPU):+.1%}")
        report("shipped, fresh configurations", rows, CPU)
        return 0
    fitted = fit(rows[::2])
    print(f"fitted to every second: {shown(fitted)}; to all: {shown(fit(rows))}; shipped: {shown(CPU)}")
    for number, row in enumerate(rows):
        print(
            f"{'held' if number % 2 else 'fit ':<5} {label(row)}: {row['peak'] / 1e6:5.0f} MB, "
            f"{sum(terms(row, fitted).values()) / 1e6:5.0f} forecast {error(row, fitted):+.1%}"
        )
    held = rows[1::2]
    report("held-out configurations", held, fitted)
    report("  one process", [row for row in held if plan_in(row).layout.processes == 1], fitted)
    report("  two processes", [row for row in held if plan_in(row).layout.processes == 2], fitted)
    report("shipped, all", rows, CPU)
    return 0


def measure_all(chosen: list[tuple[Case, Layout, str, bool]]) -> list[dict]:
    """Runs of one process two at a time, those of two one at a time."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="own-memory-") as name:
        folder = Path(name)
        jobs = list(enumerate(chosen))
        for shape in {(one.vocabulary, one.context): one for _, (one, *_) in jobs}.values():
            write_corpus(shape, folder / corpus_of(shape), 60_000)
        alone = [job for job in jobs if job[1][1].processes == 1]
        with ThreadPoolExecutor(2) as pool:
            rows = list(pool.map(lambda job: measure(folder, *job), alone))
        rows += [measure(folder, *job) for job in jobs if job[1][1].processes > 1]
    print(f"{len(rows)} runs in {time.perf_counter() - started:.0f} s")
    return rows


def measure(folder: Path, number: int, what: tuple[Case, Layout, str, bool]) -> dict:
    """One run; its plan and the peak of each process, in bytes."""
    shape, layout, optimiser, checkpoints = what
    out = folder / str(number)
    out.mkdir()
    plan = plan_of(shape, folder / corpus_of(shape), STEPS, layout)
    short = Derived(value=1.0, low=1.0, high=1.0, how="a bench")
    recipe = replace(plan.recipe, optimiser=optimiser)
    plan = replace(plan, recipe=recipe, numbers={**plan.numbers, "seconds": short})
    if checkpoints:
        (out / KEEP_FILE).write_text(json.dumps({"steps": [KEEP_STEP]}))
    run = run_plan(write_plan(plan, out.with_suffix(".json")), out, quiet=True)
    return {"plan": to_json(plan), "checkpoints": checkpoints, "peak": run.peak_bytes / layout.processes}


def corpus_of(shape: Case) -> str:
    """A folder."""
    return f"corpus-{shape.vocabulary}-{shape.context}"


def plan_in(row: dict) -> Plan:
    """Of a measured row."""
    return from_json(Plan, row["plan"])


def terms(row: dict, rule: HeapRule) -> dict[str, float]:
    """The forecast."""
    plan = plan_in(row)
    return memory_terms(plan.shape, plan.recipe, plan.layout, checkpoints=row["checkpoints"], heap=rule)


def error(row: dict, rule: HeapRule) -> float:
    """Of the forecast, relative."""
    return sum(terms(row, rule).values()) / row["peak"] - 1


def fit(rows: list[dict]) -> HeapRule:
    """Least squares of relative errors."""

    def misses(values: np.ndarray) -> np.ndarray:
        return np.array([error(row, rule_of(values)) for row in rows])

    return rule_of(least_squares(misses, [3.2, 0.2, 1.3], diff_step=1e-3).x)


def rule_of(values: np.ndarray) -> HeapRule:
    """Processes in units of 100 MB."""
    process, group, slack = values.tolist()
    return HeapRule(process=1e8 * process, group=1e8 * group, slack=slack)


def report(name: str, rows: list[dict], rule: HeapRule) -> None:
    """Median and worst."""
    apart = [abs(error(row, rule)) for row in rows]
    inside = sum(each <= 1.28 * 0.05 for each in apart)
    print(
        f"{name}: median {statistics.median(apart):.1%}, worst {max(apart):.1%} of {len(rows)}; "
        f"80 % interval held {inside}"
    )


def label(row: dict) -> str:
    """In few words."""
    plan = plan_in(row)
    shape, layout = plan.shape, plan.layout
    sequences = plan.recipe.batch_tokens // shape.context_tokens
    size = f"{shape.width}x{shape.num_layers} V{shape.vocab_size} T{shape.context_tokens} B{sequences}"
    degrees = [name for name in ("tensor", "pipeline", "context") if getattr(layout.degrees, name) > 1]
    words = [layout.precision, plan.recipe.optimiser, layout.shard, *degrees, layout.recompute]
    words += ["checkpoint"] if row["checkpoints"] else []
    return f"{size} {' '.join(word for word in words if word != 'none')}"


def shown(rule: HeapRule) -> str:
    """In one line."""
    group = f"in a group {rule.group / 1e6:.0f} more"
    return f"process {rule.process / 1e6:.0f} MB, {group}, slack x{rule.slack:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
