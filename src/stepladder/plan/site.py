"""A brief and this machine in; where the run happens out: layout, assumed speed, prices, power, grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from stepladder.errors import PlanError
from stepladder.plan.conflicts import listed, switch_problems
from stepladder.plan.derive import exact, within
from stepladder.plan.hardware import Device, catalogue, device_of_name, find_device, grid_of, price_of
from stepladder.plan.layout import switched
from stepladder.plan.machine import Machine, product_rate, usual_precision
from stepladder.plan.overlay import NAME, NONE, Overlay
from stepladder.plan.power import system_watts, usual_pue
from stepladder.plan.utilisation import Workload, utilisation
from stepladder.records import Brief, Derived, Layout, Observation

# A model of this size is taken until one is chosen.
_USUAL_PARAMS = 7e9
# Share of the measured matrix rate that a small decoder reaches on a CPU: .49 at 5.7 M parameters
# (docs/log.md), less for smaller ones.
_CPU_SHARE, _CPU_SHARE_FACTOR80 = 0.30, 1.8
# One CPU thread in fp32 where nothing was measured: 105 GFLOP/s on the machine of docs/log.md, other ones by
# a factor of 2.5 either way.
_CPU_THREAD_FLOPS, _CPU_THREAD_FACTOR80 = 1e11, 2.5
# A busy CPU core with its share of package and board: laptops 5, servers 10 and more.
_WATTS_PER_CORE, _CORE_FACTOR80 = 8.0, 2.0
# $ for each device-hour and dense 16-bit TFLOP/s: the median over the catalogue's own prices.
_USD_PER_TFLOP_HOUR, _USD_FACTOR80 = 0.0045, 2.2
FLOAT8_ON_CPU = "float8 on a CPU: values are rounded to it and multiplied in fp32 or bf16, which is slower"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a run happens. `devices` are paid for and draw `watts` each; `flops_per_second` is of all of them
    together, before anything was measured."""

    name: str
    devices: int
    layout: Layout
    memory_bytes: float
    flops_per_second: Derived
    usd_per_device_hour: Derived
    usd_per_kwh: Derived
    watts: Derived
    pue: Derived
    kg_co2e_per_kwh: Derived
    peak_flops: float
    notes: tuple[str, ...]


def site_for(
    brief: Brief,
    machine: Machine,
    observations: Sequence[Observation] = (),
    today: date | None = None,
    overlay: Overlay = NONE,
) -> Site:
    """Resolve [hardware]; the overlay's figures replace the catalogue's, and [override] replaces both.

    Raises:
        PlanError: unknown device or region, or a precision that the device does not have.
    """
    device = device_at(brief, machine, overlay)
    if problems := list(switch_problems(brief, device)):
        raise PlanError(listed("the brief asks for what this machine cannot do", problems))
    site = _this_cpu(brief, machine) if device is None else _of_device(brief, device, machine, today)
    site = _overlaid(site, brief, device.id if device else "this", overlay)
    over = brief.override
    measured = None if site.watts.source == "user" else _measured_watts(observations)
    site = replace(
        site,
        usd_per_device_hour=_given(over, "usd_per_device_hour", site.usd_per_device_hour),
        usd_per_kwh=_given(over, "usd_per_kwh", site.usd_per_kwh),
        watts=_given(over, "watts_per_device", measured or site.watts),
        pue=_given(over, "pue", site.pue),
        kg_co2e_per_kwh=_given(over, "kg_co2e_per_kwh", site.kg_co2e_per_kwh),
    )
    if "mfu" in over and site.peak_flops > 0:
        mfu = within(float(over["mfu"]), 1.1, "yours", "user")
        site = replace(site, flops_per_second=_speed(mfu, site))
    return site


def _overlaid(site: Site, brief: Brief, key: str, overlay: Overlay) -> Site:
    """The site with what the overlay knows of it, and a note that names the file and what came from it."""
    region = brief.hardware.region.strip().upper()
    keys = ("this", key) if brief.hardware.device == "this" else (key,)
    known = {
        name: next((table[one] for one in keys if one in table), None)
        for name, table in (
            ("usd_per_device_hour", overlay.usd_per_hour),
            ("watts", overlay.watts),
            ("flops_per_second", overlay.mfu),
        )
    }
    known |= {"kg_co2e_per_kwh": overlay.grids.get(region)}
    known |= {name: overlay.site.get(name) for name in ("pue", "usd_per_kwh")}
    found = {name: number for name, number in known.items() if number is not None}
    if "kg_co2e_per_kwh" not in found:
        site = replace(site, kg_co2e_per_kwh=grid_of(brief.hardware.region))
    if "flops_per_second" in found:
        found["flops_per_second"] = _speed(found["flops_per_second"], site)
    used = [*(["device"] if key in overlay.devices else []), *found]
    note = (f"{NAME} gives {', '.join(used)}",) if used else ()
    return replace(site, notes=(*site.notes, *note), **found)  # pyrefly: ignore


def _speed(mfu: Derived, site: Site) -> Derived:
    how = f"{mfu.value:g} ({mfu.how}) of {site.devices} x the dense peak"
    return within(mfu.value * site.peak_flops, mfu.high / mfu.value, how, "user")


def device_at(brief: Brief, machine: Machine, overlay: Overlay = NONE) -> Device | None:
    """The overlay's or the catalogue's device, or None for the CPU of this machine."""
    if brief.hardware.device != "this":
        return find_device(brief.hardware.device, overlay.devices)
    if not machine.gpus:
        return None
    gpu = machine.gpus[0]
    device = device_of_name(gpu.name, gpu.memory_bytes)
    if device is None:
        raise PlanError(
            f"this machine's {gpu.name} is not in the catalogue",
            allowed=", ".join(catalogue()),
            next_command="set device to the nearest of these, or mfu and usd_per_device_hour in [override]",
        )
    return device


