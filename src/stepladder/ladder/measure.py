"""A plan and layouts near its own, or a ladder's folder, in; measured steps out."""

import contextlib
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stepladder.errors import PlanError, StoreError, did_you_mean
from stepladder.launch.local import run_plan
from stepladder.plan.hardware import device_of_name
from stepladder.plan.layout import layout_problems
from stepladder.plan.machine import measure_machine
from stepladder.plan.measured import MeasuredStep, step_of
from stepladder.progress import Progress
from stepladder.records import SWITCHES, Degrees, Layout, Plan, Run, from_json, to_json
from stepladder.store import open_artefact, read_json, write_json
from stepladder.train.metrics import METRICS_FILE, read_metrics

# The first steps allocate memory and warm caches; the last one holds the evaluation.
WARM_STEPS, LEAST_STEPS = 4, 8


def neighbours(plan: Plan) -> dict[str, Layout]:
    """Layouts by name: the plan's own, one process alone, half the micro-batch; only those that can train."""
    own = plan.layout
    alone = replace(own, processes=1, nodes=1, shard="none", degrees=Degrees(), micro_batch_sequences=0)
    sequences = plan.recipe.batch_tokens // plan.shape.context_tokens
    each = max(sequences * own.degrees.model // own.processes, 1)
    half = replace(own, micro_batch_sequences=max((own.micro_batch_sequences or each) // 2, 1))
    found: dict[str, Layout] = {}
    for name, layout in (("plan", own), ("alone", alone), ("half", half)):
        if layout not in found.values() and not layout_problems(layout, plan.shape, plan.recipe):
            found[name] = layout
    return found


def chosen(plan: Plan, names: Sequence[str]) -> dict[str, Layout]:
    """The layouts with these names, all of them by default.

    Raises:
        PlanError: a name that is none of them, or a switch that no column of the table says.
    """
    if on := [name for name in SWITCHES if getattr(plan.layout, name)]:
        raise PlanError(
            f"a table of measured steps does not say {' and '.join(on)}",
            allowed="a plan without",
            next_command=f"set {on[0]} = false in [override] and plan again",
        )
    known = neighbours(plan)
    for name in names:
        if name not in known:
            raise PlanError(
                f'no layout "{name}" to calibrate{did_you_mean(name, known)}', allowed=", ".join(known)
            )
    return {name: known[name] for name in names or known}


def measure_layouts(
    plan: Plan, layouts: Mapping[str, Layout], steps: int, folder: Path, *, quiet: bool = False
) -> list[MeasuredStep]:
    """`steps` real steps in each layout; runs that are done are reused, interrupted ones go on.

    Raises:
        PlanError: too few steps to tell.
        TrainError: a layout cannot be trained here.
    """
    if steps < LEAST_STEPS:
        raise PlanError(f"{steps} steps are too few to time", allowed=f"--steps {LEAST_STEPS} or more")
    found = []
    with Progress("calibrate", len(layouts), "layouts", quiet=quiet) as progress:
        for name, layout in layouts.items():
            tokens = float(steps * plan.recipe.batch_tokens)
            number = replace(
                plan.numbers["tokens"], value=tokens, low=tokens, high=tokens, how=f"{steps} steps, for speed"
            )
            short = replace(plan.numbers["seconds"], value=1.0, low=1.0, high=1.0)
            numbers = {**plan.numbers, "tokens": number, "seconds": short}
            one = replace(plan, name=f"{plan.name}-{name}", layout=layout, numbers=numbers)
            value = to_json(one)
            fields = {key: item for key, item in value.items() if key != "corpus"}
            out = open_artefact(folder / f"{name}@1", fields).folder
            write_json(out / "plan.json", value)
            run_plan(out / "plan.json", out, quiet=True)
            found.append(step_of_run(out))
            progress.advance(note=name)
    return found


def step_of_run(folder: Path) -> MeasuredStep:
    """What the finished run in `folder` measured: median step seconds, peak bytes of a process."""
    plan = from_json(Plan, read_json(folder / "plan.json"))
    run = from_json(Run, read_json(folder / "run.json"))
    marks = [record["seconds"] for record in read_metrics(folder / METRICS_FILE)]
    gaps = [after - before for before, after in itertools.pairwise(marks)][WARM_STEPS:-1]
    if not gaps:
        raise StoreError(f"{folder} has too few steps to time", got=f"{len(marks)} steps")
    peak = run.peak_bytes / plan.layout.processes
    hw = "cpu" if plan.layout.device == "cpu" else _gpu_id()
    return step_of(plan, statistics.median(gaps), peak, hw)


def _gpu_id() -> str:
    """The catalogue's id of this machine's GPU, else "this"."""
    gpus = measure_machine(rates="none").gpus
    device = device_of_name(gpus[0].name, gpus[0].memory_bytes) if gpus else None
    return device.id if device else "this"


def rows_from_ladder(folder: Path) -> list[MeasuredStep]:
    """The rungs of a ladder as measured steps, for free; unfinished, diverged and short ones left out."""
    found = []
    for path in sorted(folder.glob("*@*/run.json")):
        if read_json(path).get("status") == "ok" and (path.parent / METRICS_FILE).exists():
            with contextlib.suppress(StoreError):
                found.append(step_of_run(path.parent))
    return found
