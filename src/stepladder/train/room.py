"""A plan in; nothing, or an error that says what would fit, when this machine has too little memory, out."""

from dataclasses import replace
from pathlib import Path

from stepladder.errors import TrainError
from stepladder.plan.layout import mesh_sizes, micro_sequences
from stepladder.plan.memory import MemoryNeed, memory_need
from stepladder.records import Layout, Plan
from stepladder.units import format_bytes

_MEMINFO = Path("/proc/meminfo")


def check_room(plan: Plan, available: float) -> None:
    """Refuse a plan whose need is above `available` bytes even at the low end of its interval.

    `available` is that of one GPU, or of the whole machine for processes on a CPU.

    Raises:
        TrainError: with the largest micro-batch and the least recomputation that would fit, if any does.
    """
    need = _need(plan, plan.layout, available)
    if not _is_too_much(need):
        return
    fitting = next(
        (layout for layout in _smaller(plan) if not _is_too_much(_need(plan, layout, available))), None
    )
    allowed = (
        "nothing fits: a smaller model or context, more processes with shard = fsdp, or tensor or pipeline"
    )
    if fitting is not None:
        allowed = (
            f"micro_batch_sequences = {fitting.micro_batch_sequences}, recompute = {fitting.recompute!r} "
            f"in the plan's layout: {format_bytes(_need(plan, fitting, available).total.value)}"
        )
    share = available / need.processes_sharing
    raise TrainError(
        f"the plan {plan.name!r} needs more memory than there is",
        got=f"{format_bytes(need.total.value)} a process ({need.total.how}); {format_bytes(share)} are free",
        allowed=allowed,
    )


def free_memory() -> float:
    """Bytes that new processes can have without swapping; infinity where the system does not say."""
    if not _MEMINFO.exists():
        return float("inf")
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")


def _need(plan: Plan, layout: Layout, available: float) -> MemoryNeed:
    return memory_need(plan.shape, plan.recipe, layout, available)


def _is_too_much(need: MemoryNeed) -> bool:
    return need.total.low > need.available / need.processes_sharing


def _smaller(plan: Plan) -> list[Layout]:
    """Layouts that need less, in the order of what they cost."""
    sequences = plan.recipe.batch_tokens // plan.shape.context_tokens // mesh_sizes(plan.layout).data
    micro = micro_sequences(plan.layout, sequences)
    sizes = [micro]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return [
        replace(plan.layout, micro_batch_sequences=size, recompute=recompute)
        for recompute in ("none", "selective", "full")
        for size in sizes
    ]
