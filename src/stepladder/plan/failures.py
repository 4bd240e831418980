"""A number of nodes in; mean hours between failures of the whole job out, on owned, rented or spot machines.

Rates are those of published clusters (data/failures.csv). A job fails when any of its nodes does.
"""

import math

from stepladder.errors import PlanError
from stepladder.plan.derive import Z80, exact, log_sd, within
from stepladder.plan.hardware import failure_rate
from stepladder.records import Derived

# Lemon nodes: 1.2 % of the nodes of a cluster of 16 k devices were in 13 % of the day's failing jobs, and
# taking them out brought failures of large jobs from 14 to 4 % (arXiv:2410.21680): .27 to .87 of them remain.
_WITHOUT_LEMONS, _LEMONS_FACTOR80 = 0.6, 1.4
# Spot V100 machines of one cloud, 23 traces of 2022 and 2023 (Wu et al., NSDI 2024): a machine was lost after
# 2.3 hours, median over traces, log sd .77; it could be had 59 % of the time, nine traces in ten 17 to 91 %.
_SPOT_HOURS, _SPOT_LOG_SD, _SPOT_SHARE = 2.3, 0.77, (0.59, 0.30, 0.88)


def job_mean_hours(
    nodes: int,
    rate: Derived | None = None,
    *,
    without_lemons: bool = False,
    software_per_day: float = 0.0,
) -> Derived:
    """Mean time between failures of a job, in hours.

    Args:
        rate: failures for each 1,000 node-days; published clusters' where None.
        without_lemons: whether nodes that fail again and again are found and taken out.
        software_per_day: stops of the whole job by its own software, beyond those in the published rates
            (Llama 3 405B: 54 in 54 days, arXiv:2407.21783).

    Raises:
        PlanError: no nodes, or a rate that is not positive.
    """
    rate = rate or failure_rate()
    if nodes < 1 or not rate.low > 0 or not software_per_day >= 0:
        raise PlanError(
            "failures need at least one node and rates above 0",
            got=f"{nodes} nodes, {rate.value:g} for each 1,000 node-days, {software_per_day:g} a day",
            allowed="published clusters: 1.9 to 13 for each 1,000 node-days",
        )
    kept, unsure = (_WITHOUT_LEMONS, _LEMONS_FACTOR80) if without_lemons else (1.0, 1.0)
    spread = math.exp(Z80 * math.hypot(log_sd(rate), math.log(unsure) / Z80))
    ends = (rate.value * spread, rate.value, rate.value / spread)
    low, value, high = (1 / (one * kept * nodes / 24_000 + software_per_day / 24) for one in ends)
    how = f"24,000 h / ({rate.value:.3g} failures for each 1,000 node-days x {nodes} nodes); {rate.how}"
    if without_lemons:
        how += "; nodes that fail again and again are taken out: .27 to .87 of the failures remain"
    if software_per_day:
        how += f"; and {software_per_day:g} stops a day by the job's own software"
    return Derived(value=value, low=low, high=high, how=how, source=rate.source)


def spot_mean_hours(machines: int, hours_between: float = 0.0) -> Derived:
    """Mean time until the first of `machines` is taken away, in hours.

    Args:
        hours_between: mean hours that one machine lasts, where you know yours; 0: published traces.
    """
    if machines < 1 or hours_between < 0:
        raise PlanError(
            "spot needs at least one machine", got=f"{machines} machines that last {hours_between:g} h"
        )
    if hours_between > 0:
        each = exact(hours_between, "yours", "user")
    else:
        how = (
            "23 traces of spot V100 on one cloud, 2022 and 2023 (Wu et al., NSDI 2024); later devices differ"
        )
        each = within(_SPOT_HOURS, math.exp(Z80 * _SPOT_LOG_SD), how, "prior")
    how = f"{each.value:g} h a machine / {machines}, losses taken as independent: {each.how}"
    return Derived(
        value=each.value / machines,
        low=each.low / machines,
        high=each.high / machines,
        how=how,
        source=each.source,
    )


def spot_available() -> Derived:
    """Share of the time that a spot machine can be had at all: waiting costs days, not dollars."""
    value, low, high = _SPOT_SHARE
    how = "a spot V100 could be had 17 to 91 % of the time, by zone and month (Wu et al., NSDI 2024)"
    return Derived(value=value, low=low, high=high, how=how, source="prior")
