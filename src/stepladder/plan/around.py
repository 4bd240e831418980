"""A chosen run and its numbers in; what stands around it (project, buying, making, water, levers) out."""

from collections.abc import Mapping

from stepladder.models.count import count_params
from stepladder.plan.derive import exact, times
from stepladder.plan.hardware import Device
from stepladder.plan.money import NOTHING, Storage, bill, break_even_hours, running_usd, worth_buying_at
from stepladder.plan.power import carbon_levers, embodied_carbon, market_carbon, water_litres
from stepladder.plan.search import Candidate, Problem
from stepladder.plan.site import usual_power_price
from stepladder.records import Derived

# Kept at the end: two checkpoints of weights with two moments in fp32, and text of two bytes a token.
_CHECKPOINT_BYTES, _TEXT_BYTES = 2 * 12.0, 2.0
# Beyond the run itself, where [override] storage_months does not say.
_MONTHS, _MONTH_SECONDS = 1.0, 30.44 * 86_400


def numbers_around(
    problem: Problem, best: Candidate, numbers: Mapping[str, Derived], device: Device | None
) -> dict[str, Derived]:
    """Numbers that no limit of the brief binds; `device` is None on the CPU of this machine.

    Raises:
        PlanError: a contract without its name, or water that cannot be.
    """
    over, devices = problem.brief.override, problem.site.devices
    hours = times(f"{devices} x `seconds` / 3600", numbers["seconds"], scale=devices / 3600)
    found = {"device_hours": hours, **bill(numbers["usd"], _storage(problem, best))}
    found |= _buying(problem, numbers, found)
    if device is not None:
        found["kg_co2e_embodied"] = embodied_carbon(device, hours)
    if "market_kg_co2e_per_kwh" in over:
        factor, contract = float(over["market_kg_co2e_per_kwh"]), str(over.get("contract", ""))
        found["kg_co2e_market"] = market_carbon(numbers["kwh"], factor, contract)
    if "litres_per_kwh" in over:
        found["water_litres"] = water_litres(numbers["kwh"], numbers["pue"], float(over["litres_per_kwh"]))
    return found | carbon_levers(numbers["kwh"], numbers["kg_co2e"])


def _storage(problem: Problem, best: Candidate) -> Storage:
    """Nothing on a machine of one's own, whose disk is paid."""
    if not problem.site.usd_per_device_hour.value > 0:
        return NOTHING
    text = _TEXT_BYTES * min(best.tokens, problem.unique_tokens)
    months = float(problem.brief.override.get("storage_months", _MONTHS))
    return Storage(
        gigabytes=(_CHECKPOINT_BYTES * count_params(best.shape).total + text) / 1e9,
        months=best.seconds.value / _MONTH_SECONDS + months,
    )


def _buying(
    problem: Problem, numbers: Mapping[str, Derived], found: Mapping[str, Derived]
) -> dict[str, Derived]:
    """Rent against buy, where there is a rent."""
    rent, over = numbers["usd_per_device_hour"], problem.brief.override
    power = numbers["usd_per_kwh"] if numbers["usd_per_kwh"].value > 0 else usual_power_price()
    own = running_usd(numbers["watts"], numbers["pue"], power)
    if not rent.value > own.value:
        return {}
    project = times("`usd_project`", found["usd_project"], scale=1 / numbers["usd"].value)
    hours = times("hours of the project", found["device_hours"], project, scale=1 / problem.site.devices)
    buying = {"usd_of_own_hour": own, "usd_buy_pays_below": worth_buying_at(hours, rent, own)}
    if "usd_to_buy" in over:
        price = exact(float(over["usd_to_buy"]), "[override] usd_to_buy", "user")
        buying["hours_to_break_even"] = break_even_hours(price, rent, own)
    return buying
