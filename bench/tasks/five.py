"""Text of this machine in; every kind of task by a decoder and an encoder, beside baselines, out.

    python bench/tasks/five.py --out five [--seeds 3] [--examples 300] [--epochs 2]

Trains a decoder and an encoder of one size on one corpus, tunes both on a set of each kind with `stepladder
tune --task all`, and prints a table in Markdown: means over seeds with 95 % intervals. What an earlier call
finished is kept. About an hour on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.eval.metrics import metric_named
from stepladder.eval.predictions import NETWORKS
from stepladder.eval.table import TaskTable, task_table
from stepladder.ladder.design import Rung
from stepladder.ladder.run import rung_plans, train_side_by_side
from stepladder.models.count import train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_rule
from stepladder.records import Corpus, Layout, Plan, Shape, TaskResult
from stepladder.tune.run import METHODS

SOURCES = ("python:prose", "python:docstrings")
VOCABULARY, CONTEXT, WIDTH, LAYERS = 4096, 256, 128, 4
_FLOPS_PER_SECOND = 4e10


def main() -> int:
    """Train and tune what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("five"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--tokens", type=float, default=7e6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["full", "scratch"])
    options = parser.parse_args()
    wanted = CorpusOptions(vocab_size=VOCABULARY, max_bytes=int(6 * options.tokens))
    corpus = prepare_corpus(SOURCES, options.out / "corpus", wanted)
    plans = make_plans(corpus, int(options.tokens))
    failures = train_side_by_side(plans, options.out / "base", workers=options.workers)
    if failures:
        raise SystemExit(str(failures))
    for family, plan in zip(("decoder", "encoder"), plans, strict=True):
        tune(options.out / "base" / f"{plan.name}@1", options.out / family, options)
    read = f"{plans[0].numbers['params'].value:,.0f} parameters, {plans[0].tokens:,} tokens read"
    for family in ("decoder", "encoder"):
        tables = [task_table(folder.parent) for folder in sorted((options.out / family).glob("*/task.json"))]
        print(f"\n{family}, {read}")
        print(markdown(tables))
    return 0


def make_plans(corpus: Corpus, tokens: int) -> list[Plan]:
    """The decoder's and the encoder's; the encoder has one id more, its mask."""
    rungs = [rung(causal_shape(), tokens), rung(masked_shape(), tokens)]
    place = {"corpus": "../../corpus", "corpus_fingerprint": corpus.fingerprint}
    return rung_plans(rungs, recipe_rule({}), layout=Layout(threads=1, precision="fp32"), **place)


def causal_shape() -> Shape:
    """In the Qwen3 layout."""
    return shape_for_width(WIDTH, LAYERS, vocab_size=VOCABULARY, context_tokens=CONTEXT)


def masked_shape() -> Shape:
    """In ModernBERT's layout."""
    return shape_for_width(WIDTH, LAYERS, vocab_size=VOCABULARY + 1, context_tokens=CONTEXT, causal=False)


def rung(shape: Shape, tokens: int) -> Rung:
    """One run."""
    seconds = train_flops_per_token(shape) * tokens / _FLOPS_PER_SECOND
    return Rung(shape=shape, tokens=tokens, seed=0, seconds=seconds)


def tune(model: Path, out: Path, options: argparse.Namespace) -> None:
    """As a user would."""
    command = [sys.executable, "-m", "stepladder", "tune", "--from", str(model), "--task", "all"]
    command += ["--out", str(out), "--seeds", str(options.seeds), "--epochs", str(options.epochs)]
    command += ["--examples", str(options.examples), "--workers", str(options.workers)]
    command += ["--methods", *options.methods, "--json"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise SystemExit(answer.returncode)
    for line in answer.stdout.splitlines():
        print(f"{json.loads(line)['task']}: {json.loads(line)['verdict']}", file=sys.stderr)


def markdown(tables: list[TaskTable]) -> str:
    """A row a set: the main metric of each network, then of the best method without one."""
    there = {row.method for table in tables for row in table.rows}
    networks = [name for name in NETWORKS if name in there]
    heads = ["set", "metric", *networks, "best cheap method"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for table in tables:
        metric = metric_named(table.rows[0].metric)
        rows = {row.method: row for row in table.rows if row.metric == metric.name}
        cheap = [row for row in rows.values() if row.method not in NETWORKS]
        best = max(cheap, key=lambda row: metric.better(row.value))
        cells = [cell(rows[name]) if name in rows else "" for name in networks]
        cells.append(f"{best.method}: {cell(best)}")
        lines.append(f"| {table.task} ({table.kind}) | {metric.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: TaskResult) -> str:
    """Value with its interval."""
    return f"{row.value:.3g} ({row.low:.3g}–{row.high:.3g})"


if __name__ == "__main__":
    sys.exit(main())
