"""A plan and the name of one of its numbers in; the chain of numbers it was made of, as text, out."""

import textwrap
from collections.abc import Iterator, Mapping

from stepladder.errors import PlanError, did_you_mean
from stepladder.plan.risk import NAMED, shares
from stepladder.records import Derived, Plan

_COLUMNS = 110
# Names that people use for numbers of the plan.
_ALIASES = {
    "time": "seconds",
    "hours": "seconds",
    "cost": "usd",
    "money": "usd",
    "energy": "kwh",
    "carbon": "kg_co2e",
    "memory": "peak_bytes",
    "batch": "batch_tokens",
    "lr": "learning_rate",
    "rate": "learning_rate",
    "size": "params",
    "parameters": "params",
    "price": "usd_per_device_hour",
    "power": "watts",
    "grid": "kg_co2e_per_kwh",
    "speed": "seconds_per_token",
    "project": "usd_project",
    "storage": "usd_storage",
    "development": "usd_development",
    "buy": "usd_buy_pays_below",
    "hardware": "kg_co2e_embodied",
    "market": "kg_co2e_market",
    "water": "water_litres",
    "region": "kg_co2e_cleanest_region",
    "power_cap": "kg_co2e_power_cap",
    "clean_hours": "kg_co2e_clean_hours",
}


def explain(plan: Plan, name: str) -> list[str]:
    """The number with its reason, then each number that the reason names, indented, and so on; at last, where
    the spread comes from. A reason of many parts has a line for each.

    Raises:
        PlanError: the plan has no such number.
    """
    wanted = _ALIASES.get(name.lower(), name) if name not in plan.numbers else name
    if wanted not in plan.numbers:
        raise PlanError(
            f'the plan has no number "{name}"{did_you_mean(name, [*plan.numbers, *_ALIASES])}',
            allowed=", ".join(plan.numbers),
            next_command="stepladder plan --why seconds",
        )
    lines = list(_walk(plan.numbers, wanted, 0, set()))
    found = shares(plan.numbers, wanted)
    if len(found) > 1:
        lines.append(
            "its spread comes from " + ", ".join(f"{end} {share:.0%}" for end, share in found.items())
        )
    return lines


def _walk(numbers: Mapping[str, Derived], name: str, depth: int, seen: set[str]) -> Iterator[str]:
    number = numbers[name]
    indent = "  " * depth
    if name in seen:
        yield f"{indent}{name}: as above"
        return
    seen.add(name)
    yield from _unfolded(f"{indent}{name} = {show(number)}  [{number.source}]", number.how, indent)
    for part in dict.fromkeys(NAMED.findall(number.how)):
        if part in numbers and part != name:
            yield from _walk(numbers, part, depth + 1, seen)


def _unfolded(told: str, how: str, indent: str) -> Iterator[str]:
    """On one line where that is short enough, else a line for each part of the reason."""
    if len(told) + 2 + len(how) <= _COLUMNS:
        yield f"{told}  {how}"
        return
    yield told
    for part in how.split("; "):
        yield from textwrap.wrap(
            part, _COLUMNS, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}      "
        )


def show(number: Derived) -> str:
    """'12.3 (11 to 14)', or the value alone when it is exact."""
    value = _plain(number.value, 4)
    if number.low == number.high:
        return value
    return f"{value} ({_plain(number.low, 3)} to {_plain(number.high, 3)})"


def _plain(value: float, digits: int) -> str:
    if abs(value) >= 1e12:
        return f"{value:.{digits}g}"
    return f"{value:,.{digits}g}" if abs(value) < 1e3 else f"{value:,.0f}"
