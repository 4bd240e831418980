"""Texts of different lengths without padding: the states and gradients of the padded network."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from stepladder.models.hf import random_network  # noqa: E402
from stepladder.models.ragged import ragged_rows  # noqa: E402
from stepladder.records import Shape  # noqa: E402
from stepladder.shape_nouns import ENCODER, Experts, Local, Variant  # noqa: E402

torch.set_num_threads(1)
DECODER = Shape(
    num_layers=3,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    ffn_width=48,
    vocab_size=100,
    context_tokens=24,
)
BERT = Variant(
    rope_theta=0, norm="layer_bias", norm_place="after", qk_norm="none", mlp="gelu", biases="all",
    lm_head="dense_bias", token_types=2, position_offset=2,
)  # fmt: skip
LOCAL = replace(ENCODER, local=Local(window=6, every=2, rope_theta=1_000.0))
SHAPES = {
    "decoder": DECODER,
    "olmo2": replace(DECODER, variant=Variant(qk_norm="whole", norm_place="inside")),
    # Without balancing, whose gradient would count padding in padded rows.
    "experts": replace(DECODER, experts=Experts(count=4, ffn_width=16, balance=0.0)),
    "encoder": replace(DECODER, causal=False, variant=ENCODER),
    "encoder-local": replace(DECODER, causal=False, variant=LOCAL),
    "encoder-local-last": replace(DECODER, num_layers=2, causal=False, variant=LOCAL),
    "bert": replace(DECODER, num_kv_heads=4, causal=False, variant=BERT),
}
LENGTHS = torch.tensor([5, 12, 1, 9])


@pytest.fixture(params=[(name, how) for name in SHAPES for how in ("explicit", "sdpa")], ids="-".join)
def network(request):
    name, attention = request.param
    made = random_network(SHAPES[name], 3, attention=attention)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def padded_states(network, ids, lengths):
    """The padded network, whose padding nothing real may see."""
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    mask = None if network.shape.causal else real[:, None, None, :]
    return network.hidden(ids, mask) * real[..., None]


def random_ids():
    return torch.randint(0, 100, (4, 12), generator=torch.Generator().manual_seed(0))


def test_states_and_gradients_are_those_of_padded_rows(network):
    ids = random_ids()
    pick = torch.randn(4, 12, 32, generator=torch.Generator().manual_seed(2))
    found = []
    for states in (padded_states(network, ids, LENGTHS), network.hidden_real(ids, LENGTHS)):
        network.zero_grad()
        (states * pick).sum().backward()
        found.append((states.detach(), [p.grad for p in network.parameters() if p.grad is not None]))
    assert (found[0][0] - found[1][0]).abs().max() <= 1e-5
    assert len(found[0][1]) == len(found[1][1])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).abs().max() <= 2e-5 * max(one.abs().max(), 1)


def test_the_last_token_alone_is_the_last_of_all(network):
    ids, rows = random_ids(), torch.arange(4)
    pick = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    found = []
    for of in (
        network.hidden_real(ids, LENGTHS)[rows, LENGTHS - 1],
        network.hidden_real(ids, LENGTHS, last=True),
    ):
        network.zero_grad()
        (of * pick).sum().backward()
        found.append(
            (of.detach(), network.embed_tokens.weight.grad, network.layers[-1].self_attn.q_proj.weight.grad)
        )
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 2e-5 * max(one.abs().max(), 1)


def test_what_stands_in_the_padding_does_not_matter(network):
    ids, other = random_ids(), random_ids()
    other[torch.arange(12) >= LENGTHS[:, None]] = 7
    assert torch.equal(network.hidden_real(ids, LENGTHS), network.hidden_real(other, LENGTHS))


def test_rows_apart_and_joined():
    row = ragged_rows(torch.tensor([2, 3]), 4)
    x = torch.arange(10.0).view(1, 5, 2)
    assert row.slots.tolist() == [0, 1, 4, 5, 6]
    assert row.places.tolist() == [0, 1, 0, 1, 2]
    assert row.apart(x)[0, 2:].abs().sum() == 0
    assert torch.equal(x, row.joined(row.apart(x)))
