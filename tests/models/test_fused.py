"""The hand-written gradients against autograd's own, and both attentions against each other."""

import pytest
import torch
import torch.nn.functional as F

from stepladder.models.fused import norm_rotate, rms_norm
from stepladder.models.transformer import Transformer, rotary_table
from stepladder.records import Shape


def written_out(x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Norm, then half-split rotation, as the papers have it."""
    normed = F.rms_norm(x, (x.shape[-1],), weight, 1e-6)
    first, second = normed.chunk(2, dim=-1)
    return normed * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


def test_norm_and_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(s, generator=draw) for s in ((3, 5, 8), (8,), (3, 5, 8)))
    x.requires_grad_()
    weight.requires_grad_()
    expected = F.rms_norm(x, (8,), weight, 1e-6)
    actual = rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(expected, actual)
    for wanted, found in zip(
        torch.autograd.grad(expected, (x, weight), grad),
        torch.autograd.grad(actual, (x, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(wanted, found)


def test_norm_with_rotation_and_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(s, generator=draw) for s in ((2, 7, 3, 8), (8,), (2, 7, 3, 8)))
    x.requires_grad_()
    weight.requires_grad_()
    cos, sin = rotary_table(7, 8, 10_000.0)
    expected, actual = written_out(x, weight, cos, sin), norm_rotate(x, weight, cos, sin, 1e-6)
    torch.testing.assert_close(expected, actual)
    for wanted, found in zip(
        torch.autograd.grad(expected, (x, weight), grad),
        torch.autograd.grad(actual, (x, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(wanted, found)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_explicit_attention_is_sdpa(causal: bool, masked: bool) -> None:
    shape = Shape(
        num_layers=2,
        width=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ffn_width=48,
        vocab_size=50,
        context_tokens=16,
        causal=causal,
    )
    models = [Transformer(shape, attention) for attention in ("explicit", "sdpa")]
    models[0].reset_parameters(torch.Generator().manual_seed(0))
    models[1].load_state_dict(models[0].state_dict())
    ids = torch.arange(32).view(2, 16)
    # The second row is padded from its tenth place.
    mask = (torch.arange(16) < torch.tensor([16, 10])[:, None])[:, None, None, :] if masked else None
    states = [model.hidden(ids, mask) for model in models]
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-5)
    assert states[0].isfinite().all()
