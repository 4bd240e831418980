"""A model, an objective and batches in; a trained model, metrics.jsonl and a Run out. The one training loop.

Pretraining, rungs and fine-tuning all run here. Everything that a step depends on is in the checkpoint, so
a run that is killed and resumed ends with the same bits as one that was not.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn

from stepladder.models.experts import mixtures, take_loads
from stepladder.models.shard import reshard
from stepladder.records import Energy, Layout, Recipe, Run
from stepladder.train.averaging import Averaging
from stepladder.train.checkpoint import Checkpointer
from stepladder.train.clock import StepClock, Work
from stepladder.train.faults import FaultPolicy, Guard, Pace, Watchdog, divergence, warn
from stepladder.train.graphs import passes_of
from stepladder.train.meter import EnergyMeter, give_back, peak_rss_bytes, reset_peak
from stepladder.train.metrics import METRICS_FILE, MetricsWriter, last_line, read_metrics
from stepladder.train.objective import Objective
from stepladder.train.optim import build_optimisers
from stepladder.train.parallel import Ranks
from stepladder.train.passes import clip_gradients
from stepladder.train.precision import autocast
from stepladder.train.schedule import rate_factor

CHECKPOINT_SECONDS = 20.0
# The reported training loss is the mean over this share of the last steps.
_FINAL_SHARE = 0.02
_SMOOTHING = 0.95
# Every so many steps, and at the last, a line of metrics.jsonl also says where the time of these steps went.
_TIMED_STEPS = 10


class Batches(Protocol):
    """Where a run's batches come from; `consumed` is its whole state and may be set."""

    consumed: int

    def next(self) -> list[Any]:
        """This rank's micro-batches of the next step."""
        ...


