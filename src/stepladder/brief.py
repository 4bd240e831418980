"""A path to stepladder.toml in, a Brief out; or one BriefError that lists every problem of the file.

The rules below are all that a brief may say: a key that is not here is an error with the nearest known
name, so that a misspelt limit can never be ignored.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stepladder.errors import BriefError, did_you_mean
from stepladder.records import Brief, BudgetBrief, CardBrief, DataBrief, GoalBrief, HardwareBrief

# A brief has at most 25 fields; a file of more than this is something else under the same name.
_MAX_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")

Kind = Literal["text", "texts", "number", "integer", "choice", "flag", "share or path"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What one key may hold; ends of the range belong to it, except a `low` of an `above` rule."""

    kind: Kind
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: tuple[str, ...] = ()
    multiple: int = 1
    required: bool = False

    @property
    def allowed(self) -> str:
        """The rule in words, as error texts and `stepladder init` print it."""
        if self.kind == "choice":
            return " or ".join(f'"{choice}"' for choice in self.choices)
        words = {
            "text": "a string",
            "texts": 'a list of strings, as in ["a.txt", "docs/"]',
            "number": "a number",
            "integer": "a whole number",
            "flag": "true or false",
            "share or path": "a share of the files between 0 and 0.5, or a path",
        }[self.kind]
        if self.multiple > 1:
            words += f" and a multiple of {self.multiple}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            if self.above:
                return f"{words} above {self.low:,g} and at most {self.high:,.15g}"
            return f"{words} from {self.low:,g} to {self.high:,.15g}"
        if math.isfinite(self.low):
            return f"{words} {'above' if self.above else 'of at least'} {self.low:,g}"
        return words


def _count(low: float, high: float, multiple: int = 1) -> Rule:
    return Rule(kind="integer", low=low, high=high, multiple=multiple)


_LIMIT = Rule(kind="number", low=0, above=True)
_TOP = {
    "name": Rule(kind="text", required=True),
    "objective": Rule(kind="choice", choices=("causal", "masked")),
}
# The tables of a brief and their keys.
TABLES: Mapping[str, Mapping[str, Rule]] = {
    "data": {
        "sources": Rule(kind="texts", required=True),
        "held_out": Rule(kind="share or path"),
        "tasks": Rule(kind="texts"),
    },
    "hardware": {
        "device": Rule(kind="text"),
        "count": _count(1, 1_000_000),
        "nodes": _count(1, 100_000),
        "region": Rule(kind="text"),
    },
    "budget": {
        "hours": _LIMIT,
        "usd": _LIMIT,
        "kwh": _LIMIT,
        "kg_co2e": _LIMIT,
        "ladder_share": Rule(kind="number", low=0.01, high=0.9),
    },
    "goal": {
        "minimise": Rule(kind="choice", choices=("loss", "usd", "kwh", "kg_co2e", "seconds")),
        "target_loss": _LIMIT,
        "max_params": _count(1_000, 10**13),
        "inference_tokens": Rule(kind="number", low=0),
    },
    # Printed on the cards, and no part of what a climb's folder depends on: it may be filled in at any time.
    "card": {key: Rule(kind="text") for key in CardBrief.__dataclass_fields__},
}
# Each of these replaces a value that the plan would choose or look up; it appears there with source "user".
OVERRIDES: Mapping[str, Rule] = {
    "vocab_size": _count(300, 1_000_000),
    "context_tokens": _count(16, 1_048_576, 8),
    "num_layers": _count(1, 1_000),
    "num_heads": _count(1, 1_024),
    "num_experts": _count(2, 4_096),
    "experts_active": _count(1, 256),
    "expert_ffn_width": _count(16, 131_072, 16),
    "width": _count(16, 131_072, 8),
    "params": _count(1_000, 10**13),
    "tokens": _count(1_024, 10**16),
    "batch_tokens": _count(16, 10**9),
    "learning_rate": Rule(kind="number", low=0, high=1, above=True),
    "optimiser": Rule(kind="choice", choices=("adamw", "muon")),
    "precision": Rule(kind="choice", choices=("bf16", "fp32")),
    "float8": Rule(kind="flag"),
    "cuda_graphs": Rule(kind="flag"),
    "tied_head": Rule(kind="flag"),
    "seed": _count(0, 2**31 - 1),
    "horizon": Rule(kind="number", low=1, high=100_000),
    "rungs": _count(3, 64),
    "rung_tokens": _count(1_024, 10**16),
    "branch_span": Rule(kind="number", low=1, high=16),
    "workers": _count(1, 1_024),
    "processes": _count(1, 1_024),
    "threads": _count(1, 1_024),
    "max_input_bytes": _count(100_000, 10**16),
    "canaries": _count(1, 10_000),
    "max_epochs": Rule(kind="number", low=1, high=100),
    "unique_tokens": _count(1_024, 10**16),
    "usd_per_million_tokens": Rule(kind="number", low=0),
    "memory_gib": _LIMIT,
    "regions": Rule(kind="text"),
    "spot": Rule(kind="flag"),
    "spot_hours": _LIMIT,
    "dedup_jaccard": Rule(kind="number", low=0.5, high=1),
    "usd_per_device_hour": Rule(kind="number", low=0),
    "usd_per_kwh": Rule(kind="number", low=0),
    "watts_per_device": _LIMIT,
    "kg_co2e_per_kwh": Rule(kind="number", low=0),
    "pue": Rule(kind="number", low=1, high=5),
    "mfu": Rule(kind="number", low=0, high=1, above=True),
    "usd_to_buy": _LIMIT,
    "storage_months": Rule(kind="number", low=0),
    "market_kg_co2e_per_kwh": Rule(kind="number", low=0),
    "contract": Rule(kind="text"),
    "litres_per_kwh": Rule(kind="number", low=0),
}


