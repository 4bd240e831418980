"""Print how well the dearest 10, 20, 30 and 50 % of the runs of each public set are forecast from the rest.

One rule for all sets, chosen inside the training part; beside it the published procedure (Huber loss of
1e-3 on log-loss, no priors, no weights). Run: .venv/bin/python bench/laws/holdout.py
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import PRIMARY, SMALL, load, split

from stepladder.laws.estimate import FitOptions, fit_form
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import FORMS, predict, to_constants
from stepladder.laws.intervals import forecast
from stepladder.laws.score import score

SHARES = (0.1, 0.2, 0.3, 0.5)


def one_set(name: str) -> dict[str, list[float]]:
    """Mean absolute and signed error, coverage and width for each share held out."""
    table = load(name)
    out: dict[str, list[float]] = {
        key: [] for key in ("error", "signed", "plain", "in80", "in95", "width", "refused")
    }
    for share in SHARES:
        train, held = split(table, share)
        if len(train) < 3:
            continue
        law = fit_law(train)
        scores = [
            score(forecast(law, n, d), y) for n, d, y in zip(held.params, held.tokens, held.loss, strict=True)
        ]
        published = fit_form(FORMS["chinchilla"], train, FitOptions(method="plain"))
        constants = to_constants(published.form, published.theta, published.columns.centre)
        plain = predict("chinchilla", constants, held.params, held.tokens)
        out["error"].append(float(np.mean([abs(item.relative_error) for item in scores])))
        out["signed"].append(float(np.mean([item.relative_error for item in scores])))
        out["plain"].append(float(np.mean(np.abs(plain / held.loss - 1))))
        out["in80"].append(float(np.mean([item.forecast.held80(item.outcome) for item in scores])))
        out["in95"].append(float(np.mean([item.forecast.held95(item.outcome) for item in scores])))
        out["width"].append(float(np.median([i.forecast.high95 / i.forecast.low95 - 1 for i in scores])))
        out["refused"].append(float(bool(law.refusal)))
    return out


def main() -> None:
    """Print one line a set and the means over the ten primary sets."""
    started = time.perf_counter()
    print(f"{'set':<18}{'runs':>5}  {'error % at 10/20/30/50 %':<28}{'published procedure':<30}", end="")
    print(f"{'signed %':>8} {'in 80':>6} {'in 95':>6} {'width95':>8} refused")
    found = {name: one_set(name) for name in (*PRIMARY, *SMALL)}
    for name, row in found.items():
        error = "/".join(f"{100 * item:.2f}" for item in row["error"])
        plain = "/".join(f"{100 * item:.2f}" for item in row["plain"])
        print(
            f"{name:<18}{len(load(name)):>5}  {error:<28}{plain:<30}{100 * np.mean(row['signed']):>+8.2f} "
            f"{np.mean(row['in80']):>6.2f} {np.mean(row['in95']):>6.2f} {np.mean(row['width']):>8.1%} "
            f"{np.mean(row['refused']):.0%}"
        )
    ten = [found[name] for name in PRIMARY]
    for key in ("error", "plain"):
        means = np.mean([row[key] for row in ten], axis=0)
        print(f"mean of ten, {key}: " + "/".join(f"{100 * item:.2f}" for item in means))
    for key in ("in80", "in95"):
        values = [float(np.mean(row[key])) for row in ten]
        print(f"mean of ten, {key}: {np.mean(values):.3f}, worst set {min(values):.2f}")
    over = np.mean([item > 0 for row in ten for item in row["signed"]])
    signed = 100 * np.mean([row["signed"] for row in ten])
    print(f"over-predicts in {over:.0%} of hold-outs, mean signed {signed:+.2f} %")
    large = [np.median(found[name]["width"]) for name in PRIMARY if len(load(name)) >= 80]
    print(f"median 95 % width where n >= 80: {np.median(large):.1%}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
