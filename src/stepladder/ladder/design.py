"""Shapes, a target and a share of the budget in; the runs that narrow the target's forecast most out.

The criterion is I-optimality at one point: the variance of log-loss at the target under the joint law
L = E + A/N^α + B/D^β, linearised at terms that are typical for language models. A run's value is the
reduction of that variance for each second it costs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.records import Shape
from stepladder.units import format_seconds

# Shares of the target's loss in the floor, the size term and the data term, and the two exponents: the
# Chinchilla law as refitted by Besiroglu et al. (arXiv:2404.10102), read at small models where both
# terms still matter.
_FLOOR, _SIZE, _DATA, _ALPHA, _BETA = 0.50, 0.25, 0.25, 0.35, 0.37
# Standard deviations of what is known before any run: log of each share, and each exponent.
_PRIOR_SD = np.array([0.5, 0.7, 0.7, 0.15, 0.15])
# A rung that lies decades of compute below the target also carries the error of the law's form: residuals of
# nine rungs of one size, a quarter of the target's width, ran to three times the seeds' noise (docs/log.md).
_MISFIT_PER_DECADE = 0.007
# 80 % of a normal distribution lies within 1.2816 standard deviations.
_Z80 = 1.2816


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One small run. `half_width80` is the design's relative 80 % half-width at the target with this run
    and all before it: fit noise only, not the error of the law's form."""

    shape: Shape
    tokens: int
    seed: int
    seconds: float
    half_width80: float = math.nan

    @property
    def params(self) -> int:
        """Parameters with embeddings and head."""
        return count_params(self.shape).total

    @property
    def flops(self) -> float:
        """Training FLOPs."""
        return train_flops_per_token(self.shape) * self.tokens

    @property
    def ratio(self) -> float:
        """Tokens per parameter."""
        return self.tokens / self.params


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignRules:
    """What a ladder must keep to; the reasons are measurements in docs/forecasting.md."""

    budget_seconds: float
    largest_flops: float
    min_tokens: int
    min_tokens_per_param: float = 1.5
    min_rungs: int = 10
    max_rungs: int = 16
    min_ratio_span: float = 16.0
    noise: float = 0.005
    seeds: tuple[int, int] = (0, 1)


def design_ladder(
    shapes: Sequence[Shape],
    target: tuple[Shape, float],
    cost_seconds: Callable[[Shape, int], float],
    rules: DesignRules,
) -> tuple[Rung, ...]:
    """Choose the rungs; the first two are one small run with two seeds (they measure the noise).

    Args:
        shapes: allowed shapes, the largest last; depth and head count should be the target's.
        target: its shape and tokens.
        cost_seconds: measured seconds of a run on one worker.
        rules: limits; `budget_seconds` counts the seconds of all rungs added up.

    Raises:
        PlanError: the budget does not pay for `min_rungs` runs that keep the rules.
    """
    candidates = [rung for shape in shapes for rung in _candidates(shape, cost_seconds, rules)]
    if len(candidates) < rules.min_rungs:
        raise PlanError(
            "the ladder's share of the budget leaves too few runs that are long enough to count",
            got=f"{len(candidates)} runs of at least {rules.min_tokens:,} tokens and "
            f"{rules.min_tokens_per_param:g} tokens per parameter",
            allowed=f"at least {rules.min_rungs}",
            next_command="raise [budget] hours or ladder_share in stepladder.toml",
        )
    scale = (count_params(target[0]).total, target[1])
    chosen = _spread(candidates, rules)
    chosen = _fill(chosen, candidates, scale, rules)
    spent = sum(rung.seconds for rung in chosen)
    if len(chosen) < rules.min_rungs or spent > rules.budget_seconds:
        raise PlanError(
            f"a ladder of {rules.min_rungs} runs does not fit its share of the budget",
            got=f"{len(chosen)} runs need {format_seconds(spent)}",
            allowed=format_seconds(rules.budget_seconds),
            next_command="raise [budget] hours or ladder_share in stepladder.toml",
        )
    return _annotate(chosen, scale, rules)


def variance_at_target(rungs: Sequence[Rung], scale: tuple[float, float], noise: float) -> float:
    """Variance of log-loss at the target after `rungs`, starting from the prior."""
    information = np.diag(_PRIOR_SD**-2.0)
    if rungs:
        rows = _gradients(rungs, scale)
        decades = np.array([math.log10(scale[0] * scale[1] / (rung.params * rung.tokens)) for rung in rungs])
        variance = noise**2 + (_MISFIT_PER_DECADE * np.maximum(decades, 0.0)) ** 2
        information = information + rows.T @ (rows / variance[:, None])
    at_target = _gradient(1.0, 1.0)
    return float(at_target @ np.linalg.solve(information, at_target))


