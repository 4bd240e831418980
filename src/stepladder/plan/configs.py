"""A CSV of training configurations in; step seconds and memory of each, with 90 % intervals, out.

Measured rows of the same columns calibrate: steps of one source move its term constants, more so for near
layouts of one model; peaks move the memory of their own model.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.errors import PlanError
from stepladder.plan.rowmemory import measured_factor, number, row_memory
from stepladder.plan.stepcalibrate import Z90, forecast
from stepladder.plan.steprows import is_mixture, refusal
from stepladder.store import write_text

_REQUIRED = ("id", "hw", "gpus", "layers", "hidden", "heads", "seq", "gbs")
# Engines allow a ragged last micro-batch, so that `ga` and `gbs` may be fractions; these may not.
_WHOLE = ("gpus", "gpn", "layers", "hidden", "heads", "kv_heads", "dp", "tp", "pp", "vpp", "cp", "ep", "mbs")
_MOST_SAID = 8
# Odds of not fitting from which on a configuration is said not to fit: between .53 and .58 the answer to all
# labelled rows is the same (bench/plan/memory.py).
DOUBT = 0.55


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigForecast:
    """One row's forecast: seconds of a step and GiB of a device with half-widths of their log intervals."""

    id: str
    step: float
    step_log90: float
    memory: float
    memory_log90: float
    probability_too_much: float
    reason: str


def predict_configs(path: Path, measured: Path | None = None) -> list[ConfigForecast]:
    """One forecast for each row.

    Raises:
        PlanError: a file is not a CSV with the columns that are needed.
    """
    rows = _rows(path)
    known = [one for one in (_rows(measured) if measured else []) if not refusal(one)]
    reasons = [refusal(row) for row in rows]
    scored = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    timed = [one for one in known if number(one, "step_s", 0) > 0]
    steps = iter(zip(*forecast(scored, timed), strict=True)) if scored else iter(())
    return [
        _refused(row, reason) if reason else _predict(row, next(steps), known)
        for row, reason in zip(rows, reasons, strict=True)
    ]


def write_configs(path: Path, rows: Sequence[ConfigForecast]) -> None:
    """The table id, step_s, step_low90, step_high90, mem_gib, mem_low90, mem_high90, fits, status."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    step = ("step_s", "step_low90", "step_high90")
    writer.writerow(["id", *step, "mem_gib", "mem_low90", "mem_high90", "fits", "status"])
    for row in rows:
        ends = [*_ends(row.step, row.step_log90), *_ends(row.memory, row.memory_log90)]
        cells = ["" if math.isnan(end) else f"{end:.6g}" for end in ends]
        fits = "" if math.isnan(row.memory) else str(int(row.probability_too_much < DOUBT))
        writer.writerow([row.id, *cells, fits, _status(row)])
    write_text(path, text.getvalue())


def _status(row: ConfigForecast) -> str:
    if not row.reason:
        return "ok"
    return "refused" if math.isnan(row.step) else "no memory"


def _ends(value: float, log90: float) -> tuple[float, float, float]:
    return value, value * math.exp(-log90), value * math.exp(log90)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise PlanError(
                    f"{path} lacks columns", got="no " + ", ".join(missing), allowed=", ".join(_REQUIRED)
                )
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path} cannot be read as CSV", got=str(error)) from error
    if problems := [text for line, row in rows for text in _wrong_cells(line, row)]:
        more = f"; and {len(problems) - _MOST_SAID} more" if len(problems) > _MOST_SAID else ""
        raise PlanError(
            f"{path} has rows that cannot be meant",
            got="; ".join(problems[:_MOST_SAID]) + more,
            allowed=f"a cell for each column at most, and whole numbers in {', '.join(_WHOLE)}",
        )
    return [{key: value or "" for key, value in row.items() if key} for _, row in rows]


def _wrong_cells(line: int, row: Mapping[str | None, Any]) -> Iterator[str]:
    if None in row:
        yield f"line {line}: {len(row[None])} cells more than columns"
    for name in _WHOLE:
        try:
            value = float(row.get(name) or 0)
        except ValueError:
            continue  # `refusal` says what is no number, row by row
        if math.isfinite(value) and value != round(value):
            yield f"line {line}: {name} = {value:g}"


def _predict(
    row: Mapping[str, str], steps: tuple[float, float], known: Sequence[Mapping[str, str]]
) -> ConfigForecast:
    if is_mixture(row):
        # No published row of a mixture says what it needs: no constants for their buffers.
        refused = _refused(row, "no memory: that of mixtures of experts was measured nowhere")
        return replace(refused, step=math.exp(steps[0]), step_log90=Z90 * steps[1])
    memory = row_memory(row)
    factor, weight = measured_factor(row, [one for one in known if _kin(one, row)])
    return ConfigForecast(
        id=row["id"],
        step=math.exp(steps[0]),
        step_log90=Z90 * steps[1],
        memory=memory.gib * factor,
        memory_log90=memory.half_width(weight),
        probability_too_much=memory.probability_too_much(factor, weight),
        reason="",
    )


def _refused(row: Mapping[str, str], reason: str) -> ConfigForecast:
    nan = math.nan
    return ConfigForecast(
        id=row["id"],
        step=nan,
        step_log90=nan,
        memory=nan,
        memory_log90=nan,
        probability_too_much=nan,
        reason=reason,
    )


def _kin(one: Mapping[str, str], row: Mapping[str, str]) -> bool:
    names = ("hw", "hidden", "layers", "seq", "dtype", "framework")
    return is_mixture(one) == is_mixture(row) and all(one.get(name) == row.get(name) for name in names)
