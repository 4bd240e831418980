"""What a network looks like: its sizes, its family's details, its experts. `records` offers these nouns."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """Blocks that attend to `window` tokens around each one, but for every `every`th (ModernBERT).

    A window of 0: all blocks attend to all.
    """

    window: int = 0
    every: int = 3
    rope_theta: float = 10_000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """Rotary rates of long wavelengths divided by `factor` (Llama 3.1, arXiv:2407.21783 §3.4); 1: none."""

    factor: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_tokens: int = 8_192


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What families of networks do differently at the same sizes. Defaults are ours, the Qwen3 layout.

    `rope_theta` 0: positions are learned, the first at row `position_offset` of their table. `norm` "layer"
    is LayerNorm without a bias. `norm_place` says where a block's norms stand: before attention and MLP, on
    what they answer ("inside", OLMo-2), or after what they answer is added (BERT). `qk_norm` is over each
    head or over the whole projection. `biases` are those of the blocks' matrices. `lm_head` "dense" puts a
    matrix, GELU and a norm before the vocabulary, "dense_bias" also a bias on it.
    """

    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    norm: Literal["rms", "layer", "layer_bias"] = "rms"
    norm_place: Literal["before", "inside", "after"] = "before"
    qk_norm: Literal["head", "whole", "none"] = "head"
    mlp: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    biases: Literal["none", "attention", "mlp", "all"] = "none"
    lm_head: Literal["plain", "dense", "dense_bias"] = "plain"
    token_types: int = 0
    position_offset: int = 0
    local: Local = field(default_factory=Local)
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)

    @property
    def embed_norm(self) -> bool:
        """Whether embeddings are normed: the families with LayerNorm do so."""
        return self.norm != "rms"

    @property
    def linear_biases(self) -> tuple[bool, bool]:
        """Whether the matrices of (attention, MLP) have biases."""
        return self.biases in ("attention", "all"), self.biases in ("mlp", "all")

    def is_local(self, layer: int) -> bool:
        """Whether the block of this number attends to a window."""
        return self.local.window > 0 and layer % self.local.every > 0


# What an encoder of ours is: ModernBERT's blocks (arXiv:2412.13663 §2.1). All attend to all: a window saves
# nothing where scores are written out, and our contexts are short. No bias on the vocabulary: the loss takes
# states and a matrix.
ENCODER = Variant(norm_eps=1e-5, norm="layer", qk_norm="none", mlp="geglu", lm_head="dense")


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """A mixture of `count` gated MLPs of `ffn_width` in each block, of which a token passes `active`.

    A count of 0 is a dense network. `balance` weighs the auxiliary loss that spreads tokens evenly over the
    experts (arXiv:2101.03961, equation 4).
    """

    count: int = 0
    active: int = 2
    ffn_width: int = 0
    balance: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A decoder or encoder in the Qwen3 layout; `width` is the residual stream, `ffn_width` the gated MLP.

    In JSON the fields of `variant` are top-level keys; `experts` is left out of a dense one.
    """

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    context_tokens: int
    tied_head: bool = False
    causal: bool = True
    variant: Variant = field(default_factory=Variant)
    experts: Experts = field(default_factory=Experts)

    def to_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        """Files of before variants and experts existed stay the same."""
        usual = Variant()
        old = ("rope_theta", "norm_eps")
        variant = {
            key: item
            for key, item in value.pop("variant").items()
            if key in old or getattr(self.variant, key) != getattr(usual, key)
        }
        if self.experts == Experts():
            value.pop("experts")
        return {**value, **variant}

    @staticmethod
    def from_keys(value: dict[str, Any]) -> dict[str, Any]:
        """Keys of `variant` in their own table again."""
        names = Variant.__dataclass_fields__
        variant = {key: item for key, item in value.items() if key in names}
        return {key: item for key, item in value.items() if key not in names} | {"variant": variant}
