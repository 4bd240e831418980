"""A model and a batch in; a summed loss out, and held-out figures: what a run optimises and reports."""

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.models.transformer import Transformer
from stepladder.train.batches import BatchSource
from stepladder.train.packing import Packed, mask_of
from stepladder.train.parallel import Ranks
from stepladder.units import bits_per_byte

# Logits in hand at once, 2 MiB in fp32: on one Zen 4 core, 1,024 rows of a 32-wide model with 2,048 tokens
# of vocabulary take 5.3 ms in bf16 (5.9 with half of it, 10.7 through F.cross_entropy on whole logits).
_CHUNK_VALUES = 524_288
# Early and late positions of the in-context score: 40-60 and 108-128 of 128 (docs/log.md).
_EARLY, _LATE = (40 / 128, 60 / 128), (108 / 128, 1.0)


class Objective(Protocol):
    """What the loop needs to know of a task."""

    def count(self, batch: Any) -> int:
        """Predictions in a batch, known before the forward pass."""
        ...

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Summed loss in nats (scalar, with gradient)."""
        ...

    def evaluate(self, model: Any) -> dict[str, float]:
        """Held-out figures; needs at least heldout_loss and heldout_bits_per_byte."""
        ...


class NextToken:
    """Causal language modelling on windows of context + 1 tokens, or on packed documents, each by itself."""

    def __init__(self, source: BatchSource, windows: np.ndarray, bytes_per_token: float, ranks: Ranks):
        """`windows` of `source` are held out; `bytes_per_token` is the mean over the held-out split."""
        self._source, self._windows, self._ranks = source, windows, ranks
        self._bytes_per_token = bytes_per_token

    def count(self, batch: np.ndarray | Packed) -> int:
        """Predicted tokens."""
        if isinstance(batch, Packed):
            return int(batch.predicted.sum())
        return batch.shape[0] * (batch.shape[1] - 1)

    def loss(self, model: Transformer, batch: np.ndarray | Packed) -> Tensor:
        """Sum of next-token losses."""
        if isinstance(batch, Packed):
            ids, targets, mask = inputs_of(batch, self._ranks.device)
            places = torch.from_numpy(np.flatnonzero(batch.predicted)).to(self._ranks.device)
            hidden, targets = model.hidden(ids, mask).flatten(0, 1)[places], targets.flatten()[places]
            return HeadLoss.apply(hidden, model.lm_head.weight, targets)
        ids, targets = self._split(batch)
        hidden = model.hidden(ids)
        return HeadLoss.apply(hidden.flatten(0, 1), model.lm_head.weight, targets.flatten())

    @torch.no_grad()
    def evaluate(self, model: Transformer) -> dict[str, float]:
        """heldout_loss (nats a token), heldout_bits_per_byte, in_context_score, heldout_tokens."""
        context, ranks = self._source.context_tokens, self._ranks
        totals = torch.zeros(context, dtype=torch.float64, device=ranks.device)
        rows = max(8_192 // context, 1)
        # All ranks run the same number of forward passes (a sharded model needs that); windows past the
        # end count nothing.
        for start in range(0, len(self._windows), rows * ranks.world):
            mine = np.arange(start + ranks.rank, start + rows * ranks.world, ranks.world)
            real = mine < len(self._windows)
            ids, targets = self._split(self._source.read(self._windows[np.where(real, mine, 0)]))
            losses = token_losses(model.hidden(ids).flatten(0, 1), model.lm_head.weight, targets.flatten())
            weights = torch.from_numpy(real).to(ranks.device)
            totals += (losses.view(len(mine), context) * weights[:, None]).double().sum(0)
        per_position = (ranks.sum_tensor(totals) / len(self._windows)).cpu()
        loss = per_position.mean().item()
        early = per_position[int(_EARLY[0] * context) : max(int(_EARLY[1] * context), 1)].mean().item()
        late = per_position[int(_LATE[0] * context) :].mean().item()
        return {
            "heldout_loss": loss,
            "heldout_bits_per_byte": bits_per_byte(loss, 1.0, self._bytes_per_token),
            "in_context_score": early - late,
            "heldout_tokens": len(self._windows) * context,
        }

    def _split(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(batch).to(self._ranks.device, non_blocking=True)
        return tokens[:, :-1], tokens[:, 1:]


def inputs_of(batch: Packed, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """(ids (B, T), targets (B, T), mask (B, 1, T, T), or None where no sample holds two documents)."""
    tokens = torch.from_numpy(batch.tokens).to(device, non_blocking=True)
    document = batch.document[:, :-1]
    if (document == document[:, :1]).all():
        return tokens[:, :-1], tokens[:, 1:], None
    mask = torch.from_numpy(mask_of(document)).to(device, non_blocking=True)
    return tokens[:, :-1], tokens[:, 1:], mask[:, None]


class HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T`, with both gradients made in the forward pass.

    hidden (N, D), weight (V, D), targets (N). Logits exist for a few rows at a time and stay in cache; the
    softmax is in fp32, the products are in autocast's type.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        dtype = _product_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        minus_one = torch.full((1, 1), -1.0, device=hidden.device)
        grad_hidden, grad_weight = torch.empty_like(states), torch.zeros_like(weight)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _row_chunks(states, matrix):
                # Probabilities serve loss and gradient in one pass; below 1e-38 (87 nats) they are cut off.
                gradient = F.softmax(states[rows] @ matrix.T, dim=-1, dtype=torch.float32)
                wanted = targets[rows, None]
                loss -= gradient.gather(1, wanted).clamp_min_(1e-38).log_().sum()
                gradient.scatter_add_(1, wanted, minus_one.expand(wanted.shape))
                gradient = gradient.to(dtype)
                torch.mm(gradient, matrix, out=grad_hidden[rows])
                grad_weight += gradient.T @ states[rows]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:  # pyrefly: ignore[bad-override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_weight * grad_loss, None


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row (N, D) against its target, fp32, no gradient."""
    dtype = _product_dtype(hidden)
    states, matrix = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        losses = [
            F.cross_entropy((states[rows] @ matrix.T).float(), targets[rows], reduction="none")
            for rows in _row_chunks(states, matrix)
        ]
    return torch.cat(losses)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _row_chunks(states: Tensor, matrix: Tensor) -> list[slice]:
    # A GPU wants few large products: 16 times more rows.
    rows = max(_CHUNK_VALUES * (16 if states.is_cuda else 1) // matrix.shape[0], 64)
    return [slice(at, min(at + rows, len(states))) for at in range(0, len(states), rows)]
