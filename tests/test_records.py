"""Nouns survive JSON, and a wrong file is told in full."""

import math
from dataclasses import fields, is_dataclass

import pytest

from stepladder import records
from stepladder.errors import StoreError
from stepladder.ladder.collect import observations_to_columns
from stepladder.records import (
    Corpus,
    Derived,
    Interval,
    Layout,
    Observation,
    Plan,
    Recipe,
    Score,
    Shape,
    Split,
    from_json,
    to_json,
)

SHAPE = Shape(
    num_layers=3,
    width=64,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    ffn_width=192,
    vocab_size=512,
    context_tokens=64,
)
NUMBERS = {
    name: Derived(value=2048.0, low=2048.0, high=2048.0, how="set by hand")
    for name in ("params", "tokens", "batch_tokens", "learning_rate")
}
PLAN = Plan(
    name="r01",
    corpus="../corpus",
    shape=SHAPE,
    recipe=Recipe(batch_tokens=1024, embed_lr=0.03, head_lr=0.03, hidden_lr=0.001),
    layout=Layout(threads=2),
    seed=3,
    numbers=NUMBERS,
    alternatives=({"params": 10.0, "loss": 3.0},),
    limits={"hours": 0.1},
)


def test_a_plan_survives_json_and_shows_its_numbers_at_the_top() -> None:
    value = to_json(PLAN)
    assert value["tokens"]["value"] == 2048.0
    assert from_json(Plan, value) == PLAN
    assert PLAN.steps == 2


def test_a_corpus_survives_json_and_says_its_tokens() -> None:
    split = Split(documents=2, tokens=10, num_bytes=40)
    corpus = Corpus(
        input_bytes=100,
        input_documents=5,
        kept_documents=4,
        quarantined_documents=0,
        removed={"exact_duplicate": 1},
        train=split,
        heldout=split,
        vocab_size=512,
        seconds=1.0,
        cpu_seconds=2.0,
        fingerprint="0" * 16,
    )
    assert to_json(corpus)["tokens"] == 10
    assert from_json(Corpus, to_json(corpus)) == corpus


def test_nan_becomes_null_and_comes_back() -> None:
    value = to_json(Observation(run="a", params=1.0, tokens=2.0, loss=3.0, notes={"lr": 0.1}))
    assert value["joules"] is None
    assert math.isnan(from_json(Observation, value).joules)


def test_all_problems_of_a_wrong_file_are_listed() -> None:
    value = to_json(PLAN)
    value["shape"]["wdith"] = 1
    del value["corpus"]
    with pytest.raises(StoreError) as caught:
        from_json(Plan, value)
    assert "this is not a Plan" in str(caught.value)
    assert "corpus" in str(caught.value)
    assert "wdith" in str(caught.value)


def test_intervals_and_scores() -> None:
    interval = Interval(value=2.0, low80=1.9, high80=2.1, low95=1.8, high95=2.2)
    assert (interval.held80(2.15), interval.held95(2.15)) == (False, True)
    score = Score(run="target", quantity="loss", forecast=interval, outcome=1.6)
    assert score.relative_error == pytest.approx(0.25)


def test_columns_have_every_note() -> None:
    rows = [
        Observation(run="a", params=1.0, tokens=2.0, loss=3.0, notes={"lr": 0.1}),
        Observation(run="b", params=1.0, tokens=2.0, loss=3.0, notes={"excluded": "diverged"}),
    ]
    columns = observations_to_columns(rows)
    assert columns["run"] == ["a", "b"]
    assert columns["lr"] == [0.1, ""]
    assert columns["excluded"] == ["", "diverged"]


def test_every_noun_is_frozen_keyword_only_and_slotted() -> None:
    nouns = [item for item in vars(records).values() if isinstance(item, type) and is_dataclass(item)]
    assert len(nouns) > 10
    for noun in nouns:
        assert noun.__dataclass_params__.frozen, noun
        assert all(field.kw_only for field in fields(noun)), noun
        assert "__slots__" in vars(noun), noun
