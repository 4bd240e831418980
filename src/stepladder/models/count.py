"""A shape in; its parameters, training FLOPs for each token, and bytes out, equal to what torch counts."""

from dataclasses import dataclass
from typing import Literal

from stepladder.records import Shape

Attention = Literal["explicit", "sdpa"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamCount:
    """Parameters. `head` is 0 when tied to the embedding; `nonembed` leaves out both vocabulary matrices.

    `active` are those that a token passes: without the experts that it is not sent to.
    """

    total: int
    embedding: int
    head: int
    nonembed: int
    active: int


def count_params(shape: Shape) -> ParamCount:
    """What `sum(p.numel())` over the model's parameters gives."""
    embedding = shape.vocab_size * shape.width
    head = 0 if shape.tied_head else embedding
    nonembed = shape.num_layers * (_layer_matrices(shape) + _layer_norms(shape)) + _outside(shape)
    total = embedding + head + nonembed
    idle = shape.num_layers * (_layer_matrices(shape) - _layer_matrices(shape, passed=True))
    return ParamCount(total=total, embedding=embedding, head=head, nonembed=nonembed, active=total - idle)


def forward_flops_per_token(shape: Shape) -> int:
    """Multiply-adds count as two; matrix products only, as torch's FlopCounterMode counts them.

    The embedding is a look-up and counts nothing; the head counts also when tied. Attention scores are
    computed for all pairs of positions of the context and masked afterwards, so no causal half is taken off.
    """
    head = shape.vocab_size * shape.width + (shape.width**2 if shape.variant.lm_head != "plain" else 0)
    matrices = shape.num_layers * _layer_matrices(shape, passed=True) + head
    scores = 2 * shape.num_layers * shape.context_tokens * shape.num_heads * shape.head_dim
    return 2 * (matrices + scores)


def train_flops_per_token(shape: Shape) -> int:
    """Forward and backward: three times the forward, since both inputs of each product get a gradient.

    For the matrices this is the familiar 6N; attention adds 12 x layers x context x heads x head dimension.
    """
    return 3 * forward_flops_per_token(shape)


def state_bytes(shape: Shape, optimiser: str = "adamw") -> dict[str, int]:
    """fp32 weights, gradients and optimiser moments of one unsharded copy.

    AdamW keeps two moments of each weight; Muon one for the hidden matrices and AdamW's two for the rest.
    """
    total = count_params(shape).total
    moments = 2 * total
    if optimiser == "muon":
        moments -= shape.num_layers * _layer_matrices(shape)
    return {"weights": 4 * total, "gradients": 4 * total, "optimiser": 4 * moments}


def layer_activation_bytes(
    shape: Shape, *, attention: Attention, value_bytes: int, recompute: str = "none"
) -> tuple[dict[str, int], int]:
    """Bytes a token that a layer keeps for its backward pass, by term, and that it computes again then.

    `value_bytes` is 4, or 2 under bf16 autocast; the norms and the states between layers are fp32 in both.
    Selective recompute does the attention again, full recompute the layer.
    """
    width, queries = shape.width, shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    terms = {
        "norms": 2 * (4 * width + 4),
        "matrix_inputs": value_bytes * 2 * width,
        "head_norms": 4 * (queries + keys) + 4 * (shape.num_heads + shape.num_kv_heads),
        "attention": value_bytes * 4 * queries + (0 if attention == "explicit" else 4 * shape.num_heads),
        "scores": shape.context_tokens * shape.num_heads * value_bytes if attention == "explicit" else 0,
        "feed_forward": value_bytes * _feed_forward_values(shape),
    }
    inside = {"none": (), "selective": ("head_norms", "attention", "scores")}.get(recompute, tuple(terms))
    again = sum(terms.pop(name) for name in inside)
    return (terms or {"layer_inputs": 4 * width}), again


def head_activation_bytes(shape: Shape, value_bytes: int) -> int:
    """Bytes for each token that the final norm and the head keep, without logits."""
    return 4 * shape.width + 4 + value_bytes * shape.width


def activation_bytes_per_token(
    shape: Shape, *, attention: Attention, value_bytes: int, recompute: str = "none"
) -> dict[str, int]:
    """Bytes that the forward pass keeps for the backward pass, for each token of the micro-batch, by term.

    With what one layer computes again. Copies of the weights are not here (`autocast_copy_bytes`), nor are
    logits: the head's loss has its gradients made in chunks.
    """
    layer, again = layer_activation_bytes(
        shape, attention=attention, value_bytes=value_bytes, recompute=recompute
    )
    kept = {name: shape.num_layers * amount for name, amount in layer.items()}
    return {**kept, "computed_again": again, "head": head_activation_bytes(shape, value_bytes)}


def _feed_forward_values(shape: Shape) -> int:
    """Gate, its activation, up and their product; of a mixture also each row as it came and left."""
    experts = shape.experts
    if not experts.count:
        return 4 * shape.ffn_width
    return experts.active * (4 * experts.ffn_width + 3 * shape.width) + 2 * experts.count


def autocast_copy_bytes(shape: Shape) -> int:
    """bf16 copies of all matrices that multiply, which autocast keeps until the backward pass is through."""
    return 2 * (shape.num_layers * _layer_matrices(shape) + shape.vocab_size * shape.width)


def _layer_matrices(shape: Shape, *, passed: bool = False) -> int:
    """Of all experts, or of those that a token passes."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention = shape.width * (queries + 2 * keys) + queries * shape.width
    experts = shape.experts
    if not experts.count:
        return attention + (2 if shape.variant.mlp == "gelu" else 3) * shape.width * shape.ffn_width
    number = experts.active if passed else experts.count
    return attention + shape.width * experts.count + 3 * number * shape.width * experts.ffn_width


def _layer_norms(shape: Shape) -> int:
    """Everything of a block with one dimension."""
    variant = shape.variant
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention_bias, mlp_bias = variant.linear_biases
    total = 2 * _norm(shape)
    if variant.qk_norm != "none":
        total += 2 * shape.head_dim if variant.qk_norm == "head" else queries + keys
    if attention_bias:
        total += queries + 2 * keys + shape.width
    if mlp_bias:
        total += shape.width + (1 if variant.mlp == "gelu" else 2) * shape.ffn_width
    return total


def _norm(shape: Shape) -> int:
    return (2 if shape.variant.norm == "layer_bias" else 1) * shape.width


def _outside(shape: Shape) -> int:
    """Outside of the blocks and the two vocabulary matrices."""
    variant, norm = shape.variant, _norm(shape)
    # Where embeddings are normed, a norm is missing elsewhere: the first block's, or the last of all.
    total = 0 if variant.norm_place == "after" and not variant.embed_norm else norm
    rows = variant.token_types + (0 if variant.rope_theta else variant.position_offset + shape.context_tokens)
    total += rows * shape.width
    if variant.lm_head != "plain":
        total += shape.width**2 + norm + (norm - shape.width)
    return total + (shape.vocab_size if variant.lm_head == "dense_bias" else 0)
