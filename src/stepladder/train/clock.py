"""Marks between the phases of a step in; where its time goes, tokens a second and the share of the peak out.

    clock.mark("data"); ...; clock.mark("forward"); ...; clock.end(tokens)

On a CPU a mark reads `perf_counter`. On CUDA it records an event in the stream: events are read once they
have passed, about a step later, so that no step waits for them. Time between `end` and the next mark
(evaluation, checkpoints) belongs to no step.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from stepladder.models.count import train_flops_per_token
from stepladder.plan.hardware import device_of_name
from stepladder.plan.machine import measure_machine
from stepladder.records import Layout, Shape

PHASES = ("data", "forward", "backward", "communication", "optimiser", "other")
# The launcher's copy of `Machine.gemm_gflops`: a worker that is pinned to one core does not see the machine.
RATES_VARIABLE = "STEPLADDER_GEMM_GFLOPS"


class Event(Protocol):
    """What the clock needs of `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Take a place in the stream."""

    def query(self) -> bool:
        """Whether the stream has passed it."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream has passed it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from here to `end_event`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Training FLOPs of a token, and the FLOP/s of matrix products that all ranks reach together at most.

    0 where it is not known; `source` says who measured the peak, or why it is not known.
    """

    flops_per_token: float = 0.0
    peak_flops_per_second: float = 0.0
    source: str = ""


def unmarked(phase: str) -> None:
    """The mark of passes that nobody times."""


class StepClock:
    """Sums the phases of steps until they are taken. Marks of one step come from one thread."""

    def __init__(self, event: Callable[[], Event] | None = None) -> None:
        """`event` makes a CUDA event; without it the clock of the CPU is read."""
        self._event = event
        self._open: list[tuple[str, Any]] = []
        self._ended: deque[tuple[list[tuple[str, Any]], float]] = deque()
        self._start_anew()

    def mark(self, phase: str) -> None:
        """The phase that begins now; what has run since the mark before belongs to that one's phase."""
        if self._event is None:
            self._open.append((phase, time.perf_counter()))
        else:
            event = self._event()
            event.record()
            self._open.append((phase, event))

    def end(self, tokens: float) -> None:
        """The step ends here; it trained on `tokens` (over all ranks)."""
        self.mark("")
        self._ended.append((self._open, tokens))
        self._open = []
        self._fold(wait=False)

    def take(self, work: Work, *, wait: bool = False) -> dict[str, float | str]:
        """Means over the steps since the last call, as fields of a record; {} if none has ended.

        `wait` also waits for the newest step (at the end of a run); without it CUDA's newest may be missing.
        """
        self._fold(wait=wait)
        seconds = sum(self._seconds.values())
        if not self._steps or seconds <= 0:
            return {}
        record: dict[str, float | str] = {"step_seconds": seconds / self._steps}
        record |= {f"{phase}_share": spent / seconds for phase, spent in self._seconds.items()}
        record["tokens_per_second"] = self._tokens / seconds
        if work.flops_per_token and work.peak_flops_per_second:
            achieved = work.flops_per_token * self._tokens / seconds
            record["mfu"] = achieved / work.peak_flops_per_second
        if work.source:
            record["mfu_peak"] = work.source
        self._start_anew()
        return record

    def _start_anew(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._steps, self._tokens = 0, 0.0

    def _fold(self, *, wait: bool) -> None:
        """Add up the steps whose last mark has passed."""
        while self._ended:
            marks, tokens = self._ended[0]
            if self._event is not None:
                last = marks[-1][1]
                if wait:
                    last.synchronize()
                elif not last.query():
                    return
            self._ended.popleft()
            for (phase, start), (_, end) in pairwise(marks):
                spent = end - start if self._event is None else start.elapsed_time(end) / 1e3
                self._seconds[phase] += spent
            self._steps += 1
            self._tokens += tokens


def work_of(shape: Shape, layout: Layout, *, fp32_key: str, gpu: tuple[str, int] | None = None) -> Work:
    """The FLOPs of a token of `shape` and the peak of `layout`.

    Args:
        shape: attention scores are counted for all pairs of positions, as `models/count.py` does.
        layout: its processes are taken to be alike.
        fp32_key: "fp32", or "fp32_medium" where oneDNN multiplies fp32 matrices.
        gpu: name and memory in bytes, as the driver tells them, on CUDA.

    A CPU's peak is what `stepladder doctor` measured with as many threads. A GPU's is the catalogue's: the
    products of the probe last some microseconds there, too short to reach the peak.
    """
    flops = float(train_flops_per_token(shape))
    key = "bf16" if layout.precision == "bf16" else fp32_key
    if gpu is not None:
        return _gpu_work(flops, layout, "tf32" if key == "fp32_medium" else key, gpu)
    rates = _measured_rates().get(key, {})
    if not rates:
        return Work(flops_per_token=flops, source="unknown; type: stepladder doctor")
    threads = min(rates, key=lambda count: (abs(int(count) - layout.threads), int(count)))
    rate = rates[threads] * layout.threads / int(threads)
    how = f"measured by doctor: {rates[threads]:.4g} GFLOP/s in {key} on {threads} threads"
    if int(threads) != layout.threads:
        how += f", times {layout.threads}/{threads}"
    return Work(
        flops_per_token=flops,
        peak_flops_per_second=rate * 1e9 * layout.processes,
        source=_times(how, layout),
    )


def _gpu_work(flops: float, layout: Layout, precision: str, gpu: tuple[str, int]) -> Work:
    device = device_of_name(*gpu)
    if device is None or precision not in device.peaks:
        return Work(
            flops_per_token=flops, source=f"unknown; no {precision} peak of {gpu[0]} in the catalogue"
        )
    rate = device.peaks[precision]
    how = f"catalogue: {rate:.4g} TFLOP/s in {precision} for {device.name}"
    return Work(
        flops_per_token=flops,
        peak_flops_per_second=rate * 1e12 * layout.processes,
        source=_times(how, layout),
    )


def _times(how: str, layout: Layout) -> str:
    return how + (f", {layout.processes} processes" if layout.processes > 1 else "")


def _measured_rates() -> Mapping[str, Mapping[str, float]]:
    told = os.environ.get(RATES_VARIABLE)
    return json.loads(told) if told else measure_machine(rates="cached").gemm_gflops
