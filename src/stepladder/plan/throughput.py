"""Measured runs in; seconds of any run out, with an interval that was tested by leaving runs out.

A step takes a fixed time (launches, optimiser, logging), a time for each token (norms, softmax, loading) and
one for each FLOP. On a ladder whose batches grow with the run, leaving out the first part missed rungs by
22 %, with it by 3 to 6 % (docs/log.md). Errors are relative, since runs differ by powers of ten.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.errors import PlanError
from stepladder.plan.derive import Z80, exact, times, within
from stepladder.records import Derived, Observation

# Two runs of the same plan on the same machine differ by a few per cent whatever the fit says.
_LEAST_LOG_SD = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """seconds per token = per_step / batch + overhead + seconds_per_flop x FLOPs per token, for the layout it
    was measured in.

    `left_out` is the median relative error when each run is forecast from the others. `has_recompute`: the
    runs were done as the target will be, so that recomputing is in their time already.
    """

    per_step: float
    overhead: float
    seconds_per_flop: float
    log_sd: float
    power: tuple[float, float]
    flops_range: tuple[float, float]
    points: int
    left_out: float
    speedup: Derived
    source: str
    has_recompute: bool = False

    def seconds_per_token(self, flops_per_token: float, batch_tokens: float = math.inf) -> Derived:
        """Forecast with an 80 % interval; outside the measured sizes the two forms' difference widens it."""
        fixed = self.per_step / batch_tokens
        value = fixed + self.overhead + self.seconds_per_flop * flops_per_token
        intercept, slope = self.power
        other = fixed + math.exp(intercept + slope * math.log(flops_per_token))
        low, high = self.flops_range
        outside = not low <= flops_per_token <= high
        form = abs(math.log(value / other)) / 2 if outside else 0.0
        factor = math.exp(Z80 * math.hypot(self.log_sd, form))
        how = self._how(outside)
        base = within(value, factor, how, "measured" if self.points else "prior")
        inverse = Derived(
            value=1 / self.speedup.value,
            low=1 / self.speedup.high,
            high=1 / self.speedup.low,
            how=self.speedup.how,
            source=self.speedup.source,
        )
        if self.speedup.value != 1 or self.speedup.high > self.speedup.low:
            how += f"; divided by {self.speedup.value:.3g}: {self.speedup.how}"
        return times(how, base, inverse, source=base.source)  # pyrefly: ignore

    def _how(self, outside: bool) -> str:
        if not self.points:
            return self.source
        step = f"{self.per_step * 1e3:.3g} ms / `batch_tokens` + " if self.per_step else ""
        text = (
            f"{step}{self.overhead * 1e6:.3g} µs + `flops_per_token` / {1 / self.seconds_per_flop:.3g} FLOP/s"
            f", fitted to {self.points} {self.source}"
        )
        if math.isfinite(self.left_out):
            text += f" (each forecast from the others: median error {self.left_out:.1%})"
        return text + (", beyond their sizes" if outside else "")


def fit_throughput(observations: Sequence[Observation], speedup: Derived | None = None) -> Throughput:
    """Fit to runs that have seconds, tokens and flops.

    Args:
        speedup: how much faster the target's layout is than the one that the runs were measured in.

    Raises:
        PlanError: no run has its seconds and flops.
    """
    rows = [row for row in observations if row.seconds > 0 and row.flops > 0 and row.tokens > 0]
    if not rows:
        raise PlanError(
            "no observation says how long it took",
            got=f"{len(observations)} rows without seconds or flops",
            allowed="columns seconds and flops in observations.csv",
            next_command="stepladder ladder",
        )
    flops = np.array([row.flops / row.tokens for row in rows])
    seconds = np.array([row.seconds / row.tokens for row in rows])
    steps = np.array([_steps_per_token(row) for row in rows])
    per_step, overhead, slope = _parts(steps, flops, seconds)
    residuals = np.log(seconds) - np.log(per_step * steps + overhead + slope * flops)
    freedom = max(len(rows) - 3, 1)
    log_sd = math.sqrt(float(residuals @ residuals) / freedom)
    if len(rows) < 3:
        log_sd = max(log_sd, 0.15)  # nothing was left to tell the scatter: a judgement
    errors = _left_out(steps, flops, seconds)
    if errors.size:
        # The normal-theory spread misses leverage; the left-out errors have it in them.
        log_sd = max(log_sd, float(np.sqrt(np.mean(errors**2))))
    rest = np.maximum(seconds - per_step * steps, 0.1 * seconds)
    return Throughput(
        per_step=per_step,
        overhead=overhead,
        seconds_per_flop=slope,
        log_sd=max(log_sd, _LEAST_LOG_SD),
        power=_power(flops, rest),
        flops_range=(float(flops.min()), float(flops.max())),
        points=len(rows),
        left_out=float(np.median(np.abs(np.expm1(errors)))) if errors.size else math.nan,
        speedup=speedup or exact(1.0, "the target runs in the layout that was measured"),
        source="measured runs",
    )


