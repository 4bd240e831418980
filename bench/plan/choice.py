"""Print what layouts cost that the step model chooses among measured ones, its source left out.

Run: .venv/bin/python bench/plan/choice.py (data: `../shared/reference/layout`, or a folder as argument)
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from steps import REFERENCE, Table, fit, published

from stepladder.plan import layoutsearch
from stepladder.plan.layoutsearch import simplest
from stepladder.plan.rowmemory import number
from stepladder.plan.stepcalibrate import described
from stepladder.plan.steprows import Row

# Rows that do the same work on the same devices.
SAME = ("group", "sub", "hw", "model", "gpus", "gbs", "seq", "dtype", "framework")
LARGE_DEVICES = 256
TIES = (0.0, 0.02, 0.05, 0.1)
Pick = Callable[[Sequence[Row], np.ndarray], int]


def by_model(tie: float) -> Pick:
    """The least forecast; of those within `tie` of it, what the rule says."""

    def pick(rows: Sequence[Row], logs: np.ndarray) -> int:
        columns = (np.array([number(row, name, 1) for row in rows]) for name in ("tp", "pp", "mbs"))
        return simplest(np.exp(logs), *layoutsearch.by_rule(*columns), alike=1 + tie)

    return pick


def by_rule(rows: Sequence[Row], _: np.ndarray) -> int:
    """Least TP, then least PP, then the largest micro-batch."""
    keys = [(number(row, "tp", 1), number(row, "pp", 1), -number(row, "mbs", 1)) for row in rows]
    return min(range(len(rows)), key=keys.__getitem__)


def by_chance(rows: Sequence[Row], _: np.ndarray) -> int:
    """A layout as good as the median one."""
    order = np.argsort([number(row, "step_s", 1) for row in rows])
    return int(order[len(rows) // 2])


def sets_of(table: Table) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By source: indices of rows to choose among, and forecasts by constants of the other sources."""
    found = defaultdict(list)
    for source in sorted(set(table.sources)):
        mine = np.flatnonzero(table.sources == source)
        alike = defaultdict(list)
        for at in mine:
            alike[tuple(table.rows[at][name] for name in SAME)].append(at)
        choices = [np.array(ones) for ones in alike.values() if len(ones) > 1]
        if choices:
            rule = fit(table.take(np.flatnonzero(table.sources != source)))
            logs = dict(zip(mine, described(table.take(mine).rows, rule)[0], strict=True))
            found[source] = [(ones, np.array([logs[at] for at in ones])) for ones in choices]
    return found


def regrets(table: Table, sets: Sequence[tuple[np.ndarray, np.ndarray]], pick: Pick) -> np.ndarray:
    """Chosen step over the least, one of each set."""
    return np.array(
        [
            np.exp(table.logs[ones[pick([table.rows[at] for at in ones], logs)]] - table.logs[ones].min())
            for ones, logs in sets
        ]
    )


def main(folder: Path) -> None:
    """Print a line for each way to choose and kind of set."""
    table = published(folder)
    by_source = sets_of(table)
    others = [one for source, sets in by_source.items() if source != "vtrain_single" for one in sets]
    large = [one for one in others if number(table.rows[one[0][0]], "gpus", 1) >= LARGE_DEVICES]
    kinds = (
        ("vtrain_single", by_source["vtrain_single"], "asked 1.025"),
        ("other sources", others, "asked 1.02"),
        (f"of these, {LARGE_DEVICES} devices or more", large, "asked 1.05, worst 1.25"),
    )
    mixed = [(f"model, ties of {tie:.0%} by the rule", by_model(tie)) for tie in TIES]
    ways = (("median layout", by_chance), ("rule", by_rule), *mixed)
    for kind, sets, asked in kinds:
        print(f"{kind}: {len(sets)} sets of {sum(len(ones) for ones, _ in sets)} rows; {asked}")
        for name, pick in ways:
            found = regrets(table, sets, pick)
            print(f"  {name:<32} mean {found.mean():.3f}  worst {found.max():.3f}")
    for source, sets in by_source.items():
        means = ", ".join(f"{name} {regrets(table, sets, pick).mean():.3f}" for name, pick in ways[1:])
        print(f"  {source} ({len(sets)}): {means}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
