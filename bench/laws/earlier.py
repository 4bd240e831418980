"""Print by how much forecasts of climbs missed beyond their own intervals: `earlier_rms` in laws/known.py.

Read are the frozen forecasts of docs/wrong.md with terms "joined". Each error of log-loss is taken as normal
with the variance of its own interval plus (t (0.35 + log10 horizon))^2; t is the most likely value, a ladder
with two targets counting once. Held: the intervals widened by the t of all other ladders.
Run: .venv/bin/python bench/laws/earlier.py
"""

import re
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from stepladder.laws.rollout import HORIZON_OFFSET

TABLE = Path(__file__).parents[2] / "docs" / "wrong.md"
ROW = re.compile(r"\| (.+?) \| joined \| ([\d.]+)× \| [\d.]+ ±([\d.]+)% \| [\d.]+ \| ([-+][\d.]+) % \|")
# Form and prior of the law were chosen on these: they look better than what comes after.
CHOSEN_ON = {f"prose {seed}" for seed in range(5)}
REACH_80, REACH_95 = 1.2, 2.3  # interval ends in standard deviations, laws/intervals.py


def main() -> int:
    """Print t and what it would have held, for all forecasts and for those on text that was not chosen on."""
    found = [(name, *map(float, rest)) for name, *rest in ROW.findall(TABLE.read_text())]
    for title, rows in (
        ("all", found),
        ("not chosen on", [row for row in found if row[0] not in CHOSEN_ON]),
        ("not chosen on, without code", [row for row in found if row[0] not in CHOSEN_ON | {"code 0"}]),
    ):
        error, own, grown, weight = columns(rows)
        held = [np.abs(error) < reach * own for reach in (REACH_80, REACH_95)]
        ladders = np.array([row[0] for row in rows])
        others = np.array([most_likely([row for row in rows if row[0] != name]) for name in ladders])
        wide = np.hypot(own, others * grown)
        widened = [np.abs(error) < reach * wide for reach in (REACH_80, REACH_95)]
        print(
            f"{title}: {len(rows)} forecasts of {weight.sum():.0f} ladders; t {most_likely(rows):.4f}; "
            f"held in 80 % {held[0].sum()}, 95 % {held[1].sum()}; widened by the others' t "
            f"{widened[0].sum()}, {widened[1].sum()}; median half width of 80 % "
            f"{100 * REACH_80 * np.median(own):.1f} %, {100 * REACH_80 * np.median(wide):.1f} %"
        )
    return 0


def columns(rows: list[tuple]) -> tuple[np.ndarray, ...]:
    """Error of log-loss, own standard deviation, horizon term and weight of each row."""
    names = [row[0] for row in rows]
    horizon, half, error = np.array([row[1:] for row in rows]).T
    weight = np.array([1 / names.count(name) for name in names])
    return np.log1p(error / 100), half / 100 / REACH_80, HORIZON_OFFSET + np.log10(horizon), weight


def most_likely(rows: list[tuple]) -> float:
    """t of the greatest likelihood."""
    error, own, grown, weight = columns(rows)

    def cost(t: float) -> float:
        variance = own**2 + (t * grown) ** 2
        return float(weight @ (np.log(variance) + error**2 / variance))

    return float(minimize_scalar(cost, bounds=(0, 0.2), method="bounded").x)


if __name__ == "__main__":
    sys.exit(main())
