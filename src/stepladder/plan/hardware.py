"""An id in; a device, its price or a region's grid out of the catalogue in `data/` (see SOURCES.md there)."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Literal

from stepladder.errors import PlanError, did_you_mean
from stepladder.plan.derive import Z80, within
from stepladder.records import Derived

_DATA = Path(__file__).parent / "data"
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]
_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "fp8")
# Data sheets count chips, whose gigabytes are 2^30 bytes, and drivers keep some: torch is offered 79.3 GiB of
# an A100's 80, 39.5 of 40, 15.8 of a V100's 16. Where error correction has no chips of its own it takes a
# sixteenth: nvidia-smi shows 23,028 of an A10's 24,576 MiB, 46,068 of an L40S's 49,152 (modal-client #2797),
# and torch is offered 14.75 GiB of a T4's 16, 44.5 of an L40S's 48.
OFFERED, _OFFERED_WITH_ECC = 0.99, 0.925
_ECC_IN_MEMORY = ("t4", "l4", "l40", "l40s", "a10", "a10g", "a40")
# Rental prices move by tens of per cent in a year and no published series says which way: a judgement, said
# in the `how` of every price it widens.
_PRICE_LOG_SD_PER_YEAR, _ONE_OFFER_LOG_SD = 0.15, 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """Bytes a second of one device, one way (data sheets add both ways); NaN where unpublished.

    `memory` is its own memory; `scale_up` what it sends to the `domain_devices` of its domain (NVLink,
    Infinity Fabric, ICI, or PCIe where nothing is faster); `network` its share of the node's adapters.
    """

    memory: float
    scale_up: float
    network: float
    domain_devices: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """The computer around `devices` of a kind: rated maximum in watts, kg CO2e of making one device alone.

    NaN where unpublished.
    """

    name: str
    devices: int
    max_watts: float
    embodied_kg_each: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One device as PyTorch sees it. Peaks are dense, in TFLOP/s; what is unpublished is absent or NaN.

    `mem_bytes` is what CUDA offers of the data sheet's gigabytes (`offered_bytes`).
    """

    id: str
    name: str
    kind: str
    peaks: Mapping[str, float]
    mem_bytes: float
    links: Links
    tdp_watts: float
    measured_watts: float
    node: Node
    as_of: str
    confidence: str
    source: str

    def peak(self, precision: str) -> float:
        """FLOP/s of dense matrix products; PlanError where the device has no such units."""
        if precision not in self.peaks:
            raise PlanError(
                f"{self.name} has no {precision}",
                allowed=", ".join(self.peaks),
                next_command='set precision = "fp32" in [override]',
            )
        return self.peaks[precision] * 1e12


def find_device(name: str, own: Mapping[str, Device] | None = None) -> Device:
    """The device with this id, of the user's `own` if it is among them.

    Raises:
        PlanError: no such id; names near to it are shown, never taken, since an A10G is not an A10.
    """
    if (device := known_device(name, own)) is None:
        devices = {**catalogue(), **(own or {})}
        raise PlanError(
            f'device "{name}" is not in the catalogue{did_you_mean(name.strip().lower(), devices)}',
            allowed="this, " + ", ".join(devices),
            next_command='set device = "this" in [hardware] to use the machine as measured',
        )
    return device


def known_device(name: str, own: Mapping[str, Device] | None = None) -> Device | None:
    """The device with this id, of the user's `own` or the catalogue's; None where neither has it."""
    key = name.strip()
    return (own or {}).get(key) or catalogue().get(key.lower())


@cache
def catalogue() -> dict[str, Device]:
    """All devices by id."""
    return {row["id"]: _device(row) for row in _rows("hardware.csv")}


def offered_bytes(gigabytes: float, device: str = "") -> float:
    """Bytes that a process can have of a data sheet's gigabytes."""
    return gigabytes * 2.0**30 * (_OFFERED_WITH_ECC if device in _ECC_IN_MEMORY else OFFERED)


def device_of_name(name: str, memory_bytes: float) -> Device | None:
    """The catalogue's entry for a GPU as its driver names it ("NVIDIA A100-SXM4-80GB"), if there is one."""
    words = _words(name)
    fitting = [
        device
        for device in catalogue().values()
        if _words(device.id) <= words | {"sxm", "pcie"} and 0.85 < memory_bytes / device.mem_bytes < 1.1
    ]
    exact = [device for device in fitting if _words(device.id) <= words]
    # The most specific one: "a100 sxm 80" before "a100".
    return max(exact or fitting, key=lambda device: len(_words(device.id) & words), default=None)


