"""A corpus in; the loss of branches beside that of runs with recipes of their own, and what is saved, out.

    python bench/branches.py CORPUS --out branches --minutes 30

For each width and seed: runs of every length by the rule's own batch, rates and warm-up, and the same
lengths as branches of the longest. One thread, CPU seconds; what is there is not trained again. (Against
a run from scratch with the branch's own recipe there is nothing to measure: tests/ladder/test_branches.py
holds them to the same bits.)
"""

import argparse
import math
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from once import train_once
from optimisers import T95

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.ladder.branches import Branch, find_branches, plant, share_recipes
from stepladder.ladder.design import Rung
from stepladder.ladder.run import rung_plans
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_for
from stepladder.records import Layout, Plan
from stepladder.store import write_json
from stepladder.train.schedule import KEEP_FILE

CONTEXT, LAYERS = 64, 2


def main() -> int:
    """Train what the time allows and print a line for each length of a finished group, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path("branches"))
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--tokens", type=int, nargs="+", default=[200_000, 400_000, 800_000])
    parser.add_argument("--span", type=float, default=4.0, help="longest over shortest of a trunk's runs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30.0, help="no run is started after them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    rows: list[tuple[Plan, Branch, tuple[float, float], tuple[float, float]]] = []
    for seed in range(options.seeds):
        for width in options.widths:
            own = plans_of(width, seed, options)
            branches = find_branches(share_recipes(own, recipe_for, options.span))
            rows += train_group(own, branches, options.out / f"w{width:03d}-s{seed}", end)
    print_table(rows)
    return 0


def plans_of(width: int, seed: int, options: argparse.Namespace) -> list[Plan]:
    """One plan for each length, by the rule."""
    vocab = load_tokenizer(options.corpus).vocab_size
    shape = shape_for_width(width, LAYERS, vocab_size=vocab, context_tokens=CONTEXT, num_heads=2)
    rungs = [Rung(shape=shape, tokens=tokens, seed=seed, seconds=1.0) for tokens in options.tokens]
    corpus = str(options.corpus.resolve())
    return rung_plans(rungs, recipe_for, corpus=corpus, corpus_fingerprint="", layout=Layout())


def train_group(
    own: list[Plan], branches: list[Branch], folder: Path, end: float
) -> list[tuple[Plan, Branch, tuple[float, float], tuple[float, float]]]:
    """(plan, branch, (bits per byte, CPU seconds) of its own, and as a branch); empty when time is up."""
    trunk = next(branch for branch in branches if branch.is_trunk)
    steps = sorted(branch.step for branch in branches if not branch.is_trunk)
    write_json(folder / "branch" / trunk.plan.name / KEEP_FILE, {"steps": steps})
    order = sorted(branches, key=lambda branch: not branch.is_trunk)
    found = {}
    for branch in order:
        out = folder / "branch" / branch.plan.name
        plant(folder / "branch" / trunk.plan.name, out, branch.step)
        found[branch.plan.name] = bits_and_seconds(branch.plan, out, end)
    alone = {plan.name: bits_and_seconds(plan, folder / "own" / plan.name, end) for plan in own}
    if None in [*found.values(), *alone.values()]:
        return []
    pairs = zip(own, branches, strict=True)
    return [(plan, branch, alone[plan.name], found[plan.name]) for plan, branch in pairs]  # type: ignore[misc]


def bits_and_seconds(plan: Plan, out: Path, end: float) -> tuple[float, float] | None:
    """Held-out bits per byte and CPU seconds of a run, or None when it is not there and time is up."""
    found = train_once(plan, out, end)
    return found and (found[0].heldout_bits_per_byte, found[1])


def print_table(rows: list[tuple[Plan, Branch, tuple[float, float], tuple[float, float]]]) -> None:
    """Each length, the mean difference with its interval, and the savings."""
    print("width  seed   tokens  batch: own  branch  bits/byte: own  branch  difference")
    by_trunk: dict[tuple[int, int], list[float]] = {}
    for plan, branch, own, forked in rows:
        difference = forked[0] / own[0] - 1
        by_trunk.setdefault((plan.shape.width, plan.seed), []).append(difference)
        batches = f"{plan.recipe.batch_tokens:10,}  {branch.plan.recipe.batch_tokens:6,}"
        print(
            f"{plan.shape.width:5d}  {plan.seed:4d}  {plan.tokens:7,}  {batches}  {own[0]:14.4f}  "
            f"{forked[0]:6.4f}  {difference:+10.2%}{'  (trunk)' if branch.is_trunk else ''}"
        )
    if rows:
        # Lengths of one trunk share its noise, so the interval counts trunks.
        means = [statistics.mean(differences) for differences in by_trunk.values()]
        told = f"{len(rows)} pairs of {len(means)} trunks: {statistics.mean(means):+.2%}"
        if len(means) > 1:
            half = T95[len(means) - 1] * statistics.stdev(means) / math.sqrt(len(means))
            told += f" ± {half:.2%}"
        print(told)
        tokens = [sum(plan.tokens for plan, *_ in rows), sum(branch.trained_tokens for _, branch, *_ in rows)]
        seconds = [sum(row[side][1] for row in rows) for side in (2, 3)]
        print(
            f"tokens {tokens[0]:,} -> {tokens[1]:,} ({tokens[1] / tokens[0] - 1:+.0%}); CPU seconds "
            f"{seconds[0]:.0f} -> {seconds[1]:.0f} ({seconds[1] / seconds[0] - 1:+.0%})"
        )


if __name__ == "__main__":
    raise SystemExit(main())
