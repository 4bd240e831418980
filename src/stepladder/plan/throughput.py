"""Measured runs in; seconds of any run out, with an interval that was tested by leaving runs out.

Seconds per token are affine in FLOPs per token: a part for each step's fixed work (launches, optimiser,
logging) and a part for arithmetic. Residuals are taken in logarithms, since runs differ by powers of ten.
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
    """seconds per token = overhead + seconds_per_flop x FLOPs per token, for the layout it was measured in.

    `left_out` is the median relative error when each run is forecast from the others.
    """

    overhead: float
    seconds_per_flop: float
    log_sd: float
    power: tuple[float, float]
    flops_range: tuple[float, float]
    points: int
    left_out: float
    speedup: Derived
    source: str

    def seconds_per_token(self, flops_per_token: float) -> Derived:
        """Forecast with an 80 % interval; outside the measured sizes the two forms' difference widens it."""
        value = self.overhead + self.seconds_per_flop * flops_per_token
        intercept, slope = self.power
        other = math.exp(intercept + slope * math.log(flops_per_token))
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
        text = (
            f"{self.overhead * 1e6:.3g} µs + `flops_per_token` / {1 / self.seconds_per_flop:.3g} FLOP/s, "
            f"fitted to {self.points} measured runs"
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
    overhead, slope = _affine(flops, seconds)
    residuals = np.log(seconds) - np.log(overhead + slope * flops)
    freedom = max(len(rows) - 2, 1)
    log_sd = math.sqrt(float(residuals @ residuals) / freedom)
    if len(rows) < 3:
        log_sd = max(log_sd, 0.15)  # nothing was left to tell the scatter: a judgement
    errors = _left_out(flops, seconds)
    if errors.size:
        # The normal-theory spread misses leverage; the left-out errors have it in them.
        log_sd = max(log_sd, float(np.sqrt(np.mean(errors**2))))
    return Throughput(
        overhead=overhead,
        seconds_per_flop=slope,
        log_sd=max(log_sd, _LEAST_LOG_SD),
        power=_power(flops, seconds),
        flops_range=(float(flops.min()), float(flops.max())),
        points=len(rows),
        left_out=float(np.median(np.abs(np.expm1(errors)))) if errors.size else math.nan,
        speedup=speedup or exact(1.0, "the target runs in the layout that was measured"),
        source="measured",
    )


def assumed_throughput(rate: Derived) -> Throughput:
    """Where nothing was measured: `rate` FLOP/s of the whole site, as the catalogue or a prior has it."""
    sd = (math.log(rate.high) - math.log(rate.low)) / (2 * Z80)
    return Throughput(
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


def _affine(flops: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """overhead >= 0 and slope > 0 with least relative squares; all slope when the sizes do not differ."""
    if flops.max() < 1.05 * flops.min():
        return 0.0, float(np.exp(np.mean(np.log(seconds / flops))))
    design = np.stack([1 / seconds, flops / seconds], axis=1)
    (overhead, slope), *_ = np.linalg.lstsq(design, np.ones(len(seconds)), rcond=None)
    if overhead < 0:
        overhead, slope = 0.0, np.exp(np.mean(np.log(seconds / flops)))
    elif slope <= 0:
        # Larger models that ran no slower: sizes too small to tell; keep half of the least as arithmetic.
        slope = 0.5 * (seconds / flops).min()
        overhead = np.exp(np.mean(np.log(np.maximum(seconds - slope * flops, 0.1 * seconds))))
    return float(overhead), float(slope)


def _power(flops: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    if flops.max() < 1.05 * flops.min():
        return float(np.mean(np.log(seconds / flops))), 1.0
    slope, intercept = np.polyfit(np.log(flops), np.log(seconds), 1)
    return float(intercept), float(slope)


def _left_out(flops: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """log(forecast / measured) of each run from the fit to all others; empty below four runs."""
    if len(flops) < 4:
        return np.array([])
    errors = []
    for index in range(len(flops)):
        others = np.arange(len(flops)) != index
        overhead, slope = _affine(flops[others], seconds[others])
        errors.append(math.log((overhead + slope * flops[index]) / seconds[index]))
    return np.array(errors)
