"""A class of synthetic ladders in; tables of runs with a known law, and the target's true loss, out."""

import math
from dataclasses import dataclass

import numpy as np

from stepladder.laws.table import Table, read_observations
from stepladder.records import Observation

CLASSES = ("clean", "heteroscedastic", "diverged", "undertuned", "collinear", "curved", "coupled")
WELL_POSED = ("clean", "heteroscedastic", "diverged")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One ladder, its target and what the target's loss really is (without noise)."""

    table: Table
    params: float
    tokens: float
    loss: float


def make(kind: str, points: int, noise: float, horizon: float, seed: int) -> Case:
    """Runs over two decades of compute (three from 40 points on), 2 to 60 tokens per parameter.

    The truth is drawn wider than the fit's priors: exponents in [.2, .6], floor 15 to 80 % of the loss.
    """
    rng = np.random.default_rng([seed, points, int(noise * 1e5), int(horizon), CLASSES.index(kind)])
    decades = 2.0 if points < 40 else 3.0
    largest = 10 ** rng.uniform(13, 21)
    log_c = np.log(largest) - np.log(10) * decades * np.sort(rng.uniform(0, 1, points) ** 1.3)
    log_c[0] = math.log(largest)
    low, high = (20.0, 20.0) if kind == "collinear" else (2.0, 60.0)
    ratio = np.exp(rng.uniform(np.log(low), np.log(high), points))
    size = np.sqrt(np.exp(log_c) / 6 / ratio)
    data = size * ratio
    law = _law(kind, rng, (np.log(size).mean(), np.log(data).mean()))
    loss = law(size, data) * np.exp(_noise(kind, rng, noise, log_c))
    goal = math.sqrt(largest * horizon / 6 / 20.0)
    rows = [
        Observation(run=f"r{i}", params=n, tokens=d, loss=value)
        for i, (n, d, value) in enumerate(zip(size, data, loss, strict=True))
    ]
    truth = float(law(np.array([goal]), np.array([goal * 20.0]))[0])
    return Case(table=read_observations(rows), params=goal, tokens=goal * 20.0, loss=truth)


def _law(kind: str, rng: np.random.Generator, centre: tuple[float, float]):
    floor = rng.uniform(0.15, 0.8)
    part = rng.uniform(0.25, 0.75)
    alpha, beta = rng.uniform(0.2, 0.6, 2)
    # Curved: both exponents fall by a third for each two decades of size, as in a broken power law.
    bend = 0.04 if kind == "curved" else 0.0
    # Coupled: the larger of the two terms counts for more, as in the public sets.
    kappa = 0.6 if kind == "coupled" else 1.0

    def law(size, data):
        x, y = np.log(size) - centre[0], np.log(data) - centre[1]
        terms = (
            part * np.exp(-alpha * x + bend * x**2 / 2),
            (1 - part) * np.exp(-beta * y + bend * y**2 / 2),
        )
        return 3.0 * (floor + (1 - floor) * sum(term ** (1 / kappa) for term in terms) ** kappa)

    return law


def _noise(kind: str, rng: np.random.Generator, noise: float, log_c: np.ndarray) -> np.ndarray:
    scale = noise * np.ones(len(log_c))
    if kind == "heteroscedastic":
        scale = noise * np.exp(-0.25 * (log_c - log_c.mean()))
    error = rng.normal(0, 1, len(log_c)) * scale
    if kind == "diverged":
        worse = rng.uniform(size=len(log_c)) < 0.08
        worse[0] = False
        error = error + worse * rng.uniform(0.03, 0.3, len(log_c))
    if kind == "undertuned":
        error = error + 0.01 * np.abs(rng.normal(0, 1, len(log_c)))
    return error
