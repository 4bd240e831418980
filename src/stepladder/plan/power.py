"""A device and a model's size in; watts while training, kWh, kg CO2e and litres out, each with its source.

A node draws idle + (busy - idle) x fill of its rated maximum: never its TDP, since host, fans and losses
are on top and no run keeps a device at its limit. Constants and errors: `bench/plan/energy.py`.
"""

import math

from stepladder.errors import PlanError
from stepladder.plan.derive import Z80, exact, times, within
from stepladder.plan.hardware import Device, regions
from stepladder.records import Derived

# Of the rated maximum. Busy: an 8 x H100 node at intense training (arXiv:2506.14551). Idle: BLOOM's nodes
# drew 237 W a device, .29 of 6.5 kW, when on without work, their network included (arXiv:2211.02001).
_IDLE, _BUSY = 0.20, 0.76
# fill = 1 / (1 + sqrt(half / parameters)): small models do not fill a device. `half` is the one constant that
# was fitted, to nine measured runs on V100 and A100; with each family left out: 17 % median error.
_HALF_PARAMS = 2.2e8
_LOG_SD = 0.22
# Whole system over chip where neither node power nor a measurement exists: the H100 node at its limit drew
# 8.4 kW with eight devices of 700 W (arXiv:2412.08602).
_SYSTEM_OVER_DEVICE = 1.5
# W for each dense TFLOP/s of 16-bit arithmetic, across the catalogue's data-centre parts: .5 to 1.6.
_WATTS_PER_TFLOP, _WATTS_FACTOR80 = 1.0, 2.0
# A server without its devices, over six years in use 85 % of the time, and an A100 (arXiv:2211.02001, from
# its maker's sheet). Where a device's own making is unpublished, that of an A100 stands in.
_SERVER_KG, _DEVICE_KG, _LIFETIME_HOURS = 2_500.0, 150.0, 6 * 8_766 * 0.85
_MOST_OF_A_DESKTOP = 2
# Litres a kWh of electricity takes in power plants, average of the United States (arXiv:2304.03271).
_PLANT_LITRES_PER_KWH = 3.1


def system_watts(device: Device, params: float = math.inf) -> Derived:
    """Mean watts of one device with its share of the node, while training a model of this size."""
    if device.measured_watts > 0:
        how = "mean power of the whole system for each chip in published training runs (plan/data/SOURCES.md)"
        return within(device.measured_watts, 1.15, how, "catalogue")
    share, words = _share(params)
    source = "user" if device.confidence == "user" else "catalogue"
    words += f" ({device.source})" if source == "user" else ""
    if device.node.max_watts > 0 and device.kind != "cpu":
        each = device.node.max_watts / device.node.devices
        how = f"{share:.2f} of the {device.node.max_watts:g} W of a {device.node.name}, over "
        how += f"{device.node.devices} devices: {words}"
        return within(share * each, math.exp(Z80 * _LOG_SD), how, source)
    if device.tdp_watts > 0:
        how = (
            f"{share:.2f} of TDP {device.tdp_watts:g} W, x {_SYSTEM_OVER_DEVICE:g} for its host, whose power "
        )
        how += f"is unpublished: {words}"
        return within(share * _SYSTEM_OVER_DEVICE * device.tdp_watts, 1.4, how, source)
    tera = device.peaks.get("bf16") or max(device.peaks.values())
    how = f"no power is published for {device.name}: {_WATTS_PER_TFLOP:g} W for each dense TFLOP/s"
    return within(_WATTS_PER_TFLOP * tera, _WATTS_FACTOR80, how, "prior")


def most_watts(device: Device) -> float:
    """More than any such device with its share of a computer draws; infinite where nothing is published."""
    if device.kind == "cpu":
        return math.inf
    if device.node.max_watts > 0:
        return 1.1 * device.node.max_watts / device.node.devices
    return 2 * device.tdp_watts if device.tdp_watts > 0 else math.inf


def device_watts(device: Device, params: float = math.inf) -> Derived | None:
    """Mean watts of the device alone, as its own counter shows; None where no TDP is published."""
    if not device.tdp_watts > 0:
        return None
    share, words = _share(params)
    how = f"{share:.2f} of TDP {device.tdp_watts:g} W: {words}"
    return within(share * device.tdp_watts, math.exp(Z80 * 1.4 * _LOG_SD), how, "catalogue")


def _share(params: float) -> tuple[float, str]:
    fill = 1 / (1 + math.sqrt(_HALF_PARAMS / params)) if params > 0 else 1.0
    words = f"idle {_IDLE:g}, busy {_BUSY:g}, filled to {fill:.2f} by a model of this size"
    return _IDLE + (_BUSY - _IDLE) * fill, words


