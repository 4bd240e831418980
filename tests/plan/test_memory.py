"""Bytes of a process: terms, sharding, the busiest moment, and a real run."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.launch.environment import worker_environment
from stepladder.models.count import count_params
from stepladder.models.shape import shape_for_width
from stepladder.plan.memory import GIB, memory_need, memory_terms
from stepladder.plan.rates import recipe_for
from stepladder.records import Degrees, Layout, Plan, Run, from_json, to_json
from stepladder.store import read_json

GPU = Layout(device="cuda", processes=8, precision="bf16", shard="ddp", micro_batch_sequences=1)
SHAPE = shape_for_width(1024, vocab_size=32_768, context_tokens=1024)
STATE = ("weights", "gradients", "optimiser")


def need(layout: Layout, width: int = 1024, batch: int = 65_536, optimiser: str = "adamw"):
    shape = shape_for_width(width, vocab_size=32_768, context_tokens=1024)
    return memory_need(shape, recipe_for(shape, 1e9, batch_tokens=batch, optimiser=optimiser), layout, 24e9)


def test_terms_add_up():
    found = need(GPU)
    assert found.total.value == pytest.approx(sum(found.terms.values()))
    assert found.total.low < found.total.value < found.total.high


def test_unsharded_states_are_sixteen_bytes_a_parameter_and_fsdp_divides_them():
    whole, sharded = need(GPU), need(replace(GPU, shard="fsdp"))
    assert sum(whole.terms[name] for name in STATE) == pytest.approx(16 * count_params(SHAPE).total)
    assert sum(sharded.terms[name] for name in STATE) == pytest.approx(2 * count_params(SHAPE).total)
    assert sharded.total.value < whole.total.value


def test_muon_keeps_one_moment_of_hidden_matrices():
    adamw, muon = (need(GPU, optimiser=name).terms["optimiser"] for name in ("adamw", "muon"))
    hidden = SHAPE.num_layers * (4 * 1024**2 + 3 * 1024 * SHAPE.ffn_width)
    assert adamw - muon == pytest.approx(4 * hidden)


def test_groups_hold_their_own_state_and_context_shares_it():
    groups = replace(GPU, shard="hsdp", degrees=Degrees(shard_group=4))
    context = replace(GPU, shard="fsdp", degrees=Degrees(context=2))
    params = count_params(SHAPE).total
    for layout, held in ((groups, 4), (context, 8)):
        terms = need(layout).terms
        assert 16 * params / held == pytest.approx(sum(terms[name] for name in STATE))
        assert "gathered" in terms


def test_a_stage_holds_its_layers_and_one_end_of_the_vocabulary():
    layout = replace(GPU, processes=4, shard="none", degrees=Degrees(pipeline=4))
    count = count_params(SHAPE)
    held = count.nonembed * -(-SHAPE.num_layers // 4) / SHAPE.num_layers + count.embedding
    assert need(layout).terms["weights"] == pytest.approx(4 * held)


def test_activations_in_flight_hang_on_the_schedule():
    def activations(schedule: str, stages: int = 1) -> float:
        degrees = Degrees(pipeline=4, schedule=schedule, stages=stages)  # type: ignore[arg-type]
        return need(replace(GPU, processes=4, shard="none", degrees=degrees)).terms["activations"]

    # 64 micro-batches: GPipe keeps all, 1F1B as many as there are stages, interleaving 1 + 3 / 8 of that.
    assert activations("gpipe") == pytest.approx(16 * activations("1f1b"))
    assert activations("interleaved", 2) == pytest.approx((1 + 3 / 8) * activations("1f1b"))
    assert activations("zbv", 2) == pytest.approx(activations("1f1b"))


def test_tensor_groups_split_all_but_the_inputs_of_matrices():
    one = replace(GPU, processes=1, shard="none")
    two = replace(GPU, processes=2, shard="none", degrees=Degrees(tensor=2))
    whole = 2 * 2 * 1024 * 1024 * SHAPE.num_layers
    single, split = (need(layout).terms["activations"] for layout in (one, two))
    assert split - whole == pytest.approx((single - whole) / 2)


def test_gradients_are_beside_activations_only_with_micro_batches():
    alone = replace(GPU, processes=1, shard="none", micro_batch_sequences=0)
    assert "gradients" not in need(alone).terms
    assert "gradients" in need(replace(alone, micro_batch_sequences=1)).terms
    assert "flat_gradients" in need(replace(GPU, recompute="full"), batch=8192).terms


def test_checkpoints_are_copies_in_the_memory_of_the_host():
    cpu = Layout(device="cpu")
    shape = shape_for_width(256, 6, vocab_size=4096, context_tokens=256)
    recipe = recipe_for(shape, 1e8, batch_tokens=2048, optimiser="adamw")
    with_copy, without = (memory_terms(shape, recipe, cpu, checkpoints=flag) for flag in (True, False))
    assert 12 * count_params(shape).total == pytest.approx(with_copy["checkpoint_copy"])
    assert "checkpoint_copy" not in without
    on_gpu = need(replace(GPU, shard="fsdp"))
    assert "checkpoint_copy" not in on_gpu.terms
    assert on_gpu.host == pytest.approx(12 * count_params(SHAPE).total / 8)


def test_context_grows_with_nodes():
    one, four = need(replace(GPU, processes=32)), need(replace(GPU, processes=32, nodes=4))
    assert four.terms["context"] - one.terms["context"] == pytest.approx(2 * 1.15 * GIB)


def test_smaller_micro_batches_and_recompute_need_less():
    totals = [
        need(layout).total.value
        for layout in (
            replace(GPU, micro_batch_sequences=0),
            replace(GPU, micro_batch_sequences=4),
            GPU,
            replace(GPU, recompute="full"),
        )
    ]
    assert totals == sorted(totals, reverse=True)


def test_processes_on_a_cpu_share_its_memory():
    layout = Layout(device="cpu", processes=4, shard="ddp")
    found = need(layout, width=256, batch=8192)
    assert found.processes_sharing == 4
    assert found.probability_too_much == need(layout, width=256, batch=8192).probability_too_much
    assert need(GPU).processes_sharing == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "vocab_size", "optimiser"), [(96, 2048, "adamw"), (256, 4096, "adamw"), (256, 4096, "muon")]
)
def test_the_peak_of_a_real_run_is_inside_the_interval(
    width: int, vocab_size: int, optimiser: str, make_plan: Callable[..., Path], tmp_path: Path
):
    shape = shape_for_width(width, 6, vocab_size=vocab_size, context_tokens=64)
    path = make_plan(steps=2, batch_tokens=1024, optimiser=optimiser)
    plan = replace(from_json(Plan, read_json(path)), shape=shape)
    path.write_text(json.dumps(to_json(plan)))
    command = [sys.executable, "-m", "stepladder.train.worker", "--plan", path, "--out", tmp_path / "out"]
    (tmp_path / "out").mkdir()
    subprocess.run(command, check=True, env=worker_environment(plan.layout), capture_output=True)
    measured = from_json(Run, read_json(tmp_path / "out" / "run.json")).peak_bytes
    forecast = sum(memory_terms(shape, plan.recipe, plan.layout, checkpoints=False).values())
    print(f"{width} {optimiser}: measured {measured / 1e6:.0f} MB, forecast {forecast / 1e6:.0f} MB")
    assert forecast == pytest.approx(measured, rel=0.1)
