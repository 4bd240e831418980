"""A CSV of training configurations in; step seconds and memory of each, with 90 % intervals, out.

Measured rows of the same columns calibrate: a row for the same model and accelerator moves the forecast by
the ratio that was found there and narrows its interval.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import PlanError
from stepladder.plan.rowmemory import measured_factor, row_memory
from stepladder.plan.steptime import LEFT_OUT_LOG90, RATES, Config, step_terms
from stepladder.store import write_text

_REQUIRED = ("id", "hw", "gpus", "layers", "hidden", "heads", "seq", "gbs")
# Half-width of log intervals that held nine in ten in published tables: steps after one measured row of the
# same model and accelerator (median error 16 %).
_CALIBRATED_LOG90 = 0.48
# Odds of not fitting from which on a configuration is said not to fit: between .53 and .58 the answer to all
# labelled rows is the same (bench/plan/memory.py).
DOUBT = 0.55
_RECOMPUTE = {"full": 1.0, "selective": 0.1, "selective_layer": 0.5}


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
    known = _rows(measured) if measured else []
    return [_predict(row, known) for row in _rows(path)]


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
        writer.writerow([row.id, *cells, fits, "refused" if row.reason else "ok"])
    write_text(path, text.getvalue())


def _ends(value: float, log90: float) -> tuple[float, float, float]:
    return value, value * math.exp(-log90), value * math.exp(log90)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise PlanError(
                    f"{path} lacks columns", got="no " + ", ".join(missing), allowed=", ".join(_REQUIRED)
                )
            return [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path} cannot be read as CSV", got=str(error)) from error


def _predict(row: Mapping[str, str], known: Sequence[Mapping[str, str]]) -> ConfigForecast:
    reason = _refusal(row)
    if reason:
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
    config = _config(row)
    step, log90 = sum(step_terms(config).values()), LEFT_OUT_LOG90
    near = [one for one in known if _kin(one, row) and not _refusal(one)]
    ratios = [_number(one, "step_s", 0) / sum(step_terms(_config(one)).values()) for one in near]
    if ratios := [ratio for ratio in ratios if ratio > 0]:
        step, log90 = step * statistics.median(ratios), _CALIBRATED_LOG90
    memory, (factor, weight) = row_memory(row), measured_factor(row, near)
    return ConfigForecast(
        id=row["id"],
        step=step,
        step_log90=log90,
        memory=memory.gib * factor,
        memory_log90=memory.half_width(weight),
        probability_too_much=memory.probability_too_much(factor, weight),
        reason="",
    )


def _kin(one: Mapping[str, str], row: Mapping[str, str]) -> bool:
    names = ("hw", "hidden", "layers", "seq", "dtype", "framework")
    return all(one.get(name) == row.get(name) for name in names)


def _refusal(row: Mapping[str, str]) -> str:
    if row["hw"] not in RATES:
        return f'accelerator "{row["hw"]}" is not among {", ".join(RATES)}'
    if _number(row, "experts", 0) > 0:
        return "mixtures of experts are outside what the constants were fitted to"
    numbers = [_number(row, name, math.nan) for name in _REQUIRED[2:]]
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        return "one of " + ", ".join(_REQUIRED[2:]) + " is missing or not a positive number"
    return ""


def _config(row: Mapping[str, str]) -> Config:
    hidden, heads = _number(row, "hidden", 1), _number(row, "heads", 1)
    feed_forward = _number(row, "ffn", 4 * hidden) * (3 if _number(row, "glu", 0) else 2)
    keys = _number(row, "kv_heads", heads)
    count = _number(row, "gpus", 1)
    tensor, pipeline = _number(row, "tp", 1), _number(row, "pp", 1)
    return Config(
        shape=(
            _number(row, "layers", 1),
            hidden,
            2 * hidden**2 * (1 + keys / heads) + hidden * feed_forward,
            _number(row, "vocab", 50_257),
            heads,
        ),
        sequence=_number(row, "seq", 1),
        batch=_number(row, "gbs", 1),
        micro_batch=_number(row, "mbs", 1),
        accumulation=_number(row, "ga", 1),
        degrees=(_number(row, "dp", count / tensor / pipeline), tensor, pipeline, _number(row, "vpp", 1)),
        devices=(count, _number(row, "gpn", 8)),
        accelerator=row["hw"],
        fp8=row.get("dtype") == "fp8",
        flash=_number(row, "flash", 0) > 0,
        zero=int(_number(row, "zero", 0)),
        recompute=_RECOMPUTE.get(row.get("recompute", ""), 0.0),
    )


def _number(row: Mapping[str, str], name: str, otherwise: float) -> float:
    try:
        value = float(row.get(name, "") or "nan")
    except ValueError:
        value = math.nan
    return value if math.isfinite(value) and value > 0 else otherwise
