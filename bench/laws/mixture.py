"""Print the regret of mixtures chosen from few runs, and what the intervals cover, on truths that are known.

Run: .venv/bin/python bench/laws/mixture.py [truths of each kind]
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stepladder.laws.blend import best_mixture, next_mixtures
from stepladder.laws.mixture import MixtureLaw, MixtureRuns, fit_mixture, predict_mixture

KINDS = ("exponential", "quadratic", "power")
# (domains, runs)
SIZES = ((2, 6), (2, 10), (3, 8), (3, 16), (5, 10), (5, 16), (5, 30))
NOISES = (0.002, 0.005)
# Seeds and data order move all losses of a run together, as much as they move each by itself.
COMMON = 0.5
# Of each figure: its summary over truths, and its format. Regrets are per cent of the least true mean loss;
# "worse" than the best run made by more than noise, "and ok" if so without being refused; share inside 80 %:
# losses and their mean on the chosen mixture, losses held out, gain over uniform; gain unsure; refused; gap.
COLUMNS = {
    "regret": (np.median, "{:.2f}"),
    "90th": (lambda v: np.quantile(v, 0.9), "{:.2f}"),
    "uniform": (np.median, "{:.2f}"),
    "best run": (np.median, "{:.2f}"),
    "worse": (np.mean, "{:.0%}"),
    "and ok": (np.mean, "{:.0%}"),
    "in 80": (np.mean, "{:.2f}"),
    "mean": (np.mean, "{:.2f}"),
    "held out": (np.mean, "{:.2f}"),
    "gain": (np.mean, "{:.2f}"),
    "unsure": (np.mean, "{:.0%}"),
    "refused": (np.mean, "{:.0%}"),
    "gap": (np.max, "{:.0e}"),
}
Loss = Callable[[np.ndarray], np.ndarray]


def truth(kind: str, m: int, rng: np.random.Generator) -> Loss:
    """Losses (n, m) of shares (n, m): each loss falls most with the share of its domain."""
    level = rng.uniform(1.5, 4.0, m)
    floor = rng.uniform(0.4, 0.85, m)
    if kind == "exponential":
        t = rng.normal(0.0, 0.7, (m, m))
        t[np.arange(m), np.arange(m)] -= rng.uniform(1.0, 4.0, m)
        t -= t.mean(axis=1, keepdims=True)
        return lambda r: level * (floor + (1 - floor) * np.exp(r @ t.T))
    if kind == "power":
        # Tokens of a domain count for another one in part; the loss is a power of what counts.
        transfer = rng.uniform(0.02, 0.4, (m, m))
        transfer[np.arange(m), np.arange(m)] = 1.0
        beta = rng.uniform(0.2, 0.5, m)
        middle = transfer.mean(axis=1)
        return lambda r: level * (floor + (1 - floor) * (r @ transfer.T / middle) ** -beta)
    # A bowl for each loss, whose bottom lies towards its own domain.
    bottom = 0.4 / m + 0.6 * np.eye(m)
    depth = rng.uniform(0.05, 0.4, m)
    return lambda r: level * (1 + depth * (((r[:, None] - bottom) ** 2).sum(axis=2) - (1 - 1 / m) * 0.36))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Runs with noise, the truth behind them, and its best mixture."""

    runs: MixtureRuns
    loss: Loss
    best: float

    def mean(self, shares: np.ndarray) -> float:
        """True mean loss of one mixture."""
        return float(self.loss(shares[None])[0].mean())


def make(kind: str, m: int, n: int, noise: float, seed: int) -> Case:
    """Runs on the first n mixtures of our own design."""
    loss = truth(kind, m, np.random.default_rng([seed, m, KINDS.index(kind)]))
    rng = np.random.default_rng([seed, m, n, round(noise * 1e4), KINDS.index(kind)])
    names = tuple(f"d{k}" for k in range(m))
    shares = np.array([[row[name] for name in names] for row in next_mixtures(names, n)])
    return Case(runs=measure(loss, shares, noise, rng, names), loss=loss, best=minimum(loss, m))


def measure(loss: Loss, shares: np.ndarray, noise: float, rng: np.random.Generator, names) -> MixtureRuns:
    """Runs on these shares, with noise."""
    n, m = shares.shape
    common = np.sqrt(COMMON) * rng.normal(size=(n, 1)) + np.sqrt(1 - COMMON) * rng.normal(size=(n, m))
    return MixtureRuns(
        domains=names,
        targets=names,
        run=tuple(f"r{k}" for k in range(n)),
        shares=shares,
        loss=loss(shares) * np.exp(noise * common),
        weight=np.ones(n),
    )


def minimum(loss: Loss, m: int) -> float:
    """Least mean loss over the simplex: all truths are convex, so that mirror descent finds it."""
    r, step = np.full(m, 1 / m), 2.0
    value = loss(r[None])[0].mean()
    for _ in range(400):
        tried = np.maximum(r + 1e-5 * np.eye(m), 0)
        slope = (loss(tried).mean(axis=1) - value) / 1e-5
        new = r * np.exp(-step * (slope - slope.min()))
        new /= new.sum()
        lower = loss(new[None])[0].mean()
        if lower < value:
            r, value, step = new, lower, step * 1.3
        else:
            step *= 0.5
    return float(value)


