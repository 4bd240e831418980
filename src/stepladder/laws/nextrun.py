"""A law and a target in; the cheapest further run that would narrow the target's forecast out."""

import math
from dataclasses import dataclass

import numpy as np

from stepladder.laws.forms import Extra, columns_at, form_named, predict_theta
from stepladder.records import Law
from stepladder.units import format_count

_RATIOS = (1.0, 4.0, 16.0, 64.0, 256.0)
_WORTH = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class NextRun:
    """A run to make next; `narrows` is the share of the target's fit variance that it would remove."""

    params: float
    tokens: float
    narrows: float

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
    """Among runs up to the largest compute so far, the cheapest that removes 70 % of what the best removes.

    For draws of the constants, a run with log-loss x removes cov(x, y)² / (var x + noise²) of the variance of
    the target's log-loss y.
    """
    form = form_named(law.form)
    centre = law.spread["centre"]
    draws = np.array(law.spread["draws"])
    flops = law.largest_flops / 4.0 ** np.arange(5)
    ratios = np.array(_RATIOS)
    sizes = np.sqrt(flops[:, None] / 6 / ratios[None]).ravel()
    data = sizes * np.tile(ratios, len(flops))
    # One more run of the target's own kind, smaller or shorter; the target comes last.
    sizes, data = np.append(sizes, params), np.append(data, tokens)
    alike: Extra = {name: [values[0]] * len(sizes) for name, values in (extra or {}).items()}
    losses = predict_theta(form, draws, centre, columns_at(form, sizes, data, alike))
    losses, target, sizes, data = losses[:, :-1], losses[:, -1], sizes[:-1], data[:-1]
    own, aim = losses - losses.mean(axis=0), target - target.mean()
    shared = (own * aim[:, None]).mean(axis=0)
    gain = (
        shared**2 / ((own**2).mean(axis=0) + law.quality["sigma"] ** 2) / max(float((aim**2).mean()), 1e-30)
    )
    worth = np.flatnonzero(gain >= _WORTH * gain.max())
    best = worth[np.argmin(sizes[worth] * data[worth])]
    return NextRun(params=_two_digits(sizes[best]), tokens=_two_digits(data[best]), narrows=float(gain[best]))


def _two_digits(value: float) -> float:
    digits = math.floor(math.log10(value)) - 1
    return round(value / 10.0**digits) * 10.0**digits
