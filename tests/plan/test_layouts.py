"""Every layout: legal, costed as one alone would be, ranked, and refused with what would help."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from stepladder.errors import PlanError
from stepladder.models.shape import shape_for_width
from stepladder.plan.hardware import find_device
from stepladder.plan.layout import layout_problems
from stepladder.plan.layoutcost import grid_cost
from stepladder.plan.layouts import SCHEDULES, Freedom, Grid, layout_grid
from stepladder.plan.layoutsearch import Place, rank_layouts, step_seconds
from stepladder.plan.measured import MeasuredStep, read_measured, write_measured
from stepladder.plan.memory import memory_need
from stepladder.records import Degrees, Layout, Recipe

SHAPE = shape_for_width(2048, 24, vocab_size=32_768, context_tokens=2048, num_heads=16)
RECIPE = Recipe(batch_tokens=64 * 2048, embed_lr=1.0, head_lr=1.0, hidden_lr=1.0, optimiser="muon")
H100 = find_device("h100-sxm")
EIGHT = Layout(device="cuda", processes=8, precision="bf16")
ALL = Freedom(tensor=8, precisions=("bf16", "fp32"))


def test_the_grid_holds_all_that_the_trainer_takes_and_nothing_else():
    small = shape_for_width(64, 4, vocab_size=256, context_tokens=64, num_heads=2)
    recipe, base = replace(RECIPE, batch_tokens=16 * 64), replace(EIGHT, processes=4)
    grid = layout_grid(small, recipe, base, Freedom(tensor=4, precisions=("bf16",)))
    found = {grid.layout(at) for at in range(len(grid))}
    assert len(grid) == len(found)
    assert [] == [layout for layout in found if layout_problems(layout, small, recipe)]
    powers, wanted = (1, 2, 4), set()
    for tensor, pipeline, context, group, micro in itertools.product(
        powers, powers, powers, (1, 2), range(17)
    ):
        for (schedule, stages), shard in itertools.product(SCHEDULES, ("none", "ddp", "fsdp", "hsdp")):
            if (pipeline == 1 and schedule != "1f1b") or (shard == "hsdp") != (group > 1):
                continue
            if shard == "none" and context > 1:
                continue  # the gradients are summed all the same: ddp
            degrees = Degrees(
                tensor=tensor,
                pipeline=pipeline,
                context=context,
                shard_group=group,
                schedule=schedule,  # type: ignore[arg-type]
                stages=stages,
            )
            layout = replace(base, shard=shard, degrees=degrees, micro_batch_sequences=micro)
            each = 16 * degrees.model // 4
            is_named = (micro == 0 and pipeline == 1) or 0 < micro < each or (micro == each and pipeline > 1)
            if is_named and (not micro or each % micro == 0) and not layout_problems(layout, small, recipe):
                wanted.add(layout)
    assert wanted == {layout for layout in found if layout.recompute == "none"}


def test_columns_cost_what_each_layout_costs_alone():
    grid = layout_grid(SHAPE, RECIPE, EIGHT, ALL)
    cost = grid_cost(grid, SHAPE, RECIPE, H100)
    for at in np.random.default_rng(0).choice(len(grid), 40):
        layout = grid.layout(int(at))
        assert memory_need(SHAPE, RECIPE, layout, 8e10).total.value == pytest.approx(cost.num_bytes[at])
        assert step_seconds(SHAPE, RECIPE, layout, H100) == pytest.approx(cost.seconds[at])
        assert layout == Grid.of(layout, SHAPE, RECIPE).layout(0)


def test_three_layouts_that_differ_fit_and_say_what_they_lose():
    choice = rank_layouts(SHAPE, RECIPE, Place(base=EIGHT, device=H100))
    assert 3 == len(choice.top)
    for one in choice.top:
        assert one.step.low < one.step.value < one.step.high
        assert one.head_room_gib > 0
        assert [] == layout_problems(one.layout, SHAPE, RECIPE)
    assert "" == choice.top[0].loses
    assert all("time" in one.loses or "simplicity" in one.loses for one in choice.top[1:])
    assert choice.fitting < choice.legal
    assert "simple rule" in choice.rule
    assert "calibrate" in choice.next_measurement


def test_tensor_parallel_stays_inside_the_domain_unless_told():
    base = replace(EIGHT, processes=16, nodes=2)
    inside = Place(base=base, device=H100).freedom(is_short=False)
    assert 8 == inside.tensor
    assert 16 == replace(Place(base=base, device=H100), tensor=16).freedom(is_short=False).tensor


def test_a_measured_step_moves_and_narrows_its_like():
    place = Place(base=EIGHT, device=H100)
    before = rank_layouts(SHAPE, RECIPE, place).top[0]
    step = MeasuredStep(
        name="a",
        hw=H100.id,
        shape=SHAPE,
        recipe=RECIPE,
        layout=before.layout,
        seconds=1.2 * before.step.value,
        peak_bytes=2e10,
    )
    after = rank_layouts(SHAPE, RECIPE, replace(place, measured=(step,)))
    same = next(one for one in after.top if one.layout == before.layout)
    assert same.step.value == pytest.approx(step.seconds, rel=0.03)
    assert "measured" == same.step.source
    assert math.log(same.step.high / same.step.low) < 0.4 * math.log(before.step.high / before.step.low)


def test_measured_steps_survive_their_table(tmp_path):
    layouts = (EIGHT, replace(EIGHT, shard="hsdp", degrees=Degrees(shard_group=4), recompute="full"))
    steps = [
        MeasuredStep(
            name=f"s{at}",
            hw="h100-sxm",
            shape=SHAPE,
            recipe=RECIPE,
            layout=one,
            seconds=1.5,
            peak_bytes=2.0**33,
        )
        for at, one in enumerate(layouts)
    ]
    write_measured(tmp_path / "measured.csv", steps)
    read = read_measured(tmp_path / "measured.csv")
    silent = {"embed_lr": 0.0, "head_lr": 0.0, "hidden_lr": 0.0}
    assert [replace(step, recipe=replace(RECIPE, **silent)) for step in steps] == read


def test_a_model_that_fits_nowhere_says_what_would():
    huge = shape_for_width(16_384, 120, vocab_size=32_768, context_tokens=2048, num_heads=128)
    with pytest.raises(PlanError) as told:
        rank_layouts(huge, RECIPE, Place(base=EIGHT, device=H100))
    assert "no layout of the model fits 8 x H100" in str(told.value)
    assert "such devices, or devices of" in str(told.value)


def test_a_batch_that_no_layout_can_share_is_refused():
    odd = replace(RECIPE, batch_tokens=3 * 2048)
    with pytest.raises(PlanError, match="no layout of 7 devices"):
        rank_layouts(SHAPE, odd, Place(base=replace(EIGHT, processes=7), device=H100))
