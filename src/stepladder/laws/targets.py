"""A CSV of runs that were not made yet in; targets out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepladder.errors import LawError
from stepladder.laws.rows import bad_values, number, open_csv, require
from stepladder.laws.table import TEXT_COLUMNS


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A run that a law is asked about. `unique_tokens` is None when all tokens are; `extra` is what the law
    reads beside (experts or corpus)."""

    run: str
    params: float
    tokens: float
    unique_tokens: float | None = None
    extra: Mapping[str, Sequence[float | str]] = field(default_factory=dict)


def read_targets(path: Path, size_column: str = "params", needs: str = "") -> list[Target]:
    """Rows of `run,params,tokens[,unique_tokens]` and the column that the law `needs`, if any.

    Raises:
        LawError: the file or a value cannot be used.
    """
    header, rows = open_csv(path)
    wanted = (size_column, "tokens", *([needs] if needs else []))
    require(header, wanted, path, ", ".join(wanted))
    targets: list[Target] = []
    for line, row in rows:
        cells = dict(zip(header, row, strict=True))
        size, tokens = (_positive(cells[name].strip(), name, line, path) for name in (size_column, "tokens"))
        unique = cells.get("unique_tokens", "").strip()
        targets.append(
            Target(
                run=cells.get("run", "").strip() or f"target{len(targets) + 1}",
                params=size,
                tokens=tokens,
                unique_tokens=_positive(unique, "unique_tokens", line, path) if unique else None,
                extra=_extra(cells[needs].strip(), needs, line, path) if needs else {},
            )
        )
    if not targets:
        raise LawError(f"{path.name} has a header and no rows", allowed="one row a target")
    return targets


def _extra(text: str, needs: str, line: int, path: Path) -> dict[str, list[float | str]]:
    return {needs: [text if needs in TEXT_COLUMNS else _positive(text, needs, line, path)]}


def _positive(text: str, name: str, line: int, path: Path) -> float:
    value = number(text, name, line, path) if text else math.nan
    if not (math.isfinite(value) and value > 0):
        raise bad_values(path, name, [(line, text)])
    return value
