"""One size becomes a shape that the model can build."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.errors import PlanError
from stepladder.models.count import count_params
from stepladder.models.shape import (
    ffn_width_for,
    layers_for_width,
    narrower,
    shape_for_params,
    shape_for_width,
    usual_widths,
)


def test_known_sizes_come_out_like_their_models():
    gpt2 = shape_for_params(163e6, vocab_size=50_304, context_tokens=1024)
    assert (gpt2.width, gpt2.num_layers, gpt2.num_heads, gpt2.head_dim) == (768, 12, 12, 64)
    llama = shape_for_width(4096, vocab_size=32_000, context_tokens=2048)
    assert (llama.num_layers, llama.head_dim) == (32, 64)
    assert llama.ffn_width == 10_944  # LLaMA's own 11,008 is 8/3 of the width rounded up to 256


def test_head_dimension_is_64_where_the_width_allows():
    dims = {
        w: shape_for_width(w, 3, vocab_size=512, context_tokens=64).head_dim for w in (64, 128, 192, 1024)
    }
    assert dims == {64: 64, 128: 64, 192: 64, 1024: 64}
    assert shape_for_width(96, 3, vocab_size=512, context_tokens=64).head_dim == 48


def test_depth_never_falls_below_three_and_grows_with_width():
    depths = [layers_for_width(width) for width in (32, 128, 256, 768, 2048, 8192)]
    assert depths == [3, 3, 4, 12, 21, 48]


def test_a_rung_has_the_depth_and_heads_of_its_target():
    target = shape_for_width(128, 3, vocab_size=2048, context_tokens=128, num_heads=2)
    rung = narrower(target, 48)
    assert (rung.width, rung.num_layers, rung.num_heads, rung.head_dim) == (48, 3, 2, 24)
    assert (rung.vocab_size, rung.context_tokens) == (2048, 128)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(PlanError, match="3 attention heads do not divide a width of 64"):
        shape_for_width(64, 2, vocab_size=512, context_tokens=64, num_heads=3)


@given(params=st.floats(1e5, 1e11), vocab=st.sampled_from([512, 4096, 50_304]))
@settings(max_examples=60, deadline=None)
def test_every_size_gives_a_buildable_shape_near_it(params, vocab):
    shape = shape_for_params(params, vocab_size=vocab, context_tokens=128)
    assert shape.width == shape.num_heads * shape.head_dim
    assert shape.head_dim % 2 == 0
    assert shape.ffn_width % 16 == 0
    total = count_params(shape).total
    smallest = count_params(shape_for_width(16, vocab_size=vocab, context_tokens=128)).total
    assert total == smallest or 0.7 < total / params < 1.4 or params < 2 * smallest


@given(width=st.sampled_from(usual_widths()))
@settings(max_examples=50, deadline=None)
def test_feed_forward_is_near_eight_thirds(width):
    assert abs(ffn_width_for(width) - 8 * width / 3) <= 32


def test_fixed_heads_keep_only_widths_that_they_divide():
    assert all(width % 6 == 0 for width in usual_widths(3, most=512))
    assert 48 in usual_widths(2)
