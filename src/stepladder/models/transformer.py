"""Token ids in, logits (or hidden states) out: one pre-norm transformer in the Qwen3 layout, nothing else.

Shape suffixes: B batch, T tokens of context, D width, V vocabulary, H heads, K key-value heads, E head
dimension, F feed-forward width. Parallelism, optimiser and checkpoint names live beside this file.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepladder.models.experts import Mixture
from stepladder.models.fused import norm_rotate, rms_norm
from stepladder.records import Shape

Attention = Literal["explicit", "sdpa"]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in fp32 (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rotary_table(context_tokens: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (T, E) for half-split rotary embeddings (arXiv:2104.09864, GPT-NeoX order)."""
    rates = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(context_tokens, dtype=torch.float32), rates)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


class Attend(nn.Module):
    """Grouped-query attention with a norm on each head's queries and keys."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.causal, self.attention = shape.causal, attention
        width, queries, keys = (
            shape.width,
            shape.num_heads * shape.head_dim,
            shape.num_kv_heads * shape.head_dim,
        )
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.variant.norm_eps)
        self.k_norm = RMSNorm(shape.head_dim, shape.variant.norm_eps)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, _ = x_BTD.shape
        q_BTHE, k_BTKE, v_BTKE = (
            project(x_BTD).view(batch, tokens, -1, self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_BTHE = norm_rotate(q_BTHE, self.q_norm.weight, cos_TE, sin_TE, self.q_norm.eps)
        k_BTKE = norm_rotate(k_BTKE, self.k_norm.weight, cos_TE, sin_TE, self.k_norm.eps)
        q_BHTE, k_BKTE, v_BKTE = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
        groups = q_BHTE.shape[1] // k_BKTE.shape[1]
        if groups > 1:
            k_BKTE = k_BKTE.repeat_interleave(groups, dim=1)
            v_BKTE = v_BKTE.repeat_interleave(groups, dim=1)
        attend = self._explicit if self.attention == "explicit" else self._sdpa
        out_BHTE = attend(q_BHTE, k_BKTE, v_BKTE, mask)
        return self.o_proj(out_BHTE.transpose(1, 2).reshape(batch, tokens, -1))

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
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and self.causal)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, ffn_width, bias=False)
        self.up_proj = nn.Linear(width, ffn_width, bias=False)
        self.down_proj = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.variant.norm_eps)
        self.self_attn = Attend(shape, attention)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.variant.norm_eps)
        self.mlp = Mixture(shape) if shape.experts.count else FeedForward(shape.width, shape.ffn_width)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE, mask)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Transformer(nn.Module):
    """The network. Parameter names are those of Qwen3 without the `model.` prefix."""

    rope_cos: Tensor
    rope_sin: Tensor
    causal_mask: Tensor

    def __init__(self, shape: Shape, attention: Attention = "explicit") -> None:
        super().__init__()
        self.shape, self.attention = shape, attention
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(Block(shape, attention) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.width, shape.variant.norm_eps)
        self.lm_head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        if shape.tied_head:
            self.lm_head.weight = self.embed_tokens.weight
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Compute the rotary table and the causal mask; they are not part of a checkpoint."""
        shape = self.shape
        cos, sin = rotary_table(shape.context_tokens, shape.head_dim, shape.variant.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        causal = torch.ones(shape.context_tokens, shape.context_tokens, dtype=torch.bool).tril()
        self.register_buffer("causal_mask", causal, persistent=False)

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
            elif name == "lm_head.weight":
                parameter.zero_()
            else:
                scale = residual if name.removesuffix(".weight").endswith(("o_proj", "down_proj")) else 1.0
                parameter.normal_(0, scale * parameter.shape[-1] ** -0.5, generator=generator)

    def hidden(self, ids_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """Final normed states, (B, T, D). `mask` is boolean and broadcasts to (B, H, T, T): True attends."""
        tokens = ids_BT.shape[1]
        cos, sin = self.rope_cos[:tokens], self.rope_sin[:tokens]
        if self.attention == "explicit":
            if mask is None and self.shape.causal:
                mask = self.causal_mask[:tokens, :tokens]
            if mask is not None:
                # Once for all layers: what is added to the scores.
                mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))
        x_BTD = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos, sin, mask)
        return self.norm(x_BTD)

    def forward(self, ids_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits, (B, T, V)."""
        return self.lm_head(self.hidden(ids_BT, mask))
