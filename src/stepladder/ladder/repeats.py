"""Text in; runs that read a part of it several times beside runs on fresh text, and what that costs, out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.errors import DataError, TrainError
from stepladder.ladder.compare import compare
from stepladder.ladder.trial import plan_trial, run_trial, scores_of
from stepladder.models.count import count_params
from stepladder.plan.machine import Machine
from stepladder.records import Order, to_json
from stepladder.store import open_artefact, write_json

REPEATS_FILE = "repeats.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """What is tried: `epochs` over less text against one, in `minutes`, with `seeds` runs of each."""

    epochs: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    minutes: float = 10.0
    seeds: int = 2


def measure_repeats(
    wanted: Repeats,
    sources: Sequence[str],
    out: Path,
    options: CorpusOptions,
    machine: Machine,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs of one length, once on fresh text and once for each number of epochs on so much less, in `out`.

    Raises:
        DataError: a number of epochs is not above 1, or there are fewer than two seeds.
        TrainError: the time is too short, the text too little for a run without repeats, or runs failed.
    """
    epochs, seeds = wanted.epochs, wanted.seeds
    if seeds < 2 or not epochs or min(epochs) <= 1:
        raise DataError(
            "repeats need pairs of runs and epochs",
            got=f"seeds {seeds}, epochs {', '.join(f'{number:g}' for number in epochs) or 'none'}",
            allowed="--seeds 2 or more, --epochs above 1",
        )
    corpus = prepare_corpus(sources, out / "corpus", options, quiet=quiet)
    count = seeds * (1 + len(epochs))
    trial = plan_trial(out, corpus, machine, count, 60 * wanted.minutes, quiet=quiet)
    artefact = open_artefact(out, {"kind": "repeats", **to_json(wanted)})
    if trial.tokens > corpus.train.tokens:
        raise TrainError(
            "there is too little text for a run that repeats nothing",
            got=f"runs of {trial.tokens:,} tokens, {corpus.train.tokens:,} tokens of text",
            allowed="more text, or fewer minutes",
            next_command="the same with half of the minutes and another --out",
        )
    fresh = trial.tokens / corpus.train.tokens
    shares = {f"{number:g} epochs": fresh / number for number in epochs}
    orders = {
        f"{name.split()[0]}x-{seed}": (Order(packing="documents", unique=share), seed)
        for seed in range(seeds)
        for name, share in {"1 epoch": fresh, **shares}.items()
    }
    runs = run_trial(trial, out, orders, quiet=quiet)
    scores = {name: scores_of(folder) for name, folder in runs.items()}
    base = [scores[f"1x-{seed}"]["nats"] for seed in range(seeds)]
    rows = []
    for number, name in zip(epochs, shares, strict=True):
        again = [scores[f"{number:g}x-{seed}"]["nats"] for seed in range(seeds)]
        rows.append({"epochs": number, **to_json(compare(name, base, again, scores["1x-0"]["num_bytes"]))})
    result = {
        "params": count_params(trial.shape).total,
        "tokens_per_run": trial.tokens,
        "runs": len(runs),
        "repeats": rows,
    }
    write_json(out / REPEATS_FILE, result)
    artefact.finish({"repeats": len(rows)})
    return result


def repeats_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = [
        f"{result['runs']} runs of {result['params']:,} parameters on {result['tokens_per_run']:,} tokens",
        "epochs   unique tokens   bits per byte     fresh   cost of repeating   95 % interval",
    ]
    for row in result["repeats"]:
        told = {"helps": "fresh is better", "harms": "repeating is better"}.get(
            row["verdict"], row["verdict"]
        )
        lines.append(
            f"{row['epochs']:6g} {result['tokens_per_run'] / row['epochs']:15,.0f} {row['without']:15.4f} "
            f"{row['with_it']:9.4f} {row['difference']:+19.4f}   "
            f"{row['low']:+.4f} to {row['high']:+.4f}  {told}"
        )
    return "\n".join(lines)
