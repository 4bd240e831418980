"""A corpus with canaries in; their exposure in each rung of a small ladder and a target, and a forecast, out.

    python bench/tasks/canaries.py --out canaries [--figure docs/figures/canaries.svg]

The forecast of the target is made from the rungs alone. All runs read one order of one text, so that a run of
a share of the tokens meets about that share of the copies. What an earlier call finished is kept. Ten CPU
minutes.
"""

import argparse
import sys
from pathlib import Path

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.ladder.design import Rung
from stepladder.ladder.run import rung_plans, train_side_by_side
from stepladder.models.count import train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_rule
from stepladder.records import Layout

SOURCES = ("python:prose", "python:docstrings")
# (width, share of the corpus): the target is the last, four times the dearest rung's compute.
RUNGS = (*((24, 0.2), (24, 0.45), (24, 0.95), (32, 0.2), (32, 0.45), (32, 0.95), (48, 0.2), (48, 0.45)),)
TARGET = (72, 0.95)
_FLOPS_PER_SECOND = 2e10


def main() -> int:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("canaries"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--max-bytes", type=int, default=30_000_000)
    options = parser.parse_args()
    corpus = prepare_corpus(
        SOURCES,
        options.out / "corpus",
        CorpusOptions(vocab_size=1024, max_bytes=options.max_bytes, canaries=16),
    )
    train(options.out, corpus)
    return 0


def train(out: Path, corpus) -> None:
    """All rungs, then the target as r09."""
    rungs = []
    for width, share in (*RUNGS, TARGET):
        shape = shape_for_width(width, vocab_size=1024, context_tokens=64, num_layers=2, num_heads=2)
        tokens = int(share * corpus.train.tokens)
        seconds = train_flops_per_token(shape) * tokens / _FLOPS_PER_SECOND
        rungs.append(Rung(shape=shape, tokens=tokens, seed=0, seconds=seconds))
    plans = rung_plans(
        rungs,
        recipe_rule({}),
        corpus="../../corpus",
        corpus_fingerprint=corpus.fingerprint,
        layout=Layout(threads=1, precision="fp32"),
    )
    for plan in plans:
        print(plan.name, plan.shape.width, plan.tokens, plan.steps, plan.recipe.batch_tokens)
    failures = train_side_by_side(plans, out / "ladder", workers=2)
    if failures:
        raise SystemExit(str(failures))


if __name__ == "__main__":
    sys.exit(main())
