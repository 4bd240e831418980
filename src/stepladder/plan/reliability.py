"""A number of nodes in; the share of time that is training, not checkpoints, restarts or lost work, out."""

import math

from stepladder.plan.hardware import failure_rate
from stepladder.records import Derived

# Writing a checkpoint holds the run up for a minute; a restart on healthy nodes, found and started by the
# scheduler, takes fifteen. A person who has to be woken makes it hours: then this is too good.
_CHECKPOINT_HOURS, _RESTART_HOURS = 1 / 60, 15 / 60


def goodput(nodes: int) -> Derived:
    """Share of wall time that is training, with the interval of the failure rate alone."""
    rate = failure_rate()
    value, low, high = (_share(mean_hours(nodes, one)) for one in (rate.value, rate.high, rate.low))
    every = interval_hours(mean_hours(nodes, rate.value)) * 60
    how = (
        f"{rate.value:g} failures per 1,000 node-days, nodes: {nodes}, a checkpoint of 1 min every "
        f"{every:.0f} min, restarts of 15 min; {rate.how}"
    )
    return Derived(value=value, low=low, high=high, how=how, source="catalogue")


def mean_hours(nodes: int, rate: float) -> float:
    """Mean time between failures of the job."""
    return 24_000 / (rate * nodes)


def interval_hours(mean: float) -> float:
    """Young's interval between checkpoints, sqrt(2 x cost x mean time between failures) (CACM 17, 1974)."""
    return math.sqrt(2 * _CHECKPOINT_HOURS * mean)


def _share(mean: float) -> float:
    """Daly's expected wall time for failures without memory (FGCS 22, 2006, eq. 20), inverted."""
    interval = interval_hours(mean)
    stretched = math.exp(_RESTART_HOURS / mean) * math.expm1((interval + _CHECKPOINT_HOURS) / mean)
    return interval / (mean * stretched)
