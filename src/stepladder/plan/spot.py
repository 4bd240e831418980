"""A brief and its site in; how often and at what price a run is on spot machines, or on plain ones, out."""

from collections.abc import Mapping
from dataclasses import replace

from stepladder.plan.derive import times, within
from stepladder.plan.failures import spot_available, spot_mean_hours
from stepladder.plan.hardware import failure_rate
from stepladder.plan.reliability import goodput
from stepladder.plan.site import Site
from stepladder.records import Derived

# Spot over on-demand price of one cloud: from .4 (H100, H200) to 1 (A100) in offers of 2025; by the hour.
_PRICE, _PRICE_FACTOR80 = 0.5, 1.7

Override = Mapping[str, float | int | str | bool]


def priced(site: Site, over: Override) -> Site:
    """The site at the price of spot machines, unless the user gave a price."""
    if not over.get("spot") or "usd_per_device_hour" in over:
        return site
    how = f"spot taken at half of it (.3 to .85): {site.usd_per_device_hour.how}"
    part = within(_PRICE, _PRICE_FACTOR80, "offers of 2025", "prior")
    return replace(site, usd_per_device_hour=times(how, site.usd_per_device_hour, part, source="prior"))


def training_share(nodes: int, over: Override) -> Derived:
    """Share of paid time that is training; on spot with what a lost machine costs each time."""
    if not over.get("spot"):
        return goodput(nodes)
    each, failures = spot_mean_hours(1, float(over.get("spot_hours", 0.0))), failure_rate()
    low, value, high = (
        24_000 / hours + rate
        for hours, rate in (
            (each.high, failures.low),
            (each.value, failures.value),
            (each.low, failures.high),
        )
    )
    rate = Derived(value=value, low=low, high=high, how=f"spot: {each.how}", source=each.source)
    return goodput(nodes, rate=rate)


def on_the_calendar(seconds: Derived, over: Override) -> dict[str, Derived]:
    """`calendar_seconds` with the waiting, and the share of time that machines are there; on spot."""
    if not over.get("spot"):
        return {}
    there = spot_available()
    inverse = Derived(
        value=1 / there.value, low=1 / there.high, high=1 / there.low, how=there.how, source=there.source
    )
    calendar = times("`seconds` / `spot_available`: waiting costs days, not money", seconds, inverse)
    return {"calendar_seconds": calendar, "spot_available": there}
