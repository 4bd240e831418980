"""A device and a model's size in; the share of the peak that whole published runs reached out, and FLOPs.

Utilisation here is end to end: training FLOPs (attention counted) over device-hours as reported and the dense
16-bit peak, so restarts and idle devices are in it. Constants: `bench/plan/hours.py`.
"""

import math
from dataclasses import dataclass

from stepladder.plan.derive import Z80, within
from stepladder.plan.hardware import Device
from stepladder.records import Derived

# Fitted on 45 published runs of 21 families with least relative error, each family weighing by the root of
# its runs. With each family left out: median error 13 %, mean 16 %, and nine in ten within exp(.42).
_MFU, _OLD, _PEAK, _PEAK_AND_SIZE = 0.416, 0.764, -0.363, 0.177
_LOG90 = 0.42
# Below 4B parameters no run on a device faster than an A100 was published: the share of the peak falls no
# faster there, so that more arithmetic never takes longer. Devices of no published run: a judgement.
_STEEPEST, _UNSEEN_LOG90 = -0.87, 0.55
_SEEN = ("a100", "a800", "h100", "h800", "tpu-v3")
# The constants are relative to one A100 (312 TFLOP/s) and to 70B parameters.
_REFERENCE_PEAK, _REFERENCE_SIZE = 312e12, 70e9
# Fused attention, bf16 and sharded optimisers were usual from 2023 on.
_MODERN = "2023"
# Where a row states no shape: depth of width / 128, as in most families from 7B to 400B, and this context.
_WIDTH_PER_LAYER, _USUAL_CONTEXT = 128, 4_096
Z90 = 1.6448536269514722


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A run as it is known beforehand: `active` parameters work on each token, `total` are held.

    Zero layers, width or context: not stated. `recomputed` is the share of the forward pass done twice,
    beyond what published runs did on average.
    """

    active: float
    total: float
    tokens: float
    started: str = "2025"
    precision: str = "bf16"
    layers: float = 0.0
    width: float = 0.0
    context: float = 0.0
    recomputed: float = 0.0

    @property
    def flops(self) -> float:
        """Training FLOPs: 6 a parameter and token, causal attention, and what is recomputed."""
        width = self.width or (_WIDTH_PER_LAYER * self.active / 12) ** (1 / 3)
        layers = self.layers or width / _WIDTH_PER_LAYER
        # Scores and their product with the values: 2 x 2 x context x width forward, three times that with
        # backward, half of it because later positions are masked.
        attention = 6 * layers * width * (self.context or _USUAL_CONTEXT)
        return (6 * self.active + attention) * self.tokens * (1 + self.recomputed / 3)


def utilisation(device: Device, work: Workload) -> Derived:
    """Share of `peak16` that a published run of this kind reached; recompute lowers it by what it costs.

    Devices with more arithmetic than an A100 are filled by large models only. A mixture of experts counts as
    the geometric mean of its active and total parameters.
    """
    above = max(math.log(peak16(device) / _REFERENCE_PEAK), 0.0)
    size = math.log(math.sqrt(work.active * max(work.total, work.active)) / _REFERENCE_SIZE)
    value = _MFU * math.exp(above * max(_PEAK + _PEAK_AND_SIZE * size, _STEEPEST))
    seen = device.id.startswith(_SEEN)
    how = f"published runs at this size on {device.name if seen else 'other devices'}"
    if is_old(work):
        value *= _OLD
        how += ", begun before 2023 or in fp16"
    return within(value, math.exp(Z80 / Z90 * (_LOG90 if seen else _UNSEEN_LOG90)), how, "prior")


def is_old(work: Workload) -> bool:
    """Whether a run is of the time before fused attention and bf16."""
    return work.precision == "fp16" or work.started < _MODERN


def device_hours(device: Device, work: Workload) -> Derived:
    """Hours of one device that the run takes."""
    share = utilisation(device, work)
    value = work.flops / (share.value * peak16(device) * 3600)
    how = f"{work.flops:.3g} FLOPs / ({share.value:.2f} x {peak16(device) / 1e12:.4g} TFLOP/s): {share.how}"
    return within(value, share.high / share.value, how, "prior")


def peak16(device: Device) -> float:
    """Dense 16-bit peak in FLOP/s: bf16, or fp16 where a card has only that; of the rest fp32."""
    return device.peak(next((name for name in ("bf16", "fp16") if name in device.peaks), "fp32"))
