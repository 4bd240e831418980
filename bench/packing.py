"""A corpus in; speed and held-out loss of training on windows and on packed, masked documents, paired, out.

    python bench/packing.py CORPUS --params 1000000 --tokens 1000000 --seeds 2

One thread, CPU seconds. Speed: steps of both in turns in one process. Loss: whole runs by the worker, of one
shape, recipe and seed; documents at as many predicted tokens, and at as many CPU seconds (a length scaled by
the median ratio of speeds). Each run is scored twice: on windows, and on documents masked from each other.
"""

import argparse
import math
import os
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import load_file

from stepladder.data.tokens.shards import open_split
from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.models.shape import shape_for_params
from stepladder.models.transformer import Transformer
from stepladder.plan.rates import recipe_for
from stepladder.records import Derived, Layout, Order, Plan, to_json
from stepladder.store import write_json
from stepladder.train import worker
from stepladder.train.choices import usual_attention
from stepladder.train.heldout import bytes_of_tokens, score_documents
from stepladder.train.objective import NextToken
from stepladder.train.optim import build_optimisers
from stepladder.train.parallel import Ranks
from stepladder.train.precision import autocast
from stepladder.train.settle import use_fast_fp32
from stepladder.train.source import packed, training_batches
from stepladder.train.spread import Spread

ROUNDS, STEPS = 9, 4
ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
DOCUMENTS = Order(packing="documents")


def main() -> int:
    """Print the ratio of speeds, then a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--params", type=float, default=1e6)
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seeds", type=int, default=2, help="0: speed alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_of(options, folder)
        packing = packed(open_split(options.corpus, "train"), options.corpus, folder, options.context)
        print(
            f"{len(packing):,} samples: padding {packing.waste_share:.2%}, predicted "
            f"{packing.predicted_share:.2%}, documents cut {packing.cut_share:.1%}"
        )
        speed = compare_speed(plan, options.corpus, folder)
        # Predicted tokens in a position of the batch: documents need this many more steps for as many.
        more = 1 / packing.predicted_share
        arms = [
            ("windows", Order(), 1.0),
            ("documents, equal tokens", DOCUMENTS, more),
            ("documents, equal CPU s", DOCUMENTS, more * speed),
        ]
        print("seed  arm                       predicted  CPU s  bits/byte windows  bits/byte documents")
        for seed in range(options.seeds):
            for name, order, scale in arms:
                told = train_one(
                    replace(plan, name=name, seed=seed, order=order), scale, options.corpus, folder
                )
                print(f"{seed:4d}  {name:24s}  {told}", flush=True)
    return 0


def plan_of(options: argparse.Namespace, folder: Path) -> Plan:
    """A small model with the rates and batch of the rule."""
    vocab = load_tokenizer(options.corpus).vocab_size
    shape = shape_for_params(options.params, vocab_size=vocab, context_tokens=options.context)
    return Plan(
        name="plan",
        corpus=os.path.relpath(options.corpus.resolve(), folder),
        shape=shape,
        recipe=recipe_for(shape, options.tokens),
        layout=Layout(precision=options.precision),
        seed=0,
        numbers={"tokens": exact(options.tokens)},
    )


def compare_speed(plan: Plan, corpus: Path, folder: Path) -> float:
    """Print predicted tokens per CPU second of both; the median ratio, documents to windows."""
    use_fast_fp32()
    attention = usual_attention(plan.shape.context_tokens, "cpu", plan.layout.precision)
    model = worker.build_model(plan.shape, 0, attention)
    optimisers = build_optimisers(model, plan.recipe)
    objective = NextToken(None, None, 1.0, ALONE)  # type: ignore[arg-type]
    sources = [
        training_batches(replace(plan, order=order), corpus, folder, (0, 1)) for order in (Order(), DOCUMENTS)
    ]

    def rate(source: object) -> float:
        count, started = 0, time.process_time()
        for _ in range(STEPS):
            for batch in source.next():  # type: ignore[attr-defined]
                with autocast(plan.layout):
                    loss = objective.loss(model, batch)
                (loss / objective.count(batch)).backward()
                count += objective.count(batch)
            optimisers.step(1e-3)
        return count / (time.process_time() - started)

    rates = [[rate(source) for source in sources] for _ in range(ROUNDS + 1)][1:]
    ratios = sorted(documents / windows for windows, documents in rates)
    windows, documents = (statistics.median(side) for side in zip(*rates, strict=True))
    params = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{params:,} parameters, {plan.layout.precision}, {attention}, batch {plan.recipe.batch_tokens:,}: "
        f"windows {windows:,.0f}, documents {documents:,.0f} predicted tokens per CPU second; "
        f"ratio (least, median, most) {ratios[0]:.3f} {statistics.median(ratios):.3f} {ratios[-1]:.3f}",
        flush=True,
    )
    return statistics.median(ratios)


def train_one(plan: Plan, scale: float, corpus: Path, folder: Path) -> str:
    """Train by the worker; predicted tokens, CPU seconds and both losses in words."""
    plan = replace(plan, numbers={"tokens": exact(plan.tokens * scale)})
    out = folder / f"{plan.name.replace(' ', '-')}-{plan.seed}"
    write_json(folder / f"{out.name}.json", to_json(plan))
    started = time.process_time()
    run = worker.run_plan(folder / f"{out.name}.json", out, threading.Event(), lambda *_: None)
    seconds = time.process_time() - started
    model = Transformer(plan.shape, usual_attention(plan.shape.context_tokens, "cpu", plan.layout.precision))
    model.load_state_dict(load_file(out / "model" / "model.safetensors"))
    split = open_split(corpus, "heldout")
    packing = packed(split, corpus, folder, plan.shape.context_tokens)
    with autocast(plan.layout):
        started_scoring = time.process_time()
        scores = score_documents(model, split, packing, bytes_of_tokens(corpus), ALONE, Spread())
        scoring = time.process_time() - started_scoring
    bits = scores["nats"].sum() / math.log(2) / scores["num_bytes"].sum()
    return (
        f"{run.tokens:9,}  {seconds:5.0f}  {run.heldout_bits_per_byte:17.4f}  {bits:19.4f}   "
        f"(scoring documents {scoring:.1f} CPU s)"
    )


def exact(value: float) -> Derived:
    """A number that nothing was derived for."""
    return Derived(value=value, low=value, high=value, how="the bench")


if __name__ == "__main__":
    raise SystemExit(main())
