"""Print whether runs on other corpora help to forecast a corpus on which few runs were made.

Of each corpus the dearest 30 % of the runs are held out; the corpus of interest keeps every fourth of the
rest, the others keep all. Alone: a law of its few runs. Pooled: shared exponents, own floors and amplitudes.
Run: .venv/bin/python bench/laws/pooled.py
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import load, split

from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.score import score
from stepladder.laws.table import Table, read_observations
from stepladder.records import Observation

GROUPS = (("gadre-c4", "gadre-rpj"), ("porian-rw", "porian-owt2"), ("marin-comma", "marin-nemotron"))
SHARE, KEEP = 0.3, 4


def main() -> None:
    """Print one line a corpus of interest."""
    print(
        f"{'corpus':<16}{'runs':>5}{'with':>6}  {'error % alone':>13}{'pooled':>8}  "
        "in 80 %: alone pooled  width95"
    )
    rows = []
    for group in GROUPS:
        for name in group:
            rows.append(one(name, [other for other in group if other != name]))
    errors = np.mean([row[:2] for row in rows], axis=0)
    print(f"mean error: alone {errors[0]:.2f} %, pooled {errors[1]:.2f} %")


def one(name: str, others: list[str]) -> tuple[float, float]:
    """Mean absolute error in percent, alone and pooled."""
    train, held = split(load(name), SHARE)
    few = train.take(np.arange(0, len(train), KEEP))
    more = [split(load(other), SHARE)[0] for other in others]
    pool = joined({name: few} | dict(zip(others, more, strict=True)))
    alone = held_out(few, held, {})
    pooled = held_out(pool, held, {"corpus": [name]})
    print(
        f"{name:<16}{len(few):>5}{len(pool) - len(few):>6}  {alone[0]:>13.2f}{pooled[0]:>8.2f}"
        f"{alone[1]:>16.2f}{pooled[1]:>7.2f}  {alone[2]:>6.1%} {pooled[2]:.1%}",
        flush=True,
    )
    return alone[0], pooled[0]


def joined(tables: dict[str, Table]) -> Table:
    """One table with the column corpus."""
    return read_observations(
        [
            Observation(run=run, params=n, tokens=d, loss=y, notes={"corpus": name})
            for name, table in tables.items()
            for run, n, d, y in zip(table.run, table.params, table.tokens, table.loss, strict=True)
        ]
    )


def held_out(train: Table, held: Table, extra: dict[str, list[str]]) -> tuple[float, float, float]:
    """Mean absolute error in percent, share inside 80 %, median 95 % width."""
    law = fit_law(train, replace(FitOptions(), bootstraps=100))
    found = [forecast(law, n, d, extra=extra) for n, d in zip(held.params, held.tokens, strict=True)]
    scores = [score(item, y) for item, y in zip(found, held.loss, strict=True)]
    return (
        100 * float(np.mean([abs(item.relative_error) for item in scores])),
        float(np.mean([item.forecast.held80(item.outcome) for item in scores])),
        float(np.median([item.loss.high95 / item.loss.low95 - 1 for item in found])),
    )


if __name__ == "__main__":
    main()
