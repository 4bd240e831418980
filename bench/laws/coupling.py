"""Print what joining size and data as (A^(1/κ) + B^(1/κ))^κ does to fit and forecast: κ fixed, and free.

Error: mean absolute, over hold-outs of the dearest 10, 20, 30 and 50 % of the runs of each public set.
Misfit: the Huber objective of the cheaper 80 % under the additive law's noise, less that at κ = 1; below zero
is better. With folders of climbs or ladders: signed error of their targets as the climb's own fit makes it.
Run: .venv/bin/python bench/laws/coupling.py [FOLDER ...]
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import PRIMARY, SMALL, load, split

from stepladder.laws.estimate import MILD_POWER, Estimate, FitOptions, fit_form
from stepladder.laws.forms import FORMS, columns_at, predict_theta
from stepladder.laws.known import KNOWN
from stepladder.laws.table import Table, read_observations

FIXED = (1.0, 0.85, 0.7, 0.6, 0.5, 0.35)
TARGETS = ("target@1", "target-10x@1", "target-30x@1")


def main(folders: list[Path]) -> None:
    """Print both tables."""
    print(f"{'':<18}{'error % at κ of':<6}\n{'set':<18}" + "".join(f"{k:>6}" for k in FIXED), end="")
    print(f"{'free':>7}{'its κ':>7}   misfit against κ = 1")
    errors = [one_set(name) for name in (*PRIMARY, *SMALL)]
    mean = np.mean(errors[: len(PRIMARY)], axis=0)
    print(f"{'mean of ten':<18}" + "".join(f"{value:>6.2f}" for value in mean[:-1]) + f"{mean[-1]:>7.2f}")
    if folders:
        print(f"\n{'target':<26}{'κ = 1':>8}{'free':>8}{'climb':>8}   κ free, climb")
        rows = [row for folder in folders for row in climb(folder)]
        print(f"{'mean absolute':<26}" + "".join(f"{value:>8.2f}" for value in np.mean(np.abs(rows), axis=0)))
        print(f"{'mean':<26}" + "".join(f"{value:>+8.2f}" for value in np.mean(rows, axis=0)))


def one_set(name: str) -> list[float]:
    """Mean error for each κ and for the free one."""
    table = load(name)
    options = [FitOptions(kappa=(kappa, 0.0)) for kappa in FIXED] + [FitOptions()]
    held_out = [held_error(*split(table, share), options) for share in (0.1, 0.2, 0.3, 0.5)]
    errors = np.mean([errors for errors, _ in held_out], axis=0)
    train, _ = split(table, 0.2)
    fits = [fit_form(FORMS["coupled"], train, replace(o, weight_power=MILD_POWER)) for o in options]
    misfit = [objective(fit, fits[0]) - objective(fits[0], fits[0]) for fit in fits[:-1]]
    print(
        f"{name:<18}"
        + "".join(f"{value:>6.2f}" for value in errors[:-1])
        + f"{errors[-1]:>7.2f}{held_out[1][1]:>7.2f}   "
        + " ".join(f"{value:+.1f}" for value in misfit),
        flush=True,
    )
    return errors.tolist()


def held_error(train: Table, held: Table, options: list[FitOptions]) -> tuple[list[float], float]:
    """Mean absolute error in percent by each fit, and the last one's κ."""
    fits = [fit_form(FORMS["coupled"], train, item) for item in options]
    errors = [
        float(100 * np.mean(np.abs(forecast(fit, held.params, held.tokens) / held.loss - 1))) for fit in fits
    ]
    return errors, float(np.exp(fits[-1].theta[-1]))


def forecast(fit: Estimate, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Losses."""
    return np.exp(
        predict_theta(fit.form, fit.theta, fit.columns.centre, columns_at(fit.form, params, tokens))[0]
    )


def objective(fit: Estimate, reference: Estimate) -> float:
    """Huber loss at the reference's noise."""
    delta = 1.345 * reference.sigma
    clipped = np.clip(fit.residual, -delta, delta)
    return float(np.sum(fit.columns.weight * clipped * (fit.residual - clipped / 2))) / reference.sigma**2


def climb(folder: Path) -> list[list[float]]:
    """Signed error in percent of each target: κ = 1, free, and as the climb fits."""
    table = read_observations(folder / "ladder" / "observations.csv")
    options = [replace(KNOWN, kappa=(1.0, 0.0)), replace(KNOWN, kappa=()), KNOWN]
    fits = [fit_form(FORMS["coupled"], table, item) for item in options]
    rows = []
    for target in TARGETS:
        if not (folder / target / "run.json").exists():
            continue
        run = json.loads((folder / target / "run.json").read_text())
        place = np.array([float(run["params"])]), np.array([float(run["tokens"])])
        errors = [100 * (float(forecast(fit, *place)[0]) / run["heldout_bits_per_byte"] - 1) for fit in fits]
        print(
            f"{folder.name + '/' + target:<26}"
            + "".join(f"{value:>+8.2f}" for value in errors)
            + f"   {np.exp(fits[1].theta[-1]):.2f}, {np.exp(fits[2].theta[-1]):.2f}"
        )
        rows.append(errors)
    return rows


if __name__ == "__main__":
    main([Path(item) for item in sys.argv[1:]])
