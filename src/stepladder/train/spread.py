"""Hidden states and targets in; losses out, whatever part of positions and vocabulary is here (torch)."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stepladder.models.shard import gathered, local, rows_and_columns
from stepladder.train.head import HeadLoss, VocabularyHeadLoss, row_losses, vocabulary_row_losses

Inputs = tuple[Tensor, Tensor, Any]


class Predictor(Protocol):
    """A model, or the part of it that this process has."""

    lm_head: nn.Linear

    def eval(self) -> object: ...

    def hidden(self, ids_BT: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Final states of this process's positions; None where another process has the last layers."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spread:
    """How a batch is spread over the processes that share it. `positions` are those of this process."""

    positions: Tensor | None = None
    context: dist.ProcessGroup | None = None
    tensor: dist.ProcessGroup | None = None
    causal_mask: Tensor | None = None

    def inputs(self, ids: Tensor, targets: Tensor, mask: Tensor | None) -> Inputs:
        """This process's part of ids (B, T), targets (B, T) and mask (broadcasts to (B, H, T, T))."""
        if self.positions is None or self.context is None:
            return ids, targets, mask
        whole = self.causal_mask if mask is None else mask
        assert whole is not None
        mine = self.positions.to(ids.device)
        return ids[:, mine], targets[:, mine], rows_and_columns(whole, self.context)

    def sum(self, hidden: Tensor, weight: Tensor, targets: Tensor, some: bool) -> Tensor:
        """Summed loss of this process's targets, the same on all processes of a tensor group.

        `some` says that targets below zero are among them, which are left out.
        """
        if self.tensor is not None:
            hidden, weight = gathered(hidden, 1, self.tensor), local(weight)
        states, wanted = hidden.flatten(0, 1), targets.flatten()
        if some:
            places = torch.nonzero(wanted >= 0).squeeze(1)
            states, wanted = states[places], wanted[places]
        if self.tensor is not None:
            return VocabularyHeadLoss.apply(states, weight, wanted, self.tensor)
        return HeadLoss.apply(states, weight, wanted)

    def losses(self, model: Predictor, ids: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        """Loss of each target (B, T), fp32, no gradient; zero where another process has the position."""
        mine, wanted, rows = self.inputs(ids, targets, mask)
        hidden = model.hidden(mine) if rows is None else model.hidden(mine, rows)
        if hidden is None:
            return torch.zeros(targets.shape, device=targets.device)
        flat = wanted.flatten()
        if self.tensor is None:
            losses = row_losses(hidden.flatten(0, 1), model.lm_head.weight, flat)
        else:
            states = gathered(hidden, 1, self.tensor).flatten(0, 1)
            losses = vocabulary_row_losses(states, local(model.lm_head.weight), flat, self.tensor)
        losses = losses.view(wanted.shape)
        if self.positions is None:
            return losses
        out = losses.new_zeros(targets.shape)
        out[:, self.positions.to(out.device)] = losses
        return out