def _this_cpu(brief: Brief, machine: Machine) -> Site:
    over = brief.override
    processes = int(over.get("processes", 1))
    threads = int(over.get("threads", max(machine.cores // processes, 1)))
    rates = machine.gemm_gflops
    precision = str(over.get("precision", usual_precision(machine, threads)))
    kernels = ("bf16",) if precision == "bf16" else ("fp32_medium", "fp32")
    rate = max(product_rate(rates, kernel, threads) for kernel in kernels) * 1e9 * processes
    if rate > 0:
        how = f"{_CPU_SHARE:g} of the matrix rate measured in {precision} on {threads} threads"
        speed = within(_CPU_SHARE * rate, _CPU_SHARE_FACTOR80, how, "prior")
    else:
        rate = _CPU_THREAD_FLOPS * threads * processes
        how = f"{_CPU_SHARE:g} of 100 GFLOP/s for each of {threads * processes} threads, not measured here"
        speed = within(_CPU_SHARE * rate, _CPU_SHARE_FACTOR80 * math.sqrt(_CPU_THREAD_FACTOR80), how, "prior")
    return Site(
        name=f"this machine: {machine.cpu}, {machine.cores} cores",
        devices=1,
        layout=switched(
            over,
            Layout(
                device="cpu",
                processes=processes,
                threads=threads,
                precision="bf16" if precision == "bf16" else "fp32",
                shard="ddp" if processes > 1 else "none",
            ),
        ),
        memory_bytes=machine.memory_bytes,
        flops_per_second=speed,
        usd_per_device_hour=exact(0.0, "this machine costs nothing by the hour; electricity is counted"),
        usd_per_kwh=usual_power_price(),
        watts=within(
            _WATTS_PER_CORE * machine.cores,
            _CORE_FACTOR80,
            f"{_WATTS_PER_CORE:g} W for each of {machine.cores} cores: no energy counter was read here",
            "prior",
        ),
        pue=exact(1.0, "no data centre around this machine"),
        kg_co2e_per_kwh=grid_of("world"),
        peak_flops=rate,
        notes=(FLOAT8_ON_CPU,) if over.get("float8") else (),
    )


def _of_device(brief: Brief, device: Device, machine: Machine, today: date | None) -> Site:
    over, here = brief.override, brief.hardware.device == "this"
    count = brief.hardware.count
    if here and count > len(machine.gpus):
        raise PlanError(
            "[hardware] count is more than this machine has",
            got=f"{count}",
            allowed=f"1 to {len(machine.gpus)}, or the id of a device to plan for",
        )
    devices = count * brief.hardware.nodes
    default = "bf16" if "bf16" in device.peaks else "fp32"
    precision = str(over.get("precision", default))
    peak = device.peak(precision) * devices
    notes = [f"{device.name}: {device.source} (as of {device.as_of}, confidence {device.confidence})"]
    if device.kind not in ("gpu",):
        notes.append("training here runs through PyTorch on CPU or GPU: for this device the plan is for cost")
    price = price_of(device, today or date.today()) or within(
        _USD_PER_TFLOP_HOUR * max(device.peaks.values()),
        _USD_FACTOR80,
        "no offer in the catalogue: its median of $0.0045 for each TFLOP/s and hour",
        "prior",
    )
    return Site(
        name=f"{devices} x {device.name}",
        devices=devices,
        layout=switched(
            over,
            Layout(
                device="cpu" if device.kind == "cpu" else "cuda",
                processes=devices,
                nodes=brief.hardware.nodes,
                precision="bf16" if precision == "bf16" else "fp32",
                shard="ddp" if devices > 1 else "none",
            ),
        ),
        memory_bytes=device.mem_bytes,
        flops_per_second=usual_speed(device, peak, _USUAL_PARAMS, _USUAL_PARAMS),
        usd_per_device_hour=exact(0.0, "this machine costs nothing by the hour") if here else price,
        usd_per_kwh=usual_power_price() if here else exact(0.0, "electricity is in the price of the device"),
        watts=system_watts(device),
        pue=exact(1.0, "no data centre around this machine") if here else usual_pue(),
        kg_co2e_per_kwh=grid_of("world"),
        peak_flops=peak,
        notes=tuple(notes),
    )


def usual_speed(device: Device, peak: float, active: float, total: float) -> Derived:
    """FLOP/s of devices whose peaks add up to `peak`, at the share that published runs of such models had."""
    share = utilisation(device, Workload(active=active, total=total, tokens=0.0))
    how = f"{share.value:.2f} of {peak / 1e12:,.4g} TFLOP/s: {share.how}"
    return within(share.value * peak, share.high / share.value, how, "prior")


def _measured_watts(observations: Sequence[Observation]) -> Derived | None:
    """Power of the runs where a counter measured it; an estimate from CPU seconds would prove itself."""
    watts = sorted(
        row.joules / row.seconds
        for row in observations
        if row.joules > 0
        and row.seconds > 0
        and not str(row.notes.get("joules_source", "")).startswith("estimate")
    )
    if not watts:
        return None
    how = f"median of joules / seconds over {len(watts)} measured runs"
    return within(watts[len(watts) // 2], 1.15, how, "measured")


def usual_power_price() -> Derived:
    """US dollars a kWh where nobody said."""
    how = "electricity: $0.11 to $0.29 covers most households and businesses; set usd_per_kwh in [override]"
    return within(0.18, 1.6, how, "prior")


def _given(over: Mapping[str, float | int | str | bool], key: str, otherwise: Derived) -> Derived:
    return exact(float(over[key]), f"[override] {key}", "user") if key in over else otherwise
