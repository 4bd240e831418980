"""A shape, recipe and layout in; bytes of each process by term, and whether they fit, out."""

import math
from dataclasses import dataclass

from stepladder.models.count import (
    activation_bytes_per_token,
    autocast_copy_bytes,
    count_params,
    state_bytes,
)
from stepladder.plan.derive import Z80, probability_above
from stepladder.plan.layout import mesh_sizes
from stepladder.records import Derived, Layout, Recipe, Shape
from stepladder.units import format_bytes

# Resident size of a Python process with torch (CPU build 2.13) after a first step on a small model; and of a
# CUDA context with its libraries, for H100 and A100 between .5 and 1.2 GB.
_CPU_PROCESS_BYTES, _CUDA_CONTEXT_BYTES = 400e6, 0.9e9
# What allocators hold beyond what is in use. On a CPU resident size was 28 % above exact allocations
# (docs/log.md); cached segments on a GPU add 5 to 10 %.
_CPU_SLACK, _CUDA_SLACK = 1.28, 1.08
# Not measured against a training process yet: 1 sigma of log bytes.
_LOG_SD = 0.12


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes of one process; `processes_sharing` of them share the memory they are checked against."""

    terms: dict[str, float]
    total: Derived
    available: float
    processes_sharing: int

    @property
    def probability_too_much(self) -> float:
        """That it does not fit."""
        return probability_above(self.total, self.available / self.processes_sharing)


def memory_need(shape: Shape, recipe: Recipe, layout: Layout, available: float) -> MemoryNeed:
    """Bytes of one process at the peak of a step.

    `available` is the memory of one GPU, or of the whole machine for processes on a CPU. Not counted: data
    pages that the system can drop, checkpoints being written, other programs.
    """
    degrees = layout.degrees
    model_parallel = degrees.tensor * degrees.pipeline
    replicas = max(layout.processes // degrees.model, 1)
    is_sharded, sizes = layout.shard in ("fsdp", "hsdp"), mesh_sizes(layout)
    # Shards lie over context-parallel processes, too; what tensor parallelism splits is sharded further.
    shards = sizes.shard * sizes.context * sizes.tensor if is_sharded else degrees.tensor
    held = shards * degrees.pipeline
    terms: dict[str, float] = {
        name: amount / held for name, amount in state_bytes(shape, recipe.optimiser).items()
    }
    total_params = count_params(shape).total
    if is_sharded:
        # Two gathered layers at a time: the one computed and the one fetched ahead.
        layer = count_params(shape).nonembed / shape.num_layers
        value = 2 if layout.precision == "bf16" else 4
        terms["gathered_layers"] = 2 * value * layer + value * shape.vocab_size * shape.width
    elif layout.shard == "ddp":
        terms["gradient_buckets"] = 4 * total_params / model_parallel
    if layout.precision == "bf16" and not is_sharded:
        terms["bf16_copies"] = autocast_copy_bytes(shape) / model_parallel
    sequences = layout.micro_batch_sequences or max(
        recipe.batch_tokens // shape.context_tokens // replicas, 1
    )
    tokens = sequences * shape.context_tokens / degrees.context
    kept = activation_bytes_per_token(
        shape,
        attention="explicit" if layout.device == "cpu" else "sdpa",
        value_bytes=2 if layout.precision == "bf16" else 4,
        recompute=layout.recompute,
    )
    logits = kept.pop("log_probabilities")
    terms["activations"] = tokens * sum(kept.values()) / model_parallel
    # Log-probabilities, their gradient and the logits themselves stand side by side for a moment.
    terms["logits"] = tokens * (2.5 * logits) / degrees.tensor
    slack = _CPU_SLACK if layout.device == "cpu" else _CUDA_SLACK
    terms["allocator"] = (slack - 1) * sum(terms.values())
    terms["process"] = _CPU_PROCESS_BYTES if layout.device == "cpu" else _CUDA_CONTEXT_BYTES
    sharing = max(layout.processes // layout.nodes, 1) if layout.device == "cpu" else 1
    return MemoryNeed(
        terms=terms, total=_total(terms, sequences), available=available, processes_sharing=sharing
    )


def in_flight(pipeline: float, chunks: float, micro_batches: float) -> tuple[float, float]:
    """Micro-batches whose activations the first and the last stage hold at once under 1F1B.

    With `chunks` stages a process (interleaved) a micro-batch counts as so many parts (arXiv:2205.05198).
    """
    if pipeline <= 1:
        return 1.0, 1.0
    first, last = float(pipeline), 1.0
    if chunks > 1:
        first += (pipeline - 1) / chunks
        last = ((chunks - 1) * pipeline + 1) / chunks
    return min(first, micro_batches), min(last, micro_batches)


def _total(terms: dict[str, float], sequences: int) -> Derived:
    value = sum(terms.values())
    largest = sorted(terms, key=lambda name: -terms[name])[:4]
    parts = ", ".join(f"{name} {format_bytes(terms[name])}" for name in largest)
    how = f"each process, micro-batch of {sequences} sequences: {parts}, and {len(terms) - len(largest)} more"
    factor = math.exp(Z80 * _LOG_SD)
    return Derived(value=value, low=value / factor, high=value * factor, how=how, source="rule")
