"""A plan and the name of one of its numbers in; the chain of numbers it was made of, as text, out."""

import re
from collections.abc import Iterator, Mapping

from stepladder.errors import PlanError, did_you_mean
from stepladder.records import Derived, Plan

_NAME = re.compile(r"`(\w+)`")


def explain(plan: Plan, name: str) -> list[str]:
    """One line for the number, then one for each number that its reason names, indented, and so on.

    Raises:
        PlanError: the plan has no such number.
    """
    if name not in plan.numbers:
        raise PlanError(
            f'the plan has no number "{name}"{did_you_mean(name, plan.numbers)}',
            allowed=", ".join(plan.numbers),
            next_command="stepladder plan --why seconds",
        )
    return list(_walk(plan.numbers, name, 0, set()))


def _walk(numbers: Mapping[str, Derived], name: str, depth: int, seen: set[str]) -> Iterator[str]:
    number = numbers[name]
    indent = "  " * depth
    if name in seen:
        yield f"{indent}{name}: as above"
        return
    seen.add(name)
    yield f"{indent}{name} = {show(number)}  [{number.source}]  {number.how}"
    for part in dict.fromkeys(_NAME.findall(number.how)):
        if part in numbers and part != name:
            yield from _walk(numbers, part, depth + 1, seen)


def show(number: Derived) -> str:
    """'12.3 (11 to 14)', or the value alone when it is exact."""
    value = f"{number.value:,.4g}" if abs(number.value) < 1e4 else f"{number.value:,.0f}"
    if number.low == number.high:
        return value
    ends = [f"{end:,.3g}" if abs(end) < 1e4 else f"{end:,.0f}" for end in (number.low, number.high)]
    return f"{value} ({ends[0]} to {ends[1]})"