def usual_pue() -> Derived:
    """Power of a data centre over that of its computers, where it is not stated."""
    how = "data centres: 1.1 (largest) to 1.58 (mean of Uptime Institute's survey 2023)"
    return within(1.25, 1.2, how, "prior")


def market_carbon(kwh: Derived, kg_per_kwh: float, contract: str) -> Derived:
    """kg CO2e by the contract under which the electricity is bought, which only its buyer knows.

    Raises:
        PlanError: the factor is negative, or the contract is not named.
    """
    if not kg_per_kwh >= 0 or not contract.strip():
        raise PlanError(
            "market-based carbon needs the contract's name and its factor",
            got=f'{kg_per_kwh:g} kg/kWh of "{contract}"',
            allowed="at least 0 kg/kWh, and whose contract it is",
            next_command="set market_kg_co2e_per_kwh and contract in [override]",
        )
    factor = exact(kg_per_kwh, contract, "user")
    return times(f"`kwh` x {kg_per_kwh:g} kg/kWh by contract: {contract}", kwh, factor, source="user")


def embodied_carbon(device: Device, device_hours: Derived) -> Derived:
    """kg CO2e of making the hardware, by the share of its life that the run takes.

    What a computer around one or two cards takes is published nowhere: between nothing and a server.
    """
    known = device.node.embodied_kg_each > 0
    each = device.node.embodied_kg_each if known else _DEVICE_KG
    made, factor = each + _SERVER_KG / device.node.devices, 1.5 if known else 2.0
    words = f"{made:.0f} kg for a device and its share of a server"
    if device.node.devices <= _MOST_OF_A_DESKTOP:
        words = (
            f"between {each:.0f} kg for a device alone and {words}, since that of a desktop is unpublished"
        )
        factor *= math.sqrt(made / each)
        made = math.sqrt(each * made)
    words += "" if known else " (the device as an A100: unpublished for this one)"
    how = f"{words}, over {_LIFETIME_HOURS:,.0f} hours of use: arXiv:2211.02001"
    rate = within(made / _LIFETIME_HOURS, factor, how, "catalogue" if known else "prior")
    return times(f"`device_hours` x {rate.value:.2g} kg/h ({how})", rate, device_hours)


def water_litres(kwh: Derived, pue: Derived, on_site_litres_per_kwh: float) -> Derived:
    """Litres: cooling by the stated use on site for each kWh of the computers, and power plants.

    Raises:
        PlanError: the stated use is negative or not a number; there is no default, since it ranges from 0 up.
    """
    if not on_site_litres_per_kwh >= 0:
        raise PlanError(
            "water needs the litres for each kWh on site",
            got=f"{on_site_litres_per_kwh:g}",
            allowed="0 (dry cooling) or more, from the data centre's own report (WUE)",
        )
    cooling = on_site_litres_per_kwh / pue.value
    how = f"`kwh` x ({cooling:.2g} on site + {_PLANT_LITRES_PER_KWH:g} in power plants, arXiv:2304.03271)"
    return times(how, kwh, within(cooling + _PLANT_LITRES_PER_KWH, 1.5, how, "user"))


def carbon_levers(kwh: Derived, kg_co2e: Derived) -> dict[str, Derived]:
    """kg CO2e with the cleanest region, with a power cap, and with waiting for clean hours; one at a time."""
    grids = sorted(
        ((code, grid) for code, grid in regions().items() if code not in ("world", "EU")),
        key=lambda one: one[1].value,
    )
    code, cleanest = grids[0]
    others = ", ".join(f"{code} {grid.value:.3g}" for code, grid in grids[1:4])
    how = f"`kwh` x {cleanest.value:.3g} kg/kWh in {code} ({cleanest.how}); next: {others}"
    found = {"kg_co2e_cleanest_region": times(how, kwh, cleanest)}
    for name, share, factor, source in (
        ("power_cap", 0.85, 1.06, "15 % less energy, a little longer: encoders on V100, arXiv:2205.09646"),
        (
            "clean_hours",
            0.97,
            1.03,
            "a run of days averages day and night: a few per cent at best; upper bounds of "
            "arXiv:2306.06502 call it limited",
        ),
    ):
        number = within(share, factor, source, "prior")
        found[f"kg_co2e_{name}"] = times(f"`kg_co2e` x {share:g}: {source}", kg_co2e, number)
    return {name: number for name, number in found.items() if number.value < kg_co2e.value}
