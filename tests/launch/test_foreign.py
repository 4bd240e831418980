"""Files for torchtitan and Megatron-LM: their own parsers read the plan back, or the names are theirs."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepladder.errors import PlanError
from stepladder.launch.emit import emit_job
from stepladder.models.count import count_params
from stepladder.models.shape import shape_for_width, with_experts
from stepladder.plan.layout import mesh_sizes
from stepladder.records import Degrees, Derived, Layout, Plan, Variant, from_json
from stepladder.store import read_json

HERE = Path(__file__).parent
# Releases, and where the names come from, stand in the file.
RECORDED = json.loads((HERE / "foreign_fields.json").read_text())


def cluster(
    processes: int, shard: Any = "fsdp", micro: int = 1, recompute: Any = "none", **degrees: Any
) -> Layout:
    return Layout(
        device="cuda",
        processes=processes,
        nodes=max(processes // 8, 1),
        precision="bf16",
        shard=shard,
        degrees=Degrees(**degrees),
        micro_batch_sequences=micro,
        recompute=recompute,
    )


LAYOUTS = {
    "one": cluster(1, "none", 4),
    "ddp": cluster(8, "ddp", 2, "selective"),
    "tied": cluster(8, "fsdp", 2),
    "hsdp": cluster(64, "hsdp", 2, "full", tensor=2, pipeline=2, shard_group=8),
    "interleaved": cluster(16, "ddp", tensor=2, pipeline=2, schedule="interleaved", stages=4),
    "context": cluster(16, "fsdp", context=2, tensor=2),
    "gpipe": cluster(16, "ddp", 0, pipeline=4, schedule="gpipe"),
    "experts": cluster(16, "fsdp", expert=8),
}


@pytest.fixture(params=LAYOUTS)
def plan(request: pytest.FixtureRequest, make_plan) -> Plan:
    made = from_json(Plan, read_json(make_plan(steps=100)))
    shape = shape_for_width(256, 8, vocab_size=32_000, context_tokens=2048)
    shape = replace(shape, tied_head=request.param == "tied")
    if request.param == "experts":
        shape = with_experts(shape, 16, 2)
    return replace(
        made,
        name=request.param,
        shape=shape,
        recipe=replace(made.recipe, batch_tokens=64 * 2048, optimiser="muon"),
        layout=LAYOUTS[request.param],
        numbers={**made.numbers, "tokens": Derived(value=100 * 64 * 2048, low=1, high=1, how="")},
    )


def ask(script: str, folder: Path, plan: Plan, **environment: str) -> dict[str, Any]:
    words = [sys.executable, "-W", "ignore", str(HERE / script), str(folder), str(plan.layout.processes)]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def wanted_micro(plan: Plan) -> int:
    return (
        plan.layout.micro_batch_sequences
        or 64 // mesh_sizes(plan.layout).data // plan.layout.degrees.pipeline
    )


def test_every_name_in_torchtitans_file_is_one_of_its_own(plan: Plan, tmp_path: Path) -> None:
    _, module, _ = emit_job("torchtitan", plan, tmp_path)
    tree = ast.parse(module.read_text())
    known, imports = RECORDED["torchtitan"]["fields"], RECORDED["torchtitan"]["imports"]
    checked = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torchtitan"):
            assert set(imports) >= {f"{node.module}.{name.name}" for name in node.names}
        if isinstance(node, ast.Call) and ast.unparse(node.func) in known:
            name = ast.unparse(node.func)
            assert set(known[name]) >= {word.arg for word in node.keywords if word.arg}, name
            checked.add(name)
    assert {"Trainer.Config", "TrainingConfig", "ParallelismConfig", "Qwen3Model.Config"} <= checked


def test_every_argument_for_megatron_is_one_of_its_own(plan: Plan, tmp_path: Path) -> None:
    _, arguments, _ = emit_job("megatron", plan, tmp_path)
    known = RECORDED["megatron"]["options"]
    for line in arguments.read_text().splitlines():
        name, *values = line.split()
        assert known[name]["values"] == len(values), line
        if "choices" in known[name]:
            assert values[0] in known[name]["choices"], line


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("torchtitan") is None, reason="torchtitan is not installed")
def test_torchtitan_reads_the_plan_back(plan: Plan, tmp_path: Path) -> None:
    emit_job("torchtitan", plan, tmp_path)
    said, sizes = ask("ask_torchtitan.py", tmp_path, plan), mesh_sizes(plan.layout)
    assert {
        "pp": sizes.pipeline,
        "dp_replicate": sizes.replicate,
        "dp_shard": sizes.shard,
        "cp": sizes.context,
        "tp": sizes.tensor,
        "ep": sizes.expert,
        "params": count_params(plan.shape).total,
        "stages": sizes.pipeline * plan.layout.degrees.stages,
        "micro": wanted_micro(plan),
        "accumulation": 1 if sizes.pipeline > 1 else 64 // sizes.data // wanted_micro(plan),
        "recompute": {"none": "NoneType", "selective": "SelectiveAC.Config", "full": "FullAC.Config"}[
            plan.layout.recompute
        ],
    } == said


def has_megatron() -> bool:
    return bool(importlib.util.find_spec("megatron")) and bool(importlib.util.find_spec("megatron.training"))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not has_megatron(), reason="megatron.training (megatron-core 0.19) is not installed")
def test_megatron_reads_the_plan_back(plan: Plan, tmp_path: Path) -> None:
    _, _, run = emit_job("megatron", plan, tmp_path)
    queue = (
        {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if "CUDA_DEVICE_MAX_CONNECTIONS=1 " in run.read_text() else {}
    )
    said, sizes, layout = (
        ask("ask_megatron.py", tmp_path, plan, **queue),
        mesh_sizes(plan.layout),
        plan.layout,
    )
    sharded = layout.shard in ("fsdp", "hsdp")
    assert {
        "data_parallel_size": sizes.data,
        "micro_batch_size": wanted_micro(plan),
        "global_batch_size": 64,
        "tensor_model_parallel_size": sizes.tensor,
        "pipeline_model_parallel_size": sizes.pipeline,
        "context_parallel_size": sizes.context,
        "expert_model_parallel_size": sizes.expert,
        "virtual_pipeline_model_parallel_size": layout.degrees.stages if layout.degrees.stages > 1 else None,
        "num_distributed_optimizer_instances": sizes.replicate if layout.shard == "hsdp" else 1,
        "use_megatron_fsdp": sharded,
        "train_iters": 100,
        "lr_wsd_decay_iters": 30,
        "recompute_granularity": None if layout.recompute == "none" else layout.recompute,
        "sequence_parallel": sizes.tensor > 1,
        "num_layers": 8,
        "params": count_params(plan.shape).total,
    } == said


def test_what_they_cannot_say_is_refused(make_plan, tmp_path: Path) -> None:
    made = from_json(Plan, read_json(make_plan(steps=100)))
    for kind in ("torchtitan", "megatron"):
        with pytest.raises(PlanError, match="decoders only"):
            emit_job(kind, replace(made, shape=replace(made.shape, causal=False)), tmp_path / kind)
        llama = replace(made.shape, variant=Variant(qk_norm="none", biases="all"))
        with pytest.raises(PlanError, match=r"of Qwen3's blocks\n.*qk_norm = none, biases = all"):
            emit_job(kind, replace(made, shape=llama), tmp_path / kind)
        assert not (tmp_path / kind).exists()
    zbv = cluster(2, "ddp", pipeline=2, schedule="zbv", stages=2)
    three = replace(made, shape=replace(made.shape, num_layers=5), layout=zbv)
    with pytest.raises(PlanError, match="5 into 4 it cannot"):
        emit_job("megatron", three, tmp_path)
    with pytest.raises(PlanError, match="no pipeline schedule zbv"):
        emit_job("megatron", replace(three, shape=replace(made.shape, num_layers=4)), tmp_path)
    many = replace(three, layout=cluster(2, "ddp", pipeline=2, schedule="interleaved", stages=3))
    nine = replace(many, shape=replace(made.shape, num_layers=9))
    with pytest.raises(PlanError, match="cannot cut 9 blocks into 6 stages"):
        emit_job("torchtitan", nine, tmp_path)
    experts = replace(made, shape=with_experts(made.shape, 4, 2), layout=cluster(4, "ddp", expert=4))
    with pytest.raises(PlanError, match="experts among processes that shard"):
        emit_job("torchtitan", experts, tmp_path)
