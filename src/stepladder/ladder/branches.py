"""Plans of a ladder in; fewer full runs, and the other lengths as decays from their checkpoints, out.

With warm-up, stable rate and decay, runs of one shape, seed and recipe that differ in length alone are one
run up to the shorter one's decay (arXiv:2405.18392). The longest of them, the trunk, leaves a checkpoint
where each shorter one's decay begins; that one starts there and ends with the bits of a run from scratch.
"""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from stepladder.ladder.run import train_side_by_side
from stepladder.plan.rates import MIN_RUNG_STEPS, with_batch
from stepladder.records import Derived, Plan, Recipe, Shape
from stepladder.store import read_json, write_bytes, write_json
from stepladder.train.metrics import METRICS_FILE
from stepladder.train.schedule import KEEP_FILE, branch_step

# Batch and rates are those of the middle length; with rates that should follow length^-1/4 at a fixed batch,
# the ends of this span are off by three quarters of a step of sqrt(2) (docs/training/rates.md).
MOST_SPAN = 8.0
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


def branch_plans(
    plans: Sequence[Plan], recipe_for: Callable[[Shape, float], Recipe], *, span: float = MOST_SPAN
) -> list[Branch]:
    """The same runs, grouped under trunks, in the order given.

    Plans of one shape, seed, layout and order whose tokens span at most `span` share the recipe of their
    middle length (the geometric mean of the ends), with a batch that leaves the shortest MIN_RUNG_STEPS
    steps where its own did. Warm-up has the shortest one's steps: the rates are the same, so what is
    enough for the shortest is enough for all. A plan alone keeps its recipe.
    """
    found: dict[str, Branch] = {}
    key = _group_key
    for _, same in groupby(sorted(plans, key=lambda plan: (key(plan), -plan.tokens)), key=key):
        left = list(same)
        while left:
            near = [plan for plan in left if plan.tokens * span >= left[0].tokens]
            left = left[len(near) :]
            found |= {branch.plan.name: branch for branch in _one_trunk(near, recipe_for)}
    return [found[plan.name] for plan in plans]


def train_branches(
    branches: Sequence[Branch], folder: Path, workers: int = 0, *, quiet: bool = False
) -> dict[str, str]:
    """Train trunks, then the branches from their checkpoints, each in `folder/<name>@1`.

    The seconds and joules of a branch's run.json count its part of the trunk, as those of a run from
    scratch would. A branch whose trunk left no checkpoint (it diverged) is trained from scratch.

    Returns:
        Why those failed that did, by name.
    """
    trunks = [branch for branch in branches if branch.is_trunk]
    for trunk in trunks:
        steps = sorted({branch.step for branch in branches if branch.trunk == trunk.plan.name} - {0})
        if steps:
            write_json(folder / f"{trunk.plan.name}@1" / KEEP_FILE, {"steps": steps})
    failures = train_side_by_side([trunk.plan for trunk in trunks], folder, workers, quiet=quiet)
    rest = [branch for branch in branches if not branch.is_trunk]
    for branch in rest:
        plant(folder / f"{branch.trunk}@1", folder / f"{branch.plan.name}@1", branch.step)
    return failures | train_side_by_side([branch.plan for branch in rest], folder, workers, quiet=quiet)


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
    hidden.rename(target)
    with open(trunk / METRICS_FILE, "rb") as file:
        write_bytes(branch / METRICS_FILE, file.read(size))
    return True


def trained_tokens(branches: Sequence[Branch]) -> tuple[int, int]:
    """Tokens that are trained on with branches, and that the same lengths from scratch would take."""
    return sum(branch.trained_tokens for branch in branches), sum(branch.plan.tokens for branch in branches)


def _group_key(plan: Plan) -> str:
    """What must be equal; weights with epochs make a mixture that depends on the run's own length."""
    alone = plan.name if plan.order.weights and plan.order.epochs else ""
    return repr((plan.shape, plan.seed, plan.layout, plan.order, plan.corpus, plan.objective, alone))


def _one_trunk(plans: Sequence[Plan], recipe_for: Callable[[Shape, float], Recipe]) -> list[Branch]:
    """Plans of one group, the longest first."""
    trunk, shortest = plans[0], plans[-1]
    if len(plans) == 1:
        return [Branch(plan=trunk, trunk=trunk.name, step=0)]
    middle = recipe_for(trunk.shape, math.sqrt(trunk.tokens * shortest.tokens))
    context = trunk.shape.context_tokens
    longest_batch = shortest.tokens // min(MIN_RUNG_STEPS, shortest.steps) // context * context
    recipe = with_batch(middle, min(middle.batch_tokens, longest_batch))
    warmup = round(recipe.warmup_share * (shortest.tokens // recipe.batch_tokens))
    branches = []
    for plan in plans:
        steps = plan.tokens // recipe.batch_tokens
        own = replace(recipe, warmup_share=warmup / steps)
        step = 0 if plan is trunk else branch_step(steps, own.decay_share)
        shared = "batch and rates are those of the middle length of its trunk"
        numbers = {
            **plan.numbers,
            "tokens": _exact(steps * recipe.batch_tokens, plan.numbers["tokens"].how),
            "batch_tokens": _exact(recipe.batch_tokens, shared),
            "learning_rate": _exact(recipe.hidden_lr, shared),
        }
        branches.append(Branch(plan=replace(plan, recipe=own, numbers=numbers), trunk=trunk.name, step=step))
    return branches


def _exact(value: float, how: str) -> Derived:
    return Derived(value=float(value), low=float(value), high=float(value), how=how)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
