"""A problem short of text, and its run, in; how many passes are worth it and what more text is worth out.

Both are numbers of the plan.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from stepladder.models.count import count_params
from stepladder.plan.derive import exact, times
from stepladder.plan.search import Candidate, Problem, predicted, seconds_per_token
from stepladder.records import Derived
from stepladder.units import format_count, format_usd

_PASSES = (1, 2, 4, 8, 16, 32)
# Sizes looked at: those within this factor of the chosen one, thinned.
_NEAR_SIZE, _MOST_SIZES = 6.0, 12
# More compute than this in place of text is not looked for.
_MOST_COMPUTE = 64.0

# (wall-clock share of the chosen run, unique tokens, most passes) -> least loss.
Least = Callable[[float, float, float], float]


def data_numbers(problem: Problem, best: Candidate) -> dict[str, Derived]:
    """`epochs_worth` and `usd_per_million_new_tokens`, where the run sees its text more than once."""
    if not math.isfinite(problem.unique_tokens) or best.tokens < 0.999 * problem.unique_tokens:
        return {}
    least = _least(problem, best)
    return {
        "epochs_worth": _passes_worth(problem, least),
        "usd_per_million_new_tokens": _price_worth(problem, best, least),
    }


def _least(problem: Problem, best: Candidate) -> Least:
    """Loss of the best size, as a function of time and text; a size costs what it costs a token."""
    size = count_params(best.shape).total
    near = [
        shape for shape in problem.shapes if 1 / _NEAR_SIZE < count_params(shape).total / size < _NEAR_SIZE
    ] or [best.shape]
    near = [*near[:: max(len(near) // _MOST_SIZES, 1)], best.shape]
    batch = best.recipe.batch_tokens
    paces = [seconds_per_token(problem, shape, batch, recompute=False).value for shape in near]
    mine = paces[-1] * best.tokens

    def least(share: float, unique: float, passes: float) -> float:
        posed = replace(problem, unique_tokens=unique)
        return min(
            predicted(posed, shape, min(share * mine / pace, passes * unique)).value
            for shape, pace in zip(near, paces, strict=True)
        )

    return least


def _passes_worth(problem: Problem, least: Least) -> Derived:
    losses = {passes: least(1.0, problem.unique_tokens, passes) for passes in _PASSES}
    lowest = min(losses.values())
    worth = next(passes for passes, loss in losses.items() if loss <= lowest + problem.near)
    listed = ", ".join(f"{passes}: {loss:.4g}" for passes, loss in losses.items() if passes <= 2 * worth)
    how = f"passes over the text beyond which less than 0.01 nats are gained at this cost (loss at {listed})"
    return exact(worth, how, "law")


def _price_worth(problem: Problem, best: Candidate, least: Least) -> Derived:
    # Text is compared with compute where both are used well: with as many passes as are worth it.
    unique, most = problem.unique_tokens, max(problem.max_epochs, _PASSES[-1])
    now, twice = least(1.0, unique, most), least(1.0, 2 * unique, most)
    if now - twice < problem.near / 2:
        how = f"twice the text would lower the loss by {now - twice:.2g}: compute is what is short, not text"
        return exact(0.0, how, "law")
    share = _compute_for(lambda share: least(share, unique, most), twice)
    gain = f"with passes that are worth it, {format_count(unique)} new tokens lower the loss from "
    gain += f"{now:.4g} to {twice:.4g}"
    per_million = (share - 1) * 1e6 / unique
    if share >= _MOST_COMPUTE:
        gain += f", which no compute up to {share:g}x reaches: at least that"
    else:
        gain += f", which {share:.3g}x the compute reaches without them"
    how = f"`usd` x {share - 1:.3g} / the tokens: {gain}"
    price = problem.brief.override.get("usd_per_million_tokens")
    if price is not None:
        pays = float(price) < per_million * best.costs["usd"].value
        how += f"; at your {format_usd(float(price))} buying {'pays' if pays else 'does not pay'}"
    return times(how, best.costs["usd"], scale=per_million)


def _compute_for(loss_at: Callable[[float], float], target: float) -> float:
    """The factor of compute that reaches `target`, at most `_MOST_COMPUTE`."""
    low, high = 0.0, math.log(_MOST_COMPUTE)
    if loss_at(_MOST_COMPUTE) > target:
        return _MOST_COMPUTE
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if loss_at(math.exp(middle)) > target else (low, middle)
    return math.exp(high)
