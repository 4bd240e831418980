"""The cost of a run, and prices, in; what a project costs with it, and rent against buy, out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from stepladder.errors import PlanError
from stepladder.plan.derive import Z80, log_sd, plus, times, within
from stepladder.records import Derived

# List price of object storage in large clouds, per GB and month; transfer out of the cloud is not in it.
_USD_PER_GB_MONTH = 0.023
# Development and failed runs over the final run: OLMo .5 (arXiv:2503.05804), OPT-175B 1.0 (arXiv:2205.01068:
# with ablations and downtime about twice), BLOOM about 1.5 (arXiv:2211.02001); they count differently.
_DEVELOPMENT, _DEVELOPMENT_FACTOR80 = 1.0, 2.0
_HOURS_PER_YEAR = 8_766.0
_SAVED = "(`usd_per_device_hour` - `usd_of_own_hour`)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Data and checkpoints that are kept."""

    gigabytes: float
    months: float
    usd_per_gb_month: float = _USD_PER_GB_MONTH


NOTHING = Storage(gigabytes=0.0, months=0.0)


def bill(usd: Derived, storage: Storage = NOTHING) -> Mapping[str, Derived]:
    """usd_storage, usd_development and their sum with the run's own `usd`, usd_project.

    The allowance for development is for runs beyond those that the plan lists (its ladder is one of these).

    Raises:
        PlanError: storage is negative.
    """
    if not all(one >= 0 for one in (storage.gigabytes, storage.months, storage.usd_per_gb_month)):
        raise PlanError(
            "storage cannot be negative",
            got=f"{storage.gigabytes:g} GB x {storage.months:g} months x ${storage.usd_per_gb_month:g}",
        )
    kept = storage.gigabytes * storage.months * storage.usd_per_gb_month
    how = f"{storage.gigabytes:,.3g} GB x {storage.months:g} months x ${storage.usd_per_gb_month:g}"
    stored = within(kept, 1.3, how, "catalogue")
    share = within(_DEVELOPMENT, _DEVELOPMENT_FACTOR80, "published projects: .5 to 1.5", "prior")
    how = f"`usd` x {_DEVELOPMENT:g}: development and failed runs of published projects, "
    how += ".5 to 1.5 of the final run"
    around = times(how, usd, share)
    total = plus("`usd` + `usd_storage` + `usd_development`", usd, stored, around)
    return {"usd_storage": stored, "usd_development": around, "usd_project": total}


def break_even_hours(usd_to_buy: Derived, usd_to_rent: Derived, usd_to_run: Derived) -> Derived:
    """Hours of use from which buying a device is cheaper than renting it.

    Args:
        usd_to_buy: the device with its share of the node, without what it will sell for.
        usd_to_rent: an hour of renting.
        usd_to_run: an hour of one's own: electricity with PUE, space, people (`running_usd`).

    Raises:
        PlanError: an hour of one's own costs as much as a rented one.
    """
    if not usd_to_buy.value > 0 or not usd_to_rent.value > usd_to_run.value >= 0:
        raise PlanError(
            "buying never pays",
            got=f"${usd_to_run.value:.3g} an hour to run, ${usd_to_rent.value:.3g} to rent",
            allowed="a price to buy above 0, and an hour of one's own cheaper than a rented one",
        )
    saved = _saved(usd_to_rent, usd_to_run)
    inverse = Derived(
        value=1 / saved.value, low=1 / saved.high, high=1 / saved.low, how=saved.how, source=saved.source
    )
    years = usd_to_buy.value / saved.value / _HOURS_PER_YEAR
    how = f"${usd_to_buy.value:,.0f} / {_SAVED} an hour: {years:.1f} years at full use, "
    how += f"{2 * years:.1f} at half"
    return times(how, usd_to_buy, inverse)


def worth_buying_at(hours: Derived, usd_to_rent: Derived, usd_to_run: Derived) -> Derived:
    """US dollars below which buying a device beats renting it for so many hours, worth nothing after them."""
    how = f"what `usd_project` would rent, in hours of one device, x {_SAVED}"
    return times(how, hours, _saved(usd_to_rent, usd_to_run))


def _saved(usd_to_rent: Derived, usd_to_run: Derived) -> Derived:
    """An hour; relative error of a difference: that of its terms over it."""
    gain = usd_to_rent.value - usd_to_run.value
    spread = math.hypot(*(log_sd(one) * one.value for one in (usd_to_rent, usd_to_run)))
    return within(gain, math.exp(Z80 * spread / gain), "an hour saved", usd_to_rent.source)


def running_usd(watts: Derived, pue: Derived, usd_per_kwh: Derived) -> Derived:
    """US dollars of electricity for an hour of a device of one's own."""
    how = f"`watts` x `pue` x ${usd_per_kwh.value:.3g} a kWh / 1000 ({usd_per_kwh.how}); people and space not"
    return times(how, watts, pue, usd_per_kwh, scale=1e-3)
