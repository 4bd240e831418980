"""A folder in; what a user knows better than the catalogue out: hardware.toml, and steps in measured.csv.

pue = 1.12
usd_per_kwh = 0.11
[device.h100-sxm]          # an id of the catalogue: what is given here replaces what stands there
usd_per_hour = 2.10
mfu = 0.41                 # measured, end to end
[device.our-card]          # a device of one's own; `like` fills in what is not given
like = "a100-sxm-80"
bf16_tflops = 400
[grid.SE]
kg_co2e_per_kwh = 0.02
"""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from stepladder.errors import PlanError, did_you_mean
from stepladder.plan.derive import exact, within
from stepladder.plan.hardware import Device, Links, Node, aged_log_sd, catalogue, offered_bytes, years_since
from stepladder.plan.measured import MEASURED_FILE, MeasuredStep, read_measured
from stepladder.records import Derived

NAME = "hardware.toml"
_TEXTS = ("like", "name", "kind", "as_of", "source")
_PEAKS = ("fp32_tflops", "tf32_tflops", "fp16_tflops", "bf16_tflops", "fp8_tflops")
_NUMBERS = (
    *_PEAKS,
    *("mem_gb", "mem_bw_gbs", "tdp_w", "node_devices", "node_max_w", "domain_devices", "scale_up_gbs"),
    *("network_gbit", "usd_per_hour", "watts", "mfu"),
)
_KEYS = {
    "": ("pue", "usd_per_kwh", "device", "grid"),
    "device": (*_TEXTS, *_NUMBERS),
    "grid": ("kg_co2e_per_kwh", "as_of", "source"),
}
_MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
_KINDS = ("gpu", "tpu", "asic", "cpu")
# A measured figure of one's own varies between runs by about this much, a bill not at all.
_MEASURED_FACTOR80 = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlay:
    """What a user knows better, by device id ("this": this machine) or by region in capitals.

    `steps` are measured ones of our trainer, of any device.
    """

    devices: Mapping[str, Device] = field(default_factory=dict)
    usd_per_hour: Mapping[str, Derived] = field(default_factory=dict)
    watts: Mapping[str, Derived] = field(default_factory=dict)
    mfu: Mapping[str, Derived] = field(default_factory=dict)
    grids: Mapping[str, Derived] = field(default_factory=dict)
    site: Mapping[str, Derived] = field(default_factory=dict)
    steps: tuple[MeasuredStep, ...] = ()


NONE = Overlay()


def overlay_in(folder: Path, today: date | None = None) -> Overlay:
    """What hardware.toml and tables of measured steps in a folder say; empty where none is there."""
    path = folder / NAME
    found = load_overlay(path, today) if path.exists() else NONE
    steps = tuple(step for table in measured_in(folder) for step in read_measured(table))
    return replace(found, steps=steps) if steps else found


def measured_in(folder: Path) -> list[Path]:
    """Tables of measured steps beside a brief: what `calibrate` wrote, and what a ladder recorded."""
    tables = (folder / MEASURED_FILE, folder / "ladder" / MEASURED_FILE)
    return [table for table in tables if table.exists()]


def load_overlay(path: Path, today: date | None = None) -> Overlay:
    """Read and check the file.

    Raises:
        PlanError: the file cannot be read, or one that lists every unknown key and every contradiction.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"{path} cannot be read as TOML", got=str(error)) from error
    problems = list(_unknown(value)) or list(_contradictions(value))
    if problems:
        plural = "s" if len(problems) > 1 else ""
        raise PlanError(
            "\n".join([f"{path} has {len(problems)} problem{plural}", *(f"  - {one}" for one in problems)]),
            next_command=f"mend {path}",
        )
    devices = value.get("device", {})
    own = {
        key: row
        for key, row in devices.items()
        if set(row) - {"usd_per_hour", "watts", "mfu", "as_of", "source"}
    }
    return Overlay(
        devices={key: _device(key, row) for key, row in own.items() if key != "this"},
        usd_per_hour={
            key: _price(row, today or date.today()) for key, row in devices.items() if "usd_per_hour" in row
        },
        watts={key: _given(row, "watts") for key, row in devices.items() if "watts" in row},
        mfu={key: _given(row, "mfu") for key, row in devices.items() if "mfu" in row},
        grids={
            key.upper(): exact(row["kg_co2e_per_kwh"], _how(f"grid {key}", row), "user")
            for key, row in value.get("grid", {}).items()
        },
        site={key: exact(value[key], f"{key} of {NAME}", "user") for key in _KEYS[""][:2] if key in value},
    )


def _unknown(value: Mapping[str, Any]) -> Iterator[str]:
    """Keys that no overlay may have, and values of the wrong kind."""
    yield from _unknown_keys("", value)
    for key in _KEYS[""][:2]:
        if key in value and not _is_number(value[key]):
            yield f'{key} = "{value[key]}"; allowed: a number'
    for table in ("device", "grid"):
        rows = value.get(table, {})
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            yield f"{table} is not a table of tables, as in [{table}.NAME]"
            continue
        for key, row in rows.items():
            where = f"[{table}.{key}] "
            yield from (where + one for one in _unknown_keys(table, row))
            for name, item in row.items():
                if name in _KEYS[table] and _is_number(item) == (name in _TEXTS):
                    yield f"{where}{name} = {item!r}; allowed: {'a text' if name in _TEXTS else 'a number'}"


def _unknown_keys(table: str, row: Mapping[str, Any]) -> list[str]:
    known = _KEYS[table]
    return [
        f'unknown key "{key}"{did_you_mean(key, known) or "; known: " + ", ".join(known)}'
        for key in row
        if key not in known
    ]


def _contradictions(value: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be true, of single values and between them."""
    if not 1 <= value.get("pue", 1.0) <= 5:
        yield f"pue = {value['pue']:g}: a site draws at least what its computers draw; allowed: 1 to 5"
    if not value.get("usd_per_kwh", 0.0) >= 0:
        yield f"usd_per_kwh = {value['usd_per_kwh']:g}; allowed: 0 or more"
    for key, row in value.get("grid", {}).items():
        factor = row.get("kg_co2e_per_kwh")
        if factor is None or not 0 <= factor <= 1.3:
            yield f"[grid.{key}] kg_co2e_per_kwh = {factor}; allowed: 0 to 1.3 (kilograms: 400 g are 0.4)"
    for key, row in value.get("device", {}).items():
        for problem in _device_contradictions(key, row):
            yield f"[device.{key}] {problem}"