def _candidates(shape: Shape, cost_seconds: Callable[[Shape, int], float], rules: DesignRules) -> list[Rung]:
    """Runs of one shape from the shortest to the dearest, both included, in equal steps of at most √2."""
    least = max(rules.min_tokens, rules.min_tokens_per_param * count_params(shape).total)
    most = rules.largest_flops / train_flops_per_token(shape)
    if most < least:
        return []
    steps = math.ceil(math.log2(most / least) * 2)
    rungs = []
    for step in range(steps + 1):
        # The shortest run is no shorter for being rounded: `_rung_shapes` counts on both ends.
        tokens = max(math.floor(most * (least / most) ** (step / max(steps, 1))), math.ceil(least))
        seconds = cost_seconds(shape, tokens)
        rungs.append(Rung(shape=shape, tokens=tokens, seed=rules.seeds[0], seconds=seconds))
    return rungs


def _spread(candidates: Sequence[Rung], rules: DesignRules) -> list[Rung]:
    """The frame that identifies a law: noise pair, dearest runs, and the extremes of tokens per parameter."""
    cheapest = min(candidates, key=_cost)
    chosen = [cheapest, replace(cheapest, seed=rules.seeds[1])]
    lowest = min(candidates, key=_ratio)
    far = [rung for rung in candidates if rung.ratio >= rules.min_ratio_span * lowest.ratio]
    if not far:
        raise PlanError(
            "the runs would have nearly equal tokens per parameter: no law could be told from them",
            got=f"{lowest.ratio:.2g} to {max(rung.ratio for rung in candidates):.2g}",
            allowed=f"a span of {rules.min_ratio_span:g}x",
            next_command="raise [budget] ladder_share in stepladder.toml",
        )
    # The cheapest run that is far enough; dearer ones are bought where they narrow the forecast most.
    highest = min(far, key=_cost)
    middle = min(
        candidates, key=lambda rung: abs(math.log(rung.ratio / math.sqrt(lowest.ratio * highest.ratio)))
    )
    # The largest size must be in the ladder: the target is then extrapolated in its tokens alone.
    widest = min((rung for rung in candidates if rung.params == candidates[-1].params), key=_cost)
    for rung in (lowest, highest, middle, widest):
        if rung not in chosen:
            chosen.append(rung)
    return chosen


def _fill(
    chosen: list[Rung], candidates: Sequence[Rung], scale: tuple[float, float], rules: DesignRules
) -> list[Rung]:
    """Add the run with the most variance removed for each second until budget or `max_rungs` is used up."""
    chosen = list(chosen)
    left = [rung for rung in candidates if rung not in chosen]
    while left and len(chosen) < rules.max_rungs:
        room = rules.budget_seconds - sum(rung.seconds for rung in chosen)
        # Money is kept back for the runs that `min_rungs` still asks for, at the price of the cheapest.
        missing = max(rules.min_rungs - len(chosen) - 1, 0)
        reserve = sum(sorted(rung.seconds for rung in left)[:missing])
        affordable = [rung for rung in left if rung.seconds <= room - reserve]
        if not affordable:
            break
        now = variance_at_target(chosen, scale, rules.noise)
        best = max(affordable, key=lambda rung: _gain(rung, chosen, now, scale, rules))
        chosen.append(best)
        left.remove(best)
    return chosen


def _gain(
    rung: Rung, chosen: Sequence[Rung], now: float, scale: tuple[float, float], rules: DesignRules
) -> float:
    return (now - variance_at_target([*chosen, rung], scale, rules.noise)) / rung.seconds


def _annotate(chosen: Sequence[Rung], scale: tuple[float, float], rules: DesignRules) -> tuple[Rung, ...]:
    widths = [
        _Z80 * math.sqrt(variance_at_target(chosen[: count + 1], scale, rules.noise))
        for count in range(len(chosen))
    ]
    return tuple(replace(rung, half_width80=width) for rung, width in zip(chosen, widths, strict=True))


def _cost(rung: Rung) -> float:
    return rung.seconds


def _ratio(rung: Rung) -> float:
    return rung.ratio


def _gradients(rungs: Sequence[Rung], scale: tuple[float, float]) -> np.ndarray:
    return np.stack([_gradient(rung.params / scale[0], rung.tokens / scale[1]) for rung in rungs])


def _gradient(size: float, data: float) -> np.ndarray:
    """d log L / d (log E, log A, log B, α, β) at size and data relative to the target's."""
    size_term, data_term = _SIZE * size**-_ALPHA, _DATA * data**-_BETA
    loss = _FLOOR + size_term + data_term
    return (
        np.array([_FLOOR, size_term, data_term, -size_term * math.log(size), -data_term * math.log(data)])
        / loss
    )
