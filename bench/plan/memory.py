"""Published configurations with a measured memory in; errors, coverage and out-of-memory counts out.

    python bench/plan/memory.py

Constants are fitted to the other sources and scored on the one that is left out. "Stated" are the rows whose
recomputation the table says. Needs the reference data.
"""

import csv
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from stepladder.plan.configs import DOUBT
from stepladder.plan.memory import FITTED, GIB, MemoryRule
from stepladder.plan.rowmemory import measured_factor, number, row_memory

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "layout" / "configs_public.csv"
Row = dict[str, str]


def main() -> int:
    """Print one line a figure."""
    rows = load()
    if not rows:
        print("needs ../shared/reference/layout", file=sys.stderr)
        return 1
    measured = [row for row in rows if row["mem_gib"]]
    stated = [row for row in measured if is_stated(row)]
    sources = sorted({row["group"] for row in rows})
    left_out = {name: fit([row for row in stated if row["group"] != name]) for name in sources}
    print(f"{len(stated)} rows with a measured memory and stated recomputation, {len(measured)} in all")
    print(f"fitted to all: {shown(fit(stated))}; shipped: {shown(FITTED)}")
    forecasts = {
        "each source left out once": {
            row["id"]: row_memory(row, left_out[row["group"]]).gib for row in measured
        },
        "in-sample": {row["id"]: row_memory(row).gib for row in measured},
        "textbook": {row["id"]: textbook(row) for row in measured},
    }
    for name, found in forecasts.items():
        errors(name, stated, found)
    by_source(measured, forecasts["each source left out once"], left_out)
    one_peak(measured, left_out)
    coverage(measured, forecasts["each source left out once"])
    out_of_memory(rows, left_out)
    return 0


def load() -> list[Row]:
    """Dense rows that may be scored; none without the reference data."""
    if not REFERENCE.exists():
        return []
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if not row["trap"] and not number(row, "experts", 0)]


def is_stated(row: Row) -> bool:
    """Whether the table says what is recomputed (nanotron's does not)."""
    return row["group"] != "nanotron"


def fit(rows: Sequence[Row]) -> MemoryRule:
    """Least squares of log GiB, each source with the same weight."""
    counts = Counter(row["group"] for row in rows)
    weights = np.array([counts[row["group"]] ** -0.5 for row in rows])
    truth = np.log([float(row["mem_gib"]) for row in rows])

    def misses(logs: np.ndarray) -> np.ndarray:
        return weights * (np.log([row_memory(row, rule_of(logs)).gib for row in rows]) - truth)

    return rule_of(least_squares(misses, np.log([1.05, 2.0, 1.0]), diff_step=1e-3).x)


def rule_of(logs: np.ndarray) -> MemoryRule:
    """From logarithms."""
    allocator, context, links = np.exp(logs).tolist()
    return MemoryRule(allocator=allocator, context=context, links=links)


def textbook(row: Row) -> float:
    """16 bytes a parameter by ZeRO stage, and the activations of arXiv:2205.05198; no more."""
    used = row_memory({**row, "mem_kind": "torch-peak", "extra": ""}).terms
    names = ("weights", "gradients", "optimiser", "activations")
    width, tokens = number(row, "hidden", 1), number(row, "seq", 1) * number(row, "mbs", 1)
    layer = tokens * width * (10 + 24 / number(row, "tp", 1)) / GIB if row["recompute"] == "full" else 0.0
    return sum(used.get(name, 0.0) for name in names) + layer


def errors(name: str, rows: Sequence[Row], found: dict[str, float]) -> None:
    """Median over all rows and over sources, and the ninth decile in GiB."""
    apart = defaultdict(list)
    for row in rows:
        apart[row["group"]].append(abs(found[row["id"]] / float(row["mem_gib"]) - 1))
    pooled = np.concatenate([np.array(each) for each in apart.values()])
    gib = [abs(found[row["id"]] - float(row["mem_gib"])) for row in rows]
    macro = np.mean([np.median(each) for each in apart.values()])
    print(
        f"{name}: median {np.median(pooled):.1%}, mean over sources of medians {macro:.1%}, "
        f"90 % within {np.quantile(gib, 0.9):.1f} GiB"
    )


