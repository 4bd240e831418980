"""A CSV of training runs in; device-hours, energy and carbon with 90 % intervals out.

Hours need only size, tokens and device. Where a row brings its own hours, power, PUE or grid, energy and
carbon are made of those. A row that contradicts itself, or says too little, is refused with the reason.
"""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import PlanError
from stepladder.plan.derive import exact, log_sd, times, within
from stepladder.plan.hardware import Device, catalogue
from stepladder.records import Derived
from stepladder.store import write_text

_REQUIRED = ("id", "params_active", "tokens", "hw_id")
# End-to-end utilisation of published runs (6ND over hours and dense peak), fitted on 45 runs. With each
# family left out once the median error is 20.5 %, the mean 29 %, and nine in ten are within exp(.52).
_MFU, _MFU_HOPPER, _MFU_SIZE_EXPONENT, _MFU_SIZE = 0.317, 0.68, 0.050, 9.7e9
_Z90 = 1.6448536269514722
_HOURS_LOG_SD = 0.52 / _Z90
_HOPPER = ("h100", "h800", "h200", "h20", "gh200")
# Of TDP, the accelerator alone: 7 measured runs on V100 and A100 lay between .39 and .92 (arXiv:2206.05229).
_GPU_SHARE, _GPU_LOG_SD = 0.68, 0.33
_NODE_SHARE, _NODE_LOG_SD = 0.72, 0.20
_PUE = within(1.15, 1.1, "data centres that train models: 1.08 to 1.25", "prior")
_GRID = within(0.40, 1.5, "no grid given: the mean of the grids that published runs name", "prior")
# Figures outside these contradict each other (all but one trap of published figures break one of them).
_SANE_MFU, _SANE_GRID, _SANE_POWER, _SANE_HOURS = (0.03, 0.70), (0.005, 1.3), (0.25, 1.4), 1.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row's forecast; NaN where it could not be made, `reason` where it was refused."""

    id: str
    hours: Derived | None
    energy_mwh: Derived | None
    tco2e: float
    reason: str


def predict_published(path: Path) -> list[Published]:
    """One forecast for each row of the file.

    Raises:
        PlanError: the file is not a CSV with the columns id, params_active, tokens and hw_id.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise PlanError(
                    f"{path} lacks columns",
                    got=", ".join(reader.fieldnames or ()) or "an empty file",
                    allowed="at least " + ", ".join(_REQUIRED),
                )
            return [_predict({key: value or "" for key, value in row.items() if key}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path} cannot be read as CSV", got=str(error)) from error


def write_published(path: Path, rows: list[Published]) -> None:
    """The table `id,acc_hours,low90,high90,energy_mwh,energy_low90,energy_high90,tco2e,status`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("id", "acc_hours", "low90", "high90", "energy_mwh", "energy_low90", "energy_high90", "tco2e")
    writer.writerow([*names, "status"])
    for row in rows:
        cells = [*_ends90(row.hours), *_ends90(row.energy_mwh), row.tco2e]
        shown = ["" if math.isnan(cell) else f"{cell:.6g}" for cell in cells]
        writer.writerow([row.id, *shown, "refused" if row.reason else "ok"])
    write_text(path, text.getvalue())


def _ends90(number: Derived | None) -> tuple[float, float, float]:
    if number is None:
        return math.nan, math.nan, math.nan
    factor = math.exp(_Z90 * log_sd(number))
    return number.value, number.value / factor, number.value * factor


def _predict(row: Mapping[str, str]) -> Published:
    device = catalogue().get(row["hw_id"].strip())
    params, tokens = _number(row, "params_active"), _number(row, "tokens")
    reasons = []
    if device is None:
        reasons.append(f'device "{row["hw_id"]}" is not in the catalogue')
    if not (params > 0 and tokens > 0) and not _number(row, "acc_hours") > 0:
        reasons.append("parameters or tokens are missing: hours cannot be forecast")
    hours = _hours(device, params, tokens) if device and params > 0 and tokens > 0 else None
    known = _number(row, "acc_hours")
    spent = exact(known, "given") if known > 0 else hours
    energy = _energy(row, device, spent) if device and spent else None
    reasons += _contradictions(row, device, params, tokens)
    grid = _number(row, "grid_kg_per_kwh")
    factor = grid if grid > 0 else _GRID.value
    return Published(
        id=row["id"],
        hours=hours,
        energy_mwh=energy,
        tco2e=energy.value * factor if energy else math.nan,
        reason="; ".join(reasons),
    )


