"""Print how well steps of published mixtures of experts are forecast, each model or source left out.

Run: .venv/bin/python bench/plan/experts.py (data: `../shared/reference/layout`, or a folder as argument)
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from steps import REFERENCE, ROUNDING, Table, fit, published

from stepladder.plan.stepcalibrate import Z90, described, forecast
from stepladder.plan.steprows import config_of
from stepladder.plan.steptime import CONSTANTS, MIXTURE, Rule, step_seconds


def fit_mixture(table: Table, rule: Rule) -> Rule:
    """Constants of mixtures with least rounded error and prior, models alike; `rule` gives the others."""
    config = config_of(table.rows)
    models = np.array([row["model"] for row in table.rows])
    weight = 1 / np.array([np.sum(models == one) for one in models])
    before = np.array([CONSTANTS[name][0] for name in MIXTURE])
    deviations = np.array([CONSTANTS[name][1] for name in MIXTURE])

    def trial(x: np.ndarray) -> Rule:
        return {**rule, **dict(zip(MIXTURE, x.tolist(), strict=True))}

    def miss(x: np.ndarray) -> float:
        off = table.logs - np.log(step_seconds(config, trial(x)))
        rounded = np.sqrt(ROUNDING**2 + off**2) - ROUNDING
        return float(np.sum(weight * rounded) / ROUNDING + 0.5 * np.sum(((x - before) / deviations) ** 2))

    starts = [before, before + deviations, before - deviations]
    best = min((minimize(miss, start, method="Nelder-Mead") for start in starts), key=lambda one: one.fun)
    return trial(best.x)


def show(name: str, table: Table, logs: np.ndarray) -> None:
    """Median and mean error, over models, and twice what 90 % of the rows are within."""
    off = logs - table.logs
    models = sorted({row["model"] for row in table.rows})
    by_model = {
        model: np.abs(np.expm1(off[[row["model"] == model for row in table.rows]])) for model in models
    }
    print(
        f"{name}: median {np.median(np.abs(np.expm1(off))):.1%}  MAPE {np.mean(np.abs(np.expm1(off))):.1%}  "
        f"mean over models of medians {np.mean([np.median(one) for one in by_model.values()]):.1%}  "
        f"sd of log {np.sqrt(np.mean(off**2)):.3f}, 90 % within x{np.exp(np.quantile(np.abs(off), 0.9)):.2f}"
    )
    print("  " + ", ".join(f"{model} {np.median(one):.0%}" for model, one in by_model.items()))


def left_out(table: Table, dense: Table, cells: Sequence[str], *, whole_source: bool) -> np.ndarray:
    """Log seconds of each row by constants that no row with its cell has seen; dense rows of its source are
    left out of the others with `whole_source`."""
    logs = np.zeros(len(table.rows))
    every = np.array(cells)
    rule = fit(dense)
    for cell in sorted(set(cells)):
        mine, others = np.flatnonzero(every == cell), np.flatnonzero(every != cell)
        if whole_source:
            rule = fit(dense.take(np.flatnonzero(dense.sources != cell)))
        logs[mine] = described(table.take(mine).rows, fit_mixture(table.take(others), rule))[0]
    return logs


def shipped(table: Table) -> None:
    """Coverage and width of the interval that the package gives, whose extra spread these rows set."""
    logs, sd = forecast(table.rows)
    inside = np.abs(logs - table.logs) < Z90 * sd
    print(f"as shipped: 90 % interval covers {inside.mean():.0%} at x{np.mean(np.exp(2 * Z90 * sd)):.2f}")


def pairs(table: Table) -> np.ndarray:
    """Log ratios of steps of one model, device and layout in two versions of one framework."""
    names = [name for name in table.rows[0] if name not in _NOT_LAYOUT]
    found = []
    for at, row in enumerate(table.rows):
        for other in range(at):
            if all(row[name] == table.rows[other][name] for name in names):
                found.append(abs(table.logs[at] - table.logs[other]))
    return np.array(found)


_NOT_LAYOUT = ("id", "sub", "source", "extra", "step_s", "tok_s_gpu", "note", "primary")


def main(folder: Path) -> None:
    """Print constants and a block for each thing left out."""
    dense, table = published(folder), published(folder, mixtures=True)
    rule = fit(dense)
    print(f"{len(table.rows)} rows of {len(set(table.sources))} sources; constants fitted on all of them:")
    whole = fit_mixture(table, rule)
    print("  " + ", ".join(f"{name} {whole[name]:.3f}" for name in MIXTURE))
    show("no mixture seen, constants before data", table, described(table.rows, rule)[0])
    models = [row["model"] for row in table.rows]
    show("each model left out", table, left_out(table, dense, models, whole_source=False))
    show("each source left out", table, left_out(table, dense, table.sources.tolist(), whole_source=True))
    shipped(table)
    same = pairs(table)
    print(
        f"one layout in two versions of a framework: {len(same)} pairs apart by x"
        + ", x".join(f"{x:.2f}" for x in np.exp(same))
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
