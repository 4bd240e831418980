"""Float8 in the blocks: what is converted, that saved models are plain, what is refused."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from stepladder.data.tokens.shards import open_split
from stepladder.errors import TrainError
from stepladder.models.fused import compile_blocks
from stepladder.models.hf import load_folder
from stepladder.models.transformer import Transformer
from stepladder.plan.layout import layout_problems
from stepladder.records import Degrees, Experts, Layout, Plan, from_json
from stepladder.train import float8, worker
from stepladder.train.batches import BatchSource, even_windows
from stepladder.train.choices import choose
from stepladder.train.loop import Stopped
from stepladder.train.metrics import read_metrics
from stepladder.train.objective import NextToken
from stepladder.train.parallel import Ranks

MakePlan = Callable[..., Path]
CPU = torch.device("cpu")
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def read(path: Path) -> Plan:
    return from_json(Plan, json.loads(path.read_text()))


def train_here(plan: Path, out: Path, stop_at: int = 0) -> None:
    stop = threading.Event()
    worker.run_plan(plan, out, stop, lambda step, *_: stop.set() if step == stop_at - 1 else None)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@needs_torchao
def test_only_matrices_of_blocks_whose_sides_divide_are_converted(make_plan: MakePlan) -> None:
    shape = replace(read(make_plan()).shape, ffn_width=40)
    model = worker.build_model(shape, 0, "explicit")
    names, before = list(model.state_dict()), list(model.parameters())
    assert 2 * 4 == float8.convert_blocks(model, CPU)  # q, k, v and o of two blocks; 40 is no multiple of 16
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if "proj" in name}
    assert {
        "layers.0.self_attn.q_proj": "Float8Linear",
        "layers.1.mlp.up_proj": "Linear",
    }.items() <= kinds.items()
    assert "Linear" == type(model.lm_head).__name__
    assert names == list(model.state_dict())
    assert all(one is other for one, other in zip(before, model.parameters(), strict=True))


@needs_torchao
def test_products_are_rounded_while_it_learns_and_plain_when_it_is_scored(make_plan: MakePlan) -> None:
    shape = read(make_plan()).shape
    plain, rounded = (worker.build_model(shape, 0, "explicit") for _ in range(2))
    float8.convert_blocks(rounded, CPU)
    ids = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.hidden(ids), rounded.hidden(ids))
    states = [model.hidden(ids) for model in (plain, rounded)]
    apart = ((states[0] - states[1]).norm() / states[0].norm()).item()
    assert 1e-3 < apart < 0.1  # e4m3 has three bits: steps of 1/8 to 1/16


@needs_torchao
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(
    make_plan: MakePlan, tmp_path: Path, precision: str
) -> None:
    layout = Layout(float8=True, precision=precision, micro_batch_sequences=4)  # type: ignore[arg-type]
    path, whole, parts = make_plan(steps=12, layout=layout), tmp_path / "whole", tmp_path / "parts"
    train_here(path, whole)
    with pytest.raises(Stopped):
        train_here(path, parts, stop_at=6)
    assert 6 == len(losses(parts))
    train_here(path, parts)
    assert losses(whole) == losses(parts)
    assert weights(whole) == weights(parts)
    train_here(make_plan(steps=12, layout=replace(layout, float8=False)), tmp_path / "plain")
    assert weights(whole) != weights(tmp_path / "plain")
    assert losses(tmp_path / "plain")[-1] == pytest.approx(losses(whole)[-1], rel=0.02)


@needs_torchao
def test_the_saved_model_is_plain_and_scores_what_the_run_says(
    make_plan: MakePlan, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train_here(make_plan(layout=Layout(float8=True)), out)
    model, heldout = load_folder(out / "model"), open_split(corpus, "heldout")
    assert {"Linear"} == {type(module).__name__ for name, module in model.named_modules() if "proj" in name}
    windows = even_windows(len(heldout.tokens), 32, worker.HELDOUT_TOKENS)
    ranks = Ranks(rank=0, world=1, device=CPU)
    figures = NextToken(BatchSource(heldout, 32, 1, 0), windows, 1.0, ranks).evaluate(model)
    run = json.loads((out / "run.json").read_text())
    assert figures["heldout_loss"] == pytest.approx(run["heldout_loss"], rel=1e-6)


@needs_torchao
def test_recomputed_blocks_have_the_same_losses(make_plan: MakePlan, tmp_path: Path) -> None:
    for name, recompute in (("kept", "none"), ("again", "full")):
        layout = Layout(float8=True, recompute=recompute)  # type: ignore[arg-type]
        train_here(make_plan(name, steps=4, layout=layout), tmp_path / name)
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")


@needs_torchao
@pytest.mark.slow
# PyTorch 2.13's compiler warns of its own parts: a module that it deprecates, gradients that it looks up.
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_round_as_plain_ones(make_plan: MakePlan) -> None:
    shape = read(make_plan()).shape
    models = [worker.build_model(shape, 0, "explicit") for _ in range(3)]
    for model in models[1:]:
        float8.convert_blocks(model, CPU)
    compile_blocks(models[2])
    ids = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(0))
    draw = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(1))

    def gradients(model: Transformer) -> torch.Tensor:
        found = torch.autograd.grad((model.hidden(ids) * draw).sum(), list(model.layers.parameters()))
        return torch.cat([one.flatten() for one in found])

    plain, rounded, compiled = map(gradients, models)
    apart = (rounded - plain).norm()
    assert (compiled - rounded).norm() < 0.3 * apart
    assert apart > 1e-3 * plain.norm()


@needs_torchao
@pytest.mark.dist
def test_two_replicas_learn_as_one_process_does(make_plan: MakePlan, tmp_path: Path) -> None:
    # Each replica scales by the largest value of its own half of the batch: near, not equal.
    train_here(make_plan("one", steps=20, layout=Layout(float8=True)), tmp_path / "one")
    plan = make_plan("two", steps=20, layout=Layout(processes=2, shard="ddp", float8=True))
    script = Path(__file__).with_name("run_plans.py")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *torchrun, str(script), f"{plan}={tmp_path / 'two'}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=0.01)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"shard": "fsdp", "processes": 2}, {}, "float8 with shard = fsdp is not tested: shard = ddp"),
    ({"shard": "hsdp", "processes": 8, "degrees": Degrees(shard_group=2)}, {}, "float8 with shard = hsdp"),
    ({"processes": 2, "degrees": Degrees(tensor=2)}, {}, "float8 with tensor = 2 is not tested: tensor = 1"),
    ({"processes": 2, "degrees": Degrees(context=2), "shard": "ddp"}, {}, "float8 with context = 2"),
    ({"processes": 2, "degrees": Degrees(pipeline=2)}, {}, "float8 with pipeline = 2"),
    ({}, {"experts": Experts(count=4, active=2, ffn_width=16)}, "float8 with a mixture of experts"),
    ({}, {"context_tokens": 24}, "in steps of 16, and context_tokens = 24"),
    ({"device": "cuda"}, {}, "float8 with precision = fp32: precision = bf16"),
]


@pytest.mark.parametrize(("layout", "shape", "text"), REFUSED)
def test_what_no_test_covers_is_refused(
    make_plan: MakePlan, layout: dict[str, Any], shape: dict[str, Any], text: str
) -> None:
    plan = read(make_plan())
    plan = replace(plan, layout=Layout(float8=True, **layout), shape=replace(plan.shape, **shape))
    plan = replace(plan, recipe=replace(plan.recipe, batch_tokens=8 * plan.shape.context_tokens))
    with pytest.raises(TrainError) as caught:
        worker.check_plan(plan)
    assert text in str(caught.value)
    assert "or float8 = false" in str(caught.value)
    without = layout_problems(replace(plan.layout, float8=False), plan.shape, plan.recipe)
    assert not [one for one in without if "float8" in one]


def test_a_missing_torchao_and_an_old_gpu_are_one_error_each(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = worker.build_model(read(make_plan()).shape, 0, "explicit")
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(TrainError, match=r"float8 needs torchao.*\n?.*") as caught:
        float8.convert_blocks(model, CPU)
    assert 'pip install "stepladder[float8]"' in str(caught.value)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    for capability, is_old in (((8, 0), True), ((8, 9), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        if is_old:
            with pytest.raises(TrainError, match=r"NVIDIA A100, compute capability 8\.0"):
                float8.check_device(torch.device("cuda", 0))
        else:
            float8.check_device(torch.device("cuda", 0))


def test_explain_says_whether_it_is_on_and_why(make_plan: MakePlan) -> None:
    plan = read(make_plan())

    def told(shape: dict[str, Any] | None = None, **layout: Any) -> tuple[str, str]:
        changed = replace(plan, layout=Layout(**layout), shape=replace(plan.shape, **(shape or {})))
        found = choose(changed, {})["float8"]
        return found.value, found.why

    assert ("off", "a CPU has no float8 products") == told()
    assert "emulated" == told(float8=True)[0]
    gpu = {"device": "cuda", "precision": "bf16"}
    assert ("off", "its speed was not measured; [override] float8 = true turns it on") == told(**gpu)
    sharded = {"processes": 2, "shard": "fsdp"}
    assert ("off", "float8 with shard = fsdp is not tested") == told(**gpu, **sharded)
    assert "width = 24" in told(shape={"width": 24}, **gpu)[1]
    assert "blocks" == told(**gpu, float8=True)[0]
