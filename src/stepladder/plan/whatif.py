"""Words such as "nodes=4 region=SE hours=none" in; a brief with these keys changed out.

A change is made on the brief as TOML has it, so that the same rules check what a file says and what a change
says.
"""

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.brief import OVERRIDES, TABLES
from stepladder.errors import PlanError, did_you_mean
from stepladder.plan.conflicts import listed

_SCALES = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_SCALED = re.compile(r"([0-9]*\.?[0-9]+)([kMBT])")
# Keys that say what is trained on or told of the model, not how much of what is spent.
_FIXED = ("sources", "held_out", "tasks", *TABLES["card"])
_TABLE_OF: Mapping[str, str] = {
    "objective": "",
    **{key: table for table, rules in TABLES.items() for key in rules if key not in _FIXED},
    **dict.fromkeys(OVERRIDES, "override"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One set of keys with their new values; None takes a key out. `label` is what the user wrote."""

    label: str
    values: Mapping[str, Any]


def changes_from(texts: Sequence[str], flag: str = "--what-if") -> list[Change]:
    """One Change a text.

    Raises:
        PlanError: words that are not KEY=VALUE, or keys that no brief has; all of them are listed.
    """
    problems: list[str] = []
    changes = []
    for text in texts:
        values: dict[str, Any] = {}
        words = re.split(r"[\s;]+", text.strip())
        for word in filter(None, words):
            key, equals, value = word.partition("=")
            if not equals or not key or not value:
                problems.append(f'"{word}" is not KEY=VALUE')
            elif key not in _TABLE_OF:
                problems.append(f'"{key}" is not a key{did_you_mean(key, _TABLE_OF)}')
            elif key in values:
                problems.append(f'"{key}" is given twice')
            else:
                values[key] = _value(key, value)
        if not any(words):
            problems.append("nothing is changed")
        changes.append(Change(label=" ".join(words), values=values))
    if problems:
        raise PlanError(
            listed(f"{flag} has {len(problems)} problem{'s' if len(problems) > 1 else ''}", problems),
            allowed=", ".join(sorted(_TABLE_OF)),
            next_command='stepladder plan --what-if "nodes=4 region=SE hours=8"   (KEY=none takes one out)',
        )
    return changes


def changed(value: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The brief, as TOML has it, with the change made."""
    new = copy.deepcopy(dict(value))
    for key, item in change.values.items():
        table = new.setdefault(_TABLE_OF[key], {}) if _TABLE_OF[key] else new
        if item is None:
            table.pop(key, None)
        else:
            table[key] = item
    return new


def _value(key: str, text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    if scaled := _SCALED.fullmatch(text):
        return float(scaled[1]) * _SCALES[scaled[2]]
    try:
        item = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return item if isinstance(item, (int, float, bool, str)) else text
