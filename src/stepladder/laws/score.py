"""Frozen forecasts and their outcomes in; Scores, and how reliable many forecasts were, out.

Between its stated quantiles (median, 80 and 95 % limits) a forecast of log-loss is read as linear in the
normal quantile, each side on its own: an outcome is z normal deviations away, and the interval of level p
held when z <= z_p. Shares carry Wilson's interval (J. Am. Stat. Assoc. 22, 1927). Forecasts of one law err
together, so that laws, not forecasts, are counted as evidence; different laws are taken as independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from stepladder.errors import LawError
from stepladder.laws.table import LOSS_UNITS, UNSTATED
from stepladder.records import Forecast, Score

Z80, Z95 = 1.281552, 1.959964
# Level → two-sided normal quantile.
LEVELS = {0.5: 0.674490, 0.8: Z80, 0.9: 1.644854, 0.95: Z95}
# Upper ends of the horizon buckets; a run planned for 10x ends a step beside it.
HORIZONS = (3.0, 10.0, 30.0)
_SLACK = 1.05
TASK = "task"


def score(forecast: Forecast, outcome: float) -> Score:
    """Set the forecast loss beside the measured one (same unit). A task's score may be 0.

    Raises:
        LawError: the outcome is not a positive finite number.
    """
    quantity = quantity_of(forecast)
    least = 0.0 if quantity.startswith(TASK) else math.ulp(0.0)
    if not (math.isfinite(outcome) and outcome >= least):
        raise LawError("an outcome must be a finite loss above zero", got=str(outcome))
    return Score(run=forecast.run, quantity=quantity, forecast=forecast.loss, outcome=outcome)


def quantity_of(forecast: Forecast) -> str:
    """What a forecast's `loss` is: a loss in its unit, or a task's metric, which other intervals hold for."""
    is_loss = forecast.loss_unit in ("", UNSTATED, *LOSS_UNITS)
    return f"{'loss' if is_loss else TASK}_{forecast.loss_unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How a set of scored forecasts did: median absolute and mean signed relative error, shares inside."""

    count: int
    median_error: float
    mean_signed_error: float
    share80: float
    share95: float


def calibrate(scores: Sequence[Score]) -> Calibration:
    """Reliability of many forecasts in five numbers; shares near .80 and .95 are what the intervals promise.

    Raises:
        LawError: no scores.
    """
    _some(scores)
    return Calibration(
        count=len(scores),
        median_error=median(abs(item.relative_error) for item in scores),
        mean_signed_error=fmean(item.relative_error for item in scores),
        share80=fmean(item.forecast.held80(item.outcome) for item in scores),
        share95=fmean(item.forecast.held95(item.outcome) for item in scores),
    )


def bias_of(scores: Sequence[Score]) -> tuple[float, float, int]:
    """Mean of log(forecast / outcome), its standard error (NaN for one) and n, as if all were independent.

    Raises:
        LawError: no scores.
    """
    _some(scores)
    return _bias([log_error(item) for item in scores])


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A score with what it must be grouped by: horizon, and the law (its fingerprint; "" is a law alone)."""

    score: Score
    horizon: float = math.nan
    law: str = ""
    name: str = ""

    @property
    def quantity(self) -> str:
        """Losses of all units are one quantity, and so are metrics of tasks: errors are relative."""
        kind = self.score.quantity.partition("_")[0]
        return kind if kind in ("loss", TASK) else self.score.quantity


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How many intervals of a level held, with the 80 % interval of the share."""

    level: float
    held: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """A row of the table: shares at 50, 80, 90, 95 %, errors, median width of the 95 % interval.

    `horizon` is "all" or a bucket. `bias` is the mean log error of the laws' own means, `too_high` how many
    of these are above zero: like the intervals of the shares they count laws. Scores of 0 count in the
    shares and in no error.
    """

    quantity: str
    horizon: str
    count: int
    laws: int
    shares: tuple[Share, ...]
    bias: float
    bias_error: float
    too_high: int
    median_error: float
    width95: float


