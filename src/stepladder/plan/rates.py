"""A shape and a length in; batch and learning rates out (one rule with named constants, nothing searched).

The constants were measured on small decoders on text (docs/log.md); a new set is a `RateRule` given to
`recipe_for`, so that a better measurement replaces them in one place.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from stepladder.records import Recipe, Shape

RecipeRule = Callable[[Shape, float], Recipe]


@dataclass(frozen=True, kw_only=True, slots=True)
class RateRule:
    """Peak rates at a width of 64, a batch of 1,024 tokens and at most `free_steps` steps.

    Embeddings keep their rate at every width; head and hidden matrices under AdamW scale with 1/width (with
    one rate for all, a ladder forecasts nothing); Muon's does not scale. From `free_steps` on rates fall
    with steps^-0.32 (arXiv:2409.19913 measured that exponent over token horizons; a fifth to a half of the
    short-run rates was best at 9,765 steps, docs/log.md), and they grow with the root of the batch
    (arXiv:2405.14578).
    """

    embed: float = 3.2e-2
    head: float = 3.2e-2
    hidden: float = 1.5e-3
    muon: float = 0.02
    share: float = 0.5
    free_steps: int = 2_500
    length_exponent: float = 0.32
    base_width: int = 64
    base_batch: int = 1_024


MEASURED = RateRule()
# A run of fewer steps measures its own start (docs/log.md).
MIN_STEPS = 400
# 1,024 tokens a step up to this length were measured; from 1e9 tokens on the batch is that of the step law
# B = 0.58 D^0.571 (arXiv:2503.04715); between the two a straight line in logarithms.
_SHORT_TOKENS, _LONG_TOKENS = 3e7, 1e9


def batch_for(tokens: float, context_tokens: int, rule: RateRule = MEASURED) -> int:
    """Tokens of one optimiser step: a power of two of whole sequences, at least MIN_STEPS steps where
    the run is long enough for them."""
    start, end = math.log(_SHORT_TOKENS), math.log(_LONG_TOKENS)
    if tokens <= _LONG_TOKENS:
        share = max((math.log(max(tokens, 1.0)) - start) / (end - start), 0.0)
        batch = rule.base_batch * (_step_law(_LONG_TOKENS) / rule.base_batch) ** share
    else:
        batch = _step_law(tokens)
    sequences = max(min(batch, tokens / MIN_STEPS) / context_tokens, 1.0)
    return context_tokens * 2 ** math.floor(math.log2(sequences) + 1e-9)


def recipe_for(
    shape: Shape,
    tokens: float,
    *,
    optimiser: Literal["adamw", "muon"] = "adamw",
    batch_tokens: int | None = None,
    learning_rate: float | None = None,
    rule: RateRule = MEASURED,
) -> Recipe:
    """The recipe of a run of `tokens`.

    `learning_rate` replaces the rate of the hidden matrices; the other two keep their ratio to it.
    """
    batch = batch_tokens or batch_for(tokens, shape.context_tokens, rule)
    factor = rate_factor(tokens / batch, batch, rule)
    hidden = rule.muon if optimiser == "muon" else rule.hidden * rule.base_width / shape.width
    if learning_rate is not None:
        factor = learning_rate / hidden
    return Recipe(
        batch_tokens=batch,
        embed_lr=rule.embed * factor,
        head_lr=rule.head * rule.base_width / shape.width * factor,
        hidden_lr=hidden * factor,
        optimiser=optimiser,
    )


def rate_factor(steps: float, batch_tokens: int, rule: RateRule = MEASURED) -> float:
    """What length and batch make of the rule's rates."""
    length = min(1.0, (rule.free_steps / steps) ** rule.length_exponent)
    return rule.share * length * math.sqrt(max(batch_tokens / rule.base_batch, 1.0))


def _step_law(tokens: float) -> float:
    return 0.58 * tokens**0.571


def recipe_rule(override: Mapping[str, float | int | str | bool]) -> RecipeRule:
    """`recipe_for` with what a brief's [override] fixes: the rule that ladder and target share."""
    batch, rate = override.get("batch_tokens"), override.get("learning_rate")

    def rule(shape: Shape, tokens: float) -> Recipe:
        return recipe_for(
            shape,
            tokens,
            optimiser="muon" if override.get("optimiser") == "muon" else "adamw",
            batch_tokens=None if batch is None else int(batch),
            learning_rate=None if rate is None else float(rate),
        )

    return rule
