"""Print error and coverage on ladders with a known truth, by class; the outcome carries the runs' noise.

Run: .venv/bin/python bench/laws/synthetic.py [ladders of each kind [classes]]
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from truth import CLASSES, make

from stepladder.laws.estimate import FitOptions, fit_form
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import FORMS, predict, to_constants
from stepladder.laws.intervals import forecast
from stepladder.laws.score import score

# (runs, noise, horizon)
KINDS = (
    (10, 0.005, 10),
    (13, 0.005, 10),
    (16, 0.001, 30),
    (16, 0.005, 30),
    (16, 0.01, 10),
    (40, 0.005, 100),
    (40, 0.01, 300),
)


def main(ladders: int, classes: list[str]) -> None:
    """Print one line a class and kind."""
    started = time.perf_counter()
    print(f"{'class':<16}{'runs':>5}{'noise':>7}{'horizon':>8}{'error %':>9}{'median':>8}", end="")
    print(f"{'published':>11}{'in 80':>7}{'in 95':>7}{'width95':>9}{'refused':>9}")
    for kind in classes:
        total = []
        for points, noise, horizon in KINDS:
            rows = [one(kind, points, noise, horizon, seed) for seed in range(ladders)]
            total.extend(rows)
            show(kind, f"{points:>5}{noise:>7.1%}{horizon:>7}x", rows)
        show(kind, f"{'all':>5}{'':>15}", total)
    print(f"{time.perf_counter() - started:.0f} s")


def one(kind: str, points: int, noise: float, horizon: float, seed: int) -> tuple[float, ...]:
    """Error, error of the published procedure, inside 80 and 95 %, width, refused."""
    case = make(kind, points, noise, horizon, 5000 + seed)
    outcome = case.loss * float(np.exp(np.random.default_rng(seed).normal(0, noise)))
    law = fit_law(case.table)
    found = forecast(law, case.params, case.tokens)
    result = score(found, outcome)
    published = fit_form(FORMS["chinchilla"], case.table, FitOptions(method="plain"))
    constants = to_constants(published.form, published.theta, published.columns.centre)
    plain = float(predict("chinchilla", constants, case.params, case.tokens)) / outcome - 1
    return (
        abs(result.relative_error),
        abs(plain),
        float(found.loss.held80(outcome)),
        float(found.loss.held95(outcome)),
        found.loss.high95 / found.loss.low95 - 1,
        float(found.status == "refused"),
    )


def show(kind: str, what: str, rows: list[tuple[float, ...]]) -> None:
    """One line of means; the published procedure by its median, because its mean is ruled by a few."""
    value = np.array(rows)
    print(
        f"{kind:<16}{what}{100 * value[:, 0].mean():>9.2f}{100 * np.median(value[:, 0]):>8.2f}"
        f"{100 * np.median(value[:, 1]):>11.2f}{value[:, 2].mean():>7.2f}{value[:, 3].mean():>7.2f}"
        f"{np.median(value[:, 4]):>9.1%}{value[:, 5].mean():>9.0%}",
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:] or list(CLASSES))