def price_of(device: Device, today: date) -> Derived | None:
    """US dollars for a device-hour on demand; None where the catalogue has no offer."""
    row = next((row for row in _rows("prices.csv") if row["id"] == device.id), None)
    if row is None:
        return None
    low, value, high = (float(row[key]) for key in ("usd_low", "usd_median", "usd_high"))
    offers, years = int(row["offers"]), years_since(row["as_of"], today)
    # The least and the dearest of n offers lie where Blom's normal scores have them.
    score = NormalDist().inv_cdf((offers - 0.375) / (offers + 0.25))
    spread = math.log(high / low) / 2 / score if offers > 1 else _ONE_OFFER_LOG_SD
    spread = max(spread, _ONE_OFFER_LOG_SD / math.sqrt(offers))
    how = f"median of {offers} on-demand offers, {low:g} to {high:g}: {row['source']}"
    if years > 0.5:
        how += f"; widened for {years:.1f} years of age"
    how += "; set usd_per_device_hour in [override] where you know yours"
    return within(value, math.exp(Z80 * aged_log_sd(spread, years)), how, "catalogue")


def grid_of(region: str) -> Derived:
    """kg CO2e per kWh of a region: an ISO 3166 code of two or three letters, EU, or world."""
    key = region.strip().upper()
    for row in _rows("grid.csv"):
        if key in (row["id"].upper(), row["iso3"].upper()) and key:
            return _grid(row)
    known = [row["id"] for row in _rows("grid.csv")]
    raise PlanError(
        f'region "{region}" is not in the catalogue{did_you_mean(region, known)}',
        allowed=", ".join(known),
        next_command='use region = "world", or set kg_co2e_per_kwh in [override]',
    )


def regions() -> dict[str, Derived]:
    """kg CO2e per kWh of every region by its id."""
    return {row["id"]: _grid(row) for row in _rows("grid.csv")}


def _grid(row: Mapping[str, str]) -> Derived:
    how = f"{row['name']}, average of {row['year']}: {row['source']}"
    value, low, high = (float(row[name]) for name in ("kg_co2e_per_kwh", "low", "high"))
    return Derived(value=value, low=low, high=high, how=how, source="catalogue")


def failure_rate() -> Derived:
    """Failures for each 1,000 node-days: the median of eight clusters, lognormal with sigma .55."""
    rates = sorted(float(row["rate_per_1000_node_days"]) for row in _rows("failures.csv"))
    middle = (rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2
    how = f"median of {len(rates)} published figures from eight clusters (plan/data/failures.csv), sigma .55"
    return within(middle, math.exp(Z80 * 0.55), how, "catalogue")


def _device(row: Mapping[str, str]) -> Device:
    share = 1 / int(row["torch_devices"])
    host = next((one for one in _rows("nodes.csv") if one["id"] == row["id"]), {})
    return Device(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        peaks={
            precision: float(row[f"{precision}_tflops"]) * share
            for precision in _PRECISIONS
            if row[f"{precision}_tflops"]
        },
        mem_bytes=offered_bytes(float(row["mem_gb"]), row["id"]) * share,
        links=Links(
            memory=_number(row["mem_bw_gbs"]) * 1e9 * share,
            scale_up=_number(host.get("scale_up_gbs", "")) * 1e9 * share,
            network=_number(host.get("network_gbit", "")) / 8 * 1e9 * share,
            domain_devices=int(int(host.get("domain_devices", 1)) / share),
        ),
        tdp_watts=_number(row["tdp_w"]) * share,
        measured_watts=_number(row["measured_w"]) * share,
        node=Node(
            name=host.get("name", row["name"]),
            devices=int(int(host.get("devices", 1)) / share),
            max_watts=_number(host.get("max_w", "")),
            embodied_kg_each=_number(row["embodied_kg_co2e"]) * share,
        ),
        as_of=row["as_of"],
        confidence=row["confidence"],
        source=row["source"],
    )


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    with (_DATA / name).open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _words(name: str) -> frozenset[str]:
    """ "NVIDIA A100-SXM4-80GB" -> {nvidia, a100, sxm, 80}."""
    cleaned = "".join(letter if letter.isalnum() else " " for letter in name.lower())
    words = {word.removesuffix("gb") if word[:1].isdigit() else word for word in cleaned.split()}
    return frozenset("sxm" if word.startswith("sxm") else word for word in words)


def aged_log_sd(log_sd: float, years: float) -> float:
    """Standard deviation of the logarithm of a price that was `log_sd` sure some years ago."""
    return math.hypot(log_sd, _PRICE_LOG_SD_PER_YEAR * years)


def years_since(month: str, today: date) -> float:
    """Years from a month as "2025-03" to today; 0 if that is ahead."""
    year, number = month.split("-")[:2]
    return max((today - date(int(year), int(number), 28)).days / 365.25, 0.0)