def assumed_throughput(rate: Derived) -> Throughput:
    """Where nothing was measured: `rate` FLOP/s of the whole site, as the catalogue or a prior has it."""
    sd = (math.log(rate.high) - math.log(rate.low)) / (2 * Z80)
    return Throughput(
        per_step=0.0,
        overhead=0.0,
        seconds_per_flop=1 / rate.value,
        log_sd=sd,
        power=(-math.log(rate.value), 1.0),
        flops_range=(0.0, math.inf),
        points=0,
        left_out=math.nan,
        speedup=exact(1.0, "not applied"),
        source=f"`flops_per_token` / `flops_per_second` ({rate.how})",
    )


def _steps_per_token(row: Observation) -> float:
    """1 / batch; 0 where the batch is not known, so that the fixed part falls into the other two."""
    batch = row.notes.get("batch_tokens")
    return 1 / batch if isinstance(batch, (int, float)) and batch > 0 else 0.0


def _parts(steps: np.ndarray, flops: np.ndarray, seconds: np.ndarray) -> tuple[float, float, float]:
    """per_step, overhead >= 0 and slope > 0 with least relative squares; parts that the runs cannot tell
    apart are left at zero."""
    columns = [steps, np.ones_like(flops), flops]
    found: tuple[float, tuple[float, float, float]] | None = None
    for used in ((0, 1, 2), (0, 2), (1, 2), (2,)):
        matrix = np.stack([columns[at] / seconds for at in used], axis=1)
        norms = np.linalg.norm(matrix, axis=0)
        if len(used) > len(seconds) or not norms.all() or np.linalg.cond(matrix / norms) > 1e3:
            continue
        weights, *_ = np.linalg.lstsq(matrix, np.ones(len(seconds)), rcond=None)
        error = float(np.sum((matrix @ weights - 1) ** 2))
        if (weights >= 0).all() and (found is None or error < found[0]):
            parts = [0.0, 0.0, 0.0]
            for at, weight in zip(used, weights, strict=True):
                parts[at] = float(weight)
            found = error, (parts[0], parts[1], parts[2])
    if found and found[1][2] > 0:
        return found[1]
    # Larger models that ran no slower: sizes too small to tell; keep half of the least as arithmetic.
    slope = 0.5 * float((seconds / flops).min())
    return 0.0, float(np.exp(np.mean(np.log(np.maximum(seconds - slope * flops, 0.1 * seconds))))), slope


def _power(flops: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    if flops.max() < 1.05 * flops.min():
        return float(np.mean(np.log(seconds / flops))), 1.0
    slope, intercept = np.polyfit(np.log(flops), np.log(seconds), 1)
    return float(intercept), float(slope)


def _left_out(steps: np.ndarray, flops: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """log(forecast / measured) of each run from the fit to all others; empty below four runs."""
    if len(flops) < 4:
        return np.array([])
    errors = []
    for index in range(len(flops)):
        others = np.arange(len(flops)) != index
        per_step, overhead, slope = _parts(steps[others], flops[others], seconds[others])
        value = per_step * steps[index] + overhead + slope * flops[index]
        errors.append(math.log(value / seconds[index]))
    return np.array(errors)