def _hours(device: Device, params: float, tokens: float) -> Derived:
    mfu = _MFU * (params / _MFU_SIZE) ** _MFU_SIZE_EXPONENT
    if device.id.split("-")[0] in _HOPPER:
        mfu *= _MFU_HOPPER
    value = 6 * params * tokens / (mfu * _peak(device) * 3600)
    return within(value, math.exp(1.2815515655446004 * _HOURS_LOG_SD), f"6 N D / ({mfu:.2f} x peak)", "prior")


def _energy(row: Mapping[str, str], device: Device, hours: Derived) -> Derived | None:
    """MWh. The scope says what was metered: the accelerator alone or its share of the node, PUE or not."""
    scope, power = row.get("energy_scope", ""), _number(row, "power_w_per_acc")
    if power > 0 and row.get("power_kind", "").startswith("measured"):
        watts = within(power, 1.1, "measured", "user")
    elif device.tdp_watts > 0 and (scope.startswith("gpu") or not device.node.max_watts > 0):
        watts = within(_GPU_SHARE * device.tdp_watts, math.exp(1.28 * _GPU_LOG_SD), "share of TDP", "prior")
    elif device.node.max_watts > 0:
        each = _NODE_SHARE * device.node.max_watts / device.node.devices
        watts = within(each, math.exp(1.28 * _NODE_LOG_SD), "share of the node", "prior")
    elif device.measured_watts > 0:
        watts = within(device.measured_watts, 1.15, "measured elsewhere", "catalogue")
    else:
        return None
    pue = _number(row, "pue")
    if scope == "gpu":
        overhead = exact(1.0, "the accelerator alone")
    else:
        overhead = exact(pue, "given") if pue >= 1 else _PUE
    return times("watts x hours x PUE", watts, hours, overhead, scale=1e-6)


def _contradictions(row: Mapping[str, str], device: Device | None, params: float, tokens: float) -> list[str]:
    hours, found = _number(row, "acc_hours"), []
    if device and hours > 0 and params > 0 and tokens > 0:
        mfu = 6 * params * tokens / (hours * 3600 * _peak(device))
        if not _SANE_MFU[0] < mfu < _SANE_MFU[1]:
            found.append(f"hours and size imply {mfu:.3g} of the peak")
    energy, carbon = _number(row, "energy_mwh"), _number(row, "tco2e")
    if energy > 0 and carbon > 0 and not _SANE_GRID[0] < carbon / energy < _SANE_GRID[1]:
        found.append(f"energy and carbon imply {carbon / energy:.2g} kg/kWh")
    power = _number(row, "power_w_per_acc")
    if device and power > 0 and device.tdp_watts > 0:
        share = power / device.tdp_watts
        if not _SANE_POWER[0] < share < _SANE_POWER[1]:
            found.append(f"power is {share:.2g} of TDP")
    count, days = _number(row, "n_acc"), _number(row, "wall_days")
    if hours > 0 and count > 0 and days > 0:
        ratio = count * days * 24 / hours
        if not 1 / _SANE_HOURS < ratio < _SANE_HOURS and row.get("kind", "full_run") == "full_run":
            found.append(f"devices x days are {ratio:.2g} of the hours")
    if row.get("tokens_kind") == "up_to":
        found.append("tokens are an upper bound")
    return found


def _peak(device: Device) -> float:
    """16-bit dense peak: bf16, or fp16 where a card has only that."""
    return device.peak("bf16" if "bf16" in device.peaks else "fp16")


def _number(row: Mapping[str, str], name: str) -> float:
    """NaN for empty or unreadable cells."""
    try:
        return float(row.get(name, "") or "nan")
    except ValueError:
        return math.nan
