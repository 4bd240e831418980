"""A network, its batch and a layout of CPU processes in; seconds of a step by term out (no torch).

Each term is work of one process (FLOPs, bytes, messages, pieces) times what a unit of it takes. The units'
prices are fitted to steps of small networks on one machine; steps of another machine move them, each as far
as they say something about it (`fit_prices`). `python bench/plan/own_steps.py` leaves each step out in turn.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.derive import Z80, exact, within
from stepladder.plan.layout import layout_problems, mesh_sizes, micro_sequences
from stepladder.plan.measured import MeasuredStep
from stepladder.plan.memory import memory_need
from stepladder.records import Derived, Layout, Recipe, Shape

# How far, in logs, a unit's price may be from the fitted one on another CPU, and a step from its forecast.
_PRICE_LOG_SD, _STEP_LOG_SD = 0.7, 0.08
# A way fits when it does with a probability of 90 %.
_KEEP = 0.1
# What a speedup that nobody measured is worth: the left-out errors of bench/plan/own_steps.py, up to two
# threads and two processes in fp32. Each doubling beyond, and bf16: judgements.
_SPEEDUP_LOG_SD, _DOUBLING_LOG_SD, _BF16_LOG_SD, _MEASURED_UP_TO = 0.15, 0.15, 0.15, 2
# Ways whose forecasts are nearer than the left-out errors (median 7 %) are told apart by their simplicity.
_ALIKE = 1.07
# Threads of one process share products better than what is bound by memory.
_THREAD_POWERS = {"products": 0.85, "passes": 0.7, "scores": 0.7, "logits": 0.7, "optimiser": 0.5}
_FP32 = 4
# Passes over memory that a value of the block, a score and a logit see, forward and backward.
_TRIPS, _LOGIT_TRIPS, _STATE_TRIPS = 3, 4, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuPrices:
    """Seconds for one FLOP of a product, one byte read or written, one message, one byte sent; and of each
    layer of a micro-batch and each step. One thread in fp32, fitted to bench/plan/own_steps.py."""

    products: float = 1.35e-11
    passes: float = 2.2e-10
    scores: float = 4.8e-10
    logits: float = 4e-10
    optimiser: float = 2.1e-10
    step: float = 1.9e-3
    layers: float = 2.3e-3
    messages: float = 6.2e-3
    traffic: float = 5.4e-9


FITTED = CpuPrices()


def step_seconds(shape: Shape, recipe: Recipe, layout: Layout, prices: CpuPrices = FITTED) -> float:
    """Of one optimiser step."""
    return sum(step_terms(shape, recipe, layout, prices).values())


def step_terms(shape: Shape, recipe: Recipe, layout: Layout, prices: CpuPrices = FITTED) -> dict[str, float]:
    """Seconds of one optimiser step by term; a pipeline's idle share is a term of its own."""
    amounts = _amounts(shape, recipe, layout)
    seconds = {
        name: getattr(prices, name) * amount / layout.threads ** _THREAD_POWERS.get(name, 0.0)
        for name, amount in amounts.items()
    }
    stages, micro_batches = layout.degrees.pipeline, _micro_batches(shape, recipe, layout)
    if stages > 1:
        busy = sum(seconds[name] for name in ("products", "passes", "scores", "logits", "layers"))
        seconds["bubble"] = busy * (stages - 1) / (micro_batches * layout.degrees.stages)
    return seconds


def fit_prices(steps: Sequence[MeasuredStep], prior: CpuPrices = FITTED) -> CpuPrices:
    """The likeliest prices after `steps`, which start from `prior`; with no step the prior itself.

    Logs of prices are normal around the prior's, logs of steps around the forecast: least squares.
    """
    from scipy.optimize import least_squares

    names = [one.name for one in fields(CpuPrices)]
    start = np.log([getattr(prior, name) for name in names])
    if not steps:
        return prior

    def misses(logs: np.ndarray) -> np.ndarray:
        prices = CpuPrices(**dict(zip(names, np.exp(logs).tolist(), strict=True)))
        off = [
            math.log(step_seconds(one.shape, one.recipe, one.layout, prices) / one.seconds) for one in steps
        ]
        return np.concatenate([np.array(off) / _STEP_LOG_SD, (logs - start) / _PRICE_LOG_SD])

    found = np.exp(least_squares(misses, start).x)
    return CpuPrices(**dict(zip(names, found.tolist(), strict=True)))


def speedup(run: tuple[Shape, Recipe], had: Layout, layout: Layout, prices: CpuPrices = FITTED) -> Derived:
    """How much faster steps of `run` are in `layout` than in `had`, as priced, with its 80 % interval."""
    if (had.processes, had.threads, had.shard) == (layout.processes, layout.threads, layout.shard):
        return exact(1.0, "the target runs in the layout that was measured", "measured")
    ratio = step_seconds(*run, had, prices) / step_seconds(*run, layout, prices)
    how = (
        f"{layout.processes} processes of {layout.threads} threads against {had.processes} of {had.threads}, "
        "by the work, memory and messages of a step; a run of one minute would tell"
    )
    beyond = sum(
        abs(math.log2(max(getattr(layout, name), _MEASURED_UP_TO) / max(getattr(had, name), _MEASURED_UP_TO)))
        for name in ("processes", "threads")
    )
    if beyond:
        how += f"; more than {_MEASURED_UP_TO} threads or processes were never measured"
    sd = math.hypot(_SPEEDUP_LOG_SD, beyond * _DOUBLING_LOG_SD)
    sd = math.hypot(sd, _BF16_LOG_SD if layout.precision == "bf16" else 0.0)
    return within(ratio, math.exp(Z80 * sd), how, "prior")


