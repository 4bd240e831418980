"""A law and a budget in; the size and tokens with the least loss, or the cheapest that reach a loss, out.

Cost is training plus serving: 6 N D + 2 N D_inference FLOPs (Sardana et al., arXiv:2401.00448, equation 2),
each with its own price, so that money, energy or CO2 take the place of FLOPs.
"""

import math
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.forms import Extra, form_named, predict
from stepladder.records import Law

_GRID = 4001


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Cost of one training FLOP and of one inference FLOP, in any one unit (1 and 1: FLOPs)."""

    training: float = 1.0
    inference: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """A model to train. `cost` is in the unit of the prices."""

    params: float
    tokens: float
    loss: float
    cost: float


def best_for_budget(
    law: Law,
    budget: float,
    *,
    inference_tokens: float = 0.0,
    prices: Prices | None = None,
    extra: Extra | None = None,
) -> Optimum:
    """The least loss that `budget` pays for, serving included.

    Raises:
        LawError: serving alone costs more, even for the smallest size.
    """
    prices = prices or Prices()
    _check(law)
    sizes = _sizes(law)
    left = budget - prices.inference * 2 * sizes * inference_tokens
    tokens = left / (prices.training * 6 * sizes)
    possible = tokens >= 1.0
    if not possible.any():
        raise LawError("the budget does not pay for serving any model", got=f"{budget:.3g}")
    losses = np.full(len(sizes), np.inf)
    alike = _alike(extra, int(possible.sum()))
    losses[possible] = predict(law.form, law.terms, sizes[possible], tokens[possible], alike)
    best = int(losses.argmin())
    return Optimum(
        params=float(sizes[best]), tokens=float(tokens[best]), loss=float(losses[best]), cost=float(budget)
    )


def cheapest_for_loss(
    law: Law,
    loss: float,
    *,
    inference_tokens: float = 0.0,
    prices: Prices | None = None,
    extra: Extra | None = None,
) -> Optimum:
    """The cheapest model with that loss, serving included.

    Raises:
        LawError: the loss lies at or below the law's floor.
    """
    prices = prices or Prices()
    _check(law)
    sizes = _sizes(law)
    low, high = np.zeros(len(sizes)), np.full(len(sizes), math.log(1e20))
    alike = _alike(extra, len(sizes))
    reachable = predict(law.form, law.terms, sizes, np.exp(high), alike) <= loss
    if not reachable.any():
        raise LawError(
            "no model reaches that loss",
            got=f"{loss:g}",
            allowed=f"above the floor {law.terms.get('E', 0):.4g}",
        )
    for _ in range(80):
        middle = (low + high) / 2
        enough = predict(law.form, law.terms, sizes, np.exp(middle), alike) <= loss
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    tokens = np.exp(high)
    cost = prices.training * 6 * sizes * tokens + prices.inference * 2 * sizes * inference_tokens
    best = int(np.where(reachable, cost, np.inf).argmin())
    return Optimum(params=float(sizes[best]), tokens=float(tokens[best]), loss=loss, cost=float(cost[best]))


def _check(law: Law) -> None:
    """A law of one variable alone would spend everything on it."""
    if not form_named(law.form).joint:
        raise LawError(
            "this law does not weigh size against tokens",
            got=law.form,
            allowed="a law of both, as stepladder fit makes by default",
        )


def _alike(extra: Extra | None, count: int) -> Extra:
    """The one value of each further column, for all sizes."""
    return {name: [values[0]] * count for name, values in (extra or {}).items()}


def _sizes(law: Law) -> np.ndarray:
    """Sizes from far below to far above what the ladder's compute suggests."""
    centre = law.spread["centre"][0] if "centre" in law.spread else math.log(1e8)
    return np.exp(np.linspace(centre - 12, centre + 16, _GRID))
