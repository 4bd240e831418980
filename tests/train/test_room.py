"""A plan that does not fit says what would."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.errors import TrainError
from stepladder.plan.memory import memory_need
from stepladder.records import Plan, from_json
from stepladder.train.room import check_room, free_memory


@pytest.fixture
def plan(make_plan: Callable[..., Path]) -> Plan:
    found = from_json(Plan, json.loads(make_plan(batch_tokens=64 * 1024).read_text()))
    shape = replace(found.shape, num_layers=12, width=768, num_heads=12, num_kv_heads=12, head_dim=64)
    return replace(found, shape=replace(shape, ffn_width=2048, vocab_size=32_000, context_tokens=1024))


def test_what_fits_is_left_alone(plan: Plan) -> None:
    check_room(plan, 1e12)


def test_a_smaller_micro_batch_is_named(plan: Plan) -> None:
    whole = memory_need(plan.shape, plan.recipe, plan.layout, 1e12).total.value
    with pytest.raises(TrainError, match=r"micro_batch_sequences = \d+, recompute = 'none'") as caught:
        check_room(plan, whole / 3)
    assert "needs more memory than there is" in str(caught.value)


def test_when_nothing_fits_it_says_so(plan: Plan) -> None:
    with pytest.raises(TrainError, match="nothing fits"):
        check_room(plan, 1e9)


def test_this_machine_has_memory() -> None:
    assert free_memory() > 1e8
