"""A plan and what was measured on this machine in; how its steps are computed, and why, out.

Choices that change bits are kept in `choices.json` of the run's folder, so that a resumed run goes on with
them although a later measurement would choose otherwise. No torch here.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stepladder.errors import StoreError
from stepladder.plan.layout import layout_problems
from stepladder.plan.machine import is_intel_cpu
from stepladder.records import Layout, Order, Plan, from_json, to_json
from stepladder.store import read_json, write_json

CHOICES_FILE = "choices.json"
# A run under a minute takes the rules: it is over before a better choice pays, and its bits do not hang on
# what a cache happens to hold.
SHORT_SECONDS = 60.0
# Up to this context, scores written out are faster than SDPA on a CPU: forward and backward of 4 heads of 64
# over 4,096 tokens on one Zen 4 core took 18 against 78 ms at 128 tokens, 37 / 78 at 256, 112 / 192 at 512,
# 257 / 130 at 1,024 in bf16; 32 / 31, 77 / 52, 176 / 106, 377 / 283 in fp32 (train/probe.py).
_EXPLICIT_UP_TO = {"bf16": 512, "fp32": 128}
# Compiled blocks: 41 CPU seconds until the first step on a Zen 3 core; 11 to 26 % more tokens a second on a
# Zen 4 core in bf16 (docs/log.md). The longer wait and the smaller gain decide.
_COMPILE_SECONDS, _COMPILE_GAIN = 45.0, 0.11
_COMPILERS = ("c++", "g++", "clang++")
_EXACT = 1e-6
FP32_KERNELS = ("fp32_medium", "fp32")
# Large products in fp32 on a Xeon with AVX-512 and no AMX: 161 GFLOP/s by MKL, 154 by oneDNN ("medium"), as
# `stepladder doctor` prints; whole steps differ more (docs/log.md). On a Zen 4 core oneDNN is 2.3 x as fast.


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One thing that can be done in several ways. `alternatives` are figures in the unit that `why` names."""

    name: str
    value: str
    why: str
    alternatives: Mapping[str, float] = field(default_factory=dict)
    source: Literal["measured", "rule"] = "rule"


def choose(plan: Plan, probe: Mapping[str, Any]) -> dict[str, Choice]:
    """Choices by name. `probe` is what `train/probe.py` measured here; empty: rules alone."""
    measured = {} if is_short(plan) else probe
    found = (
        _precision(plan, measured),
        _attention(plan, measured),
        _fp32(plan, measured),
        _compile(plan),
        _float8(plan),
        _graphs(plan),
        _threads(plan),
        _allocator(plan),
    )
    return {choice.name: choice for choice in found}


def usual_attention(context_tokens: int, device: str, precision: str) -> Literal["explicit", "sdpa"]:
    """What is faster as a rule: scores written out, or SDPA."""
    return "explicit" if device == "cpu" and context_tokens <= _EXPLICIT_UP_TO[precision] else "sdpa"


def expected_seconds(plan: Plan) -> float:
    """What the plan expects; 0 where it does not say (a run that is made to find that out is short)."""
    number = plan.numbers.get("seconds")
    return number.value if number and number.value > 0 else 0.0


def is_short(plan: Plan) -> bool:
    """Whether the run is expected to be over within a minute."""
    return expected_seconds(plan) < SHORT_SECONDS


def kept_choices(out: Path) -> dict[str, Choice] | None:
    """The choices that a run started with; None where it has not started. Older runs had the rules."""
    if not (out / CHOICES_FILE).exists():
        return None
    rows = read_json(out / CHOICES_FILE)
    if not isinstance(rows, list):
        raise StoreError(f"{out / CHOICES_FILE} is not a list of choices", got=type(rows).__name__)
    return {row["name"]: from_json(Choice, row) for row in rows}


def keep_choices(choices: Mapping[str, Choice], out: Path) -> None:
    """Write `choices.json`."""
    write_json(out / CHOICES_FILE, [to_json(choice) for choice in choices.values()])


def measured_attention(probe: Mapping[str, Any], plan: Plan) -> Mapping[str, Any] | None:
    """The row of the probe for this plan's precision and the context nearest to its own, by factor."""
    if plan.layout.device == "cuda":
        gpus = probe.get("gpus") or [{}]
        rows = gpus[0].get("attention", [])
    else:
        rows = probe.get("threads", {}).get("1", {}).get("attention", [])
    rows = [row for row in rows if row["precision"] == plan.layout.precision]
    context = plan.shape.context_tokens

    def far(row: Mapping[str, Any]) -> float:
        return max(context / row["context_tokens"], row["context_tokens"] / context)

    nearest = min(rows, key=far, default=None)
    return nearest if nearest is not None and far(nearest) < 2 else None


