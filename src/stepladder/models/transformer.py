"""Token ids in, logits (or hidden states) out: one transformer, whose families are choices of `Variant`.

Shape suffixes: B batch, T tokens of context, D width, V vocabulary, H heads, K key-value heads, E head
dimension, F feed-forward width. Parallelism, optimiser and checkpoint names live beside this file.
"""

import math
from dataclasses import replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepladder.models.blockmask import BlockMask, attend_blocks
from stepladder.models.experts import Mixture
from stepladder.models.fused import norm_rotate, rms_norm, rotate
from stepladder.models.ragged import Ragged, ragged_rows
from stepladder.records import RopeScaling, Shape, Variant

Attention = Literal["explicit", "sdpa", "flex"]
# What attention may see: a tensor that broadcasts to (B, H, T, T), or padded rows as one row of real tokens.
Mask = Tensor | Ragged | None


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in fp32 (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def make_norm(width: int, variant: Variant) -> nn.Module:
    """The norm of a family over `width` values."""
    if variant.norm == "rms":
        return RMSNorm(width, variant.norm_eps)
    return nn.LayerNorm(width, eps=variant.norm_eps, bias=variant.norm == "layer_bias")


def rotary_table(
    context_tokens: int, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (T, E) for half-split rotary embeddings (arXiv:2104.09864, GPT-NeoX order)."""
    rates = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is not None and scaling.factor != 1:
        # Llama 3.1: wavelengths above one bound are stretched, below the other kept, between them blended.
        turns = scaling.original_tokens * rates / (2 * math.pi)
        kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
        kept = kept.clamp(0, 1)
        rates = (1 - kept) * rates / scaling.factor + kept * rates
    angles = torch.outer(torch.arange(context_tokens, dtype=torch.float32), rates)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


class Remembers(Protocol):
    """What keeps the keys and values of earlier tokens while text is generated (`models/generate.py`)."""

    def extend(self, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]: ...


class Attend(nn.Module):
    """Grouped-query attention, with norms on queries and keys (of each head, of all together) or without."""

    memory: Remembers | None = None

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        variant = shape.variant
        self.head_dim, self.qk_norm = shape.head_dim, variant.qk_norm
        self.is_rotary = variant.rope_theta > 0
        self.causal, self.attention = shape.causal, attention
        width, queries, keys = (
            shape.width,
            shape.num_heads * shape.head_dim,
            shape.num_kv_heads * shape.head_dim,
        )
        bias, _ = variant.linear_biases
        self.q_proj = nn.Linear(width, queries, bias=bias)
        self.k_proj = nn.Linear(width, keys, bias=bias)
        self.v_proj = nn.Linear(width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, width, bias=bias)
        if self.qk_norm != "none":
            normed = (shape.head_dim, shape.head_dim) if self.qk_norm == "head" else (queries, keys)
            self.q_norm, self.k_norm = (RMSNorm(size, variant.norm_eps) for size in normed)

    def _placed(self, x_BTD: Tensor, norm: RMSNorm | None, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        """A projection as normed and rotated heads, (B, T, H, E)."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        if norm is None or self.qk_norm == "whole":
            x_BTHE = (x_BTD if norm is None else norm(x_BTD)).view(heads)
            return rotate(x_BTHE, cos_TE, sin_TE) if self.is_rotary else x_BTHE
        if self.is_rotary:
            return norm_rotate(x_BTD.view(heads), norm.weight, cos_TE, sin_TE, norm.eps)
        return norm(x_BTD.view(heads))

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Mask) -> Tensor:
        batch, tokens, _ = x_BTD.shape
        norms = (None, None) if self.qk_norm == "none" else (self.q_norm, self.k_norm)
        asked = mask.wanted if isinstance(mask, Ragged) else None
        of_q = (x_BTD, cos_TE, sin_TE)
        if asked is not None:
            of_q = (x_BTD[:, asked], cos_TE[asked], sin_TE[asked])
        # In this order: gradients of x are added in the reverse one, and their bits are held (test_golden).
        q_BTHE = self._placed(self.q_proj(of_q[0]), norms[0], *of_q[1:])
        k_BTKE = self._placed(self.k_proj(x_BTD), norms[1], cos_TE, sin_TE)
        v_BTKE = self.v_proj(x_BTD).view(batch, tokens, -1, self.head_dim)
        if not isinstance(mask, Ragged):
            return self.o_proj(self._attend(q_BTHE, k_BTKE, v_BTKE, mask))
        # Padded for attention alone.
        q_BTHE = mask.apart(q_BTHE) if asked is None else q_BTHE.transpose(0, 1)
        out_BTD = self._attend(q_BTHE, mask.apart(k_BTKE), mask.apart(v_BTKE), mask.mask)
        return self.o_proj(mask.joined(out_BTD) if asked is None else out_BTD.transpose(0, 1))

    def _attend(self, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, mask: Tensor | None) -> Tensor:
        """What each token takes from those that it attends to, (B, T, H E)."""
        q_BHTE, k_BKTE, v_BKTE = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
        if self.memory is not None:
            k_BKTE, v_BKTE = self.memory.extend(k_BKTE, v_BKTE)
        groups = q_BHTE.shape[1] // k_BKTE.shape[1]
        if groups > 1:
            k_BKTE = k_BKTE.repeat_interleave(groups, dim=1)
            v_BKTE = v_BKTE.repeat_interleave(groups, dim=1)
        attend = self._explicit if self.attention == "explicit" else self._sdpa
        return attend(q_BHTE, k_BKTE, v_BKTE, mask).transpose(1, 2).flatten(2)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Scores written out: 1.2-3.4x faster than SDPA on a CPU at 256 tokens (docs/log.md)."""
        batch, heads, tokens, _ = q.shape
        q, k, v = (x.reshape(batch * heads, -1, self.head_dim) for x in (q, k, v))
        scale = self.head_dim**-0.5
        if mask is None:
            scores = torch.bmm(q * scale, k.mT)
        else:
            # Scale and mask go into the product: no pass over the scores of their own.
            bias = mask if mask.ndim < 4 else mask.expand(batch, heads, *mask.shape[-2:]).flatten(0, 1)
            scores = torch.baddbmm(bias.to(q.dtype), q, k.mT, alpha=scale)
        return torch.bmm(F.softmax(scores, dim=-1).to(v.dtype), v).view(batch, heads, tokens, -1)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if isinstance(mask, BlockMask):
            return attend_blocks(q, k, v, mask)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and self.causal)


class FeedForward(nn.Module):
    """Gated, SwiGLU or GEGLU (arXiv:2002.05202), or the plain MLP with GELU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, ffn_width, (_, bias) = shape.width, shape.ffn_width, shape.variant.linear_biases
        self.is_gated = shape.variant.mlp != "gelu"
        self.activate = F.silu if shape.variant.mlp == "swiglu" else F.gelu
        if self.is_gated:
            self.gate_proj = nn.Linear(width, ffn_width, bias=bias)
        self.up_proj = nn.Linear(width, ffn_width, bias=bias)
        self.down_proj = nn.Linear(ffn_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.is_gated:
            return self.down_proj(self.activate(self.up_proj(x_BTD)))
        return self.down_proj(self.activate(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream; the first norm is attention's."""

    def __init__(self, shape: Shape, attention: Attention, number: int) -> None:
        super().__init__()
        variant = shape.variant
        self.norm_place, self.is_local = variant.norm_place, variant.is_local(number)
        # Where embeddings are normed, the first block before does not do it again (ModernBERT).
        is_normed = number == 0 and variant.embed_norm and variant.norm_place == "before"
        self.input_layernorm = nn.Identity() if is_normed else make_norm(shape.width, variant)
        self.self_attn = Attend(shape, attention)
        self.post_attention_layernorm = make_norm(shape.width, variant)
        self.mlp = Mixture(shape) if shape.experts.count else FeedForward(shape)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Mask) -> Tensor:
        kept_BTD = mask.kept(x_BTD) if isinstance(mask, Ragged) else x_BTD
        if self.norm_place == "before":
            x_BTD = kept_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE, mask)
            return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        if self.norm_place == "inside":
            x_BTD = kept_BTD + self.input_layernorm(self.self_attn(x_BTD, cos_TE, sin_TE, mask))
            return x_BTD + self.post_attention_layernorm(self.mlp(x_BTD))
        x_BTD = self.input_layernorm(kept_BTD + self.self_attn(x_BTD, cos_TE, sin_TE, mask))
        return self.post_attention_layernorm(x_BTD + self.mlp(x_BTD))


class HeadTransform(nn.Module):
    """What encoders put between their states and the vocabulary: a matrix, GELU, a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width, bias=shape.variant.norm == "layer_bias")
        self.norm = make_norm(shape.width, shape.variant)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(x_BTD)))


class Transformer(nn.Module):
    """The network. Parameter names are those of Qwen3 without the `model.` prefix."""

    rope_cos: Tensor
    rope_sin: Tensor
    causal_mask: Tensor
    local_cos: Tensor
    local_sin: Tensor
    local_mask: Tensor

    def __init__(self, shape: Shape, attention: Attention = "explicit") -> None:
        super().__init__()
        self.shape, self.attention = shape, attention
        variant = shape.variant
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.width)
        if not variant.rope_theta:
            rows = variant.position_offset + shape.context_tokens
            self.embed_positions = nn.Embedding(rows, shape.width)
        if variant.token_types:
            self.embed_types = nn.Embedding(variant.token_types, shape.width)
        if variant.embed_norm:
            self.embed_norm = make_norm(shape.width, variant)
        self.layers = nn.ModuleList(Block(shape, attention, n) for n in range(shape.num_layers))
        is_normed = variant.norm_place == "after"
        self.norm = nn.Identity() if is_normed else make_norm(shape.width, variant)
        if variant.lm_head != "plain":
            self.head = HeadTransform(shape)
        self.lm_head = nn.Linear(shape.width, shape.vocab_size, bias=variant.lm_head == "dense_bias")
        if shape.tied_head:
            self.lm_head.weight = self.embed_tokens.weight
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Compute rotary tables and masks; they are not part of a checkpoint."""
        shape, variant = self.shape, self.shape.variant
        sizes = (shape.context_tokens, shape.head_dim)
        cos, sin = rotary_table(*sizes, variant.rope_theta or 1.0, variant.rope_scaling)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        causal = torch.ones(shape.context_tokens, shape.context_tokens, dtype=torch.bool).tril()
        self.register_buffer("causal_mask", causal, persistent=False)
        if variant.local.window:
            cos, sin = rotary_table(*sizes, variant.local.rope_theta)
            places = torch.arange(shape.context_tokens)
            near = (places[:, None] - places).abs() <= variant.local.window // 2
            for name, table in (("cos", cos), ("sin", sin), ("mask", near)):
                self.register_buffer(f"local_{name}", table, persistent=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw initial weights.

        Matrices: normal with variance 1/fan-in, those that write to the residual stream divided by
        sqrt(2 layers). Head: zero when untied (the measured ladders, docs/log.md). Embeddings: unit
        variance when untied, 1/width when they are also the head.
        """
        residual = 1 / math.sqrt(2 * self.shape.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name == "embed_tokens.weight":
                std = self.shape.width**-0.5 if self.shape.tied_head else 1.0
                parameter.normal_(0, std, generator=generator)
            elif name == "lm_head.weight" or name.endswith(".bias"):
                parameter.zero_()
            else:
                scale = residual if name.removesuffix(".weight").endswith(("o_proj", "down_proj")) else 1.0
                parameter.normal_(0, scale * parameter.shape[-1] ** -0.5, generator=generator)

    def hidden(self, ids_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """States that the vocabulary's matrix takes, (B, T, D): normed, and transformed in an encoder.

        `mask` is boolean and broadcasts to (B, H, T, T): True attends.
        """
        tokens = ids_BT.shape[1]
        places = (self.rope_cos[:tokens], self.rope_sin[:tokens], self._added(mask, tokens))
        near = self._near(mask, tokens) if self.shape.variant.local.window else places
        x_BTD = self._embedded(self.embed_tokens(ids_BT), torch.arange(tokens, device=ids_BT.device))
        for layer in self.layers:
            x_BTD = layer(x_BTD, *(near if layer.is_local else places))
        return self._final(x_BTD)

    def hidden_real(
        self, ids_BT: Tensor, lengths_B: Tensor, types_BT: Tensor | None = None, *, last: bool = False
    ) -> Tensor:
        """`hidden` of texts padded on the right, (B, T, D) with zeros for padding, on which nothing is spent.

        `types_BT` are token types, all the first by default. `last` asks for each text's last token alone,
        (B, D): the last block then computes no other.
        """
        tokens = ids_BT.shape[1]
        row = ragged_rows(lengths_B, tokens)
        real = None
        if not self.shape.causal or last:
            real = (torch.arange(tokens, device=ids_BT.device) < lengths_B[:, None])[:, None, None, :]
        mask = None if self.shape.causal else real
        full = replace(row, mask=self._added(mask, tokens))
        places = (self.rope_cos[row.places], self.rope_sin[row.places], full)
        near = places
        if self.shape.variant.local.window:
            cos_TE, sin_TE, near_mask = self._near(mask, tokens)
            near = (cos_TE[row.places], sin_TE[row.places], replace(row, mask=near_mask))
        types_N = None if types_BT is None else types_BT.flatten()[row.slots]
        ids_1N = ids_BT.flatten()[row.slots][None]
        x_1ND = self._embedded(self.embed_tokens(ids_1N), row.places, types_N)
        *before, final = self.layers
        for layer in before:
            x_1ND = layer(x_1ND, *(near if layer.is_local else places))
        # Experts are balanced over all tokens, in the last block too.
        is_short = last and not final.is_local and not self.shape.experts.count
        if is_short:
            # The last token sees all of its text, whatever the family's mask.
            row = replace(row, mask=self._added(real, tokens), wanted=lengths_B.cumsum(0) - 1)
            places = (*places[:2], row)
        x_1ND = self._final(final(x_1ND, *(near if final.is_local else places)))
        if is_short:
            return x_1ND[0]
        return x_1ND[0, lengths_B.cumsum(0) - 1] if last else row.apart(x_1ND)

    def _final(self, x_BTD: Tensor) -> Tensor:
        """Normed, and transformed in an encoder."""
        x_BTD = self.norm(x_BTD)
        return x_BTD if self.shape.variant.lm_head == "plain" else self.head(x_BTD)

    def _embedded(self, x_BTD: Tensor, places_T: Tensor, types_T: Tensor | None = None) -> Tensor:
        """Embeddings with learned positions, token types (by default the first) and a norm, where the family
        has them."""
        variant = self.shape.variant
        if not variant.rope_theta:
            x_BTD = x_BTD + self.embed_positions(places_T + variant.position_offset)
        if variant.token_types:
            x_BTD = x_BTD + (self.embed_types.weight[0] if types_T is None else self.embed_types(types_T))
        return self.embed_norm(x_BTD) if variant.embed_norm else x_BTD

    def _added(self, mask: Tensor | None, tokens: int) -> Tensor | None:
        """A mask as attention takes it: where scores are written out, what is added to them."""
        if self.attention == "explicit":
            if mask is None and self.shape.causal:
                mask = self.causal_mask[:tokens, :tokens]
            if mask is not None:
                mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))
        return mask

    def _near(self, mask: Tensor | None, tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rotary tables and mask of the blocks that attend to a window."""
        near = self.local_mask[:tokens, :tokens]
        if mask is not None:
            # Padding far from every token sees itself: a row without a key has no softmax.
            near = near & mask | torch.eye(tokens, dtype=torch.bool, device=near.device)
        return self.local_cos[:tokens], self.local_sin[:tokens], self._added(near, tokens)

    def forward(self, ids_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits, (B, T, V)."""
        return self.lm_head(self.hidden(ids_BT, mask))
