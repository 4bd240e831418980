"""Paths in; what a plan is made from out: observations with their seconds, a law, a corpus."""

import math
from collections.abc import Callable
from pathlib import Path

from stepladder.laws.intervals import forecast
from stepladder.laws.table import read_observations
from stepladder.records import Corpus, Interval, Law, Observation, Plan, Shape, from_json
from stepladder.store import read_json


def observations_from(path: Path) -> list[Observation]:
    """Rows of an observations.csv (weight 0 left out) with seconds and joules where it has them."""
    table = read_observations(path)
    absent = [math.nan] * len(table)
    seconds, joules = (table.extra.get(name, absent) for name in ("seconds", "joules"))
    return [
        Observation(
            run=table.run[index],
            params=float(table.params[index]),
            tokens=float(table.tokens[index]),
            loss=float(table.loss[index]),
            nonembed_params=float(table.nonembed_params[index]),
            flops=float(table.flops[index]),
            seconds=float(seconds[index]),
            joules=float(joules[index]),
        )
        for index in range(len(table))
    ]


def law_from(path: Path) -> Law:
    """The law in a law.json."""
    return from_json(Law, read_json(path))


def loss_of(law: Law) -> Callable[[float, float], Interval]:
    """The law as the callable that `choose_plan` takes."""

    def loss(params: float, tokens: float) -> Interval:
        return forecast(law, params, tokens).loss

    return loss


def corpus_from(folder: Path) -> Corpus:
    """The record of a prepared corpus."""
    return from_json(Corpus, read_json(folder / "corpus.json"))


def family_from(observations: Path) -> Shape | None:
    """The shape of a rung whose plan lies in a folder beside observations.csv: the target keeps its depth,
    heads, vocabulary and context. None where the runs came from elsewhere."""
    for path in sorted(observations.parent.glob("*@*/plan.json")):
        return from_json(Plan, read_json(path)).shape
    return None


def first_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of `names` that exists in `folder`."""
    return next((folder / name for name in names if (folder / name).exists()), None)
