from dataclasses import replace

import pytest
import torch

from stepladder.models.transformer import Transformer
from stepladder.records import Recipe, Shape, Variant
from stepladder.train.optim import build_optimisers, orthogonalise

SHAPE = Shape(
    num_layers=2,
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_width=24,
    vocab_size=32,
    context_tokens=8,
)


def recipe(optimiser: str) -> Recipe:
    return Recipe(
        batch_tokens=8,
        embed_lr=0.4,
        head_lr=0.2,
        hidden_lr=0.1,
        weight_decay=0.5,
        optimiser=optimiser,  # type: ignore[arg-type]
    )


def test_each_group_has_its_rate_and_only_matrices_decay() -> None:
    (adam,) = build_optimisers(Transformer(SHAPE), recipe("adamw")).parts
    found = {g["name"]: (g["lr"], g["weight_decay"], len(g["params"])) for g in adam.param_groups}
    assert found == {
        "embed": (0.4, 0.0, 1),
        "head": (0.2, 0.0, 1),
        "hidden": (0.1, 0.5, 14),
        "norm": (0.1, 0.0, 9),
    }


def test_muon_takes_the_matrices() -> None:
    adam, muon = build_optimisers(Transformer(SHAPE), recipe("muon")).parts
    assert [group["name"] for group in adam.param_groups] == ["embed", "head", "norm"]
    assert len(muon.param_groups[0]["params"]) == 14


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_tables_of_positions_and_types_are_neither_decayed_nor_made_orthogonal(optimiser: str) -> None:
    old = Variant(rope_theta=0.0, token_types=2, qk_norm="none")
    model = Transformer(replace(SHAPE, num_kv_heads=2, variant=old))
    parts = build_optimisers(model, recipe(optimiser)).parts
    for table in (model.embed_positions.weight, model.embed_types.weight):
        (group,) = [
            group
            for group in parts[0].param_groups
            if any(parameter is table for parameter in group["params"])
        ]
        assert (group["name"], group["weight_decay"]) == ("norm", 0.0)


def test_the_factor_scales_every_rate() -> None:
    model = Transformer(SHAPE)
    optimisers = build_optimisers(model, recipe("adamw"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = model.embed_tokens.weight.detach().clone()
    optimisers.step(0.25)
    # Adam's first step is the rate itself, against the gradient's sign.
    torch.testing.assert_close(before - 0.25 * 0.4, model.embed_tokens.weight.detach(), atol=1e-4, rtol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(3, 24, 16), (2, 16, 24), (1, 16, 16)])
def test_updates_are_nearly_orthogonal(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(
        orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    )
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_step_is_the_formula() -> None:
    """One matrix and one step against the iteration written out for it."""
    model = Transformer(SHAPE)
    model.reset_parameters(torch.Generator().manual_seed(0))
    optimisers = build_optimisers(model, recipe("muon"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight = model.layers[0].mlp.gate_proj.weight  # type: ignore[union-attr]
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    weight.grad, before = gradient.clone(), weight.detach().clone()
    optimisers.step(1.0)
    # Momentum from zero only changes the direction's length, which the iteration removes.
    wanted = before * (1 - 0.1 * 0.5) - 0.1 * (24 / 16) ** 0.5 * orthogonalise(gradient[None])[0]
    torch.testing.assert_close(wanted, weight.detach(), atol=1e-6, rtol=1e-5)
