"""Plans of a ladder in; fewer full runs, and the other lengths as decays from their checkpoints, out.

With warm-up, stable rate and decay, runs of one shape, seed and recipe that differ in length alone are one
run up to the shorter one's decay (arXiv:2405.18392). The longest of them, the trunk, leaves a checkpoint
where each shorter one's decay begins; that one starts there and ends with the bits of a run from scratch.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from stepladder.plan.rates import MIN_RUNG_STEPS, recipe_rule, with_batch
from stepladder.records import Derived, Plan, Recipe, Shape
from stepladder.store import read_json, write_bytes, write_json
from stepladder.train.choices import CHOICES_FILE
from stepladder.train.metrics import METRICS_FILE
from stepladder.train.schedule import branch_step

BRANCH_FILE = "branch.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A plan, and the run whose checkpoint at `step` it starts from; a trunk names itself and step 0."""

    plan: Plan
    trunk: str
    step: int

    @property
    def is_trunk(self) -> bool:
        """Whether it is trained from the start."""
        return self.trunk == self.plan.name

    @property
    def trained_tokens(self) -> int:
        """Tokens that it trains on itself."""
        return self.plan.tokens - self.step * self.plan.recipe.batch_tokens


def share_recipes(
    plans: Sequence[Plan],
    recipe_for: Callable[[Shape, float], Recipe],
    span: float,
    *,
    fixed_rates: bool = False,
) -> list[Plan]:
    """The same runs, in the order given, with recipes that let them branch from each other.

    Plans of one shape, seed, layout and order whose tokens span at most `span` share the recipe of their
    middle length (the geometric mean of the ends), with a batch that leaves the shortest MIN_RUNG_STEPS
    steps where its own did; rates follow such a batch, unless the user fixed them (`fixed_rates`). Warm-up
    has the shortest one's steps: the rates are the same, so what is enough for the shortest is enough for
    all. A plan alone keeps its recipe; at a span of 1 all do.
    Rates should follow length^-1/4 at a fixed batch, so the ends of a span of 4 are off by half a step of
    sqrt(2), of 16 by a whole one (docs/training/rates.md).
    """
    found: dict[str, Plan] = {}
    for same in _groups(plans, _surroundings):
        left = list(same)
        while left:
            near = [plan for plan in left if plan.tokens * span >= left[0].tokens]
            left = left[len(near) :]
            spans = near[-1].tokens < near[0].tokens
            shared = _with_middle_recipe(near, recipe_for, fixed_rates) if spans else near
            found |= {plan.name: plan for plan in shared}
    return [found[plan.name] for plan in plans]


def share_as_asked(plans: Sequence[Plan], override: Mapping[str, float | int | str | bool]) -> list[Plan]:
    """`share_recipes` by a brief's [override]: its `branch_span`, and what it fixes of the recipe."""
    span, is_fixed = float(override.get("branch_span", 1)), "learning_rate" in override
    return share_recipes(plans, recipe_rule(override), span, fixed_rates=is_fixed)


def find_branches(plans: Sequence[Plan]) -> list[Branch]:
    """Which plans are one run up to the decay of the shorter, in the order given."""
    found: dict[str, Branch] = {}
    for same in _groups(plans, _beginning):
        trunk = same[0]
        for plan in same:
            if plan.tokens == trunk.tokens:
                found[plan.name] = Branch(plan=plan, trunk=plan.name, step=0)
            else:
                step = branch_step(plan.steps, plan.recipe.decay_share)
                found[plan.name] = Branch(plan=plan, trunk=trunk.name, step=step)
    return [found[plan.name] for plan in plans]


def plant(trunk: Path, branch: Path, step: int) -> bool:
    """Put the trunk's checkpoint at `step` into the branch's folder, so that its training goes on there.

    Tensors are hard links where the file system has them; metrics.jsonl is a copy up to that step. Nothing
    happens when the branch has a checkpoint, or the trunk has none at `step`; whether it was put.
    """
    name = f"step-{step:07d}"
    source, target = trunk / "checkpoints" / name, branch / "checkpoints" / name
    if not source.exists() or any(target.parent.glob("step-*")) or (branch / METRICS_FILE).exists():
        return False
    size = int(read_json(source / "manifest.json")["counters"]["metrics_bytes"])
    hidden = target.with_name(f".{name}")
    shutil.rmtree(hidden, ignore_errors=True)
    shutil.copytree(source, hidden, copy_function=_link_or_copy)
    write_json(branch / BRANCH_FILE, {"trunk": trunk.name, "step": step})
    with open(trunk / METRICS_FILE, "rb") as file:
        write_bytes(branch / METRICS_FILE, file.read(size))
    if (trunk / CHOICES_FILE).exists():
        write_bytes(branch / CHOICES_FILE, (trunk / CHOICES_FILE).read_bytes())
    hidden.rename(target)
    return True


def trained_tokens(branches: Sequence[Branch]) -> tuple[int, int]:
    """Tokens that are trained on with branches, and that the same lengths from scratch would take."""
    return sum(branch.trained_tokens for branch in branches), sum(branch.plan.tokens for branch in branches)


def _groups(plans: Sequence[Plan], key: Callable[[Plan], str]) -> list[list[Plan]]:
    """Plans of equal key together, the longest first."""
    ordered = sorted(plans, key=lambda plan: (key(plan), -plan.tokens, plan.name))
    return [list(same) for _, same in groupby(ordered, key=key)]


def _surroundings(plan: Plan) -> str:
    """What must be equal; weights with epochs make a mixture that depends on the run's own length."""
    alone = plan.name if plan.order.weights and plan.order.epochs else ""
    return repr((plan.shape, plan.seed, plan.layout, plan.order, plan.corpus, plan.objective, alone))


def _beginning(plan: Plan) -> str:
    """What decides a run's steps before its decay: all but its length."""
    warmup = round(plan.recipe.warmup_share * plan.steps)
    return _surroundings(plan) + repr((replace(plan.recipe, warmup_share=0.0), warmup))


def _with_middle_recipe(
    plans: Sequence[Plan], recipe_for: Callable[[Shape, float], Recipe], fixed_rates: bool
) -> list[Plan]:
    """Plans of one group, the longest first, on the recipe of their middle length."""
    shape, shortest = plans[0].shape, plans[-1]
    middle = recipe_for(shape, math.sqrt(plans[0].tokens * shortest.tokens))
    context = shape.context_tokens
    longest_batch = shortest.tokens // min(MIN_RUNG_STEPS, shortest.steps) // context * context
    batch = min(middle.batch_tokens, longest_batch)
    recipe = replace(middle, batch_tokens=batch) if fixed_rates else with_batch(middle, batch)
    warmup = round(recipe.warmup_share * (shortest.tokens // recipe.batch_tokens))
    told = "batch and rates are those of the middle length of the runs that share a trunk"
    shared = []
    for plan in plans:
        steps = plan.tokens // recipe.batch_tokens
        numbers = {
            **plan.numbers,
            "tokens": _exact(steps * recipe.batch_tokens, plan.numbers["tokens"].how),
            "batch_tokens": _exact(recipe.batch_tokens, told),
            "learning_rate": _exact(recipe.hidden_lr, told),
        }
        shared.append(replace(plan, recipe=replace(recipe, warmup_share=warmup / steps), numbers=numbers))
    return shared


def _exact(value: float, how: str) -> Derived:
    return Derived(value=float(value), low=float(value), high=float(value), how=how)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
