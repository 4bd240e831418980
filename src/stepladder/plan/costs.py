"""Seconds of a run and its site in; kWh, US dollars and kg CO2e out."""

from stepladder.plan.derive import plus, times
from stepladder.plan.site import Site
from stepladder.records import Derived
from stepladder.units import JOULES_PER_KWH


def cost_numbers(seconds: Derived, site: Site) -> dict[str, Derived]:
    """kwh, usd and kg_co2e of a run, with the factors they were made of.

    Energy is power while training, not TDP, times the data centre's overhead (PUE). Carbon is the grid's
    average, location-based; making the hardware and cooling water are not in it.
    """
    kwh = times(
        f"{site.devices} x `watts` x `seconds` x `pue`",
        site.watts,
        seconds,
        site.pue,
        scale=site.devices / JOULES_PER_KWH,
    )
    rent = times(
        f"{site.devices} x `usd_per_device_hour` x `seconds` / 3600",
        site.usd_per_device_hour,
        seconds,
        scale=site.devices / 3600,
    )
    power = times("`kwh` x `usd_per_kwh`", kwh, site.usd_per_kwh)
    if rent.value == 0:
        usd = power
    elif power.value == 0:
        usd = rent
    else:
        usd = plus(f"{rent.how} + {power.how}", rent, power)
    return {
        "usd": usd,
        "kwh": kwh,
        "kg_co2e": times("`kwh` x `kg_co2e_per_kwh`", kwh, site.kg_co2e_per_kwh),
        "watts": site.watts,
        "pue": site.pue,
        "usd_per_device_hour": site.usd_per_device_hour,
        "usd_per_kwh": site.usd_per_kwh,
        "kg_co2e_per_kwh": site.kg_co2e_per_kwh,
    }
