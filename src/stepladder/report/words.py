"""Names and numbers of a climb in; words, units and rounded figures for page, figures and cards out."""

import math
from collections.abc import Mapping
from typing import Any

from stepladder.records import Interval, Observation, Score
from stepladder.units import format_bytes, format_count, format_seconds, format_usd

UNITS: Mapping[str, str] = {
    "bits_per_byte": "bits per byte",
    "nats_per_token": "nats per token",
    "unstated": "unit not stated",
    "": "unit not stated",
}
QUANTITIES: Mapping[str, str] = {
    "loss": "held-out loss",
    "loss_bits_per_byte": "held-out loss (bits per byte)",
    "loss_nats_per_token": "held-out loss (nats per token)",
    "loss_unstated": "loss (unit not stated)",
    "seconds": "wall time (s)",
    "kwh": "energy (kWh)",
    "usd": "cost (USD)",
    "kg_co2e": "emissions (kg CO2e)",
    "joules": "energy (J)",
    "params": "parameters",
    "tokens": "tokens",
    "flops": "training compute, 6ND (FLOP)",
}
# Below this, energy is told in Wh: a demo uses a thousandth of a kWh.
SMALL_KWH = 0.1
_SUFFIXES = {"kwh": "kWh", "kg_co2e": "kg", "joules": "J", "flops": "FLOP"}


def show(name: str, value: float) -> str:
    """A number as its name asks for: counts with k, M, B; seconds, bytes, money; four digits else."""
    if not math.isfinite(value):
        return "not known"
    if name in ("params", "tokens", "batch_tokens", "unique_tokens", "nonembed_params"):
        return format_count(value)
    if name == "seconds" or name.endswith("_seconds"):
        return format_seconds(value)
    if name == "usd" or name.startswith("usd_"):
        return format_usd(value)
    if name.endswith("bytes"):
        return format_bytes(value)
    if "loss" in name:
        return f"{value:.4f}"
    if name == "kwh" and abs(value) < SMALL_KWH:
        return f"{value * 1e3:.3g} Wh"
    if name in _SUFFIXES:
        return f"{value:.3g} {_SUFFIXES[name]}"
    return f"{value:.3g}"


def show_range(name: str, low: float, high: float) -> str:
    """Both ends of an interval with an en dash, a common unit once; "exact" when they are equal."""
    if low == high:
        return "exact"
    first, last = show(name, low), show(name, high)
    unit = last.rpartition(" ")[2]
    if first.count(" ") == 1 and last.count(" ") == 1 and first.endswith(f" {unit}"):
        first = first.removesuffix(f" {unit}")
    return f"{first} – {last}"


def percent(share: float, digits: int = 1, *, signed: bool = False) -> str:
    """A share as percent: '1.3 %', signed '+1.3 %'."""
    return f"{100 * share:{'+' if signed else ''}.{digits}f} %"


def flops_of(params: float, tokens: float) -> float:
    """6 N D (Kaplan et al. 2020, section 2.1): the one measure that rungs, forecasts and runs all have."""
    return 6.0 * params * tokens


def compute_of(row: Observation) -> float:
    """Training compute of a rung as the figures count it."""
    return flops_of(row.params, row.tokens)


def excluded_reason(row: Observation) -> str:
    """Why a rung was kept out of the fit, or ''."""
    reason = str(row.notes.get("excluded", "") or "")
    return reason or ("weight 0" if row.weight == 0 else "")


def note_of(row: Observation, name: str) -> float:
    """A numeric note of an observation; NaN when there is none."""
    return number_of(row.notes.get(name))


def number_of(value: Any) -> float:
    """The number in a JSON value that is a number, or a {"value": ...}; NaN when there is none."""
    if isinstance(value, Mapping):
        value = value.get("value")
    try:
        return float(value) if value not in (None, "") else math.nan
    except (TypeError, ValueError):
        return math.nan


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The JSON object that a value is, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def count_of(entry: Any, key: str) -> int:
    """A whole number of a JSON object; 0 where it has none."""
    value = number_of(mapping_of(entry).get(key))
    return int(value) if math.isfinite(value) else 0


def verdict(score: Score) -> tuple[str, str]:
    """('hit', 'half' or 'miss', one plain sentence with the signed error)."""
    error = score.relative_error
    away = "exactly right" if error == 0 else f"{percent(abs(error))} too {'high' if error > 0 else 'low'}"
    figures = (
        f"forecast {show(score.quantity, score.forecast.value)}, "
        f"measured {show(score.quantity, score.outcome)}, error {percent(error, signed=True)}"
    )
    name = short_name(score.quantity)
    if score.forecast.held80(score.outcome):
        return "hit", f"Hit: the forecast of {name} was {away} and its 80 % interval held ({figures})."
    if score.forecast.held95(score.outcome):
        return "half", (
            f"Miss at 80 %, hit at 95 %: the forecast of {name} was {away}; its 80 % interval did not hold, "
            f"its 95 % interval did ({figures})."
        )
    return "miss", (
        f"Miss: the forecast of {name} was {away}; neither its 80 % nor its 95 % interval held ({figures})."
    )


def show_losses(nats: float, bits: float) -> str:
    """A held-out loss in both units; those that were measured."""
    told = [f"{nats:.4f} nats per token"] if math.isfinite(nats) else []
    told += [f"{bits:.4f} bits per byte"] if math.isfinite(bits) else []
    return ", ".join(told) or "not measured"


def short_name(name: str) -> str:
    """A quantity in words without its unit."""
    return QUANTITIES.get(name, name.replace("_", " ")).split(" (")[0]


def show_interval(name: str, interval: Interval) -> str:
    """Median with the 80 % interval: '1.49 (80 %: 1.45 – 1.53)'."""
    return f"{show(name, interval.value)} (80 %: {show_range(name, interval.low80, interval.high80)})"
