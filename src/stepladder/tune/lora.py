"""A network in; the same with low-rank adapters, and with them merged into its weights again, out (torch).

Hu et al. 2021, arXiv:2106.09685: y = x W' + alpha / rank * (x A') B', W fixed, B zero at first. They stand
beside every projection of attention and feed-forward (arXiv:2305.14314 found that to matter more than the
rank); experts have none.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepladder.models.transformer import Attend, FeedForward, Transformer


class AdaptedLinear(nn.Module):
    """A fixed linear layer with a trained low-rank one beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        with torch.no_grad():
            self.lora_a.normal_(0, base.in_features**-0.5, generator=generator)
        self._cast: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return _Adapted.apply(x, self._weight(x), self.base.bias, self.lora_a, self.lora_b, self.scale)

    def _weight(self, x: Tensor) -> Tensor:
        """The fixed weight in the type of the computation, cast once."""
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return self.base.weight
        wanted = torch.get_autocast_dtype(kind)
        if self._cast is None or self._cast.dtype != wanted:
            self._cast = self.base.weight.detach().to(wanted)
        return self._cast

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same."""
        self.base.weight.add_(self.lora_b @ self.lora_a, alpha=self.scale)
        return self.base


class _Adapted(torch.autograd.Function):
    """A projection and its adapter at once: the adapter is added in place, W gets no gradient.

    The narrow products are written so that their long side comes last, (rank, rows): 425 rows of 688 against
    8 take 0.15 to 0.19 ms on a Zen 3 core, and 0.64 to 0.86 ms as (rows, rank) (docs/log.md).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows, kind = x.reshape(-1, x.shape[-1]).to(weight.dtype), weight.dtype
        with torch.autocast(x.device.type, enabled=False):
            small_a, small_b = a.to(kind), b.to(kind)
            low = small_a @ rows.mT
            out = F.linear(rows, weight, bias if bias is None else bias.to(kind))
            out.addmm_(low.mT, small_b.mT, alpha=scale)
        ctx.save_for_backward(rows, low, weight, small_a, small_b)
        ctx.scale, ctx.types = scale, (x.dtype, a.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        shape = (*gradients[0].shape[:-1], rows.shape[-1])
        out = gradients[0].reshape(-1, weight.shape[0]).to(weight.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            back = (b.mT @ out.mT).mul_(ctx.scale)
            to_a, to_b = back @ rows, (low @ out).mul_(ctx.scale).mT
            to_x = (out @ weight).addmm_(back.mT, a).view(shape) if ctx.needs_input_grad[0] else None
        of_x, of_weights = ctx.types
        return (
            None if to_x is None else to_x.to(of_x),
            None,
            None,
            to_a.to(of_weights),
            to_b.to(of_weights),
            None,
        )


def add_lora(network: Transformer, rank: int, alpha: float, seed: int) -> None:
    """Fix all weights and put adapters, drawn with `seed`, beside the projections of every block."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for part, name, layer in list(_projections(network, nn.Linear)):
        setattr(part, name, AdaptedLinear(layer, rank, alpha, generator))


def merge_lora(network: Transformer) -> None:
    """Fold the adapters into the weights: a plain network again, which needs nothing new to be exported."""
    for part, name, layer in list(_projections(network, AdaptedLinear)):
        setattr(part, name, layer.merged())


def _projections(network: Transformer, kind: type[nn.Module]) -> Iterator[tuple[nn.Module, str, Any]]:
    for part in network.layers.modules():
        if isinstance(part, (Attend, FeedForward)):
            for name, layer in part.named_children():
                if isinstance(layer, kind):
                    yield part, name, layer
