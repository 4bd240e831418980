"""Counts of parameters, FLOPs and bytes are what torch counts on the real model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stepladder.models.count import (
    activation_bytes_per_token,
    autocast_copy_bytes,
    count_params,
    forward_flops_per_token,
    state_bytes,
    train_flops_per_token,
)
from stepladder.models.shape import shape_for_width
from stepladder.models.transformer import Transformer
from stepladder.records import Shape

GROUPED = Shape(
    num_layers=2,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    ffn_width=160,
    vocab_size=300,
    context_tokens=32,
    causal=False,
)
SHAPES = [
    shape_for_width(64, 3, vocab_size=512, context_tokens=32),
    shape_for_width(96, 2, vocab_size=384, context_tokens=48, tied_head=True),
    GROUPED,
]


def build(shape: Shape, attention: str = "explicit") -> Transformer:
    torch.set_num_threads(1)
    model = Transformer(shape, attention)  # pyrefly: ignore
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_the_model(shape):
    model, count = build(shape), count_params(shape)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    assert count.embedding == model.embed_tokens.weight.numel()
    assert count.head == (0 if shape.tied_head else model.lm_head.weight.numel())
    assert count.total == count.embedding + count.head + count.nonembed


@pytest.mark.parametrize("shape", SHAPES)
def test_training_flops_are_those_that_torch_counts(shape):
    model = build(shape)
    ids = torch.zeros(2, shape.context_tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = model(ids)
    with FlopCounterMode(display=False) as backward:
        logits.float().logsumexp(-1).sum().backward()
    tokens = ids.numel()
    assert forward_flops_per_token(shape) * tokens == forward.get_total_flops()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert train_flops_per_token(shape) * tokens == total


def test_flops_are_six_times_the_multiplying_parameters_when_the_context_is_short():
    shape = shape_for_width(512, 8, vocab_size=1024, context_tokens=16)
    count = count_params(shape)
    assert train_flops_per_token(shape) == pytest.approx(6 * (count.nonembed + count.head), rel=0.01)


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize("value_bytes", [4, 2])
def test_kept_activations_are_those_that_autograd_saves(attention, value_bytes):
    shape = shape_for_width(64, 3, vocab_size=300, context_tokens=32)
    model = build(shape, attention)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    ids = torch.zeros(32, shape.context_tokens, dtype=torch.long)
    saved, alive = {}, []

    def pack(tensor):
        alive.append(tensor)
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=value_bytes == 2),
    ):
        model(ids).sum()
    measured = sum(size for pointer, size in saved.items() if pointer not in weights)
    copies = autocast_copy_bytes(shape) if value_bytes == 2 else 0
    per_token = activation_bytes_per_token(shape, attention=attention, value_bytes=value_bytes)
    assert measured == pytest.approx(sum(per_token.values()) * ids.numel() + copies, rel=0.02)


def test_recompute_keeps_less():
    def kept(recompute: str) -> int:
        shape = shape_for_width(256, 8, vocab_size=512, context_tokens=256)
        terms = activation_bytes_per_token(shape, attention="explicit", value_bytes=2, recompute=recompute)
        return sum(terms.values())

    assert kept("full") < kept("selective") < kept("none")


def test_adamw_keeps_sixteen_bytes_a_parameter_and_muon_fewer():
    shape = SHAPES[0]
    total = count_params(shape).total
    assert sum(state_bytes(shape).values()) == 16 * total
    optimiser = torch.optim.AdamW(model.parameters()) if (model := build(shape)) else None
    model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    optimiser.step()
    moments = sum(
        value.numel() * value.element_size()
        for state in optimiser.state.values()
        for key, value in state.items()
        if key != "step"
    )
    assert state_bytes(shape)["optimiser"] == moments
    assert state_bytes(shape, "muon")["optimiser"] < moments
