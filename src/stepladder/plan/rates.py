"""A shape and a length in; batch and learning rates out (one rule with named constants, nothing searched).

The constants were measured on small decoders on text (docs/log.md); a new set is a `RateRule` given to
`recipe_for`, so that a better measurement replaces them in one place.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from stepladder.records import Recipe, Shape

RecipeRule = Callable[[Shape, float], Recipe]


@dataclass(frozen=True, kw_only=True, slots=True)
class RateRule:
    """Peak rates at a width of 64, two layers and a batch of 1,024 tokens at 1e6 tokens.

    Embeddings and Muon keep their rate at every width; the head, and hidden matrices under AdamW, scale with
    1/width (with one rate for all, a ladder forecasts nothing). Embeddings that are also the head take the
    head's rate: with their own, a width of 256 diverged (docs/log.md, 2026-11-27). The batch grows with the
    root of the run's tokens and the rates stay: that is the rule for length, since fixed rates at a fixed
    batch made a long run end worse than a short one (docs/log.md, 2026-11-24). With a smaller batch than
    that, all rates fall with `rate_exponent` of it: at a fixed batch that is steps^-1/4, between the measured
    drift and the exponents -0.23 to -0.32 of Bjorck et al. (arXiv:2409.19913). Deeper than two layers, all
    rates of a run with Muon fall with `muon_depth_exponent` (measured to 16 layers; AdamW's best rates did
    not move at eight). With AdamW all rates are `adamw_factor` times as high: its best ones were, in each
    cell that was measured. docs/training/rates.md has the tables.
    """

    embed: float = 0.1
    head: float = 0.064
    hidden: float = 3e-3
    muon: float = 0.02
    base_width: int = 64
    base_layers: int = 2
    base_batch: int = 1_024
    base_tokens: float = 1e6
    batch_exponent: float = 0.5
    rate_exponent: float = 0.5
    muon_depth_exponent: float = 0.25
    adamw_factor: float = 2**0.75


MEASURED = RateRule()
_WARMUP_SHARE = 0.03
# A run of fewer steps measures its own start (docs/log.md); a law needs its points clear of that.
MIN_STEPS, MIN_RUNG_STEPS = 400, 600
# The root rule was measured up to 6e6 tokens; from 1e9 tokens on the batch is that of the step law
# B = 0.58 D^0.571 (arXiv:2503.04715); between 3e7 and that a straight line in logarithms.
_SHORT_TOKENS, _LONG_TOKENS = 3e7, 1e9
# Batches are whole multiples of this share of themselves, so that neighbouring rungs differ smoothly.
_GRAIN = 1 / 8


def batch_for(tokens: float, context_tokens: int, rule: RateRule = MEASURED) -> int:
    """Tokens of one optimiser step, in whole sequences (an even number of them where there are many)."""
    if tokens <= _SHORT_TOKENS:
        batch = _root_rule(tokens, rule)
    elif tokens >= _LONG_TOKENS:
        batch = _step_law(tokens)
    else:
        low, high = _root_rule(_SHORT_TOKENS, rule), _step_law(_LONG_TOKENS)
        share = math.log(tokens / _SHORT_TOKENS) / math.log(_LONG_TOKENS / _SHORT_TOKENS)
        batch = low * (high / low) ** share
    sequences = max(batch / context_tokens, 1.0)
    grain = 2 ** max(math.floor(math.log2(sequences * _GRAIN)), 0)
    return context_tokens * grain * max(round(sequences / grain), 1)


def shortest_run(batch_of: Callable[[float], int], steps: int) -> int:
    """Fewest tokens whose run has `steps` steps when `batch_of(tokens)` is its batch."""
    low, high = 1.0, 1e13
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        enough = middle // batch_of(middle) >= steps
        low, high = (low, middle) if enough else (middle, high)
    return math.ceil(high)


def recipe_for(
    shape: Shape,
    tokens: float,
    *,
    optimiser: Literal["adamw", "muon"] = "muon",
    batch_tokens: int | None = None,
    learning_rate: float | None = None,
    rule: RateRule = MEASURED,
) -> Recipe:
    """The recipe of a run of `tokens`.

    `batch_tokens` replaces the batch, and the rates follow it (`with_batch`). `learning_rate` replaces the
    rate of the hidden matrices; the other two keep their ratio to it.
    """
    head_lr = rule.head * rule.base_width / shape.width
    recipe = Recipe(
        batch_tokens=batch_for(tokens, shape.context_tokens, rule),
        embed_lr=head_lr if shape.tied_head else rule.embed,
        head_lr=head_lr,
        hidden_lr=rule.muon if optimiser == "muon" else rule.hidden * rule.base_width / shape.width,
        optimiser=optimiser,
        warmup_share=_WARMUP_SHARE,
    )
    if optimiser == "muon":
        recipe = _times(recipe, max(shape.num_layers / rule.base_layers, 1.0) ** -rule.muon_depth_exponent)
    else:
        recipe = _times(recipe, rule.adamw_factor)
    if batch_tokens is not None:
        recipe = with_batch(recipe, batch_tokens, rule)
    return recipe if learning_rate is None else _times(recipe, learning_rate / recipe.hidden_lr)


def with_batch(recipe: Recipe, batch_tokens: int, rule: RateRule = MEASURED) -> Recipe:
    """The recipe at another batch: lower rates for a smaller one, the same for a larger one.

    A smaller batch takes more steps for the same tokens, each with more noise. For a larger one, higher
    rates would follow; they are not measured, and too high costs more than too low.
    """
    share = min(batch_tokens / recipe.batch_tokens, 1.0)
    return replace(_times(recipe, share**rule.rate_exponent), batch_tokens=batch_tokens)


def _times(recipe: Recipe, factor: float) -> Recipe:
    return replace(
        recipe,
        embed_lr=recipe.embed_lr * factor,
        head_lr=recipe.head_lr * factor,
        hidden_lr=recipe.hidden_lr * factor,
    )


def _root_rule(tokens: float, rule: RateRule) -> float:
    return rule.base_batch * (tokens / rule.base_tokens) ** rule.batch_exponent


def _step_law(tokens: float) -> float:
    return 0.58 * tokens**0.571


def recipe_rule(override: Mapping[str, float | int | str | bool]) -> RecipeRule:
    """`recipe_for` with what a brief's [override] fixes: the rule that ladder and target share."""
    batch, rate = override.get("batch_tokens"), override.get("learning_rate")

    def rule(shape: Shape, tokens: float) -> Recipe:
        return recipe_for(
            shape,
            tokens,
            optimiser="adamw" if override.get("optimiser") == "adamw" else "muon",
            batch_tokens=None if batch is None else int(batch),
            learning_rate=None if rate is None else float(rate),
        )

    return rule
