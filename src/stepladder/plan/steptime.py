"""A training configuration in; seconds of one optimiser step by named term out, before anything was measured.

Terms add up; the pipeline's bubble stretches those that wait for it. Constants were fitted to 1,385 published
steps of dense models from 16 sources. With each source left out once, the mean over sources of the median
error is 19.7 % (15 % with all of them in); the source that is worst, 900 of the steps, is then 44 % off.
"""

import math
from dataclasses import dataclass

import numpy as np

# Dense 16-bit FLOP/s, memory B/s, scale-up B/s one way, network B/s (plan/data/hardware.csv).
RATES: dict[str, tuple[float, float, float, float]] = {
    "V100": (125e12, 0.9e12, 150e9, 12.5e9),
    "A100": (312e12, 1.9e12, 300e9, 25e9),
    "A800": (312e12, 1.9e12, 200e9, 25e9),
    "H100": (989e12, 3.35e12, 450e9, 50e9),
    "H100-96": (989e12, 4.0e12, 450e9, 50e9),
    "B200": (2250e12, 7.7e12, 900e9, 50e9),
    "GB200": (2500e12, 8.0e12, 900e9, 50e9),
    "GB300": (2500e12, 8.0e12, 900e9, 100e9),
}
_FP8 = 1.6  # what fp8 matrices gain end to end of the factor of two on paper


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One dense configuration. `recompute` is the forward passes done again: 0, a part, or 1."""

    shape: tuple[float, float, float, float, float]  # layers, hidden, matrices of a layer, vocabulary, heads
    sequence: float
    batch: float
    micro_batch: float
    accumulation: float
    degrees: tuple[float, float, float, float]  # data, tensor, pipeline, chunks of each stage
    devices: tuple[float, float]  # in all, in a node
    accelerator: str
    fp8: bool
    flash: bool
    zero: int
    recompute: float

    @property
    def params(self) -> float:
        """Parameters of layers and one vocabulary matrix."""
        layers, hidden, matrices, vocabulary, _ = self.shape
        return layers * matrices + vocabulary * hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRule:
    """Logarithms of efficiencies and of how much of each kind of traffic is felt."""

    gemm: float = 0.495
    newer: float = 0.052
    v100: float = 0.347
    small_batch: float = -2.646
    narrow: float = -2.048
    elementwise: float = -0.507
    launch: float = 0.606
    tensor: float = -0.280
    data: float = -1.187
    optimiser: float = 0.019


FITTED = StepRule()
# Log error within which 89 % of the steps of a source that was left out lie (mean over sources).
LEFT_OUT_LOG90 = 0.55


def step_terms(
    config: Config, rule: StepRule = FITTED, rates: tuple[float, float, float, float] | None = None
) -> dict[str, float]:
    """Seconds by term; their sum is the step.

    Numbers of the configuration may be numpy arrays of one length, and are then those of so many layouts.
    `rates` stand for the accelerator's own where it is not among RATES.
    """
    layers, hidden, matrices, vocabulary, heads = config.shape
    data, tensor, pipeline, chunks = config.degrees
    count, node = config.devices
    flops, memory, scale_up, network = rates or RATES[config.accelerator]
    tokens = config.micro_batch * config.sequence
    passes = 3 + config.recompute
    forward = 2 * (layers * (matrices + 2 * config.sequence * hidden))
    work = config.batch * config.sequence * (passes * forward + 6 * vocabulary * hidden)
    efficiency = rule.gemm + (0.0 if config.accelerator[0] in "AV" else rule.newer)
    efficiency += rule.v100 if config.accelerator == "V100" else 0.0
    # Small micro-batches and narrow slices of a matrix leave units idle.
    idle = 1 + math.exp(rule.small_batch) * 2048 / tokens + math.exp(rule.narrow) * 1024 * tensor / hidden
    peak = count * flops * (_FP8 if config.fp8 else 1.0)
    each = layers / pipeline * config.accumulation
    scores = 0.0 if config.flash else config.micro_batch * heads / tensor * config.sequence**2 * 16
    passed = each * (tokens * hidden * 60 / np.sqrt(tensor) + scores) * passes / 3
    is_full, zero = np.asarray(config.recompute) > 0.9, np.asarray(config.zero)
    traffic = each * tokens * hidden * 4 * np.where(is_full, 6, 4) * (tensor - 1) / tensor
    held = config.params / (tensor * pipeline)
    gathers = np.where(zero == 3, 3 + is_full, 2)
    shared = np.where(zero > 0, data, 1)
    terms = {
        "matrices": work / peak * math.exp(efficiency) * idle,
        "elementwise": math.exp(rule.elementwise) * passed / memory,
        "launches": math.exp(rule.launch) * 1e-3 * each,
        "tensor_parallel": math.exp(rule.tensor) * traffic / np.where(tensor <= node, scale_up, network),
    }
    terms["bubble"] = sum(terms.values()) * (pipeline - 1) / (config.accumulation * chunks)
    inside = count <= node
    link = scale_up if inside else network * min(1.0, 8 / node)
    terms["data_parallel"] = math.exp(rule.data) * gathers * 2 * held * (data - 1) / data / link
    terms["optimiser"] = math.exp(rule.optimiser) * 20 * held / shared / memory
    return terms  # pyrefly: ignore[bad-return]