def reliability(scored: Sequence[Scored]) -> list[Reliability]:
    """Rows by quantity: all horizons, then each bucket where there is more than one.

    Raises:
        LawError: no scores.
    """
    _some(scored)
    rows = []
    for quantity in dict.fromkeys(item.quantity for item in scored):
        some = [item for item in scored if item.quantity == quantity]
        buckets: dict[str, list[Scored]] = {}
        for item in sorted(some, key=lambda item: (math.isnan(item.horizon), item.horizon)):
            buckets.setdefault(bucket(item.horizon), []).append(item)
        rows.append(_row(quantity, "all", some))
        rows += [_row(quantity, name, part) for name, part in buckets.items() if len(buckets) > 1]
    return rows


def bucket(horizon: float) -> str:
    """The name of a horizon's bucket."""
    if not math.isfinite(horizon):
        return "unknown"
    at = sum(horizon > end * _SLACK for end in HORIZONS)
    return ("<3x", "3-10x", "10-30x", ">30x")[at]


def log_error(item: Score) -> float:
    """log(forecast / outcome); infinite where a task's score is 0."""
    return math.log(item.forecast.value / item.outcome) if item.outcome else math.inf


def surprise(item: Score) -> float:
    """Normal deviations between median and outcome; infinite beyond an interval of no width.

    A score of 0 has no place on a scale of logarithms: it is at the limit of the level that holds it.
    """
    said, away = item.forecast, -log_error(item)
    if not item.outcome:
        return Z80 if said.held80(0.0) else Z95 if said.held95(0.0) else math.inf
    ends = (said.high80, said.high95) if away >= 0 else (said.low80, said.low95)
    half80, half95 = (abs(math.log(end / said.value)) if end > 0 else math.inf for end in ends)
    if abs(away) <= half80:
        return Z80 * abs(away) / half80 if half80 else 0.0
    return Z80 + (Z95 - Z80) * (abs(away) - half80) / (half95 - half80) if half95 > half80 else math.inf


def wilson(share: float, count: float, z: float = Z80) -> tuple[float, float]:
    """Interval of a share of `count` trials (80 % by default)."""
    shrink = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def tail(held: int, count: int, level: float) -> float:
    """Probability that at most `held` of `count` independent intervals of `level` hold."""
    return sum(math.comb(count, k) * level**k * (1 - level) ** (count - k) for k in range(held + 1))


def _row(quantity: str, horizon: str, some: Sequence[Scored]) -> Reliability:
    groups: dict[str, list[float]] = {}
    for number, item in enumerate(some):
        errors = groups.setdefault(item.law or f"alone {number}", [])
        errors += [log_error(item.score)] if item.score.outcome else []
    means = [fmean(errors) for errors in groups.values() if errors]
    bias, bias_error, _ = _bias(means)
    relative = [abs(item.score.relative_error) for item in some if item.score.outcome]
    surprises = [surprise(item.score) for item in some]
    return Reliability(
        quantity=quantity,
        horizon=horizon,
        count=len(some),
        laws=len(groups),
        shares=tuple(_share(level, z, surprises, len(groups)) for level, z in LEVELS.items()),
        bias=bias,
        bias_error=bias_error,
        too_high=sum(mean > 0 for mean in means),
        median_error=median(relative) if relative else math.nan,
        width95=median(_width95(item.score) for item in some),
    )


def _share(level: float, z: float, surprises: Sequence[float], laws: int) -> Share:
    # An outcome on the very limit is inside, as `held80` has it.
    held = sum(away <= z + 1e-9 for away in surprises)
    share = held / len(surprises)
    low, high = wilson(share, laws)
    return Share(level=level, held=held, share=share, low=low, high=high)


def _bias(errors: Sequence[float]) -> tuple[float, float, int]:
    spread = stdev(errors) / math.sqrt(len(errors)) if len(errors) > 1 else math.nan
    return fmean(errors) if errors else math.nan, spread, len(errors)


def _width95(item: Score) -> float:
    return item.forecast.high95 / item.forecast.low95 - 1 if item.forecast.low95 > 0 else math.inf


def _some(items: Sequence[object]) -> None:
    if not items:
        raise LawError("no scored forecast yet", next_command="stepladder forecast score FILE --loss LOSS")
