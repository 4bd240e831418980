"""A frozen forecast and the outcome in; a Score, and how well many intervals held, out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.errors import LawError
from stepladder.records import Forecast, Score


def score(forecast: Forecast, outcome: float) -> Score:
    """Set the forecast loss beside the measured one (same unit).

    Raises:
        LawError: the outcome is not a positive finite number.
    """
    if not (math.isfinite(outcome) and outcome > 0):
        raise LawError("an outcome must be a finite loss above zero", got=str(outcome))
    return Score(
        run=forecast.run, quantity=f"loss_{forecast.loss_unit}", forecast=forecast.loss, outcome=outcome
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How a set of scored forecasts did: median absolute and mean signed relative error, shares inside."""

    count: int
    median_error: float
    mean_signed_error: float
    share80: float
    share95: float


def calibrate(scores: Sequence[Score]) -> Calibration:
    """Reliability of many forecasts; a share near .80 and .95 is what the intervals promise."""
    if not scores:
        raise LawError("no scored forecast yet", next_command="stepladder forecast score FILE --loss LOSS")
    errors = sorted(abs(item.relative_error) for item in scores)
    middle = len(errors) // 2
    median = errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2
    return Calibration(
        count=len(scores),
        median_error=median,
        mean_signed_error=sum(item.relative_error for item in scores) / len(scores),
        share80=sum(item.forecast.held80(item.outcome) for item in scores) / len(scores),
        share95=sum(item.forecast.held95(item.outcome) for item in scores) / len(scores),
    )