def by_source(rows: Sequence[Row], found: dict[str, float], rules: dict[str, MemoryRule]) -> None:
    """Median and signed error of each source with what the others say."""
    for name in sorted({row["group"] for row in rows}):
        own = [found[row["id"]] / float(row["mem_gib"]) - 1 for row in rows if row["group"] == name]
        middle, signed = np.median(np.abs(own)), np.median(own)
        print(f"  {name:<16} {len(own):>3} rows {middle:6.1%}, signed {signed:+6.1%}  {shown(rules[name])}")


def kin(one: Row, row: Row) -> bool:
    """Same model and framework, another row."""
    names = ("hw", "hidden", "layers", "seq", "dtype", "framework")
    return one["id"] != row["id"] and all(one[name] == row[name] for name in names)


def one_peak(rows: Sequence[Row], rules: dict[str, MemoryRule]) -> None:
    """Every row from every single measured row of its kin; constants of the other sources."""
    apart: dict[str, list[float]] = defaultdict(list)
    inside = []
    for row in rows:
        rule = rules[row["group"]]
        plain = row_memory(row, rule).gib
        for one in rows:
            if kin(one, row):
                factor, weight = measured_factor(row, [one], rule)
                error = math.log(plain * factor / float(row["mem_gib"]))
                apart[row["group"]].append(abs(math.expm1(error)))
                if is_stated(row):
                    inside.append(abs(error) <= row_memory(row).half_width(weight))
    pooled = [error for name, each in apart.items() if name != "nanotron" for error in each]
    macro = np.mean([np.median(each) for name, each in apart.items() if name != "nanotron"])
    print(
        f"with one measured peak of the same model and framework: median {np.median(pooled):.1%} of ", end=""
    )
    print(f"{len(pooled)} pairs, over sources {macro:.1%}; 90 % interval held {np.mean(inside):.1%}")


def coverage(rows: Sequence[Row], found: dict[str, float]) -> None:
    """Half-width from the errors of the other sources, and how often it held in the one left out."""
    logs = {row["id"]: abs(math.log(found[row["id"]] / float(row["mem_gib"]))) for row in rows}
    shares, shipped = {}, {}
    for name in sorted({row["group"] for row in rows}):
        others = [row for row in rows if row["group"] != name]
        counts = Counter(row["group"] for row in others)
        order = sorted((logs[row["id"]], 1 / counts[row["group"]]) for row in others)
        sums = np.cumsum([weight for _, weight in order])
        half = order[int(np.searchsorted(sums, 0.9 * sums[-1]))][0]
        own = [logs[row["id"]] for row in rows if row["group"] == name]
        shares[name], shipped[name] = (
            np.mean([x <= half for x in own]),
            np.mean([logs[row["id"]] <= row_memory(row).log90 for row in rows if row["group"] == name]),
        )
    everywhere = np.mean([logs[row["id"]] <= row_memory(row).log90 for row in rows])
    width = np.mean([math.exp(2 * row_memory(row).log90) for row in rows])
    print(
        f"90 % interval, half-width from other sources: mean coverage {np.mean(list(shares.values())):.2f}, "
        f"worst {min(shares.values()):.2f} ({min(shares, key=lambda name: shares[name])})"
    )
    print(
        f"  shipped, x{width:.2f} wide: rows {everywhere:.2f}, sources "
        f"{np.mean(list(shipped.values())):.2f}, worst {min(shipped.values()):.2f}"
    )


def out_of_memory(rows: Sequence[Row], rules: dict[str, MemoryRule]) -> None:
    """Labels against the odds, constants of the other sources; an `ok` row fitted, measured or not."""
    odds = [(row, row_memory(row, rules[row["group"]]).probability_too_much()) for row in rows]
    for doubt in (0.4, 0.5, DOUBT, 0.6):
        said = Counter((row["status"], chance >= doubt) for row, chance in odds)
        hit, missed, alarm = said["oom", True], said["oom", False], said["ok", True]
        print(
            f"out of memory at odds {doubt:.2f}: {hit} of {hit + missed} failures said, {alarm} alarms in "
            f"{alarm + said['ok', False]} that ran: recall {hit / (hit + missed):.2f}, "
            f"precision {hit / max(hit + alarm, 1):.2f}"
        )
    alarms = [row["id"] for row, chance in odds if row["status"] == "ok" and chance >= DOUBT]
    print(f"  alarms: {', '.join(alarms)}")


def shown(rule: MemoryRule) -> str:
    """In one line."""
    return f"allocator x{rule.allocator:.2f}, context {rule.context:.2f} GiB, links {rule.links:.2f} GiB"


if __name__ == "__main__":
    raise SystemExit(main())
