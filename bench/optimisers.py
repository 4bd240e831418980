"""A corpus in; held-out loss of Muon and of AdamW after equal CPU seconds, paired by shape and seed, out.

    python bench/optimisers.py CORPUS --out optimisers --minutes 30

Seconds a step are measured in turns before the runs; AdamW's are cheaper, so it gets more tokens (and the
batch of that many). Rates are the rule's; AdamW's also times each of --adamw-factors, of which the best of
each shape counts. One thread; what is there is not trained again.
"""

import argparse
import itertools
import math
import os
import statistics
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from once import train_once

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_for
from stepladder.records import Derived, Layout, Plan, Recipe, Shape, to_json
from stepladder.store import read_json, write_json
from stepladder.train import worker

CONTEXT, LAYERS, HEADS = 64, 2, 2
PROBE_STEPS, ROUNDS = 12, 3
# Student's t for 95 %, by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One side of a pair."""

    shape: Shape
    optimiser: str
    factor: float
    tokens: int
    seed: int

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"w{self.shape.width:03d}-s{self.seed}-{self.optimiser}-x{self.factor:g}-{self.tokens}"


def main() -> int:
    """Train what the time allows, then print a line for each pair and the mean of each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path("optimisers"))
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 72, 96])
    parser.add_argument("--tokens", type=int, default=400_000, help="of a run with Muon")
    parser.add_argument("--adamw-factors", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--equal-tokens", action="store_true", help="the same tokens, not seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0, help="no run is started after them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    vocab = load_tokenizer(options.corpus).vocab_size
    losses: dict[Arm, tuple[float, float]] = {}
    for seed in range(options.seeds):
        for width in options.widths:
            shape = shape_for_width(width, LAYERS, vocab_size=vocab, context_tokens=CONTEXT, num_heads=HEADS)
            more = 1.0 if options.equal_tokens else step_ratio(shape, options)
            arms = [Arm(shape=shape, optimiser="muon", factor=1.0, tokens=options.tokens, seed=seed)]
            arms += [
                Arm(shape=shape, optimiser="adamw", factor=f, tokens=round(options.tokens * more), seed=seed)
                for f in options.adamw_factors
            ]
            for arm in arms:
                result = nats_and_seconds(arm, options, end)
                if result:
                    losses[arm] = result
    print_table(losses, options)
    return 0


def step_ratio(shape: Shape, options: argparse.Namespace) -> float:
    """CPU seconds of a step with Muon over those with AdamW: the median of paired trials, kept."""
    path = options.out / f"ratio-w{shape.width:03d}.json"
    if not path.exists():
        ratios = []
        for at in range(ROUNDS):
            seconds = {}
            for optimiser in ("muon", "adamw"):
                recipe = recipe_for(shape, options.tokens, optimiser=optimiser)  # type: ignore[arg-type]
                out = options.out / "probe" / f"w{shape.width:03d}-{optimiser}-{at}"
                plan = plan_of(shape, recipe, PROBE_STEPS * recipe.batch_tokens, at, options)
                seconds[optimiser] = cpu_of_steps(plan, out)
            ratios.append(seconds["muon"] / seconds["adamw"])
        write_json(path, {"ratio": statistics.median(ratios), "all": ratios})
        told = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"width {shape.width}: a step with Muon costs {told} times one with AdamW", flush=True)
    return read_json(path)["ratio"]


def cpu_of_steps(plan: Plan, out: Path) -> float:
    """CPU seconds of the median step of a short run, by marks that the loop's hearer takes."""
    marks: list[float] = []
    write_json(out / "plan.json", to_json(plan))
    worker.run_plan(out / "plan.json", out, threading.Event(), lambda *_: marks.append(time.process_time()))
    # The last step holds the evaluation, the first ones warm caches.
    return statistics.median(after - before for before, after in itertools.pairwise(marks[2:-1]))


def plan_of(shape: Shape, recipe: Recipe, tokens: int, seed: int, options: argparse.Namespace) -> Plan:
    """A plan of whole steps."""
    tokens = tokens // recipe.batch_tokens * recipe.batch_tokens
    exact = Derived(value=tokens, low=tokens, high=tokens, how="the bench")
    return Plan(
        name="race",
        corpus=str(options.corpus.resolve()),
        shape=shape,
        recipe=recipe,
        layout=Layout(),
        seed=seed,
        numbers={"tokens": exact},
    )


def nats_and_seconds(arm: Arm, options: argparse.Namespace, end: float) -> tuple[float, float] | None:
    """Held-out nats per token and CPU seconds; None when it is not there and time is up."""
    recipe = recipe_for(arm.shape, arm.tokens, optimiser=arm.optimiser)  # type: ignore[arg-type]
    rates = {name: getattr(recipe, name) * arm.factor for name in ("embed_lr", "head_lr", "hidden_lr")}
    plan = plan_of(arm.shape, replace(recipe, **rates), arm.tokens, arm.seed, options)
    found = train_once(plan, options.out / arm.name, end)
    return found and (found[0].heldout_loss, found[1])


def print_table(losses: dict[Arm, tuple[float, float]], options: argparse.Namespace) -> None:
    """Pairs, and by shape the mean difference with its interval of 95 % over seeds."""
    print(
        "width  seed  nats: muon   adamw  (factor)  muon is lower by  CPU s: muon  adamw  tokens: muon  adamw"
    )
    for width in options.widths:
        here = [arm for arm in losses if arm.shape.width == width]
        seeds = sorted({arm.seed for arm in here})
        mean = {
            factor: statistics.mean(
                losses[a][0] for a in here if a.factor == factor and a.optimiser == "adamw"
            )
            for factor in {arm.factor for arm in here if arm.optimiser == "adamw"}
        }
        if not mean:
            continue
        best = min(mean, key=lambda factor: mean[factor])
        gains = []
        for seed in seeds:
            sides = {
                a.optimiser: a for a in here if a.seed == seed and (a.optimiser == "muon" or a.factor == best)
            }
            if len(sides) < 2:
                continue
            muon, adamw = (losses[sides[name]] for name in ("muon", "adamw"))
            gains.append(1 - muon[0] / adamw[0])
            print(
                f"{width:5d}  {seed:4d}  {muon[0]:10.4f}  {adamw[0]:6.4f}  {best:8g}  {gains[-1]:+16.2%}  "
                f"{muon[1]:11.1f}  {adamw[1]:5.1f}  {sides['muon'].tokens:12,}  {sides['adamw'].tokens:,}"
            )
        if len(gains) > 1:
            half = T95[len(gains) - 1] * statistics.stdev(gains) / math.sqrt(len(gains))
            print(f"{width:5d}: Muon {statistics.mean(gains):+.2%} ± {half:.2%} lower")


if __name__ == "__main__":
    raise SystemExit(main())
