"""Bytes per token by size from one training, the cut tokenizer, and what the sample takes of each source."""

import inspect
import json
import subprocess
import textwrap
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.tokens.tokenizer import Tokenizer, train_tokenizer
from stepladder.data.tokens.vocabulary import (
    FLOOR_SHARE,
    VOCABULARY_SIZES,
    cut_tokenizer,
    measure_vocabulary,
    sample_quota,
)
from stepladder.errors import DataError

TEXTS = [inspect.getsource(module) for module in (json, inspect, subprocess, textwrap)]
TEXTS = [piece for text in TEXTS for piece in text.split("\n\n") if piece]


@pytest.mark.parametrize("size", [257, 320, 1024])
def test_a_cut_tokenizer_is_the_one_trained_at_that_size(size: int) -> None:
    assert train_tokenizer(TEXTS, size) == cut_tokenizer(train_tokenizer(TEXTS, 2048), size)


def test_no_tokenizer_without_all_bytes() -> None:
    with pytest.raises(DataError, match="a token for each byte"):
        cut_tokenizer(train_tokenizer(TEXTS, 300), 256)


def test_the_curve_is_what_a_tokenizer_of_each_size_gives_on_texts_it_has_not_seen() -> None:
    curve = measure_vocabulary(TEXTS, (320, 640, 1024))
    held = TEXTS[::10]
    trained = [text for place, text in enumerate(TEXTS) if place % 10]
    for size, measured in curve.bytes_per_token.items():
        tokenizer = Tokenizer(json.loads(train_tokenizer(trained, size)))
        tokens = sum(len(ids) for ids in tokenizer.encode_batch(held))
        assert sum(len(text.encode()) for text in held) / tokens == pytest.approx(measured, rel=1e-12)
    assert [320, 640, 1024] == list(curve.bytes_per_token)
    assert sorted(curve.bytes_per_token.values()) == list(curve.bytes_per_token.values())
    assert curve.trained_bytes + curve.measured_bytes == sum(len(text.encode()) for text in TEXTS)


def test_sizes_that_the_texts_have_no_merges_for_are_left_out() -> None:
    curve = measure_vocabulary(["ab ab ab abc"] * 10, (257, 4096))
    assert [257] == list(curve.bytes_per_token)
    with pytest.raises(DataError, match="too little text") as caught:
        measure_vocabulary(["ab ab ab abc"] * 10)
    assert "--vocab-size 257" in str(caught.value)
    with pytest.raises(DataError, match="no text"):
        measure_vocabulary(["", ""])


def test_candidates_are_multiples_of_64_from_one_to_128_thousand() -> None:
    assert all(size % 64 == 0 for size in VOCABULARY_SIZES)
    assert (1024, 131_072) == (VOCABULARY_SIZES[0], VOCABULARY_SIZES[-1])


@pytest.mark.parametrize(
    ("sizes", "weights", "sample", "expected"),
    [
        ({"a": 600, "b": 300, "c": 100}, None, 100, {"a": 60, "b": 30, "c": 10}),
        ({"a": 600, "b": 300, "c": 100}, {"a": 1, "b": 1, "c": 2}, 100, {"a": 25, "b": 25, "c": 50}),
        # A source that has less than its share gives all, the others share the rest.
        ({"a": 1000, "b": 1000, "c": 10}, {"a": 1, "b": 1, "c": 2}, 200, {"a": 95, "b": 95, "c": 10}),
        # No source is starved below a tenth of an equal share: 100 / 2 / 10.
        ({"a": 10_000, "b": 50}, None, 100, {"a": 95, "b": 5}),
        # Without a weight, a source is not part of the mixture.
        ({"a": 100, "b": 100}, {"a": 0.5}, 50, {"a": 50, "b": 0}),
        ({"a": 10, "b": 20}, None, 1000, {"a": 10, "b": 20}),
        ({"a": 0, "b": 20}, None, 10, {"a": 0, "b": 10}),
        ({"a": 1, "b": 1, "c": 1}, None, 2, {"a": 1, "b": 1, "c": 0}),
        ({}, None, 10, {}),
        ({"a": 5}, None, 0, {"a": 0}),
    ],
)
def test_sample_by_weights_or_bytes(
    sizes: Mapping[str, int], weights: Mapping[str, float] | None, sample: int, expected: Mapping[str, int]
) -> None:
    assert expected == sample_quota(sizes, weights, sample)


@settings(max_examples=200, deadline=None)
@given(
    sources=st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(st.integers(0, 10**12), st.floats(1e-6, 1e6)),
        min_size=1,
    ),
    sample=st.integers(0, 10**12),
)
def test_any_sample_adds_up_and_starves_nobody(sources: dict[str, tuple[int, float]], sample: int) -> None:
    sizes = {name: size for name, (size, _) in sources.items()}
    weights = {name: weight for name, (_, weight) in sources.items()}
    quota = sample_quota(sizes, weights, sample)
    total = min(sample, sum(sizes.values()))
    assert total == sum(quota.values())
    floor = FLOOR_SHARE * total / max(1, sum(size > 0 for size in sizes.values()))
    for name, size in sizes.items():
        assert min(size, int(floor)) <= quota[name] <= size


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"cod": 1.0}, r'no source is called "cod" \(did you mean "code"\?\)'),
        ({"code": -1.0}, "the weight of code is -1.0"),
        ({"code": float("nan")}, "the weight of code is nan"),
        ({"code": 0.0}, "all weights are zero"),
    ],
)
def test_odd_weights_are_refused(weights: Mapping[str, float], match: str) -> None:
    with pytest.raises(DataError, match=match):
        sample_quota({"code": 10, "prose": 10}, weights, 10)
