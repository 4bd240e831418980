"""float8 and cuda_graphs in [override]: they reach the layout of the plan, or are refused with a reason."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from stepladder.errors import PlanError
from stepladder.ladder.measure import chosen
from stepladder.launch.megatron import megatron_files
from stepladder.launch.titan import torchtitan_files
from stepladder.models.shape import shape_for_width
from stepladder.plan.choose import ChooseOptions, choose_plan
from stepladder.plan.layout import layout_problems
from stepladder.plan.layouts import Freedom, layout_grid
from stepladder.plan.machine import Machine
from stepladder.plan.prior import prior_loss_for
from stepladder.plan.rates import recipe_for, recipe_rule
from stepladder.records import (
    Brief,
    BudgetBrief,
    DataBrief,
    HardwareBrief,
    Layout,
    Objective,
    Plan,
    from_json,
    to_json,
)

MACHINE = Machine(
    cpu="test",
    cores=2,
    memory_bytes=8 * 2**30,
    disk_bytes=2**40,
    has_bf16=False,
    gpus=(),
    system="Linux",
    versions={},
    gemm_gflops={},
    allreduce_gbps=0.0,
    missing=(),
)


def plan_for(
    device: str, override: Mapping[str, Any], count: int = 1, objective: Objective = "causal"
) -> Plan:
    hours = 2.0 if device == "this" else 20.0
    brief = Brief(
        name="t",
        objective=objective,
        data=DataBrief(sources=("a",)),
        budget=BudgetBrief(hours=hours),
        hardware=HardwareBrief(device=device, count=count),
        override={"vocab_size": 32_000, "context_tokens": 1024, **override},
    )
    options = ChooseOptions(loss_source="prior", loss_unit="nats per token", spent_seconds=0)
    return choose_plan(brief, prior_loss_for(32_000), (), MACHINE, None, recipe_rule(brief.override), options)


def test_float8_on_a_gpu_that_has_it_is_in_the_layout_and_its_file() -> None:
    plan = plan_for("h100-sxm", {"float8": True}, count=8)
    assert (True, "bf16", "ddp") == (plan.layout.float8, plan.layout.precision, plan.layout.shard)
    assert [] == layout_problems(plan.layout, plan.shape, plan.recipe)
    written = json.loads(json.dumps(to_json(plan)))
    assert written["layout"]["float8"] is True
    assert "cuda_graphs" not in written["layout"]
    assert from_json(Plan, written) == plan
    assert "float8" not in to_json(plan_for("h100-sxm", {}, count=8))["layout"]


def test_graphs_and_emulation_reach_the_layout() -> None:
    layout = plan_for("a100-sxm-80", {"cuda_graphs": True}).layout
    assert (True, "none", 1) == (layout.cuda_graphs, layout.recompute, layout.processes)
    plan = plan_for("this", {"float8": True})
    assert ("cpu", True) == (plan.layout.device, plan.layout.float8)


@pytest.mark.parametrize(
    ("device", "override", "count", "texts"),
    [
        ("a100-sxm-80", {"float8": True}, 1, ["float8: ", "has fp32", "set float8 = false"]),
        ("h100-sxm", {"float8": True, "precision": "fp32"}, 1, ["float8 with precision = fp32"]),
        ("h100-sxm", {"float8": True, "num_experts": 8}, 1, ["float8 with num_experts"]),
        ("h100-sxm", {"float8": True, "cuda_graphs": True}, 1, ["cuda_graphs with float8"]),
        ("h100-sxm", {"cuda_graphs": True}, 8, ["cuda_graphs on 8 devices is not built: count = 1"]),
        ("h100-sxm", {"cuda_graphs": True, "num_experts": 8}, 1, ["cuda_graphs with num_experts"]),
        ("this", {"cuda_graphs": True}, 1, ["the CPU of this machine is no GPU"]),
    ],
)
def test_what_a_device_cannot_do_is_refused_before_it_is_planned(
    device: str, override: dict[str, Any], count: int, texts: list[str]
) -> None:
    with pytest.raises(PlanError) as caught:
        plan_for(device, override, count)
    assert all(text in str(caught.value) for text in texts)


def test_masked_text_is_not_captured() -> None:
    with pytest.raises(PlanError, match="cuda_graphs with objective = masked"):
        plan_for("h100-sxm", {"cuda_graphs": True}, objective="masked")


def test_every_layout_that_is_searched_goes_with_float8() -> None:
    shape = shape_for_width(1024, 8, vocab_size=32_000, context_tokens=1024)
    recipe = recipe_for(shape, 1e9, batch_tokens=64 * 1024)
    base = Layout(device="cuda", processes=8, precision="bf16", shard="ddp", float8=True)
    freedom = Freedom(tensor=8, precisions=("bf16", "fp32"))
    grid = layout_grid(shape, recipe, base, freedom)
    assert 0 < len(grid) < len(layout_grid(shape, recipe, Layout(device="cuda", processes=8), freedom))
    assert not [at for at in range(len(grid)) if layout_problems(grid.layout(at), shape, recipe)]


def test_tables_of_steps_and_other_trainers_refuse_what_they_cannot_say() -> None:
    plan = plan_for("h100-sxm", {"float8": True})
    for refuse in (lambda: chosen(plan, []), lambda: torchtitan_files(plan), lambda: megatron_files(plan)):
        with pytest.raises(PlanError, match="float8") as caught:
            refuse()
        assert "set float8 = false in [override]" in str(caught.value)
    plain = replace(plan, layout=replace(plan.layout, float8=False))
    assert chosen(plain, [])
    assert torchtitan_files(plain)