def fastest(
    run: tuple[Shape, Recipe], base: Layout, cores: int, memory_bytes: float, prices: CpuPrices = FITTED
) -> Layout:
    """Of processes x threads on so many cores the fastest that fits; of those alike the fewest processes."""
    ways = [way for way in _ways(base, cores) if not layout_problems(way, *run)]
    fitting = [way for way in ways if memory_need(*run, way, memory_bytes).probability_too_much <= _KEEP]
    seconds = {way: step_seconds(*run, way, prices) for way in fitting}
    least = min(seconds.values(), default=0.0)
    near = [way for way, amount in seconds.items() if amount <= _ALIKE * least]
    return min(near, key=lambda way: (way.processes, seconds[way]), default=base)


def _ways(base: Layout, cores: int) -> Iterator[Layout]:
    """Each number of processes with the threads that are left for one, replicated and sharded."""
    for processes in range(1, cores + 1):
        for shard in ("ddp", "fsdp") if processes > 1 else ("none",):
            yield replace(base, processes=processes, threads=cores // processes, shard=shard)


def _micro_batches(shape: Shape, recipe: Recipe, layout: Layout) -> int:
    each = max(recipe.batch_tokens // shape.context_tokens // mesh_sizes(layout).data, 1)
    return max(each // micro_sequences(layout, each), 1)


def _amounts(shape: Shape, recipe: Recipe, layout: Layout) -> dict[str, float]:
    """Of one process in one step."""
    degrees, sizes = layout.degrees, mesh_sizes(layout)
    tokens = recipe.batch_tokens / sizes.data / degrees.context
    layers = shape.num_layers / degrees.pipeline
    again = {"full": 4 / 3, "selective": 1.1}.get(layout.recompute, 1.0)
    experts = shape.experts
    wide = (
        experts.active * (3 * experts.ffn_width + 2 * shape.width) if experts.count else 3 * shape.ffn_width
    )
    inner = wide + 2 * (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    logits = tokens * shape.vocab_size / degrees.tensor
    params = count_params(shape).total
    spread = 3 * experts.count * experts.ffn_width * shape.width * shape.num_layers
    own = (params - spread + spread / degrees.expert) / (degrees.tensor * degrees.pipeline)
    messages, traffic = _traffic(shape, layout, tokens, own)
    return {
        "products": train_flops_per_token(shape) * recipe.batch_tokens / layout.processes * again,
        "passes": tokens * layers * (10 * shape.width + inner / degrees.tensor) * _FP32 * _TRIPS * again,
        "scores": (
            tokens * shape.context_tokens * shape.num_heads / degrees.tensor * layers * _FP32 * _TRIPS * again
        ),
        "logits": logits / degrees.pipeline * _FP32 * _LOGIT_TRIPS,
        "optimiser": own / sizes.shard * _FP32 * _STATE_TRIPS,
        "step": 1.0,
        "layers": layers * _micro_batches(shape, recipe, layout) * again,
        "messages": messages,
        "traffic": traffic,
    }


def _traffic(shape: Shape, layout: Layout, tokens: float, own: float) -> tuple[float, float]:
    """(messages, bytes) that one process sends in a step.

    DDP reduces gradients once; FSDP gathers weights twice and scatters gradients; tensor parallel with
    sharded sequences gathers and scatters at both halves of a block, both ways, and once at either end.
    """
    degrees, sizes = layout.degrees, mesh_sizes(layout)
    layers = shape.num_layers / degrees.pipeline
    messages = traffic = 0.0
    if sizes.shard > 1:
        messages += 3 * (layers + 2)
        traffic += 3 * own * _FP32 * (sizes.shard - 1) / sizes.shard
    if sizes.replicate > 1:
        messages += 2
        traffic += 2 * own / sizes.shard * _FP32 * (sizes.replicate - 1) / sizes.replicate
    states = tokens * shape.width * _FP32
    if degrees.tensor > 1:
        messages += 8 * layers + 4
        traffic += (8 * layers + 4) * states * (degrees.tensor - 1) / degrees.tensor
    if degrees.expert > 1:
        # Counts, then rows to their experts and back, forward and backward.
        rows = states * shape.experts.active
        messages += 5 * layers
        traffic += 4 * layers * rows * (degrees.expert - 1) / degrees.expert
    if degrees.context > 1:
        keys = 2 * tokens * shape.num_kv_heads * shape.head_dim * _FP32
        messages += 2 * layers
        traffic += 2 * layers * keys * (degrees.context - 1)
    if degrees.pipeline > 1:
        messages += 2
        traffic += 2 * states
    return messages, traffic
