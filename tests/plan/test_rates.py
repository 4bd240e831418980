"""One rule for batch and rates."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import MIN_STEPS, RateRule, batch_for, rate_factor, recipe_for, recipe_rule


def shape(width: int):
    return shape_for_width(width, 3, vocab_size=2048, context_tokens=128)


def test_short_runs_get_half_of_the_measured_rates_and_1024_tokens_a_step():
    recipe = recipe_for(shape(64), 1_000_000)
    assert (recipe.batch_tokens, recipe.optimiser) == (1024, "adamw")
    assert (recipe.embed_lr, recipe.head_lr, recipe.hidden_lr) == (1.6e-2, 1.6e-2, 7.5e-4)


def test_head_and_hidden_rates_fall_with_width_and_the_embedding_rate_does_not():
    narrow, wide = recipe_for(shape(64), 1e6), recipe_for(shape(256), 1e6)
    assert wide.embed_lr == narrow.embed_lr
    assert wide.head_lr == narrow.head_lr / 4
    assert wide.hidden_lr == narrow.hidden_lr / 4
    muon = recipe_for(shape(256), 1e6, optimiser="muon")
    assert muon.hidden_lr == recipe_for(shape(64), 1e6, optimiser="muon").hidden_lr == 0.01


def test_long_runs_get_a_fifth_to_a_half_as_measured():
    assert 0.2 < rate_factor(9_765, 1024) < 0.5
    assert rate_factor(1_000, 1024) == rate_factor(2_500, 1024) == 0.5


def test_larger_batches_get_larger_rates_by_their_root():
    assert rate_factor(1_000, 4096) == 2 * rate_factor(1_000, 1024)


@given(tokens=st.floats(1e3, 1e13), context=st.sampled_from([64, 128, 2048]))
@settings(max_examples=100, deadline=None)
def test_batches_are_powers_of_two_of_sequences_and_leave_enough_steps(tokens, context):
    batch = batch_for(tokens, context)
    sequences = batch // context
    assert batch % context == 0
    assert sequences & (sequences - 1) == 0
    assert sequences == 1 or tokens / batch >= MIN_STEPS
    assert batch_for(tokens * 2, context) >= batch


def test_published_batches_are_met_for_long_runs():
    assert batch_for(1e9, 1024) == 65_536  # the step law gives 80 k
    assert batch_for(1e12, 1024) == 2_097_152  # and 4.13 M: both rounded down to a power of two


def test_overrides_and_other_constants():
    over = {"batch_tokens": 2048, "learning_rate": 1e-3, "optimiser": "adamw"}
    recipe = recipe_rule(over)(shape(128), 1e6)
    assert (recipe.batch_tokens, recipe.hidden_lr) == (2048, 1e-3)
    ratio = recipe_for(shape(128), 1e6).embed_lr / recipe_for(shape(128), 1e6).hidden_lr
    assert recipe.embed_lr / recipe.hidden_lr == pytest.approx(ratio)
    other = recipe_for(shape(64), 1e6, rule=RateRule(hidden=3e-3, share=1.0))
    assert other.hidden_lr == 3e-3
    assert recipe_rule({"optimiser": "muon"})(shape(64), 1e6).optimiser == "muon"
