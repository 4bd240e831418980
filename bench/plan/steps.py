"""Print how well steps of published configurations are forecast, each source left out; with rows known too.

Run: .venv/bin/python bench/plan/steps.py (data: `../shared/reference/layout`, or a folder as argument)
"""

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from stepladder.plan.rowmemory import number
from stepladder.plan.stepcalibrate import (
    Kin,
    Spread,
    covariance,
    described,
    posterior,
    slopes,
    spread_of,
)
from stepladder.plan.steprows import Row, config_of, is_mixture, refusal
from stepladder.plan.steptime import CONSTANTS, Config, Rule, step_seconds

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "layout"
# Log errors up to this count as squares, larger ones as their size: bigscience_v100 repeats itself to +-40 %.
ROUNDING = 0.15
# A source weighs as this many rows, however many it has.
ROWS_OF_A_SOURCE = 5.0
MOST_PAIRS, MOST_ROWS = 8, 90
BEFORE = np.array([before for before, _, _ in CONSTANTS.values()])
DEVIATIONS = np.array([deviation for _, deviation, _ in CONSTANTS.values()])
START = np.log([0.5, 0.1, 0.1, 2.0, 0.05])


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Scored rows, their log seconds and sources."""

    rows: list[Row]
    logs: np.ndarray
    sources: np.ndarray

    def take(self, at: np.ndarray) -> "Table":
        """Some of the rows."""
        return Table(rows=[self.rows[i] for i in at], logs=self.logs[at], sources=self.sources[at])


@dataclass(frozen=True, kw_only=True, slots=True)
class Error:
    """One forecast of row `at`: its log error and deviation; forecasts of a row weigh one together."""

    at: int
    log: float
    sd: float
    weight: float = 1.0


def published(folder: Path, *, mixtures: bool = False) -> Table:
    """Rows with a step that may be scored and are not refused: of dense networks, or of mixtures."""
    with (folder / "configs_public.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok" and not row["trap"]]
    rows = [row for row in rows if row["step_s"] and not refusal(row) and is_mixture(row) == mixtures]
    return Table(
        rows=rows,
        logs=np.log([float(row["step_s"]) for row in rows]),
        sources=np.array([row["group"] for row in rows]),
    )


def fit(table: Table, start: np.ndarray = BEFORE) -> Rule:
    """Least rounded error and prior, by damped Gauss-Newton steps over reweighted rows; no chance in it."""
    config, x, damping = config_of(table.rows), start.copy(), 1e-3
    weight = _weights(table)
    cost = _cost(config, table.logs, weight, x)
    for _ in range(30):
        logs = np.log(step_seconds(config, _rule(x)))
        slope, off = slopes(config, _rule(x), logs), table.logs - logs
        each = weight / np.sqrt(ROUNDING**2 + off**2) / ROUNDING
        bend = slope.T @ (slope * each[:, None]) + np.diag(DEVIATIONS**-2.0)
        pull = slope.T @ (each * off) - (x - BEFORE) / DEVIATIONS**2
        for _ in range(8):
            move = np.linalg.solve(bend + damping * np.diag(np.diag(bend)), pull).clip(-0.5, 0.5)
            trial = _cost(config, table.logs, weight, x + move)
            if trial < cost:
                break
            damping *= 5
        else:
            break
        gained, x, cost, damping = cost - trial, x + move, trial, max(damping / 5, 1e-6)
        if gained < 1e-6 * cost:
            break
    return _rule(x)


def _weights(table: Table) -> np.ndarray:
    return ROWS_OF_A_SOURCE / np.array([np.sum(table.sources == one) for one in table.sources])


def show_starts(table: Table, rule: Rule) -> None:
    """Whether other starts of the fit end elsewhere."""
    config, weight, found = config_of(table.rows), _weights(table), np.array(list(rule.values()))
    random = np.random.default_rng(0)
    moves = [DEVIATIONS, -DEVIATIONS, *(random.normal(size=len(BEFORE)) * DEVIATIONS for _ in range(4))]
    ends = [np.array(list(fit(table, BEFORE + move).values())) for move in moves]
    costs = [_cost(config, table.logs, weight, end) for end in [found, *ends]]
    print(
        f"  {len(ends)} other starts end at costs of {min(costs):.3f} to {max(costs):.3f}, "
        f"constants at most {max(np.abs(end - found).max() for end in ends):.3f} from these"
    )


def _cost(config: Config, logs: np.ndarray, weight: np.ndarray, x: np.ndarray) -> float:
    off = logs - np.log(step_seconds(config, _rule(x)))
    rounded = np.sqrt(ROUNDING**2 + off**2) - ROUNDING
    return float(np.sum(weight * rounded) / ROUNDING + 0.5 * np.sum(((x - BEFORE) / DEVIATIONS) ** 2))


def _rule(x: np.ndarray) -> Rule:
    return dict(zip(CONSTANTS, x.tolist(), strict=True))


def fit_spread(table: Table, rule: Rule) -> Spread:
    """Greatest likelihood of the sources' errors; a source weighs by the root of its rows."""
    logs, kin = described(table.rows, rule)
    parts = []
    for source in sorted(set(table.sources)):
        at = np.flatnonzero(table.sources == source)
        at = at[:: max(1, len(at) // MOST_ROWS)]
        parts.append((kin.take(at), (table.logs - logs)[at]))

    def miss(x: np.ndarray) -> float:
        spread = _spread(x)
        total = 0.5 * float(np.sum((x - START) ** 2))
        for part, off in parts:
            root = np.linalg.cholesky(covariance(part, part, spread) + spread.noise**2 * np.eye(len(off)))
            scaled = np.linalg.solve(root, off)
            total += (0.5 * scaled @ scaled + np.log(np.diag(root)).sum()) / np.sqrt(len(off))
        return total

    return _spread(minimize(miss, START, method="L-BFGS-B", options={"maxiter": 30}).x)


def _spread(x: np.ndarray) -> Spread:
    return Spread(**dict(zip(Spread.__slots__, np.exp(x).tolist(), strict=True)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A source that was left out: its rows, and what constants and spread of the others say of them."""

    table: Table
    logs: np.ndarray
    kin: Kin
    spread: Spread
    rule: Rule

    @property
    def off(self) -> np.ndarray:
        """Measured log seconds less forecast ones."""
        return self.table.logs - self.logs

    def plain(self) -> list[Error]:
        """Without any measurement."""
        sd = np.sqrt(spread_of(self.kin, self.spread))
        return [Error(at=at, log=-self.off[at], sd=sd[at]) for at in range(len(sd))]

    def after(self, measured: Sequence[int], rows: Sequence[int], share: float) -> list[Error]:
        """Errors of `rows` once `measured` are known."""
        near = self.kin.take(list(measured))
        shift, variance = posterior(self.kin.take(list(rows)), near, self.off[list(measured)], self.spread)
        wrong = shift - self.off[list(rows)]
        return [
            Error(at=at, log=one, sd=sd, weight=share)
            for at, one, sd in zip(rows, wrong, np.sqrt(variance), strict=True)
        ]

    def cells(self, *names: str) -> list[tuple[str, ...]]:
        """Those columns of each row."""
        return [tuple(row.get(name, "") for name in names) for row in self.table.rows]


def leave_out(table: Table, source: str) -> Source:
    """Constants and spread of the other sources, and the rows of this one."""
    others = table.take(np.flatnonzero(table.sources != source))
    rule = fit(others)
    mine = table.take(np.flatnonzero(table.sources == source))
    logs, kin = described(mine.rows, rule)
    return Source(table=mine, logs=logs, kin=kin, spread=fit_spread(others, rule), rule=rule)


def another_split(source: Source, most: int = MOST_PAIRS) -> list[Error]:
    """Each row after one run of the same model with another TP or PP, all such runs in turn."""
    model, split = source.cells("sub", "hw", "model"), source.cells("tp", "pp")
    return _one_each(
        source,
        lambda at, one: model[at] == model[one] and split[at] != split[one] and _same(source, at, one),
        most,
    )


def half_the_devices(source: Source, most: int = MOST_PAIRS) -> list[Error]:
    """Each row after one run of the same model on at most half the devices, all such runs in turn."""
    model = source.cells("sub", "hw", "model")
    count = [number(row, "gpus", 1) for row in source.table.rows]
    return _one_each(
        source,
        lambda at, one: model[at] == model[one] and count[one] <= count[at] / 2 and _same(source, at, one),
        most,
    )


def _same(source: Source, at: int, one: int) -> bool:
    """A run in another precision or of another framework is no calibration."""
    names = ("dtype", "framework")
    return all(source.table.rows[at][name] == source.table.rows[one][name] for name in names)


def _one_each(source: Source, fits: Callable[[int, int], bool], most: int) -> list[Error]:
    """`most` of the runs that fit in turn, evenly; the nearest layout where that is one."""
    found = []
    for at in range(len(source.table.rows)):
        ones = [one for one in range(len(source.table.rows)) if one != at and fits(at, one)]
        if most == 1:
            ones.sort(key=lambda one: np.abs(source.kin.layout[at] - source.kin.layout[one]).sum())
        for one in _spaced(ones, most):
            found += source.after([one], [at], 1 / min(len(ones), most))
    return found


def smallest(source: Source, runs: int) -> list[Error]:
    """All rows of an accelerator after `runs` of its runs on the fewest devices, up to 12 choices in turn."""
    found = []
    accelerators = np.array([row["hw"] for row in source.table.rows])
    count = np.array([number(row, "gpus", 1) for row in source.table.rows])
    for accelerator in sorted(set(accelerators)):
        mine = accelerators == accelerator
        few = np.flatnonzero(mine & (count == count[mine].min()))
        more = np.flatnonzero(mine & (count > count[mine].min()))
        choices = _spaced(few.tolist(), 12)
        for at, one in enumerate(choices if len(more) else []):
            known = {one, choices[(at + len(choices) // 2) % len(choices)]} if runs > 1 else {one}
            found += source.after(sorted(known), more.tolist(), 1 / len(choices))
    return found


def _spaced(ones: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly."""
    return [ones[round(at)] for at in np.linspace(0, len(ones) - 1, min(most, len(ones)))] if ones else []


def naive(table: Table) -> dict[str, list[Error]]:
    """Six FLOPs for each parameter and token at one share of the peak: the median of the other sources."""
    config = config_of(table.rows)
    layers, hidden, matrices, vocabulary, _ = config.shape
    tokens = config.micro_batch * config.accumulation * config.degrees[0] * config.sequence
    flops = 6 * (layers * matrices + vocabulary * hidden) * tokens
    logs = np.log(flops / (config.devices * config.rates.flops))
    found = {}
    for source in sorted(set(table.sources)):
        mine = table.sources == source
        shares = [np.median((table.logs - logs)[table.sources == one]) for one in set(table.sources[~mine])]
        wrong = logs[mine] + np.median(shares) - table.logs[mine]
        found[source] = [Error(at=at, log=one, sd=1.0) for at, one in enumerate(wrong)]
    return found


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Weighted quantile."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(reached, share * reached[-1]), len(values) - 1)])


def width(errors: dict[str, list[Error]]) -> float:
    """Standard deviations that hold 90 % of errors, sources alike."""
    held = [(abs(one.log) / one.sd, one.weight / _total(mine)) for mine in errors.values() for one in mine]
    return quantile(*np.array(held).T, 0.9)


def _total(errors: Sequence[Error]) -> float:
    return sum(one.weight for one in errors)


def show(name: str, errors: dict[str, list[Error]], asked: str, intervals: bool = True) -> None:
    """Pooled median and mean, mean over sources of medians; intervals whose width other sources gave."""
    errors = {source: mine for source, mine in errors.items() if mine}
    values = {
        source: np.array([(abs(np.expm1(one.log)), one.weight) for one in mine])
        for source, mine in errors.items()
    }
    pooled = np.concatenate(list(values.values()))
    medians = {source: quantile(*mine.T, 0.5) for source, mine in values.items()}
    print(f"{name}: {pooled[:, 1].sum():.0f} rows of {len(errors)} sources; {asked}")
    mean = np.average(pooled[:, 0], weights=pooled[:, 1])
    print(
        f"  median {quantile(*pooled.T, 0.5):.1%}  MAPE {mean:.1%}  "
        f"macro median {np.mean(list(medians.values())):.1%}"
    )
    print("  " + ", ".join(f"{source} {value:.0%}" for source, value in medians.items()))
    if intervals and len(errors) > 2:
        show_intervals(errors)


def show_intervals(errors: dict[str, list[Error]]) -> None:
    """Coverage and width by source."""
    inside, wide = {}, {}
    for source, mine in errors.items():
        z = width({one: other for one, other in errors.items() if one != source})
        weights = [one.weight for one in mine]
        inside[source] = np.average([abs(one.log) < z * one.sd for one in mine], weights=weights)
        wide[source] = np.average([np.exp(2 * z * one.sd) for one in mine], weights=weights)
    good = np.mean([share >= 0.85 for share in inside.values()])
    print(
        f"  90 % interval: {width(errors):.2f} sd; covers {np.mean(list(inside.values())):.1%} at "
        f"x{np.mean(list(wide.values())):.2f}; at least 85 % in {good:.0%} of sources"
    )
    low = {source: share for source, share in inside.items() if share < 0.85}
    print("    less in " + ", ".join(f"{source} {share:.0%}" for source, share in low.items()))


def main(folder: Path) -> None:
    """Print constants, then a block for each question."""
    table = published(folder)
    rule = fit(table)
    print(f"{len(table.rows)} rows; constants of plan/steptime.py, fitted on all:")
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in rule.items()))
    show_starts(table, rule)
    spread = fit_spread(table, rule)
    print("  " + ", ".join(f"{name} {getattr(spread, name):.3f}" for name in Spread.__slots__))
    show("6 N D at one share of the peak", naive(table), "", intervals=False)
    sources = {name: leave_out(table, name) for name in sorted(set(table.sources))}
    questions = (
        ("no measurement", Source.plain, "asked macro 17 %, MAPE 20 %, x2.0; known 20.6, 22, x2.39"),
        ("one run, other TP or PP", another_split, "asked 7, 12, 9 %, x1.6; known 9.3, 15.9, 10.9, x1.85"),
        ("  the nearest of them", lambda one: another_split(one, 1), ""),
        ("one run, half the devices", half_the_devices, "asked 3, 10, 10 %; known 3.0, 12.6, 13.7"),
        ("  the nearest of them", lambda one: half_the_devices(one, 1), ""),
        ("one run, smallest scale", lambda one: smallest(one, 1), "asked macro 15 %; known 21.4"),
        ("two runs, smallest scale", lambda one: smallest(one, 2), "asked macro 15 %; known 21.4"),
    )
    for name, question, asked in questions:
        show(name, {source: question(one) for source, one in sources.items()}, asked)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