def load_brief(path: Path) -> Brief:
    """Read and check the file.

    Relative sources, held-out path and tasks are taken as relative to the brief's own folder.

    Raises:
        BriefError: the file is missing, is not TOML, or says something that no brief may say.
    """
    text = _read(path)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BriefError(
            f"{path} is not valid TOML", got=str(error), next_command=f"mend that line of {path}"
        ) from error
    return check_brief(value, path, text)


def check_brief(value: Mapping[str, Any], path: Path, text: str = "") -> Brief:
    """The Brief that parsed TOML says; `path` and `text` only serve error texts and relative paths."""
    problems = _problems(value, text)
    if problems:
        plural = "s" if len(problems) > 1 else ""
        raise BriefError(
            "\n".join([f"{path} has {len(problems)} problem{plural}", *(f"  - {p}" for p in problems)]),
            next_command="stepladder init --show   (prints a brief that has every key)",
        )
    data = dict(value["data"])
    data["sources"] = tuple(_beside(path, source) for source in data["sources"])
    data["tasks"] = tuple(_beside(path, task) for task in data.get("tasks", ()))
    if isinstance(data.get("held_out"), str):
        data["held_out"] = _beside(path, data["held_out"])
    return Brief(
        name=value["name"],
        objective=value.get("objective", "causal"),
        data=DataBrief(**data),
        hardware=HardwareBrief(**_whole(value.get("hardware", {}), TABLES["hardware"])),
        budget=BudgetBrief(**value.get("budget", {})),
        goal=GoalBrief(**_whole(value.get("goal", {}), TABLES["goal"])),
        card=CardBrief(**value.get("card", {})),
        override=_whole(value.get("override", {}), OVERRIDES),
    )


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BriefError(
                f"{path} is too large to be a brief",
                got=f"{path.stat().st_size:,} bytes",
                allowed=f"at most {_MAX_BYTES:,}",
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BriefError(f"{path} does not exist", next_command="stepladder init") from error
    except UnicodeDecodeError as error:
        raise BriefError(
            f"{path} is not UTF-8 text",
            got=f"byte 0x{error.object[error.start]:02x} at position {error.start}",
            next_command=f"iconv -t utf-8 {path}",
        ) from error
    except OSError as error:
        raise BriefError(f"{path} cannot be read", got=error.strerror or str(error)) from error


def _problems(value: Mapping[str, Any], text: str) -> list[str]:
    tables = {**TABLES, "override": OVERRIDES}
    problems = []
    for key, item in value.items():
        if key in tables:
            if not isinstance(item, dict):
                problems.append(_say(text, "", key, f"got {_show(item)}; allowed: a table, as in [{key}]"))
        elif key in _TOP:
            problems += _check(_TOP[key], item, text, "", key)
        else:
            problems.append(_unknown(text, "", key, [*_TOP, *tables], tables))
    problems += [
        f"{key} is missing; allowed: {_TOP[key].allowed}" for key in _TOP if _lacks(_TOP, value, key)
    ]
    for table, rules in tables.items():
        given = value.get(table, {})
        if not isinstance(given, dict):
            continue
        for key, item in given.items():
            if key in rules:
                problems += _check(rules[key], item, text, table, key)
            else:
                problems.append(_unknown(text, table, key, list(rules), tables))
        problems += [
            f"[{table}] {key} is missing; allowed: {rules[key].allowed}"
            for key in rules
            if _lacks(rules, given, key)
        ]
    return problems or _contradictions(value, text)


def _lacks(rules: Mapping[str, Rule], given: Mapping[str, Any], key: str) -> bool:
    return rules[key].required and key not in given


def _unknown(text: str, table: str, key: str, known: list[str], tables: Mapping[str, Any]) -> str:
    hint = did_you_mean(key, known)
    if not hint:
        homes = [name for name, rules in tables.items() if key in rules and name != table]
        hint = f" (it belongs in [{homes[0]}])" if homes else f"; known: {', '.join(known)}"
    return _say(text, table, key, f"unknown key{hint}")


def _check(rule: Rule, item: Any, text: str, table: str, key: str) -> list[str]:
    complaint = f"got {_show(item)}; allowed: {rule.allowed}"
    if key == "name" and isinstance(item, str) and not _NAME.fullmatch(item):
        complaint = f"got {_show(item)}; allowed: letters, digits, '.', '_' and '-', a letter or digit first"
        return [_say(text, table, key, complaint)]
    if rule.kind == "choice" and isinstance(item, str) and item not in rule.choices:
        return [_say(text, table, key, complaint + did_you_mean(item, rule.choices))]
    return [] if _fits(rule, item) else [_say(text, table, key, complaint)]


def _fits(rule: Rule, item: Any) -> bool:
    is_number = isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
    match rule.kind:
        case "text":
            return isinstance(item, str) and bool(item.strip())
        case "texts":
            whole = isinstance(item, list) and all(isinstance(part, str) and part.strip() for part in item)
            return whole and (bool(item) or not rule.required)
        case "choice":
            return item in rule.choices
        case "flag":
            return isinstance(item, bool)
        case "share or path":
            return (is_number and 0 < item < 0.5) or (isinstance(item, str) and bool(item.strip()))
    if not is_number or (rule.kind == "integer" and (item != int(item) or int(item) % rule.multiple)):
        return False
    return rule.low <= item <= rule.high and not (rule.above and item == rule.low)


def _contradictions(value: Mapping[str, Any], text: str) -> list[str]:
    """What is wrong between keys that are each right."""
    problems = []
    budget, goal, override = (value.get(name, {}) for name in ("budget", "goal", "override"))
    limits = ("hours", "usd", "kwh", "kg_co2e")
    if not any(key in budget for key in limits) and "target_loss" not in goal and "tokens" not in override:
        problems.append(
            f"nothing ends the run; allowed: at least one of {', '.join(limits)} in [budget], "
            "or target_loss in [goal], or tokens in [override]"
        )
    minimise = goal.get("minimise", "loss")
    if minimise != "loss" and "target_loss" not in goal:
        problems.append(
            _say(
                text, "goal", "minimise", f'got "{minimise}" without target_loss: the cheapest run is no run'
            )
        )
    batch, context = override.get("batch_tokens"), override.get("context_tokens")
    if batch and context and batch % context:
        complaint = f"got {batch:,}; allowed: a multiple of context_tokens ({context:,})"
        problems.append(_say(text, "override", "batch_tokens", complaint))
    problems += [
        _say(text, "override", key, f"{key} without num_experts: a dense network has no experts")
        for key in ("experts_active", "expert_ffn_width")
        if key in override and "num_experts" not in override
    ]
    if "params" in override and "width" in override:
        problems.append(_say(text, "override", "params", "params and width both set the size; allowed: one"))
    return problems


def _say(text: str, table: str, key: str, complaint: str) -> str:
    line = _line_of(text, table, key)
    where = f"line {line}: " if line else ""
    return f"{where}{f'[{table}] ' if table else ''}{key}: {complaint}"


def _line_of(text: str, table: str, key: str) -> int:
    """The line that sets `key` in `[table]`; 0 when it is written in some other way."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]\s]+)\s*\]", line):
            current = header.group(1)
            if not table and current == key:
                return number
        elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return 0


def _show(item: Any) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    text = f'"{item}"' if isinstance(item, str) else str(item)
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(given: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Whole numbers as int also where TOML wrote them as 1e9."""
    return {key: int(item) if rules[key].kind == "integer" else item for key, item in given.items()}


def _beside(path: Path, source: str) -> str:
    """A relative path as seen from where the brief lies; other kinds of source as they are."""
    if source.startswith(("/", "~")) or _SCHEME.match(source) or not path.parent.parts:
        return source
    return str(path.parent / source)
