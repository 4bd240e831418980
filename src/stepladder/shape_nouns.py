"""What a network looks like: its sizes, its family's details, its experts. `records` offers these nouns."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What families of networks do differently at the same sizes. Defaults are ours, the Qwen3 layout."""

    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6


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
        variant = value.pop("variant")
        if self.experts == Experts():
            value.pop("experts")
        return {**value, **variant}

    @staticmethod
    def from_keys(value: dict[str, Any]) -> dict[str, Any]:
        """Keys of `variant` in their own table again."""
        names = Variant.__dataclass_fields__
        variant = {key: item for key, item in value.items() if key in names}
        return {key: item for key, item in value.items() if key not in names} | {"variant": variant}
