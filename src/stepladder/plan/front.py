"""Runs that could be done in; those that nothing beats, and the named choices among them, as rows out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.search import Candidate

# Rows of the front that a plan keeps, evenly over the logarithm of their time.
_MOST_ROWS = 8
_SAME = 1.03
_SHARES = ((0.5, "half the time"), (0.25, "a quarter of the time"), (0.125, "an eighth of the time"))


def front(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other run beats in loss, time, money and carbon at once, from short to long.

    A run that costs at most 3 % more and ends lower beats another, too: a front of hairs helps nobody.
    """
    loss, paid = np.array([one.loss.value for one in found]), np.array([_paid(one) for one in found])
    kept = []
    for index, one in enumerate(found):
        is_lower = (loss < loss[index]) & (paid <= _SAME * paid[index]).all(axis=1)
        is_cheaper = (loss == loss[index]) & (paid <= paid[index]).all(axis=1)
        is_cheaper[index:] &= (paid[index:] < paid[index]).any(axis=1)
        if not (is_lower | is_cheaper).any():
            kept.append(one)
    return sorted(kept, key=lambda one: one.seconds.value)


def alternatives(found: Sequence[Candidate], best: Candidate, near: float) -> tuple[Mapping[str, Any], ...]:
    """The front and the named choices, from short to long; `near` is .01 nats in the law's unit."""
    best_of_all = front(found)
    rows: dict[int, dict[str, Any]] = {}
    for one, reason in [*_named(found, best, near), *((one, "") for one in _thinned(best_of_all))]:
        if one is best:
            continue
        row = rows.setdefault(id(one), {"why": reason, **_row(one)})
        if reason and reason not in row["why"]:
            row["why"] = f"{row['why']}; {reason}" if row["why"] else reason
    on_front = {id(one) for one in best_of_all}
    for key, row in rows.items():
        row["front"] = key in on_front
        row["why"] = row["why"] or "nothing beats it in loss, time, money and carbon at once"
    return tuple(sorted(rows.values(), key=lambda row: row["seconds"]))


def _named(found: Sequence[Candidate], best: Candidate, near: float) -> Iterator[tuple[Candidate, str]]:
    for share, reason in _SHARES:
        paid = [one for one in found if one.seconds.value <= 1.01 * share * best.seconds.value]
        if paid:
            yield min(paid, key=_least_loss), f"best in {reason}"
    least = min(one.loss.value for one in found)
    close = [one for one in found if one.loss.value <= least + near]
    cheapest = min(close, key=lambda one: (one.costs["usd"].value, *_paid(one)))
    if cheapest.costs["usd"].value < 0.99 * best.costs["usd"].value:
        yield cheapest, "cheapest within 0.01 nats"
    flops = 1.3 * _flops(best)
    small = [one for one in found if _flops(one) <= flops and one.loss.value <= best.loss.value * 1.01]
    if small:
        smallest = min(small, key=lambda one: (count_params(one.shape).total, *_paid(one)))
        yield smallest, "smallest within 1.3x compute"


def _thinned(best_of_all: Sequence[Candidate]) -> Iterator[Candidate]:
    """The longest of each equal part of the range of their logarithms of time."""
    ends = [math.log(best_of_all[at].seconds.value) for at in (0, -1)]
    step = max((ends[1] - ends[0]) / _MOST_ROWS, 1e-9)
    last = {int((math.log(one.seconds.value) - ends[0]) / step): one for one in best_of_all}
    yield from last.values()


def _least_loss(one: Candidate) -> tuple[float, ...]:
    return one.loss.value, *_paid(one)


def _paid(one: Candidate) -> tuple[float, float, float]:
    return one.seconds.value, one.costs["usd"].value, one.costs["kg_co2e"].value


def _flops(one: Candidate) -> float:
    return one.tokens * train_flops_per_token(one.shape)


def _row(one: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {
        "params": count_params(one.shape).total,
        "width": one.shape.width,
        "tokens": one.tokens,
        "loss": one.loss.value,
        "loss_low80": one.loss.low80,
        "loss_high80": one.loss.high80,
    }
    for name, number in (
        ("seconds", one.seconds),
        *((key, one.costs[key]) for key in ("usd", "kwh", "kg_co2e")),
    ):
        row |= {name: number.value, f"{name}_low80": number.low, f"{name}_high80": number.high}
    return {**row, "region": one.region}
