"""One rule for batch and rates."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import (
    MIN_RUNG_STEPS,
    RateRule,
    batch_for,
    recipe_for,
    recipe_rule,
    shortest_run,
    with_batch,
)
from stepladder.records import Shape


def shape(width: int, layers: int = 2) -> Shape:
    return shape_for_width(width, layers, vocab_size=2048, context_tokens=128)


def test_the_measured_recipe_at_a_million_tokens() -> None:
    recipe = recipe_for(shape(64), 1_000_000)
    assert (recipe.batch_tokens, recipe.optimiser) == (1024, "muon")
    assert (recipe.embed_lr, recipe.head_lr, recipe.hidden_lr) == (0.1, 0.064, 0.02)


def test_only_the_head_and_adamw_scale_with_width() -> None:
    narrow, wide = recipe_for(shape(64), 1e6), recipe_for(shape(256), 1e6)
    assert wide.embed_lr == narrow.embed_lr
    assert wide.head_lr == narrow.head_lr / 4
    assert wide.hidden_lr == narrow.hidden_lr
    adam = [recipe_for(shape(width), 1e6, optimiser="adamw").hidden_lr for width in (64, 256)]
    assert adam[1] == adam[0] / 4


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_embeddings_that_are_also_the_head_scale_as_the_head(optimiser: str) -> None:
    """What they add to a logit is a sum over the width, whatever they are called."""
    tied = [replace(shape(width), tied_head=True) for width in (64, 256)]
    narrow, wide = (recipe_for(of, 1e6, optimiser=optimiser) for of in tied)  # type: ignore[arg-type]
    assert (narrow.embed_lr, wide.embed_lr) == (narrow.head_lr, wide.head_lr)
    assert wide.embed_lr == narrow.embed_lr / 4
    untied = recipe_for(shape(256), 1e6, optimiser=optimiser)  # type: ignore[arg-type]
    assert replace(wide, embed_lr=untied.embed_lr) == untied


def test_sixteen_times_the_depth_halves_every_rate_of_a_run_with_muon() -> None:
    shallow, deep = (recipe_for(shape(64, layers), 1e6) for layers in (2, 32))
    for name in ("embed_lr", "head_lr", "hidden_lr"):
        assert getattr(deep, name) == pytest.approx(getattr(shallow, name) / 2)
    assert deep.batch_tokens == shallow.batch_tokens
    assert recipe_for(shape(64, 1), 1e6) == recipe_for(shape(64), 1e6)
    adamw = [recipe_for(shape(64, layers), 1e6, optimiser="adamw") for layers in (2, 32)]
    assert adamw[0] == adamw[1]


def test_the_batch_grows_with_the_root_of_the_run_and_rates_stay() -> None:
    short, long = recipe_for(shape(64), 1e6), recipe_for(shape(64), 4e6)
    assert long.batch_tokens == 2 * short.batch_tokens
    assert long.hidden_lr == short.hidden_lr


@given(tokens=st.floats(1e3, 1e13), context=st.sampled_from([64, 128, 2048]))
@settings(max_examples=100, deadline=None)
def test_batches_are_whole_sequences_near_the_rule_and_never_shrink(tokens: float, context: int) -> None:
    batch = batch_for(tokens, context)
    assert batch % context == 0
    assert batch_for(tokens * 2, context) >= batch
    wanted = RateRule().base_batch * (tokens / 1e6) ** 0.5
    if 8 * context < wanted and tokens <= 3e7:
        assert batch == pytest.approx(wanted, rel=1 / 8)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_a_fixed_batch_takes_the_rates_of_its_number_of_steps(optimiser: str) -> None:
    """Four times the steps at a fixed batch: a factor of sqrt(2), or one step of the grid, below."""
    recipes = [recipe_for(shape(64), tokens, optimiser=optimiser, batch_tokens=256) for tokens in (1e6, 4e6)]  # type: ignore[arg-type]
    for name in ("embed_lr", "head_lr", "hidden_lr"):
        short, long = (getattr(recipe, name) for recipe in recipes)
        assert long == pytest.approx(short / 2**0.5)
    usual = recipe_for(shape(64), 1e6, optimiser=optimiser)  # type: ignore[arg-type]
    assert recipes[0].hidden_lr == pytest.approx(usual.hidden_lr / 2)
    assert with_batch(usual, usual.batch_tokens) == usual
    larger = recipe_for(shape(64), 1e6, optimiser=optimiser, batch_tokens=4096)  # type: ignore[arg-type]
    assert (larger.batch_tokens, larger.hidden_lr) == (4096, usual.hidden_lr)


def test_published_batches_are_met_for_long_runs() -> None:
    assert batch_for(1e9, 1024) == pytest.approx(0.58 * 1e9**0.571, rel=1 / 8)
    assert batch_for(1e12, 1024) == pytest.approx(0.58 * 1e12**0.571, rel=1 / 8)


@pytest.mark.parametrize("context", [64, 128, 512])
def test_the_shortest_run_has_just_enough_steps(context: int) -> None:
    tokens = shortest_run(lambda amount: batch_for(amount, context), MIN_RUNG_STEPS)
    assert tokens / batch_for(tokens, context) >= MIN_RUNG_STEPS
    assert tokens * 0.8 / batch_for(tokens * 0.8, context) < MIN_RUNG_STEPS * 1.01


def test_overrides_and_other_constants() -> None:
    over = {"batch_tokens": 2048, "learning_rate": 1e-3, "optimiser": "adamw"}
    recipe = recipe_rule(over)(shape(128), 1e6)
    assert (recipe.batch_tokens, recipe.optimiser) == (2048, "adamw")
    assert recipe.hidden_lr == pytest.approx(1e-3)
    usual = recipe_for(shape(128), 1e6, optimiser="adamw")
    assert recipe.embed_lr / recipe.hidden_lr == pytest.approx(usual.embed_lr / usual.hidden_lr)
    rule = RateRule(hidden=1e-3, adamw_factor=3.0)
    other = recipe_for(shape(64), 1e6, optimiser="adamw", rule=rule)
    assert other.hidden_lr == pytest.approx(3e-3)
    muon = [recipe_for(shape(64), 1e6, rule=given) for given in (rule, RateRule())]
    assert muon[0] == muon[1]
