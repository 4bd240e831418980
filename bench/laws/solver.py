"""Print time and distance to the optimum on the 240 Chinchilla runs: ours beside single-start and many-start
L-BFGS-B with scipy (the PyPI package `chinchilla` too, where installed), in one process.

Run: .venv/bin/python bench/laws/solver.py [starts of the many-start procedure]
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import load

from stepladder.laws.estimate import FitOptions, fit_form, with_rows
from stepladder.laws.forms import FORMS
from stepladder.laws.solve import minimise

BEST = 0.001018274


def main(starts: int) -> None:
    """Print one line a procedure."""
    table = load("chinchilla")
    began = time.perf_counter()
    fitted = fit_form(FORMS["chinchilla"], table, FitOptions(method="plain"))
    row("ours, 24 starts", time.perf_counter() - began, fitted.objective, fitted.share)
    rng = np.random.default_rng(0)
    for count in (1000, 4000):
        weight = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), count).astype(float)
        began = time.perf_counter()
        batch = minimise(with_rows(fitted, weight=weight), np.repeat(fitted.theta[None], count, axis=0))
        print(f"ours, {count} bootstraps{'':<14}{time.perf_counter() - began:>8.2f} s, ", end="")
        print(f"{batch.converged.mean():.1%} converged")
    many_starts(table, starts)


def many_starts(table, starts: int) -> None:
    """L-BFGS-B from random starts, as OLMo-core and Hoffmann et al. describe it, without centring."""
    from scipy.optimize import minimize

    log_n, log_d, log_loss = np.log(table.params), np.log(table.tokens), np.log(table.loss)

    def objective(x):
        terms = np.stack([np.full(len(log_n), x[0]), x[1] - x[3] * log_n, x[2] - x[4] * log_d])
        top = terms.max(axis=0)
        share = np.exp(terms - top)
        total = share.sum(axis=0)
        residual = top + np.log(total) - log_loss
        share /= total
        clipped = np.clip(residual, -1e-3, 1e-3)
        slope = (clipped * share).sum(axis=1)
        gradient = np.array(
            [*slope, -(clipped * share[1] * log_n).sum(), -(clipped * share[2] * log_d).sum()]
        )
        return float(np.sum(clipped * (residual - clipped / 2))), gradient

    rng = np.random.default_rng(0)
    began = time.perf_counter()
    found = []
    for _ in range(starts):
        start = np.array([*rng.uniform((-1, 0, 0), (1.5, 25, 25)), *rng.uniform(0, 1.5, 2)])
        found.append(minimize(objective, start, jac=True, method="L-BFGS-B").fun)
    values = np.array(found)
    row(
        f"L-BFGS-B, {starts} starts",
        time.perf_counter() - began,
        float(values.min()),
        float(np.mean(values < BEST * (1 + 1e-4))),
    )


def row(name: str, seconds: float, objective: float, share: float) -> None:
    """Print time, objective, distance to the best and the share of starts that came near."""
    distance = objective / BEST - 1
    print(f"{name:<36}{seconds:>8.2f} s, objective {objective:.9f} ({distance:+.1e}), {share:.0%} of starts")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
