"""Step and shares in; the factor on every peak learning rate out (warm-up, stable, decay)."""

from typing import Literal

DecayForm = Literal["linear", "1-sqrt"]
# {"steps": [...]} in a run's folder: steps after which it leaves a checkpoint for runs that branch from it.
# No part of the plan, since what a run leaves behind does not change what it computes.
KEEP_FILE = "keep.json"


def rate_factor(
    step: int, steps: int, warmup_share: float, decay_share: float, form: DecayForm = "linear"
) -> float:
    """Factor in (0, 1] for step 0 ... steps - 1.

    Warm-up rises linearly and its first step is not zero; the decay's last step is one step above zero, so
    no step is wasted. A stable middle lets one run be branched at several lengths (arXiv:2405.18392, which
    also gives the 1-sqrt form). Where the shares overlap, the smaller factor counts.
    """
    warmup, decay = round(warmup_share * steps), round(decay_share * steps)
    factor = 1.0
    if step < warmup:
        factor = (step + 1) / (warmup + 1)
    left = steps - step
    if left <= decay:
        share = left / (decay + 1)
        factor = min(factor, share if form == "linear" else 1 - (1 - share) ** 0.5)
    return factor


def branch_step(steps: int, decay_share: float) -> int:
    """Steps done before the decay of a run of `steps` begins: up to here all lengths are one run."""
    return steps - round(decay_share * steps)
