"""A law and a target in; the cheapest further runs that would narrow the target's forecast out."""

import math
from dataclasses import dataclass

import numpy as np

from stepladder.laws.forms import Extra, columns_at, form_named, predict_theta
from stepladder.records import Law
from stepladder.units import format_count

# Shorter runs measure the start of training (docs/forecasting.md).
_RATIOS = (2.0, 8.0, 32.0, 128.0, 512.0)
_WORTH = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class NextRun:
    """A run to make next; `narrows` is the share of the target's first fit variance that it would remove,
    `left` the standard deviation of the target's log-loss from the fit after it."""

    params: float
    tokens: float
    narrows: float
    left: float

    @property
    def flops(self) -> float:
        """6 N D."""
        return 6 * self.params * self.tokens

    @property
    def text(self) -> str:
        """One clause for a refusal."""
        return (
            f"the cheapest cure is a run of {format_count(self.params)} parameters on "
            f"{format_count(self.tokens)} tokens ({self.flops:.2g} FLOP), which removes {self.narrows:.0%} "
            "of the forecast's variance"
        )


def next_run(law: Law, params: float, tokens: float, extra: Extra | None = None) -> NextRun:
    """The first of `next_runs`."""
    return next_runs(law, params, tokens, 1, extra)[0]


def next_runs(
    law: Law, params: float, tokens: float, count: int, extra: Extra | None = None
) -> tuple[NextRun, ...]:
    """Runs to make one after the other, each the cheapest that removes 70 % of what the best would remove.

    Candidates reach up to the largest compute so far. The draws of the constants give the covariance of all
    log-losses; a run with noise σ takes c cᵀ / (var + σ²) from it, c its column, and the next is chosen from
    what is left (I-optimality at the target).
    """
    flops = law.largest_flops / 4.0 ** np.arange(5)
    ratios = np.array(_RATIOS)
    sizes = np.sqrt(flops[:, None] / 6 / ratios[None]).ravel()
    data = sizes * np.tile(ratios, len(flops))
    # One more run of the target's own kind, smaller or shorter; the target comes last.
    places = np.append(sizes, params), np.append(data, tokens)
    alike: Extra = {name: [values[0]] * len(places[0]) for name, values in (extra or {}).items()}
    form = form_named(law.form)
    losses = predict_theta(
        form, np.array(law.spread["draws"]), law.spread["centre"], columns_at(form, *places, alike)
    )
    covariance = np.cov(losses, rowvar=False, bias=True)
    whole, noise = max(float(covariance[-1, -1]), 1e-30), law.quality["sigma"] ** 2
    chosen = []
    for _ in range(count):
        power = np.diag(covariance)[:-1] + noise
        gain = covariance[:-1, -1] ** 2 / power
        worth = np.flatnonzero(gain >= _WORTH * gain.max())
        best = worth[np.argmin(sizes[worth] * data[worth])]
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / power[best]
        chosen.append(
            NextRun(
                params=_two_digits(sizes[best]),
                tokens=_two_digits(data[best]),
                narrows=float(gain[best]) / whole,
                left=float(np.sqrt(max(covariance[-1, -1], 0.0))),
            )
        )
    return tuple(chosen)


def _two_digits(value: float) -> float:
    digits = math.floor(math.log10(value)) - 1
    return round(value / 10.0**digits) * 10.0**digits
