"""Sources of text in; small runs on designed mixtures of them, and the shares that they recommend, out."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.errors import DataError
from stepladder.ladder.trial import plan_trial, run_trial, source_tokens
from stepladder.laws.blend import Limits, Mixture, best_mixture, next_mixtures
from stepladder.laws.mixture import MixtureLaw, fit_mixture, read_mixture
from stepladder.models.count import count_params
from stepladder.plan.machine import Machine
from stepladder.records import Order, to_json
from stepladder.store import open_artefact, read_json, write_json, write_text
from stepladder.train.source import SOURCES_FILE

RUNS_FILE, MIXTURE_FILE = "mixture.csv", "mixture.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureTrial:
    """`runs` (0: two a source and three more) in `minutes`, for a run of `tokens` (0: of a trial)."""

    minutes: float = 10.0
    runs: int = 0
    tokens: float = 0.0
    max_epochs: float = 4.0


def measure_mixture(
    wanted: MixtureTrial,
    sources: Sequence[str],
    out: Path,
    options: CorpusOptions,
    machine: Machine,
    target: Mapping[str, float] | None = None,
    *,
    quiet: bool = False,
) -> tuple[MixtureLaw, Mixture]:
    """Prepare, train on mixtures and fit in `out`; the same call goes on where an earlier one stopped.

    `target` weighs the held-out losses of the sources (default: equally).

    Raises:
        DataError: fewer than two sources.
        TrainError: the time is too short, or runs failed.
        LawError: the target names no source, or no mixture is within the limits.
    """
    corpus = prepare_corpus(sources, out / "corpus", options, quiet=quiet)
    tokens = {name: count for name, count in source_tokens(out / "corpus").items() if count}
    if len(tokens) < 2:
        raise DataError(
            "a mixture needs two sources or more",
            got=", ".join(tokens),
            allowed="several files or folders, or records with a column `source`",
            next_command="stepladder data mixture FOLDER1 FOLDER2",
        )
    count = wanted.runs or 2 * len(tokens) + 3
    trial = plan_trial(out, corpus, machine, count, 60 * wanted.minutes, quiet=quiet)
    artefact = open_artefact(
        out,
        {"kind": "mixture", "minutes": wanted.minutes, "runs": wanted.runs, "max_epochs": wanted.max_epochs},
    )
    # The runs themselves read no source more often than the run that the mixture is for.
    there = {name: float(number) for name, number in tokens.items()}
    own = Limits(available=there, budget_tokens=float(trial.tokens), max_epochs=wanted.max_epochs)
    limits = replace(own, budget_tokens=wanted.tokens) if wanted.tokens else own
    design = out / "design.json"
    if not design.exists():
        write_json(design, next_mixtures(list(tokens), count, limits=own))
    shares = read_json(design)
    orders = {
        # One seed for all: what it does to a loss cancels between mixtures.
        f"m{number:02d}": (Order(packing="documents", weights=row), options.seed)
        for number, row in enumerate(shares)
    }
    runs = run_trial(trial, out, orders, quiet=quiet)
    losses = {name: read_json(folder / SOURCES_FILE) for name, folder in runs.items()}
    rows = []
    for name, row in zip(runs, shares, strict=True):
        measured = [losses[name][source]["bits_per_byte"] for source in tokens]
        rows.append([name, *(row[source] for source in tokens), *measured])
    write_text(out / RUNS_FILE, _csv(list(tokens), rows, count_params(trial.shape).total, trial.tokens))
    law = fit_mixture(read_mixture(out / RUNS_FILE))
    best = best_mixture(law, target, limits)
    write_json(out / MIXTURE_FILE, {"law": to_json(law), "best": to_json(best)})
    artefact.finish({"runs": len(runs)})
    return law, best


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]], params: int, tokens: int) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["run", *(f"share_{name}" for name in names), *(f"loss_{name}" for name in names)]
    writer.writerow([*head, "params", "tokens"])
    writer.writerows([*row, params, tokens] for row in rows)
    return text.getvalue()
