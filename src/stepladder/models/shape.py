"""One size (parameters, or a width) in; width, depth, heads and feed-forward width out."""

from dataclasses import replace

from stepladder.errors import PlanError
from stepladder.models.count import count_params
from stepladder.records import ENCODER, Experts, Shape, Variant

# GPT-2's head dimension, where the width allows: on a CPU 16 costs 2.4 times as much (docs/log.md).
HEAD_DIM = 64
# Copying from the context takes two layers that work together (arXiv:2209.11895); three leave one more.
_MIN_LAYERS = 3
# 64 units of width a layer, as GPT-2 small (768 / 12), up to that size; beyond it depth grows with
# width^0.586, the line through GPT-2 small and LLaMA 7B (4,096 / 32, arXiv:2302.13971). Loss depends on
# this ratio by a few per cent over a 40-fold range (arXiv:2001.08361 §3.1).
_WIDTH_PER_LAYER, _KNEE_WIDTH, _DEPTH_EXPONENT = 64, 768, 0.586
_MAX_WIDTH = 131_072


def layers_for_width(width: int) -> int:
    """The default depth."""
    layers = width / _WIDTH_PER_LAYER
    if width > _KNEE_WIDTH:
        layers = _KNEE_WIDTH / _WIDTH_PER_LAYER * (width / _KNEE_WIDTH) ** _DEPTH_EXPONENT
    return max(_MIN_LAYERS, round(layers))


def ffn_width_for(width: int) -> int:
    """8/3 of the width, so that a gated MLP has the parameters of a plain one of 4 times the width
    (arXiv:2002.05202), rounded to 64, or to 16 below a width of 512."""
    multiple = 64 if width >= 512 else 16
    return max(multiple, round(8 * width / 3 / multiple) * multiple)


def shape_for_width(
    width: int,
    num_layers: int | None = None,
    *,
    vocab_size: int,
    context_tokens: int,
    num_heads: int | None = None,
    tied_head: bool = False,
    causal: bool = True,
) -> Shape:
    """The shape of this width; depth and heads follow from it unless given.

    Raises:
        PlanError: the heads do not divide the width into even parts (rotary positions need pairs).
    """
    heads = num_heads or max(1, round(width / HEAD_DIM))
    while not num_heads and heads > 1 and width % (2 * heads):
        heads -= 1
    if width < 2 or width % (2 * heads):
        raise PlanError(
            f"{heads} attention heads do not divide a width of {width} into even parts",
            got=f"{width / heads:g} for each head",
            allowed=f"a width that is a multiple of {2 * heads}",
        )
    return Shape(
        num_layers=num_layers or layers_for_width(width),
        width=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        ffn_width=ffn_width_for(width),
        vocab_size=vocab_size,
        context_tokens=context_tokens,
        tied_head=tied_head,
        causal=causal,
        variant=Variant() if causal else ENCODER,
    )


def with_experts(shape: Shape, count: int, active: int, ffn_width: int = 0) -> Shape:
    """The shape with `count` experts in each block, of which a token passes `active`.

    Unless given, their width is such that a token meets as many parameters as in the dense shape.

    Raises:
        PlanError: more active experts than there are.
    """
    if not 1 <= active <= count:
        raise PlanError(
            "a token cannot pass more experts than there are",
            got=f"experts_active = {active} of num_experts = {count}",
            allowed=f"1 to {count}",
        )
    ffn_width = ffn_width or max(16, round(shape.ffn_width / active / 16) * 16)
    return replace(shape, experts=Experts(count=count, active=active, ffn_width=ffn_width))


def shape_for_params(
    params: float,
    *,
    vocab_size: int,
    context_tokens: int,
    num_layers: int | None = None,
    num_heads: int | None = None,
    tied_head: bool = False,
    causal: bool = True,
) -> Shape:
    """The shape whose parameter count, embeddings and head included, is nearest to `params`."""

    def shape(width: int) -> Shape:
        return shape_for_width(
            width,
            num_layers,
            vocab_size=vocab_size,
            context_tokens=context_tokens,
            num_heads=num_heads,
            tied_head=tied_head,
            causal=causal,
        )

    widths = usual_widths(num_heads)
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if count_params(shape(widths[middle])).total < params:
            low = middle + 1
        else:
            high = middle
    near = [shape(width) for width in widths[max(low - 1, 0) : low + 1]]
    return min(near, key=lambda candidate: abs(count_params(candidate).total - params))


def usual_widths(num_heads: int | None = None, most: int = _MAX_WIDTH) -> list[int]:
    """Widths worth building, in steps of about a tenth; each an even part for each head."""
    steps = ((16, 128, 8), (128, 256, 16), (256, 1_024, 64), (1_024, 4_096, 128), (4_096, most + 1, 256))
    widths = [width for start, stop, step in steps for width in range(start, stop, step) if width <= most]
    if num_heads is None:
        return widths
    return [width for width in widths if width % (2 * num_heads) == 0]


def narrower(target: Shape, width: int) -> Shape:
    """A rung's shape: the target's depth, head count, vocabulary and context at a smaller (or larger) width.

    A ladder whose depth or head count differs from the target's can cross a transition between them and
    then forecasts 20 to 35 % wrong (docs/log.md).
    """
    shape = shape_for_width(
        width,
        target.num_layers,
        vocab_size=target.vocab_size,
        context_tokens=target.context_tokens,
        num_heads=target.num_heads,
        tied_head=target.tied_head,
        causal=target.causal,
    )
    experts = target.experts
    if not experts.count:
        return shape
    share = experts.ffn_width / target.ffn_width
    return with_experts(
        shape, experts.count, experts.active, max(16, round(share * shape.ffn_width / 16) * 16)
    )
