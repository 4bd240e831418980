"""Shapes and layouts in; measured seconds per token out, from a few dozen real training steps each."""

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder.errors import TrainError
from stepladder.launch.local import run_plan
from stepladder.launch.pool import JobFailure, run_many
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.progress import Progress
from stepladder.records import Derived, Layout, Observation, Plan, Recipe, Run, Shape, from_json, to_json
from stepladder.store import open_artefact, read_json, write_json
from stepladder.train.metrics import METRICS_FILE, read_metrics

# The first steps allocate memory and warm caches; the median of the rest is the speed.
_STEPS, _WARM_STEPS = 36, 8
# A layout that has taken so many times as long as the best one is not waited for. Two threads of one process
# beside other programs were seen 27 times slower than two processes (docs/log.md).
_PATIENCE, _GRACE_SECONDS = 3.0, 5.0


class _TooSlowError(Exception):
    """A layout that cannot be the fastest any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all calibration runs share. `corpus` is relative to a run's own folder, or absolute."""

    folder: Path
    corpus: str
    corpus_fingerprint: str
    quiet: bool = False


def calibrate_shapes(
    trials: Sequence[tuple[Shape, Recipe]], bench: Bench, layout: Layout, workers: int
) -> list[Observation]:
    """Speed of each shape in the ladder's layout, with all workers busy as in the ladder.

    The observations have params, tokens, flops and seconds of the steps alone (no evaluation); no loss.

    Raises:
        TrainError: a run failed.
    """
    plans = [_plan(f"shape{at:02d}", *trial, layout, bench) for at, trial in enumerate(trials, start=1)]
    jobs = [_job(plan, bench) for plan in plans]
    with Progress("calibrate", len(jobs), "shapes", quiet=bench.quiet) as progress:
        results = run_many(jobs, workers=workers)
        progress.update(len(jobs))
    for result in results:
        if isinstance(result, JobFailure):
            raise TrainError(
                "a calibration run failed",
                got=f"{result.name}: {result.reason}",
                next_command="stepladder doctor",
            )
    return [_observe(plan, out) for plan, (_, out) in zip(plans, jobs, strict=True)]


def choose_layout(
    shape: Shape, recipe: Recipe, layouts: Mapping[str, Layout], bench: Bench
) -> tuple[str, dict[str, float]]:
    """Name of the fastest layout for the target, and seconds per token of all that ran.

    A layout that does not start here is left out; it is no reason to stop. One that falls far behind the best
    is stopped: its seconds are those of the steps that it made.
    """
    seconds: dict[str, float] = {}
    with Progress("layouts", len(layouts), "layouts", quiet=bench.quiet) as progress:
        for name, layout in layouts.items():
            plan = _plan(f"layout-{name}", shape, recipe, layout, bench)
            plan_path, out = _job(plan, bench)
            most = _PATIENCE * min(seconds.values(), default=math.inf) * plan.tokens + _GRACE_SECONDS
            try:
                run_plan(plan_path, out, quiet=True, on_progress=_Patience(most))
                seconds[name] = _step_seconds(out) / plan.recipe.batch_tokens
            except _TooSlowError as slow:
                seconds[name] = slow.args[0]
            except TrainError as error:
                write_json(out / "failed.json", {"reason": str(error)})
            progress.advance(note=name)
    if not seconds:
        raise TrainError("no layout of the target runs on this machine", next_command="stepladder doctor")
    return min(seconds, key=lambda name: seconds[name]), seconds


class _Patience:
    """Hears how far a run is; raises once it has taken more than `seconds` since its first word."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first: tuple[float, int] | None = None

    def __call__(self, name: str, tokens: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (now, tokens)
        began, before = self.first
        if now - began > self.seconds and before < tokens < total:
            raise _TooSlowError((now - began) / (tokens - before))


def _plan(name: str, shape: Shape, recipe: Recipe, layout: Layout, bench: Bench) -> Plan:
    unit = shape.context_tokens * layout.processes
    batch = -(-recipe.batch_tokens // unit) * unit
    tokens = float(_STEPS * batch)
    exact = Derived(value=tokens, low=tokens, high=tokens, how=f"{_STEPS} steps, to measure speed")
    return Plan(
        name=name,
        corpus=bench.corpus,
        shape=shape,
        recipe=replace(recipe, batch_tokens=batch),
        layout=layout,
        seed=0,
        numbers={"tokens": exact},
        corpus_fingerprint=bench.corpus_fingerprint,
        objective="causal" if shape.causal else "masked",
    )


def _job(plan: Plan, bench: Bench) -> tuple[Path, Path]:
    value = to_json(plan)
    fields = {key: item for key, item in value.items() if key != "corpus"}
    folder = open_artefact(bench.folder / f"{plan.name}@1", fields).folder
    if not (folder / "plan.json").exists():
        write_json(folder / "plan.json", value)
    return folder / "plan.json", folder


def _observe(plan: Plan, out: Path) -> Observation:
    flops = train_flops_per_token(plan.shape)
    tokens = plan.steps * plan.recipe.batch_tokens
    return Observation(
        run=plan.name,
        params=count_params(plan.shape).total,
        tokens=tokens,
        loss=float("nan"),
        flops=flops * tokens,
        seconds=_step_seconds(out) * plan.steps,
        notes={
            "threads": plan.layout.threads,
            "processes": plan.layout.processes,
            "batch_tokens": plan.recipe.batch_tokens,
            "fixed_seconds": _fixed_seconds(out),
        },
    )


def _fixed_seconds(out: Path) -> float:
    """What a run takes beyond its steps: the held-out evaluation, and the first steps' warming up."""
    seconds = from_json(Run, read_json(out / "run.json")).seconds
    return max(seconds - _STEPS * _step_seconds(out), 0.0)


def _step_seconds(out: Path) -> float:
    """Median seconds between consecutive steps after the warm-up."""
    seconds = [record["seconds"] for record in read_metrics(out / METRICS_FILE)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(seconds)]
    # The last step holds the evaluation.
    return statistics.median(gaps[_WARM_STEPS:-1])
