"""Published runs in `../shared/reference/laws`; tables of one corpus and one recipe each, by name, out."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stepladder.laws.table import Table, read_observations
from stepladder.records import Observation

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"
PRIMARY = (
    "chinchilla",
    "datablations-1ep",
    "gadre-c4",
    "gadre-rpj",
    "porian-rw",
    "porian-owt2",
    "llama3",
    "marin-comma",
    "marin-nemotron",
    "misfitting",
)
SMALL = ("steplaw", "cerebras", "routing-dense")


def load(name: str) -> Table:
    """The set of that name; rows are those that its paper fits to."""
    if name == "chinchilla":
        return _table(row for row in _rows("chinchilla_epoch") if "dropped" not in row["notes"])
    if name == "datablations-1ep":
        return _table(row for row in _rows("datablations_c4") if float(row["epochs"]) == 1)
    if name.startswith("gadre"):
        family = "open_lm/c4_original" if name.endswith("c4") else "open_lm/rpj"
        return _table(
            row
            for row in _rows("gadre_overtrain")
            if row["family"] == family and "c4_val" in row["loss_kind"]
        )
    if name.startswith("porian"):
        family = "open_lm/rw" if name.endswith("rw") else "open_lm/owt2"
        notes = "hparams=tuned;warmup=short;decay=const;param_count=standard"
        return _table(
            row for row in _rows("porian_isoflop") if (row["family"], row["notes"]) == (family, notes)
        )
    if name == "llama3":
        return _table(row for row in _rows("llama3_isoflop") if "outlier=False" in row["notes"])
    if name.startswith("marin"):
        family = f"marin_202603/{name.removeprefix('marin-')}"
        return _table(
            row
            for row in _rows("marin_isoflop")
            if row["family"] == family and "outlier=False" in row["notes"]
        )
    if name == "misfitting":
        return _best(_rows("misfitting_final"))
    if name == "steplaw":
        return _best(_rows("steplaw_dense"))
    if name == "cerebras":
        return _table(row for row in _rows("cerebras_gpt") if row["notes"] == "paper")
    if name == "routing-dense":
        return _table(row for row in _rows("routing_clark2022") if "Dense" in row["family"])
    raise KeyError(name)


def split(table: Table, share: float) -> tuple[Table, Table]:
    """Train and held-out rows: the dearest `share` of the runs (at least one) is held out."""
    compute = table.params * table.tokens
    order = np.argsort(compute, kind="stable")
    held = max(1, math.floor(share * len(table) + 0.5))
    return table.take(order[:-held]), table.take(order[-held:])


def _rows(name: str) -> list[dict[str, str]]:
    with (REFERENCE / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table(rows: Iterable[dict[str, str]]) -> Table:
    return read_observations(
        [
            Observation(
                run=row["run_id"],
                params=float(row["params"]),
                tokens=float(row["tokens"]),
                loss=float(row["loss"]),
            )
            for row in rows
            if row["loss"] and row["tokens"] and float(row["loss"]) > 0
        ]
    )


def _best(rows: Iterable[dict[str, str]]) -> Table:
    """The best run of each size and length: what a tuned learning rate reaches."""
    best: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        key = (row["params"], row["tokens"])
        if row["loss"] and (key not in best or float(row["loss"]) < float(best[key]["loss"])):
            best[key] = row
    return _table(best.values())
