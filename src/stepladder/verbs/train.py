"""`stepladder train`: a plan and a folder in; a trained run in that folder out."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from stepladder.records import Plan, Run, to_json
from stepladder.train.choices import Choice, choice_lines, choose, is_short, kept_choices
from stepladder.units import JOULES_PER_KWH, format_bytes, format_count, format_seconds, format_usd

EXIT_RESUME = 75


def train(
    plan: Path,
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder of the run; an interrupted one is continued.")],
    dry_run: Annotated[bool, Parameter(help="Say what it would cost and do nothing.")] = False,
    explain: Annotated[bool, Parameter(help="Say where and how it is computed, and why.")] = False,
    tracker: Annotated[list[str] | None, Parameter(help="trackio, wandb, tensorboard or mlflow.")] = None,
    emit: Annotated[
        Literal["slurm", "torchrun"] | None, Parameter(help="Print a job for a cluster and do nothing.")
    ] = None,
    node_rank: Annotated[int | None, Parameter(help="Which node this is, from 0, if several.")] = None,
    master: Annotated[str, Parameter(help="HOST:PORT of node 0, for a run on several nodes.")] = "",
    json_output: Annotated[bool, Parameter(name="--json", help="Print one JSON object.")] = False,
) -> int:
    """Train what a plan says; start or continue.

    Parameters
    ----------
    plan
        plan.json, as `stepladder plan` writes it.
    """
    from stepladder.launch.local import Interrupted, run_plan
    from stepladder.launch.nodes import place
    from stepladder.launch.process import finished_run, read_plan, stop_on_signals
    from stepladder.launch.slurm import emit as emitted
    from stepladder.train.metrics import METRICS_FILE, last_line
    from stepladder.train.trackers import name_trackers

    wanted = read_plan(plan)
    if emit:
        print(emitted(emit, wanted, plan, out), end="")
        return 0
    name_trackers(tracker)
    choices = choices_of(wanted, out) if explain else {}
    if not json_output:
        print(
            "\n".join(cost_lines(wanted) + (layout_lines(wanted) + choice_lines(choices) if explain else []))
        )
    done = finished_run(plan, out)
    if dry_run:
        told: dict[str, Any] = {"plan": to_json(wanted), "done": done is not None}
        told |= {"choices": to_json(list(choices.values()))} if explain else {}
        _end_dry_run(plan, wanted, told if json_output else None)
        return 0
    if done and not json_output:
        print(f"{out} is done already.")
    node = place(wanted, node_rank, master)
    try:
        with stop_on_signals():
            run = done or run_plan(plan, out, node=node)
    except Interrupted:
        print(f"stopped; the same command goes on from the last checkpoint: {out}", file=sys.stderr)
        return EXIT_RESUME
    last = last_line(out / METRICS_FILE)
    print(json.dumps(to_json(run)) if json_output else "\n".join(run_lines(run, last)))
    return 0


def _end_dry_run(path: Path, plan: Plan, told: dict[str, Any] | None) -> None:
    """Build a layout of several processes in pretence, and print it, as JSON with what is `told`."""
    from stepladder.launch.pretend import pretend, pretend_lines

    built = pretend(path) if plan.layout.processes > 1 else None
    if told is not None:
        print(json.dumps(told | ({"layout": built} if built else {})))
    elif built:
        print("\n".join(pretend_lines(built)))


def cost_lines(plan: Plan) -> list[str]:
    """What the run is, and what it is going to cost."""
    numbers, shape = plan.numbers, plan.shape
    size = (
        f"{plan.name}: {format_count(numbers['params'].value)} parameters "
        f"({shape.num_layers} layers of {shape.width}), {format_count(plan.tokens)} tokens "
        f"in {plan.steps} steps of {plan.recipe.batch_tokens}"
    )
    costs = []
    for key, text in (("seconds", format_seconds), ("kwh", "{:.3g} kWh".format), ("usd", format_usd)):
        number = numbers[key]
        costs.append(f"{text(number.value)} ({text(number.low)} to {text(number.high)})")
    return [size, "expected: " + ", ".join(costs)]


def choices_of(plan: Plan, out: Path) -> dict[str, Choice]:
    """What the run in `out` chose, or what it would choose from the measurements that are cached."""
    from stepladder.plan.machine import kept_probe

    return kept_choices(out) or choose(plan, {} if is_short(plan) else kept_probe())


def layout_lines(plan: Plan) -> list[str]:
    """Where it is computed, with the source of each choice."""
    layout = plan.layout
    lines = [
        f"device: {layout.device}, {layout.processes} process{'es' if layout.processes > 1 else ''} of "
        f"{layout.threads} thread{'s' if layout.threads > 1 else ''}, "
        f"shard = {layout.shard}, precision = {layout.precision}, recompute = {layout.recompute}"
    ]
    return lines + [f"{key}: {number.value:g}, {number.how}" for key, number in plan.numbers.items()]


def run_lines(run: Run, last: Mapping[str, Any]) -> list[str]:
    """How it ended; `last` is the last line of metrics.jsonl."""
    if run.status != "ok":
        return [f"{run.name}: {run.status}"]
    source = run.energy.source or "source not recorded"
    lines = [
        f"{run.name}: held-out loss {run.heldout_loss:.4f} nats per token, "
        f"{run.heldout_bits_per_byte:.4f} bits per byte",
        f"took {format_seconds(run.seconds)}, {run.joules / JOULES_PER_KWH:.3g} kWh ({source}), "
        f"{format_bytes(run.peak_bytes)} peak",
    ]
    if last.get("tokens_per_second"):
        speed = f"{format_count(last['tokens_per_second'])} tokens a second at the end"
        if last.get("mfu"):
            speed += f", {last['mfu']:.1%} of the peak of matrix products ({last['mfu_peak']})"
        lines.append(speed)
    return lines
