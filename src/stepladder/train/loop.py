"""A model, an objective and batches in; a trained model, metrics.jsonl and a Run out. The one training loop.

Pretraining, rungs and fine-tuning all run here. Everything that a step depends on is in the checkpoint, so
a run that is killed and resumed ends with the same bits as one that was not.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from stepladder.records import Energy, Layout, Recipe, Run
from stepladder.train.checkpoint import Checkpointer
from stepladder.train.clock import StepClock, Work
from stepladder.train.meter import EnergyMeter, peak_rss_bytes, reset_peak
from stepladder.train.metrics import METRICS_FILE, MetricsWriter, last_line, read_metrics
from stepladder.train.objective import Objective
from stepladder.train.optim import build_optimisers
from stepladder.train.parallel import Ranks
from stepladder.train.passes import average_gradients, clip_gradients, forward_backward
from stepladder.train.precision import autocast
from stepladder.train.schedule import rate_factor

CHECKPOINT_SECONDS = 20.0
# The reported training loss is the mean over this share of the last steps.
_FINAL_SHARE = 0.02
# A run is given up when its smoothed loss, past warm-up, stands this many nats above its first loss.
_DIVERGED_NATS, _SMOOTHING = 1.0, 0.95
# Every so many steps, and at the last, a line of metrics.jsonl also says where the time of these steps went.
_TIMED_STEPS = 10


class Batches(Protocol):
    """Where a run's batches come from; `consumed` is its whole state and may be set."""

    consumed: int

    def next(self) -> list[Any]:
        """This rank's micro-batches of the next step."""
        ...


class Stopped(Exception):  # noqa: N818 (asked for, not an error)
    """The run was asked to stop, wrote its checkpoint, and can be resumed."""


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


def train(model: nn.Module, objective: Objective, batches: Batches, job: Job) -> Run:
    """Train to the end of the job, resuming what its folder holds.

    Raises:
        Stopped: `job.stop` was set; the checkpoint is written.
        TrainError: the disk is full, or the folder's checkpoint belongs to another model.
    """
    recipe, ranks = job.recipe, job.ranks
    optimisers = build_optimisers(model, recipe)
    checkpoints = Checkpointer(job.folder / "checkpoints", model, optimisers, ranks)
    past = checkpoints.restore()
    first_step, tokens = int(past.get("step", 0)), int(past.get("tokens", 0))
    batches.consumed = int(past.get("consumed", 0))
    first_loss, smooth = past.get("first_loss", 0.0), past.get("smooth", 0.0)
    is_main = ranks.rank == 0
    metrics = MetricsWriter(job.folder / METRICS_FILE, int(past.get("metrics_bytes", 0))) if is_main else None
    reset_peak()
    is_cuda = ranks.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(ranks.device)
    meter = EnergyMeter(past, gpu=ranks.device.index if is_cuda else None)
    clock = StepClock((lambda: torch.cuda.Event(enable_timing=True)) if is_cuda else None)
    started = saved_at = time.monotonic()
    marks = {round(job.steps * (k + 1) / (job.evaluations + 1)) for k in range(job.evaluations)} | {job.steps}
    status = "ok"
    model.train()

    def counters(step: int) -> dict[str, float]:
        return {
            "step": step,
            "tokens": tokens,
            "consumed": batches.consumed,
            "metrics_bytes": metrics.sync() if metrics else 0,
            "first_loss": first_loss,
            "smooth": smooth,
            "seconds": past.get("seconds", 0.0) + time.monotonic() - started,
            **meter.state(),
        }

    with metrics if metrics else nullcontext():
        for step in range(first_step + 1, job.steps + 1):
            clock.mark("data")
            micro_batches = batches.next()
            clock.mark("communication")
            step_tokens = ranks.count(sum(objective.count(batch) for batch in micro_batches))
            # Gradients are means over replicas: scale so that they are means over all tokens.
            scale = ranks.replicas / step_tokens
            loss_sum = forward_backward(model, objective, micro_batches, job.layout, scale, clock.mark)
            clock.mark("communication")
            average_gradients(model, job.layout, ranks)
            clock.mark("optimiser")
            grad_norm = clip_gradients(model, recipe.grad_clip, ranks)

            # One small all-reduce agrees on the loss and on what to do next, so that all ranks do the same.
            now = time.monotonic()
            wants_save = is_main and now - saved_at >= job.checkpoint_seconds
            clock.mark("communication")
            total, stop, save = ranks.sum([loss_sum, float(job.stop.is_set()), float(wants_save)])
            loss_mean = total / step_tokens
            clock.mark("other")
            first_loss = first_loss or loss_mean
            smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * loss_mean if smooth else loss_mean
            tokens += round(step_tokens)
            status = divergence(loss_mean, grad_norm, smooth - first_loss, step)
            factor = rate_factor(step - 1, job.steps, recipe.warmup_share, recipe.decay_share)
            clock.mark("optimiser")
            if status == "ok":
                optimisers.step(factor)
            clock.end(step_tokens)
            meter.tick()

            record = {"step": step, "tokens": tokens, "loss": loss_mean, "lr": recipe.hidden_lr * factor}
            record |= {"grad_norm": grad_norm}
            if step % _TIMED_STEPS == 0 or step == job.steps:
                record |= clock.take(job.gauges.work, wait=step == job.steps) | memory_peaks(ranks.device)
            if step in marks and status == "ok":
                record |= evaluate(model, objective, job.layout)
            elif status != "ok":
                record |= {"heldout_loss": math.nan, "heldout_bits_per_byte": math.nan, "status": status}
            record["seconds"] = past.get("seconds", 0.0) + time.monotonic() - started
            if metrics:
                metrics.write(record)
                job.gauges.on_record(record)
                job.on_step(step, tokens, loss_mean)
            if status != "ok":
                break
            if (save or stop or step in checkpoints.keep_steps) and step < job.steps:
                checkpoints.save(step, counters(step))
                saved_at = time.monotonic()
                if stop:
                    raise Stopped(f"{job.name} stopped at step {step} of {job.steps}")
        totals = counters(job.steps)
    names = ("joules", "estimated_joules")
    peaks = memory_peaks(ranks.device)
    joules, estimated, peak = ranks.sum([*(totals[name] for name in names), peaks["peak_bytes"]])
    ranks.barrier()
    return _summary(model, job, status, totals | {"peak_bytes": peak}, meter.energy(joules, estimated))


def evaluate(model: nn.Module, objective: Objective, layout: Layout) -> dict[str, float]:
    """Held-out figures of the model as it is; training mode and random state are put back."""
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), autocast(layout):
        figures = objective.evaluate(model)
    model.train()
    return figures


def memory_peaks(device: torch.device) -> dict[str, float]:
    """Bytes at most so far: resident on a CPU; on CUDA what tensors had, and what torch had reserved."""
    if device.type != "cuda":
        return {"peak_bytes": peak_rss_bytes()}
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"peak_bytes": allocated, "peak_reserved_bytes": reserved}


def divergence(loss: float, grad_norm: float, risen: float, step: int) -> str:
    """ "ok", or "diverged: " and why; `risen` is the smoothed loss minus the first."""
    if not math.isfinite(loss):
        return f"diverged: the loss is {loss} at step {step}"
    if not math.isfinite(grad_norm):
        return f"diverged: the gradient's norm is {grad_norm} at step {step}"
    if risen > _DIVERGED_NATS:
        return f"diverged: the loss stands {risen:.2f} nats above its start at step {step}"
    return "ok"


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
        losses = [record["loss"] for record in read_metrics(path)][-count:]
        loss = sum(losses) / len(losses)
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
