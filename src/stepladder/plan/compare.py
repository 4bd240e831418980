"""A plan and what became of it under changes in; one table of them side by side, and as JSON, out."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.errors import PlanError
from stepladder.plan.show import WORDS, shown
from stepladder.plan.whatif import Change
from stepladder.records import Plan

_ROWS = (
    "params",
    "tokens",
    "batch_tokens",
    "loss",
    "seconds",
    "usd",
    "kwh",
    "kg_co2e",
    "peak_bytes",
    "usd_project",
    "hours_to_break_even",
    "kg_co2e_embodied",
    "kg_co2e_market",
    "water_litres",
)
_LIMIT = re.compile(r"\[budget\] (\w+)")
_MOST_WIDTH, _LEAST_WIDTH, _LABEL = 110, 22, 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One side of the comparison: a plan, or why there is none."""

    label: str
    plan: Plan | None
    problem: str = ""


def binds(plan: Plan) -> str:
    """What ended the run's tokens: a limit of the brief, the text, the horizon, or the user's own figure."""
    how = plan.numbers["tokens"].how
    if limit := _LIMIT.search(how):
        return limit[1]
    for words, name in (
        ("seconds_left", "hours"),
        ("passes over", "text"),
        ("largest rung", "horizon"),
        ("[override] tokens", "tokens, as given"),
        ("target loss", "target_loss"),
    ):
        if words in how:
            return name
    return "nothing"


def column(change: Change, plan: Plan | PlanError) -> Column:
    """The column of a change whose plan was made, or could not be."""
    if isinstance(plan, Plan):
        return Column(label=change.label, plan=plan)
    return Column(label=change.label, plan=None, problem=f"{plan.wrong}: {plan.allowed or plan.got}")


def compare_lines(base: Plan, columns: Sequence[Column]) -> list[str]:
    """The table; the first column is the plan as it is, the others say how many times as much they are."""
    everything = [Column(label="as it is", plan=base), *columns]
    each = max((_MOST_WIDTH - _LABEL) // len(everything), _LEAST_WIDTH)
    lines = _heads([one.label for one in everything], each)
    names = [name for name in _ROWS if name in base.numbers]
    for name in names:
        cells = [_cell(name, base, one) for one in everything]
        lines.append(f"{WORDS.get(name, name):<{_LABEL}s}" + "".join(f"{cell:>{each}s}" for cell in cells))
    where = [_where(one.plan) if one.plan else "" for one in everything]
    ends = [binds(one.plan) if one.plan else "impossible" for one in everything]
    risks = [_risk(one.plan) if one.plan else "" for one in everything]
    for label, cells in (("where", where), ("binds", ends), ("breaks a limit", risks)):
        lines.append(f"{label:<{_LABEL}s}" + "".join(f"{_cut(cell, each - 2):>{each}s}" for cell in cells))
    lines += [f"{one.label}: {one.problem}" for one in columns if one.problem]
    return lines


def compare_json(base: Plan, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The same, one object a column: `what_if`, `binds`, `limits`, `numbers`, `times` (of the first)."""
    rows: list[dict[str, Any]] = []
    for one in [Column(label="", plan=base), *columns]:
        if one.plan is None:
            rows.append({"what_if": one.label, "problem": one.problem})
            continue
        numbers: Mapping[str, Any] = {
            name: one.plan.numbers[name] for name in _ROWS if name in one.plan.numbers
        }
        rows.append(
            {
                "what_if": one.label,
                "binds": binds(one.plan),
                "limits": dict(one.plan.limits),
                "where": _where(one.plan),
                "numbers": {
                    name: {"value": number.value, "low": number.low, "high": number.high}
                    for name, number in numbers.items()
                },
                "times": {
                    name: number.value / base.numbers[name].value
                    for name, number in numbers.items()
                    if name in base.numbers and base.numbers[name].value
                },
            }
        )
    return rows


def _heads(labels: Sequence[str], each: int) -> list[str]:
    wrapped = [
        textwrap.wrap(" ".join(_split(word, each - 2) for word in label.split()), each - 2)
        for label in labels
    ]
    deep = max(len(words) for words in wrapped)
    return [
        " " * _LABEL + "".join(f"{words[at] if at < len(words) else '':>{each}s}" for words in wrapped)
        for at in range(deep)
    ]


def _split(word: str, width: int) -> str:
    """A long KEY=VALUE may be broken behind its sign."""
    return word if len(word) <= width else word.replace("=", "= ", 1)


def _cell(name: str, base: Plan, one: Column) -> str:
    if one.plan is None or name not in one.plan.numbers:
        return "-"
    number, before = one.plan.numbers[name], base.numbers[name]
    text = shown(name, number.value)
    if one.plan is base or not before.value:
        return text
    if name == "loss":
        return f"{text} ({number.value - before.value:+.3f})"
    return f"{text} (x{number.value / before.value:.3g})"


def _where(plan: Plan) -> str:
    layout = plan.layout
    degrees = layout.degrees
    words = [f"{layout.processes} {layout.device}", layout.precision]
    words += [layout.shard] if layout.shard != "none" else []
    for name, degree in (("tp", degrees.tensor), ("pp", degrees.pipeline), ("cp", degrees.context)):
        words += [f"{name}{degree}"] if degree > 1 else []
    return " ".join(words)


def _risk(plan: Plan) -> str:
    risk = plan.limits.get("any", max(plan.limits.values(), default=0.0))
    return f"{risk:.0%}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