def one(kind: str, m: int, n: int, noise: float, seed: int) -> tuple[float, ...]:
    """The figures of one truth, in the order of COLUMNS."""
    case = make(kind, m, n, noise, seed)
    law = fit_mixture(case.runs, seed=seed)
    found = best_mixture(law)
    chosen = np.array([item.value for item in found.shares.values()])
    uniform, best_run = np.full(m, 1 / m), case.runs.shares[case.runs.loss.mean(axis=1).argmin()]
    regret, *others = [100 * (case.mean(r) / case.best - 1) for r in (chosen, uniform, best_run)]
    rng = np.random.default_rng([seed, m, n, round(noise * 1e4), 7])
    losses = measure(case.loss, chosen[None], noise, rng, law.domains).loss[0]
    inside = [item.held80(x) for item, x in zip(found.loss.values(), losses, strict=True)]
    gain, told = 1 - case.mean(chosen) / case.mean(uniform), found.gains["uniform"]
    worse, refused = regret > others[1] + 100 * noise, found.status == "refused"
    return (
        regret,
        regret,
        *others,
        worse,
        worse and not refused,
        float(np.mean(inside)),
        found.mean_loss.held80(float(losses.mean())),
        held_out(case, law, noise, rng),
        told.low <= gain <= told.high,
        told.low <= 0 <= told.high,
        refused,
        found.gap,
    )


def held_out(case: Case, law: MixtureLaw, noise: float, rng: np.random.Generator) -> float:
    """Share of measured losses within 80 % at five mixtures that were not run, anywhere on the simplex."""
    shares = rng.dirichlet(np.ones(len(law.domains)), 5)
    runs = measure(case.loss, shares, noise, rng, law.domains)
    inside = [
        item.held80(float(runs.loss[i, k]))
        for i, row in enumerate(shares)
        for k, item in enumerate(predict_mixture(law, dict(zip(law.domains, row, strict=True))).values())
    ]
    return float(np.mean(inside))


def show(what: str, rows: list[tuple[float, ...]]) -> None:
    """One line."""
    columns = zip(np.array(rows, float).T, COLUMNS.values(), strict=True)
    print(
        what + "".join(form.format(summary(values)).rjust(9) for values, (summary, form) in columns),
        flush=True,
    )


def more_runs(truths: int) -> None:
    """After first runs, add four by our rule, four that fill the simplex, or four at the centre."""
    print(
        f"\n{'truth':<12}{'domains':>8}{'runs':>7}{'first':>9}{'+ ours':>8}{'+ filling':>10}{'+ centre':>9}",
        end="",
    )
    print("   mean regret %; then error of the predicted mean loss, rms %")
    for kind in KINDS:
        for m, n in ((3, 7), (5, 10)):
            rows = np.array([added(kind, m, n, 0.005, seed) for seed in range(truths)])
            regret, error = rows[:, :4].mean(axis=0), np.sqrt((rows[:, 4:] ** 2).mean(axis=0))
            print(f"{kind:<12}{m:>8}{n:>4}+4 ", end="")
            print(*(f"{x:>8.3f}" for x in regret), "  ", *(f"{x:>8.2f}" for x in error), flush=True)


def added(kind: str, m: int, n: int, noise: float, seed: int) -> list[float]:
    """Regrets, then errors of the predicted mean loss, of: no more runs, ours, space-filling, centre."""
    case = make(kind, m, n, noise, 1000 + seed)
    law, names = fit_mixture(case.runs, bootstraps=100), case.runs.domains
    designs = [
        [],
        next_mixtures(law, 4),
        next_mixtures(names, n + 4)[n:],
        [dict.fromkeys(names, 1 / m)] * 4,
    ]
    regrets, errors = [], []
    for design in designs:
        extra = np.array([list(row.values()) for row in design]).reshape(-1, m)
        rng = np.random.default_rng([seed, m, n, 11])
        new = measure(case.loss, extra, noise, rng, names)
        runs = replace(
            case.runs,
            run=(*case.runs.run, *new.run),
            shares=np.concatenate([case.runs.shares, extra]),
            loss=np.concatenate([case.runs.loss, new.loss]),
            weight=np.ones(n + len(extra)),
        )
        found = best_mixture(fit_mixture(runs, bootstraps=100))
        value = case.mean(np.array([item.value for item in found.shares.values()]))
        regrets.append(100 * (value / case.best - 1))
        errors.append(100 * (found.mean_loss.value / value - 1))
    return [*regrets, *errors]


def main(truths: int) -> None:
    """Print one line a kind, number of domains, runs and noise."""
    started = time.perf_counter()
    print(f"{'truth':<12}{'domains':>8}{'runs':>5}{'noise':>7}" + "".join(name.rjust(9) for name in COLUMNS))
    for kind in KINDS:
        total = []
        for m, n in SIZES:
            for noise in NOISES:
                rows = [one(kind, m, n, noise, seed) for seed in range(truths)]
                show(f"{kind:<12}{m:>8}{n:>5}{noise:>7.1%}", rows)
                total.extend(rows)
        show(f"{kind:<12}{'all':>8}{'':>12}", total)
    more_runs(truths)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