def choice_lines(choices: Mapping[str, Choice]) -> list[str]:
    """For people: a line a choice."""
    lines = []
    for choice in choices.values():
        figures = ", ".join(f"{name} {figure:.4g}" for name, figure in choice.alternatives.items())
        lines.append(
            f"{choice.name}: {choice.value} ({choice.source}), {choice.why}"
            + (f" [{figures}]" if figures else "")
        )
    return lines


def _precision(plan: Plan, probe: Mapping[str, Any]) -> Choice:
    """The plan decided it (`plan/machine.usual_precision`); here stands what was measured on this machine."""
    name, value = "precision", plan.layout.precision
    if plan.layout.device == "cuda":
        why = "as the plan's layout has it; GPUs multiply bf16 several times as fast as fp32"
        return Choice(name=name, value=value, why=why)
    products = probe.get("threads", {}).get(str(plan.layout.threads), {}).get("products", {})
    figures = {kind: products[kind]["large_gflops"] for kind in ("bf16", *FP32_KERNELS) if kind in products}
    if len(figures) > 1 and "bf16" in figures:
        why = "as the plan's layout has it, GFLOP/s of large products here"
        return Choice(name=name, value=value, why=why, alternatives=figures, source="measured")
    why = "as the plan's layout has it; a CPU without bf16 instructions is several times slower in bf16"
    return Choice(name=name, value=value, why=why)


def _attention(plan: Plan, probe: Mapping[str, Any]) -> Choice:
    precision, context = plan.layout.precision, plan.shape.context_tokens
    row = measured_attention(probe, plan)
    if row is not None and _takes_blocks(plan) and "flex_seconds" in row:
        # With documents that do not see one another SDPA needs a dense mask, and loses its fused kernel.
        keys = {"explicit": "explicit", "sdpa": "sdpa_masked", "flex": "flex"}
        figures = {name: 1e3 * float(row[f"{key}_seconds"]) for name, key in keys.items()}
        fastest = min(figures, key=lambda name: figures[name])
        why = (
            f"the fastest with documents at {row['context_tokens']} tokens, ms for 4 heads over 4,096 tokens"
        )
        return Choice(name="attention", value=fastest, why=why, alternatives=figures, source="measured")
    if row is not None:
        figures = {name: 1e3 * float(row[f"{name}_seconds"]) for name in ("explicit", "sdpa")}
        fastest = min(figures, key=lambda name: figures[name])
        why = f"the faster of both at {row['context_tokens']} tokens, ms for 4 heads over 4,096 tokens"
        return Choice(name="attention", value=fastest, why=why, alternatives=figures, source="measured")
    value = usual_attention(context, plan.layout.device, precision)
    if plan.layout.device == "cuda":
        return Choice(name="attention", value=value, why="a GPU has fused kernels for it")
    limit = _EXPLICIT_UP_TO[precision]
    why = (
        f"not measured for this run; on a Zen 4 core scores written out (explicit) are faster up to {limit} "
        f"tokens in {precision}, and the context has {context}"
    )
    return Choice(name="attention", value=value, why=why)


def _takes_blocks(plan: Plan) -> bool:
    """Whether attention may take a mask by blocks: packed documents, whole on a GPU."""
    layout, shape = plan.layout, plan.shape
    is_whole = layout.degrees.model == 1 and not shape.variant.local.window
    return layout.device == "cuda" and plan.order.packing == "documents" and shape.causal and is_whole


def _fp32(plan: Plan, probe: Mapping[str, Any]) -> Choice:
    """Which kernel multiplies fp32. The worker proves "medium" exact on this CPU before it takes it."""
    name = "fp32_products"
    if plan.layout.device == "cuda":
        return Choice(name=name, value="highest", why="full fp32; a lower precision would round to TF32")
    products = probe.get("threads", {}).get(str(plan.layout.threads), {}).get("products", {})
    if "fp32" not in products or "fp32_medium" not in products:
        if is_intel_cpu():
            return Choice(
                name=name, value="highest", why="MKL; not measured, usually the faster on Intel's CPUs"
            )
        why = f"oneDNN; the run proves first that it errs by less than {_EXACT:g} here, else takes highest"
        return Choice(name=name, value="medium", why=why)
    figures = {
        "highest": products["fp32"]["large_gflops"],
        "medium": products["fp32_medium"]["large_gflops"],
    }
    error = products["fp32_medium"]["relative_error"]
    value = "medium" if error < _EXACT and figures["medium"] > figures["highest"] else "highest"
    why = f"the faster; medium errs by {error:.1g} (at most {_EXACT:g} is taken), GFLOP/s of large products"
    return Choice(name=name, value=value, why=why, alternatives=figures, source="measured")


