"""A shape in; its parameters, training FLOPs for each token, and bytes out, equal to what torch counts."""

from dataclasses import dataclass
from typing import Literal

from stepladder.records import Shape

Attention = Literal["explicit", "sdpa"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamCount:
    """Parameters. `head` is 0 when tied to the embedding; `nonembed` leaves out both vocabulary matrices."""

    total: int
    embedding: int
    head: int
    nonembed: int


def count_params(shape: Shape) -> ParamCount:
    """What `sum(p.numel())` over the model's parameters gives."""
    embedding = shape.vocab_size * shape.width
    head = 0 if shape.tied_head else embedding
    nonembed = shape.num_layers * (_layer_matrices(shape) + _layer_norms(shape)) + shape.width
    return ParamCount(total=embedding + head + nonembed, embedding=embedding, head=head, nonembed=nonembed)


def forward_flops_per_token(shape: Shape) -> int:
    """Multiply-adds count as two; matrix products only, as torch's FlopCounterMode counts them.

    The embedding is a look-up and counts nothing; the head counts also when tied. Attention scores are
    computed for all pairs of positions of the context and masked afterwards, so no causal half is taken off.
    """
    matrices = shape.num_layers * _layer_matrices(shape) + shape.vocab_size * shape.width
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


def activation_bytes_per_token(
    shape: Shape, *, attention: Attention, value_bytes: int, recompute: str = "none"
) -> dict[str, int]:
    """Bytes that the forward pass keeps for the backward pass, for each token of the micro-batch, by term.

    `value_bytes` is 4, or 2 under bf16 autocast; the norms keep fp32 in both. Selective recompute drops the
    scores; full recompute keeps the input of each layer and one layer's worth. Copies of the weights are
    not here (`autocast_copy_bytes`).
    """
    width, queries = shape.width, shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    scores = shape.context_tokens * shape.num_heads * value_bytes if attention == "explicit" else 0
    per_layer = {
        "norms": 2 * (4 * width + 4) + 4 * (queries + keys) + 4 * (shape.num_heads + shape.num_kv_heads),
        "matrix_inputs": value_bytes * (2 * width + queries),
        "attention": value_bytes * 3 * queries + (0 if attention == "explicit" else 4 * shape.num_heads),
        "scores": scores,
        "feed_forward": value_bytes * 4 * shape.ffn_width,
    }
    kept = {name: shape.num_layers * amount for name, amount in per_layer.items()}
    if recompute == "full":
        kept = {**per_layer, "layer_inputs": shape.num_layers * 4 * width}
    elif recompute == "selective":
        kept["scores"] = per_layer["scores"]
    head = 4 * width + 4 + value_bytes * width
    return {**kept, "head": head, "log_probabilities": 4 * shape.vocab_size}


def autocast_copy_bytes(shape: Shape) -> int:
    """bf16 copies of all matrices that multiply, which autocast keeps until the backward pass is through."""
    return 2 * (shape.num_layers * _layer_matrices(shape) + shape.vocab_size * shape.width)


def _layer_matrices(shape: Shape) -> int:
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention = shape.width * (queries + 2 * keys) + queries * shape.width
    return attention + 3 * shape.width * shape.ffn_width


def _layer_norms(shape: Shape) -> int:
    return 2 * shape.width + 2 * shape.head_dim
