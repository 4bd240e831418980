"""A model and a batch in; a summed loss out, and held-out figures: what a run optimises and reports."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stepladder.models.blockmask import document_blocks
from stepladder.models.transformer import Transformer
from stepladder.train.batches import BatchSource
from stepladder.train.packing import Packed, mask_of
from stepladder.train.parallel import Ranks
from stepladder.train.spread import Inputs, Spread
from stepladder.units import bits_per_byte

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

    def __init__(
        self,
        source: BatchSource,
        windows: np.ndarray,
        bytes_per_token: float,
        ranks: Ranks,
        spread: Spread | None = None,
    ):
        """`windows` of `source` are held out; `bytes_per_token` is the mean over the held-out split."""
        self._source, self._windows, self._ranks = source, windows, ranks
        self._bytes_per_token = bytes_per_token
        self.spread = spread or Spread()

    def count(self, batch: np.ndarray | Packed) -> int:
        """Predicted tokens."""
        if isinstance(batch, Packed):
            return int(batch.predicted.sum())
        return batch.shape[0] * (batch.shape[1] - 1)

    def inputs(self, batch: np.ndarray | Packed, *, blocks: bool = False) -> Inputs:
        """This process's ids (B, T), targets (B, T; -1 where nothing is predicted) and mask."""
        if isinstance(batch, Packed):
            ids, targets, mask = inputs_of(batch, self._ranks.device, blocks=blocks)
            predicted = torch.from_numpy(batch.predicted).to(self._ranks.device)
            return self.spread.inputs(ids, targets.masked_fill(~predicted, -1), mask)
        return self.spread.inputs(*self._split(batch), None)

    def loss(self, model: Transformer, batch: np.ndarray | Packed) -> Tensor:
        """Sum of next-token losses."""
        ids, targets, mask = self.inputs(batch, blocks=model.attention == "flex")
        return self.loss_of(model, (ids, targets, mask), isinstance(batch, Packed))

    def loss_of(self, model: Transformer, inputs: Inputs, some: bool = False) -> Tensor:
        """Sum of the losses of `inputs`; `some` says that not every target counts."""
        ids, targets, mask = inputs
        return self.spread.sum(model.hidden(ids, mask), model.lm_head.weight, targets, some)

    @torch.no_grad()
    def evaluate(self, model: Transformer) -> dict[str, float]:
        """heldout_loss (nats a token), heldout_bits_per_byte, in_context_score, heldout_tokens."""
        context, ranks = self._source.context_tokens, self._ranks
        (replica, replicas), share = ranks.data, ranks.weight
        totals = torch.zeros(context, dtype=torch.float64, device=ranks.device)
        rows = max(8_192 // context, 1)
        # All ranks run the same number of forward passes (a sharded model needs that); windows past the
        # end count nothing.
        for start in range(0, len(self._windows), rows * replicas):
            mine = np.arange(start + replica, start + rows * replicas, replicas)
            real = mine < len(self._windows)
            ids, targets = self._split(self._source.read(self._windows[np.where(real, mine, 0)]))
            losses = self.spread.losses(model, ids, targets, None)
            weights = torch.from_numpy(real).to(ranks.device) * share
            totals += (losses * weights[:, None]).double().sum(0)
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


def inputs_of(batch: Packed, device: torch.device, *, blocks: bool = False) -> Inputs:
    """(ids (B, T), targets (B, T), mask (B, 1, T, T), or None where no sample holds two documents).

    `blocks` makes the mask one of blocks, which only attention "flex" takes.
    """
    tokens = torch.from_numpy(batch.tokens).to(device, non_blocking=True)
    document = batch.document[:, :-1]
    if (document == document[:, :1]).all():
        return tokens[:, :-1], tokens[:, 1:], None
    if blocks:
        return tokens[:, :-1], tokens[:, 1:], document_blocks(torch.from_numpy(document).to(device))
    mask = torch.from_numpy(mask_of(document)).to(device, non_blocking=True)
    return tokens[:, :-1], tokens[:, 1:], mask[:, None]
