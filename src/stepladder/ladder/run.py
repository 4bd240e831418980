"""Rungs in; trained, collected observations out. Finished rungs are kept, interrupted ones go on."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from stepladder.errors import TrainError
from stepladder.ladder.branches import find_branches, plant
from stepladder.ladder.collect import flag_bad, observe, usable, write_observations
from stepladder.ladder.design import Rung
from stepladder.ladder.measure import rows_from_ladder
from stepladder.launch.pool import JobFailure, run_many
from stepladder.models.count import count_params
from stepladder.plan.measured import MEASURED_FILE, write_measured
from stepladder.progress import Progress
from stepladder.records import Derived, Layout, Observation, Order, Plan, Recipe, Shape, to_json
from stepladder.store import open_artefact, write_json
from stepladder.train.schedule import KEEP_FILE


def rung_plans(
    rungs: Sequence[Rung],
    recipe_for: Callable[[Shape, int], Recipe],
    *,
    corpus: str,
    corpus_fingerprint: str,
    layout: Layout,
    seed: int = 0,
    order: Order | None = None,
) -> list[Plan]:
    """A plan for each rung, named r01, r02, ... in the order of the design. `seed` shifts all seeds."""
    plans = []
    for index, rung in enumerate(rungs, start=1):
        recipe = recipe_for(rung.shape, rung.tokens)
        tokens = rung.tokens // recipe.batch_tokens * recipe.batch_tokens
        numbers = {
            "params": _exact(count_params(rung.shape).total, "counted from the shape"),
            "tokens": _exact(tokens, f"chosen by the ladder's design: {rung.ratio:.3g} tokens per parameter"),
            "batch_tokens": _exact(recipe.batch_tokens, "the rule for rates and batch"),
            "learning_rate": _exact(recipe.hidden_lr, "the rule for rates and batch"),
            "seconds": _exact(rung.seconds, "measured throughput of the calibration runs"),
        }
        plans.append(
            Plan(
                name=f"r{index:02d}",
                corpus=corpus,
                shape=rung.shape,
                recipe=recipe,
                layout=layout,
                seed=seed + rung.seed,
                numbers=numbers,
                corpus_fingerprint=corpus_fingerprint,
                order=order or Order(),
                objective="causal" if rung.shape.causal else "masked",
            )
        )
    return plans


def run_ladder(
    plans: Sequence[Plan], folder: Path, *, workers: int = 0, quiet: bool = False
) -> list[Observation]:
    """Train all plans side by side and write `folder/observations.csv`, and measured.csv with their steps.

    Args:
        plans: the rungs.
        folder: gets one `<name>@1` folder a rung.
        workers: processes side by side; 0 means one for each core.

    Raises:
        TrainError: fewer than half of the rungs ended well; the text names each failure.
    """
    failures = train_branches(plans, folder, workers, quiet=quiet)
    observations = flag_bad(
        [observe(folder / f"{plan.name}@1") for plan in plans if plan.name not in failures]
    )
    write_observations(folder / "observations.csv", observations)
    if steps := rows_from_ladder(folder):
        write_measured(folder / MEASURED_FILE, steps)
    if len(usable(observations)) * 2 < len(plans):
        reasons = {row.run: str(row.notes["excluded"]) for row in observations if row.notes.get("excluded")}
        told = "; ".join(f"{name}: {reason}" for name, reason in sorted({**failures, **reasons}.items()))
        raise TrainError("most rungs of the ladder failed", got=told, next_command="stepladder doctor")
    return observations


def train_branches(
    plans: Sequence[Plan], folder: Path, workers: int = 0, *, quiet: bool = False
) -> dict[str, str]:
    """As `train_side_by_side`; of plans that begin alike the longest is trained first, the others from it.

    The seconds and joules of a branch's run.json count its part of the trunk, as those of a run from
    scratch would. A branch whose trunk left no checkpoint (it diverged) is trained from scratch.
    """
    branches = find_branches(plans)
    rest = [branch for branch in branches if not branch.is_trunk]
    for name in {branch.trunk for branch in rest}:
        steps = sorted({branch.step for branch in rest if branch.trunk == name})
        write_json(folder / f"{name}@1" / KEEP_FILE, {"steps": steps})
    trunks = [branch.plan for branch in branches if branch.is_trunk]
    failures = train_side_by_side(trunks, folder, workers, quiet=quiet)
    for branch in rest:
        plant(folder / f"{branch.trunk}@1", folder / f"{branch.plan.name}@1", branch.step)
    later = [branch.plan for branch in rest]
    return failures | (train_side_by_side(later, folder, workers, quiet=quiet) if later else {})


def train_side_by_side(
    plans: Sequence[Plan], folder: Path, workers: int = 0, *, quiet: bool = False
) -> dict[str, str]:
    """Train each plan in `folder/<name>@1`, as far as that is not done; why those failed that did, by name.

    Progress counts expected seconds, not tokens: a token of a wide rung takes longer.
    """
    jobs = []
    for plan in plans:
        rung = open_artefact(folder / f"{plan.name}@1", _fields(plan))
        if not (rung.folder / "plan.json").exists():
            write_json(rung.folder / "plan.json", to_json(plan))
        jobs.append((rung.folder / "plan.json", rung.folder))
    seconds = {plan.name: plan.numbers["seconds"].value for plan in plans}
    done: dict[str, float] = {}
    with Progress("ladder", sum(seconds.values()), "core-seconds", quiet=quiet) as progress:

        def hear(name: str, tokens: int, total: int, loss: float) -> None:
            done[name] = seconds[name] * tokens / total
            finished = sum(done[other] >= seconds[other] for other in done)
            note = f"{finished}/{len(plans)} rungs, {name} loss {loss:.3f}"
            progress.update(sum(done.values()), note)

        results = run_many(jobs, workers=workers or os.cpu_count() or 1, on_progress=hear)
        progress.update(sum(seconds.values()), f"{len(plans)}/{len(plans)} rungs")
    return {failure.name: failure.reason for failure in results if isinstance(failure, JobFailure)}


def _fields(plan: Plan) -> dict[str, object]:
    """What a rung's folder depends on: all of its plan but the guess of its duration."""
    value = to_json(plan)
    return {key: item for key, item in value.items() if key not in ("seconds", "corpus")}


def _exact(value: float, how: str) -> Derived:
    return Derived(value=float(value), low=float(value), high=float(value), how=how)
