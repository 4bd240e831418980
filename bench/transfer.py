"""A corpus in; the best learning rate over width, depth and length, and what the rule's costs, out.

    python bench/transfer.py CORPUS --out transfer --minutes 60
    python bench/transfer.py --out transfer --optimiser adamw --scaling none --minutes 20
    python bench/transfer.py --out transfer --report

All three rates of a run (or those of --groups) are those of `ORIGIN`, times sqrt(2)^k. Every cell starts
with --start, walks on in double steps while the best is at an end, then (without --coarse) tries the
neighbours of the best. A run is a folder; what is there is not trained again, and cheap cells come first. One
thread; batches of 256 tokens (--batch-tokens), or (cells that end in -rule) those of the rule.
`--scaling none` gives every width the rates of width 64 (standard parametrisation).
"""

import argparse
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.models.count import train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import RateRule, batch_for, recipe_for
from stepladder.records import Derived, Layout, Plan, Recipe, Run, Shape, from_json, to_json
from stepladder.store import read_json, write_json
from stepladder.train import worker

CONTEXT, BATCH = 64, 256
GROUPS = ("embed", "head", "hidden")
# Width at two layers, depth at a width of 64, length at both: (width, layers, steps). The corner that every
# axis shares is the first; the last are short: 80 steps show what too few do, and 125 of 1,024 tokens are
# the tokens of 500 of 256. 500 steps with Muon at a width of 512 cost 1,050 CPU seconds.
CELLS = (
    (64, 2, 500),
    (128, 2, 500),
    (256, 2, 500),
    (512, 2, 500),
    (64, 4, 500),
    (64, 8, 500),
    (64, 16, 500),
    (64, 2, 2_000),
    (64, 2, 10_000),
    (128, 4, 2_000),
    (64, 2, 80),
    (64, 2, 125),
    (256, 2, 125),
    (64, 2, 250),
    (256, 2, 250),
    (512, 2, 250),
)
# k = 0, whatever the rule says today: recorded places count from here.
ORIGIN = RateRule(embed=0.1, head=0.064, hidden=3e-3, muon=0.02, adamw_factor=1.0)
# Runs with the rule's own batch: (width, layers, tokens).
RULE_CELLS = ((64, 2, 500_000), (64, 2, 2_000_000), (128, 2, 2_000_000))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One place of the table; `done` maps k to held-out losses by seed."""

    shape: Shape
    steps: int
    batch: int
    by_rule: bool
    done: dict[int, dict[int, float]]

    @property
    def name(self) -> str:
        """As its folders are called."""
        end = "-rule" if self.by_rule else ""
        return f"w{self.shape.width:03d}-l{self.shape.num_layers:02d}-s{self.steps:05d}{end}"

    @property
    def tokens(self) -> int:
        """Of one run."""
        return self.steps * self.batch


def main() -> int:
    """Train as many runs as the time allows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, nargs="?", help="a prepared corpus; needed to train")
    parser.add_argument("--out", type=Path, default=Path("transfer"))
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--scaling", choices=("house", "none"), default="house")
    parser.add_argument("--batch-tokens", type=int, default=BATCH)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="whose rates k moves")
    parser.add_argument("--tied", action="store_true", help="embeddings are also the head")
    parser.add_argument("--cells", nargs="*", default=[], help="names as in the table; none: all")
    parser.add_argument("--start", type=int, nargs="+", default=[0, -2, 2], help="first values of k")
    parser.add_argument("--coarse", action="store_true", help="double steps only")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="no run is started after them")
    parser.add_argument("--report", action="store_true", help="print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.out / f"{options.optimiser}-{options.scaling}{'-tied' if options.tied else ''}"
    if set(options.groups) != set(GROUPS):
        folder = folder.with_name(f"{folder.name}-only-{'-'.join(sorted(options.groups))}")
    if options.batch_tokens != BATCH:
        folder = folder.with_name(f"{folder.name}-b{options.batch_tokens}")
    cells = open_cells(options, folder)
    end = time.monotonic() + 60 * options.minutes
    while not options.report and time.monotonic() < end:
        job = next_run(cells, options)
        if job is None:
            break
        cell, k, seed = job
        loss = train_one(cell, k, seed, options, folder)
        print(f"{cell.name} k={k:+d} seed {seed}: {loss:.4f}", flush=True)
    print_table(cells, options)
    return 0


def open_cells(options: argparse.Namespace, folder: Path) -> list[Cell]:
    """The cells with what was trained before, cheapest first."""
    corpus = options.corpus
    vocab = load_tokenizer(corpus).vocab_size if corpus else read_json(folder / "vocab.json")["size"]
    write_json(folder / "vocab.json", {"size": vocab})
    sizes = [(*size, options.batch_tokens, False) for size in CELLS]
    for width, layers, tokens in RULE_CELLS:
        batch = batch_for(tokens, CONTEXT)
        sizes.append((width, layers, tokens // batch, batch, True))
    cells = []
    for width, layers, steps, batch, by_rule in sizes:
        shape = shape_for_width(width, layers, vocab_size=vocab, context_tokens=CONTEXT)
        shape = replace(shape, tied_head=options.tied)
        cell = Cell(shape=shape, steps=steps, batch=batch, by_rule=by_rule, done={})
        if options.cells and cell.name not in options.cells:
            continue
        for path in (folder / cell.name).glob("k*/run.json"):
            k, seed = (int(part[1:]) for part in path.parent.name.split("_"))
            run = from_json(Run, read_json(path))
            cell.done.setdefault(k, {})[seed] = run.heldout_loss if run.status == "ok" else math.inf
        cells.append(cell)
    return sorted(cells, key=lambda cell: train_flops_per_token(cell.shape) * cell.tokens)


def next_run(cells: list[Cell], options: argparse.Namespace) -> tuple[Cell, int, int] | None:
    """The coarse grid of every cell with the first seed, then neighbours of the best, then further seeds."""
    strides = (2,) if options.coarse else (2, 1)
    for stride in strides:
        for cell in cells:
            k = missing(cell, stride, options.start)
            if k is not None:
                return cell, k, 0
    for seed in range(1, options.seeds):
        for cell in cells:
            best = best_of(cell)
            for k in (best, best - strides[-1], best + strides[-1]):
                if seed not in cell.done.get(k, {}):
                    return cell, k, seed
    return None


def missing(cell: Cell, stride: int, start: list[int]) -> int | None:
    """The next k of seed 0, or None when the best has both neighbours at this stride."""
    for k in start:
        if 0 not in cell.done.get(k, {}):
            return k
    best = best_of(cell)
    return next((k for k in (best - stride, best + stride) if k not in cell.done), None)


def best_of(cell: Cell) -> int:
    """The k of least loss, by seed 0."""
    return min(cell.done, key=lambda k: cell.done[k][0])


def train_one(cell: Cell, k: int, seed: int, options: argparse.Namespace, folder: Path) -> float:
    """Held-out nats per token of one run."""
    out = folder / cell.name / f"k{k:+d}_s{seed}"
    recipe = scaled(reference(cell, options), 2 ** (k / 2), options.groups)
    exact = Derived(value=cell.tokens, low=cell.tokens, high=cell.tokens, how="the bench")
    plan = Plan(
        name=f"{cell.name}{k:+d}",
        corpus=os.path.relpath(options.corpus.resolve(), out.resolve()),
        shape=cell.shape,
        recipe=recipe,
        layout=Layout(),
        seed=seed,
        numbers={"tokens": exact},
    )
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "plan.json").exists():
        write_json(out / "plan.json", to_json(plan))
    run = worker.run_plan(out / "plan.json", out, threading.Event(), lambda *_: None)
    loss = run.heldout_loss if run.status == "ok" else math.inf
    cell.done.setdefault(k, {})[seed] = loss
    return loss


def reference(cell: Cell, options: argparse.Namespace) -> Recipe:
    """k = 0: the rates of `ORIGIN` at two layers and its own batch, whatever the run's depth and length."""
    width = ORIGIN.base_width if options.scaling == "none" else cell.shape.width
    shape = replace(cell.shape, width=width, num_layers=ORIGIN.base_layers)
    recipe = recipe_for(shape, ORIGIN.base_tokens, optimiser=options.optimiser, rule=ORIGIN)
    return replace(recipe, batch_tokens=cell.batch)


def scaled(recipe: Recipe, factor: float, groups: Sequence[str]) -> Recipe:
    """The rates of these groups times a factor."""
    names = [f"{group}_lr" for group in groups]
    return replace(recipe, **{name: getattr(recipe, name) * factor for name in names})


def print_table(cells: list[Cell], options: argparse.Namespace) -> None:
    """A line a cell and seed: best k, vertex of the parabola, place and regret of the rule, that of k = 0."""
    print("cell                   seed    loss   best k  vertex  rule k  regret  at k = 0  losses by k")
    for cell in cells:
        for seed in sorted({seed for by_seed in cell.done.values() for seed in by_seed}):
            losses = {k: by_seed[seed] for k, by_seed in sorted(cell.done.items()) if seed in by_seed}
            best = min(losses, key=lambda k: losses[k])
            if len(losses) < 2 or math.isinf(losses[best]):
                continue
            curve = parabola(losses, best)
            at = rule_place(cell, options)
            told = "  ".join(f"{k:+d}:{loss:.4f}" for k, loss in losses.items())
            regret = curve.at(at) / curve.least - 1
            print(f"{cell.name:21s}  {seed:4d}  {curve.least:.4f}  {best:+7d}  {curve.vertex:+6.2f}  "
                  f"{at:+6.2f}  {regret:6.2%}  {curve.at(0) / curve.least - 1:8.2%}  {told}")  # fmt: skip


def rule_place(cell: Cell, options: argparse.Namespace) -> float:
    """k of the rates that the rule gives for this shape, length and batch."""
    given = recipe_for(cell.shape, cell.tokens, optimiser=options.optimiser, batch_tokens=cell.batch)
    return 2 * math.log2(given.hidden_lr / reference(cell, options).hidden_lr)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parabola:
    """least + curve (k - vertex)^2; nan where three points did not give one."""

    vertex: float
    least: float
    curve: float

    def at(self, k: float) -> float:
        """Loss at a place on or between the grid's points."""
        return self.least + self.curve * (k - self.vertex) ** 2


def parabola(losses: dict[int, float], best: int) -> Parabola:
    """Through the best and the two finite points nearest to it, one on each side where there are both."""
    finite = sorted(k for k in losses if math.isfinite(losses[k]))
    place = min(max(finite.index(best), 1), len(finite) - 2)
    if len(finite) < 3:
        return Parabola(vertex=math.nan, least=losses[best], curve=math.nan)
    left, middle, right = finite[place - 1 : place + 2]
    x1, x2 = left - middle, right - middle
    y1, y2 = losses[left] - losses[middle], losses[right] - losses[middle]
    curve = (y1 / x1 - y2 / x2) / (x1 - x2)
    if curve <= 0:  # the best is at an end, and no parabola says where the least loss is
        return Parabola(vertex=math.nan, least=losses[best], curve=math.nan)
    slope = y1 / x1 - curve * x1
    vertex, least = middle - slope / (2 * curve), losses[middle] - slope**2 / (4 * curve)
    return Parabola(vertex=vertex, least=least, curve=curve)


if __name__ == "__main__":
    raise SystemExit(main())
