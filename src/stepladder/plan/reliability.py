"""How often a job fails and what a failure costs in; the share of time that is training out."""

import math
from dataclasses import dataclass

from stepladder.errors import PlanError
from stepladder.plan.failures import job_mean_hours
from stepladder.records import Derived


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """What a checkpoint and a failure cost, in hours.

    Writing a checkpoint holds the run up for a minute; a restart on healthy nodes, found and started by the
    scheduler, takes fifteen. `by_hand` of the failures wait for a person: 3 of 419 in Llama 3 405B
    (arXiv:2407.21783), 35 of some 105 in OPT-175B (arXiv:2205.01068).
    """

    checkpoint_hours: float = 1 / 60
    restart_hours: float = 15 / 60
    by_hand: float = 0.0
    by_hand_hours: float = 2.0

    def __post_init__(self) -> None:
        hours = (self.checkpoint_hours, self.restart_hours, self.by_hand_hours)
        if not (all(one >= 0 for one in hours) and 0 <= self.by_hand <= 1 and self.checkpoint_hours > 0):
            raise PlanError(
                "a recovery takes time",
                got=f"checkpoint {self.checkpoint_hours:g} h, restart {self.restart_hours:g} h, "
                f"{self.by_hand:g} of the failures by hand in {self.by_hand_hours:g} h",
                allowed="hours of at least 0 (checkpoint above 0), a share from 0 to 1",
            )

    def survival(self, mean: float) -> float:
        """Probability that a restart ends before the next failure, over restarts by machine and by hand."""
        alone = math.exp(-self.restart_hours / mean)
        return (1 - self.by_hand) * alone + self.by_hand * math.exp(-self.by_hand_hours / mean)


USUAL = Recovery()


def goodput(nodes: int, recovery: Recovery = USUAL, rate: Derived | None = None) -> Derived:
    """Share of wall time that is training, with the interval of the failure rate alone."""
    mean = job_mean_hours(nodes, rate)
    value, low, high = (share_at(one, recovery) for one in (mean.value, mean.low, mean.high))
    every = best_interval(mean.value, recovery) * 60
    how = (
        f"a failure every {mean.value:.3g} h, a checkpoint of {recovery.checkpoint_hours * 60:.2g} min every "
        f"{every:.0f} min, restarts of {recovery.restart_hours * 60:.3g} min"
    )
    if recovery.by_hand:
        how += f", {recovery.by_hand:.1%} of them by hand in {recovery.by_hand_hours:g} h"
    return Derived(value=value, low=low, high=high, how=f"{how}; {mean.how}", source=mean.source)


def best_interval(mean: float, recovery: Recovery = USUAL) -> float:
    """Hours of work between checkpoints that lose least: Daly's series for Young's sqrt(2 x cost x mean).

    Young, CACM 17 (1974); Daly, FGCS 22 (2006), eq. 37. `mean` is hours between failures of the job.
    """
    cost = recovery.checkpoint_hours
    if cost >= 2 * mean:
        return mean
    ratio = math.sqrt(cost / (2 * mean))
    return math.sqrt(2 * cost * mean) * (1 + ratio / 3 + ratio**2 / 9) - cost


def share_at(mean: float, recovery: Recovery = USUAL, interval: float = 0.0) -> float:
    """Share of time that is training at a fixed `interval` (0: the best one), failures without memory.

    Daly's expected wall time (FGCS 22, 2006, eq. 20), inverted, with restarts of two kinds: a segment takes
    (mean + restart) x (exp(segment / mean) - 1); a restart, which may itself fail, mean x (1 / survival - 1).
    """
    step = interval or best_interval(mean, recovery)
    exponent = (step + recovery.checkpoint_hours) / mean
    if exponent > 700:
        return 0.0
    return step * recovery.survival(mean) / (mean * math.expm1(exponent))