def _compile(plan: Plan) -> Choice:
    """Compile where what is saved, at the smaller of the measured gains, is more than the wait."""
    name, layout, seconds = "compile", plan.layout, expected_seconds(plan)
    saved = seconds * (1 - 1 / (1 + _COMPILE_GAIN))
    # Processes of a CPU compile on the cores that they share.
    waits = _COMPILE_SECONDS * (layout.processes if layout.device == "cpu" else 1)
    figures = {"seconds_saved": saved, "seconds_waited": waits}
    if layout.degrees.model > 1:
        return Choice(name=name, value="off", why="blocks are split over processes: not compiled")
    if layout.cuda_graphs:
        return Choice(name=name, value="off", why="passes are captured as they are: no test covers both")
    if plan.shape.experts.count:
        return Choice(name=name, value="off", why="experts have other numbers of rows at each step")
    if layout.device == "cpu" and not any(map(shutil.which, _COMPILERS)):
        return Choice(name=name, value="off", why=f"no C++ compiler here ({', '.join(_COMPILERS)})")
    if saved <= figures["seconds_waited"]:
        why = f"steps that are {_COMPILE_GAIN:.0%} faster save less than compiling takes, in seconds"
        return Choice(name=name, value="off", why=why, alternatives=figures)
    why = f"steps that are {_COMPILE_GAIN:.0%} faster save more than compiling takes, in seconds"
    return Choice(name=name, value="blocks", why=why, alternatives=figures)


def _float8(plan: Plan) -> Choice:
    """On only where the plan says so: no GPU was there to measure it on."""
    name, layout = "float8", plan.layout
    if layout.float8 and layout.device == "cpu":
        why = (
            "as the plan's layout has it; a CPU rounds to float8 and multiplies in its own precision: slower"
        )
        return Choice(name=name, value="emulated", why=why)
    if layout.float8:
        why = "as the plan's layout has it; its speed was not measured (without compiled blocks it is slow)"
        return Choice(name=name, value="blocks", why=why)
    if layout.device == "cpu":
        return Choice(name=name, value="off", why="a CPU has no float8 products")
    refused = _refused(name, plan, replace(layout, float8=True))
    why = refused or "its speed was not measured; [override] float8 = true turns it on"
    return Choice(name=name, value="off", why=why)


def _graphs(plan: Plan) -> Choice:
    name, layout = "cuda_graphs", plan.layout
    if layout.cuda_graphs:
        why = "as the plan's layout has it; its speed was not measured"
        return Choice(name=name, value="on", why=why)
    if layout.device == "cpu":
        return Choice(name=name, value="off", why="graphs are captured on a GPU")
    refused = passes_that_change(plan) or _refused(name, plan, replace(layout, cuda_graphs=True))
    why = refused or (
        "its speed was not measured; [override] cuda_graphs = true turns it on, for models so small that a "
        "GPU waits for Python"
    )
    return Choice(name=name, value="off", why=why)


def passes_that_change(plan: Plan) -> str:
    """Why no pass of this plan can be captured and repeated; "" where one can."""
    if plan.objective == "causal" and plan.order == Order():
        return ""
    return (
        "cuda_graphs with masked tokens, packed documents or mixed sources: passes differ from step to step"
    )


def _refused(name: str, plan: Plan, layout: Layout) -> str:
    """Why `layout`, with the switch `name` on, would be refused; without what to say instead."""
    problems = layout_problems(layout, plan.shape, plan.recipe)
    return next((text.partition(":")[0] for text in problems if text.startswith(name)), "")


def _threads(plan: Plan) -> Choice:
    layout = plan.layout
    why = "processes x threads of each, as the plan's layout has it; threads share small products badly"
    return Choice(name="threads", value=f"{layout.processes} x {layout.threads}", why=why)


def _allocator(plan: Plan) -> Choice:
    if plan.layout.device == "cuda":
        return Choice(name="allocator", value="torch", why="PyTorch's caching allocator")
    why = "memory that a step frees stays with the process; given back, the next step fetches it page by page"
    return Choice(name="allocator", value="keep", why=why)
