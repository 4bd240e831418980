"""A plan and its folder in; the choices of this run, kept or made now, and the same applied to torch, out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepladder.models.fused import compile_blocks
from stepladder.models.transformer import Transformer
from stepladder.plan.machine import kept_probe
from stepladder.records import Plan
from stepladder.train.choices import (
    Choice,
    choose,
    expected_seconds,
    is_short,
    keep_choices,
    kept_choices,
    measured_attention,
)
from stepladder.train.parallel import Ranks
from stepladder.train.probe import attention_seconds

# From this length on, two seconds of measuring are less than half a per cent.
_WORTH_MEASURING_SECONDS, _MEASURING_SECONDS = 600.0, 0.3
_MOST_CONTEXT = 4096


def settle_choices(plan: Plan, out: Path, ranks: Ranks) -> dict[str, Choice]:
    """The choices that the folder holds; else those made now by the first rank, and kept.

    A run that started before choices were kept goes on with the rules that it started with.
    """
    if ranks.rank == 0 and kept_choices(out) is None:
        keep_choices(_made(plan, out), out)
    ranks.barrier()
    choices = kept_choices(out)
    assert choices is not None
    return choices


def apply_fp32(choice: Choice) -> str:
    """Set the kernel of fp32 products; which it is. "medium" only where this CPU computes it exactly."""
    if choice.value == "medium" and use_fast_fp32():
        return "medium"
    # A record of another machine does not make this one exact.
    torch.set_float32_matmul_precision("highest")
    return "highest"


def apply_compile(choice: Choice, model: Transformer) -> None:
    """Compile the blocks if that was chosen."""
    if choice.value == "blocks":
        compile_blocks(model)


def use_fast_fp32() -> bool:
    """Let oneDNN multiply fp32 matrices where it does so at fp32 accuracy; whether it does.

    "medium" hands products to oneDNN, on a Zen 4 core 2.3x as fast at the same error; a CPU with AMX would
    round them to bf16 (relative error 4e-3 instead of 1e-7).
    """
    torch.set_float32_matmul_precision("highest")
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(128, 128, generator=draw) for _ in range(2))
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = ((left @ right - exact).norm() / exact.norm()).item()
    if error > 1e-6:
        torch.set_float32_matmul_precision("highest")
        return False
    return True


def _made(plan: Plan, out: Path) -> dict[str, Choice]:
    if any((out / "checkpoints").glob("step-*")):
        choices = choose(plan, {})
        off = replace(choices["compile"], value="off", why="the run started before choices were kept")
        return choices | {"compile": off}
    probe = {} if is_short(plan) else kept_probe()
    context, layout = plan.shape.context_tokens, plan.layout
    is_long = expected_seconds(plan) >= _WORTH_MEASURING_SECONDS
    if is_long and measured_attention(probe, plan) is None and context <= _MOST_CONTEXT:
        rows = attention_seconds(_MEASURING_SECONDS, layout.device, (layout.precision,), (context,))
        probe = {**probe, "gpus": [{"attention": rows}]} if layout.device == "cuda" else _with(probe, rows)
    return choose(plan, probe)


def _with(probe: Mapping[str, Any], rows: list[dict[str, float | str]]) -> Mapping[str, Any]:
    """The probe with another table of attention on one thread."""
    found = probe.get("threads", {})
    return {**probe, "threads": {**found, "1": {**found.get("1", {}), "attention": rows}}}
