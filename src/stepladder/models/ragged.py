"""Texts padded on the right in; their real tokens as one row, and that row padded again, out (torch).

Everything but attention works on single tokens: on one row of them nothing is spent on padding. Shape
suffixes are those of `transformer.py`, and N: the real tokens of all texts, one text behind the other.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ragged:
    """How real tokens lie in padded rows, and the mask that attention takes over these.

    `slots` (N) number the real tokens in the flattened (B, T), `places` (N) count within a text. `wanted` (B)
    are the only tokens of the row whose states the last block has to compute; None: all.
    """

    rows: tuple[int, int]
    slots: Tensor
    places: Tensor
    mask: Tensor | None = None
    wanted: Tensor | None = None

    def apart(self, x_1N: Tensor) -> Tensor:
        """(1, N, ...) as (B, T, ...), with zeros for padding."""
        batch, tokens = self.rows
        padded = _Apart.apply(x_1N[0], self.slots, batch * tokens)
        return padded.view(batch, tokens, *x_1N.shape[2:])

    def joined(self, x_BT: Tensor) -> Tensor:
        """(B, T, ...) as (1, N, ...)."""
        return _Join.apply(x_BT.flatten(0, 1), self.slots)[None]

    def kept(self, x_1N: Tensor) -> Tensor:
        """(1, N, ...), or only what is wanted of it, (1, B, ...)."""
        return x_1N if self.wanted is None else x_1N[:, self.wanted]


def ragged_rows(lengths_B: Tensor, tokens: int) -> Ragged:
    """Rows of `lengths_B` real tokens each, padded to `tokens`."""
    real_BT = torch.arange(tokens, device=lengths_B.device) < lengths_B[:, None]
    slots = real_BT.flatten().nonzero().flatten()
    return Ragged(rows=(len(lengths_B), tokens), slots=slots, places=slots % tokens)


class _Apart(torch.autograd.Function):
    """Rows into zeros at `slots`: each has its own, so that nothing is added up in either direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(slots)
        return x.new_zeros(count, *x.shape[1:]).index_copy_(0, slots, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyrefly: ignore[bad-override]
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _Join(torch.autograd.Function):
    """The rows at `slots`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.count = len(x)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, slots, grad), None
