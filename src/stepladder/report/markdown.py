"""Names and values in; Markdown of the cards out, with NOT STATED where only a person can say it."""

import math
from collections.abc import Mapping, Sequence

from stepladder.report.parts import Parts
from stepladder.report.words import number_of

NOT_STATED = "NOT STATED"


def section(title: str, body: str) -> str:
    """A heading and its text; nothing where there is no text."""
    return f"## {title}\n\n{body}" if body else ""


def bullets(pairs: Mapping[str, str]) -> str:
    """One item a pair."""
    return "\n".join(f"- **{name}**: {one_line(value)}" for name, value in pairs.items())


def one_line(text: str) -> str:
    """Text without line ends, which would break a list or a table."""
    return " ".join(str(text).split())


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return one_line(text).replace("|", "\\|")


def stated(parts: Parts, name: str) -> str:
    """What the brief's `[card]` says under this name."""
    return (getattr(parts.brief.card, name) if parts.brief else "") or NOT_STATED


def names_of(value: object) -> Sequence[str]:
    """Keys of a JSON object, those with the largest counts first."""
    if not isinstance(value, Mapping):
        return ()

    def count(key: str) -> float:
        item = value[key]
        amount = number_of(item.get("documents")) if isinstance(item, Mapping) else number_of(item)
        return -amount if math.isfinite(amount) else 0.0

    return sorted(map(str, value), key=count)
