"""Bytes of a process: terms, sharding, and a real training step."""

import json
import subprocess
import sys

import pytest

from stepladder.models.count import count_params
from stepladder.models.shape import shape_for_width
from stepladder.plan.memory import memory_need
from stepladder.plan.rates import recipe_for
from stepladder.records import Degrees, Layout, to_json

GPU = Layout(device="cuda", processes=8, precision="bf16", shard="ddp", micro_batch_sequences=1)


def need(layout: Layout, width: int = 1024, batch: int = 65_536):
    shape = shape_for_width(width, vocab_size=32_768, context_tokens=1024)
    return memory_need(shape, recipe_for(shape, 1e9, batch_tokens=batch, optimiser="adamw"), layout, 24e9)


def test_terms_add_up():
    found = need(GPU)
    assert found.total.value == pytest.approx(sum(found.terms.values()))
    assert found.total.low < found.total.value < found.total.high


def test_unsharded_states_are_sixteen_bytes_a_parameter_and_fsdp_divides_them():
    from dataclasses import replace

    shape = shape_for_width(1024, vocab_size=32_768, context_tokens=1024)
    whole, sharded = need(GPU), need(replace(GPU, shard="fsdp"))
    names = ("weights", "gradients", "optimiser")
    assert sum(whole.terms[name] for name in names) == 16 * count_params(shape).total
    assert sum(sharded.terms[name] for name in names) == 2 * count_params(shape).total
    assert sharded.total.value < whole.total.value


def test_groups_hold_their_own_state_and_context_shares_it():
    from dataclasses import replace

    groups = replace(GPU, shard="hsdp", degrees=Degrees(shard_group=4))
    context = replace(GPU, shard="fsdp", degrees=Degrees(context=2))
    params = count_params(shape_for_width(1024, vocab_size=32_768, context_tokens=1024)).total
    for layout, held in ((groups, 4), (context, 8)):
        terms = need(layout).terms
        assert 16 * params / held == sum(terms[name] for name in ("weights", "gradients", "optimiser"))
        assert "gathered_layers" in terms


def test_smaller_micro_batches_and_recompute_need_less():
    from dataclasses import replace

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


STEP = """
import json, resource, sys
import torch
from stepladder.models.transformer import Transformer
from stepladder.records import Shape, from_json
torch.set_num_threads(1)
shape, batch, bf16 = from_json(Shape, json.loads(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "bf16"
model = Transformer(shape)
model.reset_parameters(torch.Generator().manual_seed(0))
optimiser = torch.optim.AdamW(model.parameters())
for _ in range(2):
    ids = torch.randint(0, shape.vocab_size, (batch // shape.context_tokens, shape.context_tokens))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(ids)
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "vocab_size", "batch", "precision"),
    [
        (96, 2048, 1024, "fp32"),
        (256, 4096, 2048, "fp32"),
        (256, 4096, 2048, "bf16"),
    ],
)
def test_the_peak_of_a_real_step_is_inside_the_interval(width, vocab_size, batch, precision):
    shape = shape_for_width(width, 6, vocab_size=vocab_size, context_tokens=256)
    command = [sys.executable, "-c", STEP, json.dumps(to_json(shape)), str(batch), precision]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = float(answer.stdout)
    layout = Layout(device="cpu", precision="bf16" if precision == "bf16" else "fp32")
    total = memory_need(shape, recipe_for(shape, 1e8, batch_tokens=batch), layout, 1e11).total
    print(f"{width} {precision}: measured {measured / 1e6:.0f} MB, forecast {total.value / 1e6:.0f} MB")
    assert total.low < measured < total.high
