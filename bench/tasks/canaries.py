"""A corpus with canaries in; their exposure in each rung of a small ladder and a target, and a forecast, out.

    python bench/tasks/canaries.py --out canaries [--seed 1] [--figure docs/figures/canaries.svg]

The forecast of the target is made from the rungs alone and frozen before the target is trained. All runs read
one order of one text, so that a run of a share of the tokens meets about that share of the copies. What an
earlier call finished is kept. Eight CPU minutes.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.eval.canaries import measure_exposure
from stepladder.ladder.design import Rung
from stepladder.ladder.run import rung_plans, train_side_by_side
from stepladder.laws.exposure import CHANCE_BITS, Memory, forecast_exposure
from stepladder.models.count import train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_rule
from stepladder.records import Corpus, Interval, Layout, Plan, Run, from_json
from stepladder.store import read_json, write_json

SOURCES = ("python:prose", "python:docstrings")
# (width, share of the corpus); the target has four times the compute of the dearest rung.
RUNGS = ((24, 0.2), (24, 0.45), (24, 0.95), (32, 0.2), (32, 0.45), (32, 0.95), (48, 0.2), (48, 0.45))
TARGET = (72, 0.95)
CANARIES = 16
_FLOPS_PER_SECOND = 2e10


def main() -> int:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("canaries"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--max-bytes", type=int, default=30_000_000)
    options = parser.parse_args()
    wanted = CorpusOptions(vocab_size=1024, max_bytes=options.max_bytes, canaries=CANARIES, seed=options.seed)
    corpus = prepare_corpus(SOURCES, options.out / "corpus", wanted)
    plans = make_plans(corpus, options.seed)
    train(plans[:-1], options.out)
    print("run   parameters     tokens  bits/byte   exposure in bits at 1, 4, 16, 64 copies (of the text)")
    rungs = [group for plan in plans[:-1] for group in measured(plan, options.out, corpus).values()]
    frozen = freeze(rungs, plans[-1], corpus, options.out / "forecast.json")
    train(plans[-1:], options.out)
    target = measured(plans[-1], options.out, corpus)
    print(f"\nchance is {CHANCE_BITS:.2f} bits")
    print("copies  forecast      80 %           95 %       measured  in 80 %  in 95 %")
    for copies, said in frozen.items():
        bits = float(np.mean(target[copies].bits))
        print(
            f"{copies:6d}  {said.value:8.2f}  {said.low80:5.2f} – {said.high80:5.2f}  {said.low95:5.2f} – "
            f"{said.high95:5.2f}  {bits:8.2f}  {'yes' if said.held80(bits) else 'NO':>7}  "
            f"{'yes' if said.held95(bits) else 'NO':>7}"
        )
    if options.figure:
        draw(rungs, target, frozen, options.figure)
    return 0


def make_plans(corpus: Corpus, seed: int) -> list[Plan]:
    """All rungs, and last the target."""
    rungs = []
    for width, share in (*RUNGS, TARGET):
        shape = shape_for_width(width, vocab_size=1024, context_tokens=64, num_layers=2, num_heads=2)
        tokens = int(share * corpus.train.tokens)
        seconds = train_flops_per_token(shape) * tokens / _FLOPS_PER_SECOND
        rungs.append(Rung(shape=shape, tokens=tokens, seed=seed, seconds=seconds))
    layout = Layout(threads=1, precision="fp32")
    place = {"corpus": "../../corpus", "corpus_fingerprint": corpus.fingerprint, "layout": layout}
    return rung_plans(rungs, recipe_rule({}), **place)


def train(plans: list[Plan], out: Path) -> None:
    """Side by side, as far as that is not done."""
    failures = train_side_by_side(plans, out / "ladder", workers=2)
    if failures:
        raise SystemExit(str(failures))


def measured(plan: Plan, out: Path, corpus: Corpus) -> dict[int, Memory]:
    """Exposure of one finished run by copies; prints its line."""
    folder = out / "ladder" / f"{plan.name}@1"
    run = from_json(Run, read_json(folder / "run.json"))
    found = measure_exposure(folder, out / "corpus")
    share = min(run.tokens / corpus.train.tokens, 1.0)
    means = "  ".join(f"{found.mean(copies):5.2f}" for copies in found.bits)
    print(f"{plan.name} {run.params:12,d} {run.tokens:10,d} {run.heldout_bits_per_byte:10.4f}   {means}")
    return {
        copies: Memory(params=run.params, met=copies * share, bits=bits)
        for copies, bits in found.bits.items()
    }


def freeze(rungs: list[Memory], plan: Plan, corpus: Corpus, path: Path) -> dict[int, Interval]:
    """What is forecast of the target, written before it is trained."""
    if not path.exists():
        share, params = plan.tokens / corpus.train.tokens, plan.numbers["params"].value
        said = {
            copies: asdict(forecast_exposure(rungs, params, copies * share, CANARIES))
            for copies in (1, 4, 16, 64)
        }
        write_json(path, {str(copies): interval for copies, interval in said.items()})
    return {int(copies): Interval(**value) for copies, value in read_json(path).items()}


def draw(rungs: list[Memory], target: dict[int, Memory], frozen: dict[int, Interval], path: Path) -> None:
    """Mean exposure against copies met: points of each size, the forecast of the target as a band."""
    import vl_convert

    points = [
        {"copies": one.met, "bits": float(np.mean(one.bits)), "run": f"{one.params / 1e3:.0f} k parameters"}
        for one in (*rungs, *target.values())
    ]
    band = [
        {"copies": target[copies].met, "low": said.low80, "high": said.high80, "bits": said.value}
        for copies, said in frozen.items()
    ]
    x = {
        "field": "copies",
        "type": "quantitative",
        "scale": {"type": "log"},
        "title": "copies met in training",
    }
    y = {"field": "bits", "type": "quantitative", "title": "exposure (bits)"}
    low = {"field": "low", "type": "quantitative", "title": "exposure (bits)"}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 420,
        "height": 260,
        "layer": [
            {
                "data": {"values": band},
                "mark": {"type": "area", "opacity": 0.2},
                "encoding": {"x": x, "y": low, "y2": {"field": "high"}},
            },
            {
                "data": {"values": band},
                "mark": {"type": "line", "strokeDash": [4, 3]},
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True},
                "encoding": {"x": x, "y": y, "color": {"field": "run", "title": None, "type": "nominal"}},
            },
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(vl_convert.vegalite_to_svg(spec))


if __name__ == "__main__":
    sys.exit(main())
