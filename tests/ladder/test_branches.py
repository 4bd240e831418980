"""Branches of a trunk: which plans they are, and that they end with the bits of runs from scratch."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.ladder.branches import (
    Branch,
    find_branches,
    plant,
    share_as_asked,
    share_recipes,
    trained_tokens,
)
from stepladder.ladder.run import train_branches
from stepladder.plan.rates import MIN_RUNG_STEPS, recipe_for, recipe_rule
from stepladder.records import Derived, Order, Plan, Recipe, Shape, from_json
from stepladder.store import read_json
from stepladder.train import worker
from stepladder.train.metrics import read_metrics
from stepladder.train.schedule import rate_factor

MakePlan = Callable[..., Path]


@pytest.fixture
def runs_of(make_plan: MakePlan) -> Callable[..., list[Plan]]:
    """Plans that differ in name and tokens."""

    def make(*tokens: int, **fields: object) -> list[Plan]:
        plan = from_json(Plan, read_json(make_plan()))
        plan = replace(plan, **fields)  # type: ignore[arg-type]
        return [_of_length(plan, f"r{at:02d}", count) for at, count in enumerate(tokens, start=1)]

    return make


def _of_length(plan: Plan, name: str, tokens: int) -> Plan:
    exact = Derived(value=tokens, low=tokens, high=tokens, how="a test")
    return replace(plan, name=name, numbers={**plan.numbers, "tokens": exact})


def branch_plans(plans: list[Plan], rule: Callable[[Shape, float], Recipe]) -> list[Branch]:
    return find_branches(share_recipes(plans, rule, 8.0))


def _small_recipe(shape: Shape, tokens: float) -> Recipe:
    batch = 256 if tokens < 1e9 else 512
    return Recipe(
        batch_tokens=batch, embed_lr=0.02, head_lr=0.02, hidden_lr=0.02, optimiser="muon", warmup_share=0.1
    )


def test_the_longest_is_the_trunk_and_all_share_batch_rates_and_warm_up(
    runs_of: Callable[..., list[Plan]],
) -> None:
    plans = runs_of(2_000_000, 8_000_000, 4_000_000)
    branches = branch_plans(plans, recipe_for)
    assert [branch.plan.name for branch in branches] == ["r01", "r02", "r03"]
    assert [branch.trunk for branch in branches] == ["r02"] * 3
    middle = recipe_for(plans[0].shape, 4_000_000)
    for branch in branches:
        recipe, steps = branch.plan.recipe, branch.plan.steps
        assert (recipe.batch_tokens, recipe.hidden_lr) == (middle.batch_tokens, middle.hidden_lr)
        assert round(recipe.warmup_share * steps) == round(
            middle.warmup_share * (2_000_000 // recipe.batch_tokens)
        )
        assert branch.step == (0 if branch.is_trunk else steps - round(recipe.decay_share * steps))
    trained, whole = trained_tokens(branches)
    assert whole == sum(branch.plan.tokens for branch in branches)
    assert trained == pytest.approx(8e6 + 0.3 * 6e6, rel=0.001)


def test_up_to_the_branch_the_rates_are_those_of_the_trunk(runs_of: Callable[..., list[Plan]]) -> None:
    short, trunk = (branch for branch in branch_plans(runs_of(1_000_000, 3_000_000), recipe_for))
    factors = [
        [
            rate_factor(
                step, branch.plan.steps, branch.plan.recipe.warmup_share, branch.plan.recipe.decay_share
            )
            for step in range(short.step + 1)
        ]
        for branch in (short, trunk)
    ]
    assert factors[0][:-1] == factors[1][:-1]
    assert factors[0][-1] < factors[1][-1]


def test_lengths_too_far_apart_other_seeds_and_mixtures_by_length_have_trunks_of_their_own(
    runs_of: Callable[..., list[Plan]],
) -> None:
    plans = runs_of(1_000_000, 2_000_000, 17_000_000)
    plans += [replace(plans[2], name="r04", seed=9)]
    trunks = [branch.trunk for branch in branch_plans(plans, recipe_for)]
    assert trunks == ["r02", "r02", "r03", "r04"]
    assert branch_plans(plans, recipe_for)[3].plan == plans[3]
    mixed = Order(packing="documents", weights={"a": 1.0}, epochs={"b": 2.0})
    both = runs_of(1_000_000, 2_000_000, order=mixed)
    assert [branch.trunk for branch in branch_plans(both, recipe_for)] == ["r01", "r02"]


def test_runs_by_recipes_of_their_own_or_of_one_length_do_not_branch(
    runs_of: Callable[..., list[Plan]],
) -> None:
    plans = runs_of(1_000_000, 2_000_000)
    own = [replace(plan, recipe=recipe_for(plan.shape, plan.tokens)) for plan in plans]
    assert [branch.trunk for branch in find_branches(own)] == ["r01", "r02"]
    # Two of one length are both trained from the start.
    same = share_recipes(runs_of(1_000_000, 1_000_000, 1_400_000), recipe_for, 4.0)
    assert [branch.trunk for branch in find_branches(same)] == ["r03", "r03", "r03"]
    assert [branch.trunk for branch in find_branches(same[:2])] == ["r01", "r02"]
    assert share_recipes(same, recipe_for, 1.0) == same


def test_a_common_batch_leaves_the_shortest_run_its_steps(runs_of: Callable[..., list[Plan]]) -> None:
    batch = recipe_for(runs_of(1)[0].shape, 500_000).batch_tokens
    tokens = (MIN_RUNG_STEPS + 10) * batch
    plans = runs_of(tokens, 8 * tokens)
    plans = [replace(plan, recipe=recipe_for(plan.shape, plan.tokens)) for plan in plans]
    assert plans[0].steps >= MIN_RUNG_STEPS
    assert branch_plans(plans, recipe_for)[0].plan.steps >= MIN_RUNG_STEPS


def test_a_learning_rate_that_the_user_fixed_stays_where_the_common_batch_is_smaller(
    runs_of: Callable[..., list[Plan]],
) -> None:
    asked = {"learning_rate": 0.01, "branch_span": 8}
    rule = recipe_rule(asked)
    shape = runs_of(1)[0].shape
    tokens = (MIN_RUNG_STEPS + 10) * rule(shape, 500_000).batch_tokens
    plans = [replace(plan, recipe=rule(plan.shape, plan.tokens)) for plan in runs_of(tokens, 8 * tokens)]
    shared = share_as_asked(plans, asked)
    assert shared[0].recipe.batch_tokens < rule(shape, tokens * 8**0.5).batch_tokens
    assert [plan.recipe.hidden_lr for plan in shared] == pytest.approx([0.01, 0.01])
    assert share_recipes(plans, rule, 8.0)[0].recipe.hidden_lr < 0.01
    assert share_as_asked(plans, {"learning_rate": 0.01}) == plans


def test_branches_end_with_the_bits_of_runs_from_scratch(
    runs_of: Callable[..., list[Plan]], tmp_path: Path
) -> None:
    branches = branch_plans(runs_of(20 * 256, 60 * 256, 40 * 256), _small_recipe)
    folder = tmp_path / "ladder"
    plans = [branch.plan for branch in branches]
    assert train_branches(plans, folder, 1, quiet=True) == {}
    for branch in branches:
        out, alone = folder / f"{branch.plan.name}@1", tmp_path / branch.plan.name
        worker.run_plan(out / "plan.json", alone, threading.Event(), lambda *_: None)
        assert _losses(out) == _losses(alone)
        assert (out / "model/model.safetensors").read_bytes() == (
            alone / "model/model.safetensors"
        ).read_bytes()
        assert (out / "branch.json").exists() != branch.is_trunk
    trained = [int(path.name[5:]) for path in (folder / "r02@1/checkpoints").glob("step-*")]
    assert sorted(trained) == [14, 28]
    assert read_json(folder / "r01@1/branch.json") == {"trunk": "r02@1", "step": 14}
    # A checkpoint is put where the trunk has it, and once.
    shutil.rmtree(folder / "r01@1/checkpoints")
    assert not plant(folder / "r02@1", folder / "r01@1", 14)
    (folder / "r01@1/metrics.jsonl").unlink()
    assert not plant(folder / "r02@1", folder / "r01@1", 15)
    assert plant(folder / "r02@1", folder / "r01@1", 14)
    assert len(_losses(folder / "r01@1")) == 14
    assert not plant(folder / "r02@1", folder / "r01@1", 14)
    # The same call again trains nothing.
    before = (folder / "r01@1/run.json").stat().st_mtime_ns
    assert train_branches(plans, folder, 1, quiet=True) == {}
    assert (folder / "r01@1/run.json").stat().st_mtime_ns == before


def _losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
