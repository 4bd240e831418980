"""Small decoders of several families, drawn once for each file that reads with them."""

from dataclasses import replace

import pytest

from stepladder.records import Experts, Shape, Variant

PLAIN = Shape(
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    ffn_width=48,
    vocab_size=96,
    context_tokens=32,
)
SHAPES = {
    "ours": PLAIN,
    "llama": replace(PLAIN, variant=Variant(qk_norm="none"), tied_head=True),
    "olmo2": replace(PLAIN, num_kv_heads=4, variant=Variant(qk_norm="whole", norm_place="inside")),
    "experts": replace(PLAIN, experts=Experts(count=4, active=2, ffn_width=24)),
}


@pytest.fixture
def plain() -> Shape:
    """The shape of the family of our own."""
    return PLAIN


@pytest.fixture(scope="module", params=SHAPES)
def network(request):
    """A decoder with random weights and a sharp head."""
    import torch

    from stepladder.models.hf import random_network

    drawn = random_network(SHAPES[request.param], 3).eval()
    with torch.no_grad():  # a new head is zero, and would say the first id for ever
        drawn.lm_head.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return drawn