class Stopped(Exception):  # noqa: N818 (asked for, not an error)
    """The run was asked to stop, wrote its checkpoint, and can be resumed. `so_far` is what it came to."""

    def __init__(self, text: str, so_far: Run) -> None:
        super().__init__(text)
        self.so_far = so_far


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; with seconds, joules and the guard's memory, the counters of its checkpoints."""

    step: int = 0
    tokens: int = 0
    consumed: int = 0
    metrics_bytes: int = 0
    first_loss: float = 0.0
    smooth: float = 0.0

    @classmethod
    def of(cls, counters: Mapping[str, Any]) -> Self:
        """Where a checkpoint with these counters stands; the beginning for {}."""
        return cls(**{key.name: counters[key.name] for key in fields(cls) if key.name in counters})

    def advance(self, tokens: int, loss: float | None) -> None:
        """One more step; `loss` is None where it does not count."""
        self.step += 1
        self.tokens += tokens
        if loss is not None:
            self.first_loss = self.first_loss or loss
            self.smooth = _SMOOTHING * self.smooth + (1 - _SMOOTHING) * loss if self.smooth else loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauges:
    """What the meters of a run are told, and who else hears each record (after metrics.jsonl has it)."""

    work: Work = field(default_factory=Work)
    on_record: Callable[[Mapping[str, float | str]], None] = lambda _: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the loop is told besides model, objective and batches.

    `evaluations` counts held-out evaluations before the last step. `on_step` hears (step, tokens, loss).
    `stop` may be set from a signal handler or another thread.
    """

    name: str
    recipe: Recipe
    layout: Layout
    ranks: Ranks
    steps: int
    folder: Path
    stop: threading.Event
    on_step: Callable[[int, int, float], None]
    evaluations: int = 0
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    gauges: Gauges = field(default_factory=Gauges)
    faults: FaultPolicy = field(default_factory=FaultPolicy)


def train(model: nn.Module, objective: Objective, batches: Batches, job: Job) -> Run:
    """Train to the end of the job, resuming what its folder holds.

    Raises:
        Stopped: `job.stop` was set; the checkpoint is written.
        TrainError: the disk is full, or the folder's checkpoint belongs to another model.
    """
    recipe, ranks, faults = job.recipe, job.ranks, job.faults
    optimisers = build_optimisers(model, recipe)
    checkpoints = Checkpointer(job.folder / "checkpoints", model, optimisers, ranks)
    past = checkpoints.restore()
    at = Progress.of(past)
    batches.consumed = at.consumed
    guard = Guard(faults, past.get("guard", {}))
    is_main, is_cuda = ranks.rank == 0, ranks.device.type == "cuda"
    metrics = (
        MetricsWriter(job.folder / METRICS_FILE, at.metrics_bytes, checkpoints.wait) if is_main else None
    )
    reset_peaks(ranks.device)
    meter = EnergyMeter(past, gpu=ranks.device.index if is_cuda else None)
    clock = StepClock((lambda: torch.cuda.Event(enable_timing=True)) if is_cuda else None)
    pace = Pace(
        ranks.rank, ranks.world, ranks.sum, wall=job.layout.shard == "ddp" and ranks.degrees.model == 1
    )
    watch = Watchdog(job.folder, ranks.rank, faults.hang_seconds)
    started = saved_at = time.monotonic()
    marks = {round(job.steps * (k + 1) / (job.evaluations + 1)) for k in range(job.evaluations)} | {job.steps}
    status, told, averaging = "ok", {}, Averaging(model, job.layout, ranks)
    passes = passes_of(model, objective, job.layout, averaging.expect)
    model.train()

    def seconds() -> float:
        return past.get("seconds", 0.0) + time.monotonic() - started

    def counters() -> dict[str, Any]:
        at.consumed, at.metrics_bytes = batches.consumed, metrics.num_bytes if metrics else 0
        return asdict(at) | {"seconds": seconds(), "guard": guard.state()} | meter.state()

    with watch, metrics or nullcontext(), checkpoints:
        while at.step < job.steps and status == "ok":
            clock.mark("data")
            micro_batches = batches.next()
            clock.mark("communication")
            step_tokens = ranks.count(sum(objective.count(batch) for batch in micro_batches))
            # Gradients are means over replicas: scale so that they are means over all tokens.
            scale = ranks.replicas / step_tokens
            pace.start()
            loss_sum = passes(micro_batches, scale, clock.mark)
            pace.stop()
            clock.mark("communication")
            averaging.finish()
            clock.mark("optimiser")
            grad_norm = clip_gradients(model, recipe.grad_clip, ranks)

            # One small all-reduce agrees on the loss and on what to do next, so that all ranks do the same.
            is_due = time.monotonic() - saved_at >= job.checkpoint_seconds and not checkpoints.is_pending
            clock.mark("communication")
            total, stop, save = ranks.sum([loss_sum, float(job.stop.is_set()), float(is_main and is_due)])
            loss = total / step_tokens
            clock.mark("other")
            skipped = guard.judge(loss, grad_norm)
            at.advance(round(step_tokens), None if skipped else loss)
            factor = rate_factor(at.step - 1, job.steps, recipe.warmup_share, recipe.decay_share)
            if not skipped:
                status = divergence(loss, grad_norm, at.smooth - at.first_loss, at.step)
            clock.mark("optimiser")
            if skipped or status != "ok":
                model.zero_grad(set_to_none=True)
            else:
                optimisers.step(factor)
            clock.end(step_tokens)
            meter.tick()
            watch.beat(at.step)
            if guard.is_stuck:
                with watch.slow():
                    back = go_back(checkpoints, guard)
                if back:
                    told = {"rolled_back_to": back["step"], "rolled_back_from": at.step}
                    at = Progress.of(back)  # batches go on after those that failed
                    if metrics:
                        metrics.cut(at.metrics_bytes)
                        warn(f"{job.name} went back from step {told['rolled_back_from']} to {at.step}")
                    continue
                status = divergence(loss, grad_norm, 0.0, at.step)
                guard.accept()
            record = {"step": at.step, "tokens": at.tokens, "loss": loss, "lr": recipe.hidden_lr * factor}
            record |= {"grad_norm": grad_norm} | told | pace.report(at.step)
            told = {}
            if skipped:
                record |= {"skipped": skipped, "skipped_steps": guard.skipped}
                if is_main:
                    warn(f"{job.name} skipped step {at.step}: {skipped}")
            if at.step % _TIMED_STEPS == 0 or at.step == job.steps:
                record |= clock.take(job.gauges.work, wait=at.step == job.steps) | readings(model, ranks)
            if status != "ok":
                record |= {"heldout_loss": math.nan, "heldout_bits_per_byte": math.nan, "status": status}
            elif at.step in marks:
                with watch.slow():
                    record |= evaluate(model, objective, job.layout)
            record["seconds"] = seconds()
            if metrics:
                metrics.write(record)
                job.gauges.on_record(record)
                job.on_step(at.step, at.tokens, loss)
            save = (save and not guard.in_a_row) or at.step in checkpoints.keep_steps
            if (save or stop) and at.step < job.steps and status == "ok":
                with watch.slow():
                    checkpoints.save(at.step, counters(), metrics.sync if metrics else None)
                saved_at = time.monotonic()
                if stop:
                    break
        with watch.slow():
            checkpoints.wait()
        totals = counters() | memory_peaks(ranks.device)
    *joules, peak = ranks.sum([totals[key] for key in ("joules", "estimated_joules", "peak_bytes")])
    ranks.barrier()
    run = _summary(model, job, status, totals | {"peak_bytes": peak}, meter.energy(*joules))
    if at.step < job.steps and status == "ok":
        raise Stopped(f"{job.name} stopped at step {at.step} of {job.steps}{checkpoints.lacks(at.step)}", run)
    return run


def evaluate(model: nn.Module, objective: Objective, layout: Layout) -> dict[str, float]:
    """Held-out figures of the model as it is; training mode and random state are put back."""
    model.eval()
    give_back()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), autocast(layout):
        figures = objective.evaluate(model)
    reshard(model)
    model.train()
    return figures


def reset_peaks(device: torch.device) -> None:
    """Let `memory_peaks` begin anew."""
    reset_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_peaks(device: torch.device) -> dict[str, float]:
    """Bytes at most so far: resident on a CPU; on CUDA what tensors had, and what torch had reserved."""
    if device.type != "cuda":
        return {"peak_bytes": peak_rss_bytes()}
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"peak_bytes": allocated, "peak_reserved_bytes": reserved}


def readings(model: nn.Module, ranks: Ranks) -> dict[str, float]:
    """Peaks of memory; with experts also the rows of the busiest over an even share, a mean over layers."""
    found = memory_peaks(ranks.device)
    if any(True for _ in mixtures(model)):
        busiest, layers = ranks.sum(take_loads(model))
        found["expert_load"] = busiest / max(layers, 1)
    return found


def go_back(checkpoints: Checkpointer, guard: Guard) -> dict[str, Any]:
    """Load the last checkpoint where that is worth a try; its counters, or {}."""
    checkpoints.wait()
    if not guard.may_roll_back(checkpoints.newest_step):
        return {}
    back = checkpoints.restore()
    guard.load(back.get("guard", {}))
    return back


def count_parameters(model: nn.Module, ranks: Ranks) -> int:
    """Parameters over all ranks, a shared one once."""
    here = sum(parameter.numel() for parameter in model.parameters())
    return round(ranks.sum([here])[0] * ranks.degrees.pipeline / ranks.world)


def _summary(model: nn.Module, job: Job, status: str, totals: dict[str, float], energy: Energy) -> Run:
    """The Run of a finished job, its losses read back from metrics.jsonl."""
    path = job.folder / METRICS_FILE
    last = last_line(path) if job.ranks.rank == 0 else {}
    loss = math.nan
    if job.ranks.rank == 0 and status == "ok":
        count = max(round(_FINAL_SHARE * job.steps), 1)
        losses = [record["loss"] for record in read_metrics(path) if "skipped" not in record][-count:]
        loss = sum(losses) / len(losses) if losses else math.nan
    figures = {key: math.nan if value is None else value for key, value in last.items()}
    return Run(
        name=job.name,
        params=count_parameters(model, job.ranks),
        tokens=int(totals["tokens"]),
        steps=int(last.get("step", job.steps)),
        loss=loss,
        heldout_loss=figures.get("heldout_loss", math.nan),
        heldout_bits_per_byte=figures.get("heldout_bits_per_byte", math.nan),
        in_context_score=figures.get("in_context_score", math.nan),
        seconds=totals["seconds"],
        energy=energy,
        peak_bytes=int(totals["peak_bytes"]),
        status=status,
    )
