"""A CSV of training runs in; device-hours, energy and carbon with 90 % intervals out.

Hours need only size, tokens and device. A row never uses its own hours, but those of smaller runs of its
family that the same file brings. Where a row brings its own hours, power, PUE or grid, energy and carbon are
made of those. A row that contradicts itself, or says too little, is refused with the reason.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import PlanError, did_you_mean
from stepladder.plan.derive import Z80, exact, log_sd, times, within
from stepladder.plan.hardware import Device, catalogue, known_device
from stepladder.plan.overlay import Overlay, overlay_in
from stepladder.plan.power import device_watts, system_watts
from stepladder.plan.utilisation import Z90, Workload, device_hours, peak16
from stepladder.records import Derived
from stepladder.store import write_text

_REQUIRED = ("id", "params_active", "tokens", "hw_id")
# Families differ from the forecast more than their members from each other: variances .078 and .017. So k
# members move the forecast of another by k / (k + ratio) of their own mean error; nine in ten forecasts that
# were made so lay within exp(.38) (`bench/plan/hours.py`).
_MEMBERS_OVER_FAMILIES, _SIBLING_LOG90 = 0.22, 0.38
# What siblings share.
_KIN = ("family", "hw_id", "arch", "precision")
Past = tuple[Mapping[str, str], float, float]
# Without a size: that of a compute-optimal run (20 tokens a parameter) of these hours at this share of peak.
_USUAL_MFU = 0.3
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
    """One forecast for each row of the file; a hardware.toml beside it wins over the catalogue.

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
            rows = [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path} cannot be read as CSV", got=str(error)) from error
    overlay = overlay_in(path.parent)
    past = _past(rows, overlay)
    return [_predict(row, past.get(_kin(row), ()), overlay) for row in rows]


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
    factor = math.exp(Z90 * log_sd(number))
    return number.value, number.value / factor, number.value * factor


def _predict(row: Mapping[str, str], past: Sequence[Past], overlay: Overlay) -> Published:
    device = _device(row, overlay)
    work, known = workload_of(row), _number(row, "acc_hours")
    reasons = []
    if device is None:
        known_ids = did_you_mean(row["hw_id"], [*overlay.devices, *catalogue()])
        reasons.append(f'device "{row["hw_id"]}" is not in the catalogue{known_ids}')
    if work is None and not known > 0:
        reasons.append("parameters or tokens are missing: hours cannot be forecast")
    hours = _hours(row, device, work, past) if device and work else None
    spent = exact(known, "given") if known > 0 else hours
    energy = _energy(row, device, spent, overlay) if device and spent else None
    reasons += _contradictions(row, device, work)
    grid = _number(row, "grid_kg_per_kwh")
    factor = grid if grid > 0 else _GRID.value
    return Published(
        id=row["id"],
        hours=hours,
        energy_mwh=energy,
        tco2e=energy.value * factor if energy else math.nan,
        reason="; ".join(reasons),
    )


def workload_of(row: Mapping[str, str]) -> Workload | None:
    """The run that a row describes; None where parameters or tokens are missing."""
    active, tokens = _number(row, "params_active"), _number(row, "tokens")
    if not (active > 0 and tokens > 0):
        return None
    stated = {name: _number(row, name) for name in ("params_total", "layers", "hidden", "seq")}
    total, layers, width, context = (value if value > 0 else 0.0 for value in stated.values())
    return Workload(
        active=active,
        total=total or active,
        tokens=tokens,
        started=row.get("date", "") or "2025",
        precision=row.get("precision", "") or "bf16",
        layers=layers,
        width=width,
        context=context,
        recomputed={"full": 1.0}.get(row.get("recompute", ""), 0.0),
    )


def _kin(row: Mapping[str, str]) -> tuple[str, ...]:
    """What siblings share; empty where a row names no family."""
    return tuple(row.get(name, "") for name in _KIN) if row.get("family") else ()


def _device(row: Mapping[str, str], overlay: Overlay) -> Device | None:
    return known_device(row["hw_id"], overlay.devices)


def _past(rows: Sequence[Mapping[str, str]], overlay: Overlay) -> dict[tuple[str, ...], list[Past]]:
    """Runs with their own hours, by what siblings share: the row, its size, log(hours / forecast)."""
    found: dict[tuple[str, ...], list[Past]] = {}
    for row in rows:
        device, work, hours = _device(row, overlay), workload_of(row), _number(row, "acc_hours")
        if device and work and hours > 0 and _kin(row) and not _contradictions(row, device, work):
            error = math.log(hours / device_hours(device, work).value)
            found.setdefault(_kin(row), []).append((row, work.active, error))
    return found


def _hours(row: Mapping[str, str], device: Device, work: Workload, past: Sequence[Past]) -> Derived:
    alone = device_hours(device, work)
    errors = [error for other, active, error in past if other is not row and active <= work.active]
    if not errors:
        return alone
    mean, share = sum(errors) / len(errors), len(errors) / (len(errors) + _MEMBERS_OVER_FAMILIES)
    how = f"{alone.how}; x {math.exp(share * mean):.2f}: {len(errors)} runs of the same family took "
    how += f"{math.exp(mean):.2f} x what was forecast"
    return within(alone.value * math.exp(share * mean), math.exp(Z80 / Z90 * _SIBLING_LOG90), how, "measured")


def _energy(row: Mapping[str, str], device: Device, hours: Derived, overlay: Overlay) -> Derived:
    """MWh. The scope says what was metered: the accelerator alone or its share of the node, PUE or not."""
    scope, power, params = row.get("energy_scope", ""), _number(row, "power_w_per_acc"), size_of(row, device)
    if power > 0 and row.get("power_kind", "").startswith("measured"):
        watts = within(power, 1.1, "measured", "user")
    elif device.id in overlay.watts and not scope.startswith("gpu"):
        watts = overlay.watts[device.id]
    else:
        alone = device_watts(device, params) if scope.startswith("gpu") else None
        watts = alone or system_watts(device, params)
    pue = _number(row, "pue")
    if scope == "gpu":
        overhead = exact(1.0, "the accelerator alone")
    else:
        overhead = exact(pue, "given") if pue >= 1 else overlay.site.get("pue", _PUE)
    return times("watts x hours x PUE", watts, hours, overhead, scale=1e-6)


def size_of(row: Mapping[str, str], device: Device) -> float:
    """Parameters at work; where not stated, those of a compute-optimal run of the given hours."""
    params, hours = _number(row, "params_active"), _number(row, "acc_hours")
    if params > 0:
        return params
    flops = hours * 3600 * _USUAL_MFU * peak16(device)
    return math.sqrt(flops / 120) if flops > 0 else math.inf


def _contradictions(row: Mapping[str, str], device: Device | None, work: Workload | None) -> list[str]:
    hours, found = _number(row, "acc_hours"), []
    if device and work and hours > 0:
        mfu = 6 * work.active * work.tokens / (hours * 3600 * peak16(device))
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


def _number(row: Mapping[str, str], name: str) -> float:
    """NaN for empty, unreadable and infinite cells."""
    try:
        value = float(row.get(name, "") or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
