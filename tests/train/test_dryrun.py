"""Layouts that are only thought of: memory by term equals what the shape says, collectives are counted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.errors import TrainError
from stepladder.launch.pretend import pretend, pretend_lines
from stepladder.models.count import count_params
from stepladder.records import Degrees, Experts, Layout, Plan, from_json, to_json

pytestmark = pytest.mark.dist
MakePlan = Callable[..., Path]


@pytest.fixture
def write(make_plan: MakePlan) -> Callable[..., Path]:
    def with_layout(layout: Layout, **shape: int) -> Path:
        path = make_plan(layout=layout, batch_tokens=64 * 32)
        plan = from_json(Plan, json.loads(path.read_text()))
        sizes = {"num_layers": 8, "num_heads": 4, "num_kv_heads": 4, "ffn_width": 64} | shape
        path.write_text(json.dumps(to_json(replace(plan, shape=replace(plan.shape, **sizes)))))
        return path

    return with_layout


def test_sixty_four_processes_on_this_one(write: Callable[..., Path]) -> None:
    degrees = Degrees(tensor=4, pipeline=2, context=2)
    path = write(Layout(processes=64, nodes=8, shard="fsdp", degrees=degrees, micro_batch_sequences=2))
    shape = from_json(Plan, json.loads(path.read_text())).shape
    found = pretend(path)
    sizes = {"pipeline": 2, "replicate": 1, "shard": 4, "context": 2, "expert": 1, "tensor": 4}
    assert sizes == found["mesh"]
    first, last = found["stages"]
    assert [0, 32] == [first["rank"], last["rank"]]
    # Norm gains are whole in a tensor group and sharded over the 8 processes of shard and context.
    gains = 4 * (2 * shape.width + 2 * shape.head_dim)
    matrices = (count_params(shape).nonembed - 2 * gains - shape.width) / 2
    table = shape.vocab_size * shape.width
    expected = 4 * ((matrices + table) / (4 * 8) + gains / 8)
    assert expected == first["memory_bytes"]["parameters"] == first["memory_bytes"]["gradients"]
    # AdamW keeps two values for each parameter, and a count of steps for each tensor.
    tensors = 4 * 11 + 1
    assert 2 * expected + 4 * tensors == first["memory_bytes"]["optimiser"]
    assert expected + 4 * shape.width / 8 == last["memory_bytes"]["parameters"]
    # 16 sequences a replica in micro-batches of 2: the first stage holds two of them, the last one.
    assert 8 == first["micro_batches"]
    assert first["memory_bytes"]["activations"] > last["memory_bytes"]["activations"]
    # Each block gathers before attention and before the feed-forward, in both passes; the embedding scatters.
    calls = first["collectives"]["tensor all_gather"]["calls"]
    assert 8 * (4 * 2 + 4 * 2 + 1) == calls
    assert "pipeline send" in first["collectives"]
    assert "tensor all_reduce" in last["collectives"]  # the softmax over a split vocabulary
    told = pretend_lines(found)
    assert told[0].startswith("layout: 64 processes, pipeline 2 x shard 4 x context 2 x tensor 4; built in")


def test_a_layout_that_cannot_be_is_one_clear_error(write: Callable[..., Path]) -> None:
    path = write(Layout(processes=64, shard="fsdp", degrees=Degrees(tensor=8)))
    with pytest.raises(TrainError, match="num_heads = 4 is not a multiple of tensor 8"):
        pretend(path)


def test_sixty_four_processes_with_experts(write: Callable[..., Path]) -> None:
    degrees = Degrees(expert=8, pipeline=2)
    layout = Layout(processes=64, nodes=8, shard="fsdp", degrees=degrees, micro_batch_sequences=1)
    path = write(layout)
    plan = from_json(Plan, json.loads(path.read_text()))
    experts = Experts(count=16, active=2, ffn_width=64)
    path.write_text(json.dumps(to_json(replace(plan, shape=replace(plan.shape, experts=experts)))))
    shape = replace(plan.shape, experts=experts)
    found = pretend(path)
    sizes = {"pipeline": 2, "replicate": 1, "shard": 4, "context": 1, "expert": 8, "tensor": 1}
    assert sizes == found["mesh"]
    first, last = found["stages"]
    # Half of the layers; experts lie on 8 x 4 processes, and so does what every process computes.
    counted = count_params(shape)
    even = 4 * ((counted.nonembed - shape.width) / 2 + counted.embedding) / 32
    # Routers and the gains of heads have 16 rows for 32 shards: this process has one, not half of one.
    more = 4 * 4 * (shape.width / 2 + 2 / 2)
    assert even + more == first["memory_bytes"]["parameters"]
    # In each pass of each of 4 layers rows travel there and back; before, counts do (forward only).
    sent, micro_batches = first["collectives"]["expert all_to_all"], first["micro_batches"]
    assert micro_batches * 4 * (1 + 2 + 2) == sent["calls"]
    rows = 4 * shape.context_tokens * experts.active * shape.width
    assert micro_batches * 4 * (4 * rows + 8 * experts.count) == sent["bytes"]
    assert sent == last["collectives"]["expert all_to_all"]


def test_a_gpu_that_is_not_here_counts_as_one(write: Callable[..., Path]) -> None:
    degrees = Degrees(tensor=4, pipeline=2)
    found = {}
    for name, layout in {
        "fp32": Layout(processes=8, degrees=degrees, device="cuda"),
        "bf16": Layout(processes=8, degrees=degrees, device="cuda", precision="bf16"),
        "cpu": Layout(processes=8, degrees=degrees),
    }.items():
        found[name] = pretend(write(layout, vocab_size=16_384, num_layers=2))["stages"]
    halves = ("tensor all_gather", "tensor reduce_scatter")
    for key in halves:
        whole, half = (found[name][0]["collectives"][key] for name in ("fp32", "bf16"))
        assert whole["calls"] == half["calls"]
        assert 0.5 * whole["bytes"] <= half["bytes"] < 0.65 * whole["bytes"], key
    kept = {name: stages[0]["memory_bytes"]["activations"] for name, stages in found.items()}
    assert kept["bf16"] < 0.75 * kept["fp32"]
    # Two micro-batches of 1,024 rows against a quarter of the vocabulary: each one chunk of logits on a GPU,
    # eight on a CPU, and each chunk has a largest and a sum over the group.
    calls = {name: stages[1]["collectives"]["tensor all_reduce"]["calls"] for name, stages in found.items()}
    assert calls["cpu"] - calls["fp32"] == 2 * (16 - 2)