def _device_contradictions(key: str, row: Mapping[str, Any]) -> Iterator[str]:
    base = catalogue().get(row.get("like", key))
    if "like" in row and base is None:
        yield f'like = "{row["like"]}" is not in the catalogue{did_you_mean(row["like"], catalogue())}'
    if row.get("kind", "gpu") not in _KINDS:
        yield f'kind = "{row["kind"]}"{did_you_mean(row["kind"], _KINDS)}; allowed: {", ".join(_KINDS)}'
    for name in _NUMBERS:
        if name in row and not 0 < row[name] < math.inf:
            yield f"{name} = {row[name]:g}; allowed: above 0"
    for name in ("node_devices", "domain_devices"):
        if row.get(name, 1) % 1:
            yield f"{name} = {row[name]:g}; allowed: a whole number"
    if "as_of" in row and not _MONTH.fullmatch(row["as_of"]):
        yield f'as_of = "{row["as_of"]}"; allowed: year and month, as in "2025-03"'
    if row.get("mfu", 0.5) > 1:
        yield f"mfu = {row['mfu']:g}; allowed: a share of the dense peak, at most 1"
    if base is None and key != "this" and not (set(_PEAKS) & set(row) and "mem_gb" in row):
        yield "is not in the catalogue; a new device needs mem_gb and a peak such as bf16_tflops, or like"
    peaks = {**({} if base is None else base.peaks), **_peaks(row)}
    for low, high in (("bf16", "fp8"), ("fp32", "bf16"), ("fp32", "tf32")):
        if peaks.get(high, math.inf) < peaks.get(low, 0.0) * 0.999 and {low, high} & set(_peaks(row)):
            yield f"{high} peak {peaks[high]:g} is below {low} peak {peaks[low]:g} TFLOP/s"
    node = row.get("node_max_w", base.node.max_watts if base else math.nan)
    count = row.get("node_devices", base.node.devices if base else 1)
    for name in ("watts", "tdp_w"):
        # Mean power includes the host, TDP does not: both must fit into the node.
        if name in row and row[name] * count > node:
            yield f"{name} = {row[name]:g} x {count:g} devices is above the node's {node:g} W"


def _device(key: str, row: Mapping[str, Any]) -> Device:
    base = catalogue().get(row.get("like", key))
    nan = math.nan
    if base is None:
        links = Links(memory=nan, scale_up=nan, network=nan, domain_devices=1)
        node = Node(name=f"node of {key}", devices=1, max_watts=nan, embodied_kg_each=nan)
        mem_bytes, tdp, measured, peaks, kind = 0.0, nan, nan, {}, "gpu"
    else:
        links, node, mem_bytes, tdp = base.links, base.node, base.mem_bytes, base.tdp_watts
        measured, peaks, kind = base.measured_watts, dict(base.peaks), base.kind
    return Device(
        id=key,
        name=row.get("name", base.name if base and base.id == key else key),
        kind=row.get("kind", kind),
        peaks={**peaks, **_peaks(row)},
        mem_bytes=offered_bytes(row["mem_gb"], key) if "mem_gb" in row else mem_bytes,
        links=replace(
            links,
            memory=row["mem_bw_gbs"] * 1e9 if "mem_bw_gbs" in row else links.memory,
            scale_up=row["scale_up_gbs"] * 1e9 if "scale_up_gbs" in row else links.scale_up,
            network=row["network_gbit"] / 8 * 1e9 if "network_gbit" in row else links.network,
            domain_devices=int(row.get("domain_devices", row.get("node_devices", links.domain_devices))),
        ),
        tdp_watts=row.get("tdp_w", tdp),
        measured_watts=measured,
        node=replace(
            node,
            devices=int(row.get("node_devices", node.devices)),
            max_watts=row.get("node_max_w", node.max_watts),
        ),
        as_of=row.get("as_of", date.today().strftime("%Y-%m")),
        confidence="user",
        source=_how("device", row) + (f", the rest as {base.id}" if base else ""),
    )


def _peaks(row: Mapping[str, Any]) -> dict[str, float]:
    return {name.removesuffix("_tflops"): float(row[name]) for name in _PEAKS if name in row}


def _price(row: Mapping[str, Any], today: date) -> Derived:
    years = years_since(row["as_of"], today) if "as_of" in row else 0.0
    how = _how("price", row)
    if years <= 0.5:
        return exact(row["usd_per_hour"], how, "user")
    factor = math.exp(1.2816 * aged_log_sd(0.0, years))
    return within(float(row["usd_per_hour"]), factor, f"{how}; widened for {years:.1f} years of age", "user")


def _given(row: Mapping[str, Any], name: str) -> Derived:
    return within(float(row[name]), _MEASURED_FACTOR80, _how(name, row), "user")


def _how(what: str, row: Mapping[str, Any]) -> str:
    return f"{what} of {NAME}" + (f": {row['source']}" if "source" in row else "")


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, float)) and not isinstance(item, bool)
