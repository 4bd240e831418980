"""Corpora in; how wrong the forecasts of own ladders were at 10 and 30 times their compute, as a table, out.

    python bench/ladders.py --out ladders --corpora code:0 docstrings:6 prose:7

For each corpus (with a seed) a ladder is designed and trained as in a climb. Two runs of the widest rung's
shape, of 10 and 30 times the compute of the dearest rung, are forecast and frozen before they start, then
trained and scored. What an earlier call finished is kept; a forecast that was frozen is never made again.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from stepladder import stages
from stepladder.brief import load_brief
from stepladder.ladder.collect import usable
from stepladder.launch.local import run_plan
from stepladder.laws.intervals import forecast
from stepladder.laws.registry import find_forecasts, freeze, record_outcome, write_forecasts
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.rates import recipe_rule
from stepladder.records import Corpus, Derived, Law, Observation, Plan, to_json
from stepladder.report.reliability import reliability_text
from stepladder.stages import Climb
from stepladder.store import write_json, write_text

CORPORA = {
    "prose": ["python:prose", "python:docstrings"],
    "code": ["python:code"],
    "docstrings": ["python:docstrings"],
}
HORIZONS = (10, 30)
BRIEF = """\
name = "{name}"
[data]
sources = {sources}
held_out = 0.04
[budget]
hours = 0.08
ladder_share = 0.44
[override]
vocab_size = 1024
context_tokens = 64
num_layers = 2
num_heads = 2
max_input_bytes = 120_000_000
max_epochs = 4
seed = {seed}
"""


def main() -> int:
    """Run or continue all ladders and print one line a forecast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", nargs="+", default=["code:0", "docstrings:6", "prose:7"])
    parser.add_argument("--out", type=Path, default=Path("ladders"))
    options = parser.parse_args()
    for item in options.corpora:
        name, seed = item.split(":")
        climb_twice(options.out / f"{name}{seed}", name, int(seed))
    print("ladder         horizon  epochs  forecast  measured    error  in 80 %  in 95 %  status")
    frozen = [item for item in find_forecasts(options.out) if item.score]
    for item in frozen:
        said, result = item.forecast, item.score
        epochs = json.loads((item.path.parent / "corpus" / "corpus.json").read_text())["tokens"]
        print(
            f"{item.path.parent.name:<14} {said.horizon:6.1f}x  {said.tokens / epochs:6.2f}  "
            f"{said.loss.value:8.4f}  {result.outcome:8.4f}  {result.relative_error:+7.2%}  "
            f"{'yes' if said.loss.held80(result.outcome) else 'NO':>7}  "
            f"{'yes' if said.loss.held95(result.outcome) else 'NO':>7}  {said.status}"
        )
    print(reliability_text(frozen))
    return 0


def climb_twice(folder: Path, name: str, seed: int) -> None:
    """One ladder, one law, two targets."""
    path = folder / "stepladder.toml"
    if not path.exists():
        text = BRIEF.format(name=folder.name, sources=json.dumps(CORPORA[name]), seed=seed)
        write_text(path, text)
    climb = Climb(brief=load_brief(path), folder=folder, patient=True)
    machine = stages.open_climb(climb)
    corpus = stages.prepare(climb)
    speed = stages.calibrate(climb, machine, corpus)
    rungs = stages.climb_small(climb, corpus, speed)
    law = stages.learn(climb, rungs)
    largest = max(row.flops for row in usable(rungs))
    plans = [
        replace(target(climb, speed, corpus, horizon * largest), name=f"target-{horizon}x")
        for horizon in HORIZONS
    ]
    for horizon, plan in zip(HORIZONS, plans, strict=True):
        freeze_once(folder / f"forecast-{horizon}x.json", plan, law, corpus, usable(rungs))
    for horizon, plan in zip(HORIZONS, plans, strict=True):
        plan_path = folder / f"plan-{horizon}x.json"
        write_json(plan_path, to_json(plan))
        run = run_plan(plan_path, folder / f"target-{horizon}x@1")
        record_outcome(folder / f"forecast-{horizon}x.json", run.heldout_bits_per_byte)


def target(climb: Climb, speed, corpus: Corpus, flops: float) -> Plan:
    """The widest rung's shape on the tokens that `flops` pay for, by the recipe of all rungs."""
    shape = speed.shape
    recipe = recipe_rule(climb.brief.override)(shape, flops / train_flops_per_token(shape))
    steps = round(flops / train_flops_per_token(shape) / recipe.batch_tokens)
    values = {
        "params": count_params(shape).total,
        "tokens": steps * recipe.batch_tokens,
        "batch_tokens": recipe.batch_tokens,
        "learning_rate": recipe.hidden_lr,
    }
    return Plan(
        name="target",
        corpus="corpus",
        shape=shape,
        recipe=recipe,
        layout=speed.layout,
        seed=int(climb.brief.override["seed"]),
        numbers={k: Derived(value=v, low=v, high=v, how="the benchmark's choice") for k, v in values.items()},
        corpus_fingerprint=corpus.fingerprint,
    )


def freeze_once(path: Path, plan: Plan, law: Law, corpus: Corpus, rungs: list[Observation]) -> None:
    """The forecast, before the run starts."""
    if path.exists():
        return
    said = forecast(
        law,
        float(count_params(plan.shape).total),
        float(plan.tokens),
        run=plan.name,
        unique_tokens=float(min(corpus.tokens, plan.tokens)),
    )
    horizon = train_flops_per_token(plan.shape) * plan.tokens / max(row.flops for row in rungs)
    write_forecasts(path, [freeze(replace(said, horizon=horizon))], law=law.fingerprint)


if __name__ == "__main__":
    sys.exit(main())
