"""A model, an objective and the micro-batches of a step in; gradients, clipped, and the loss out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stepladder.models.experts import mixtures
from stepladder.models.shard import local
from stepladder.records import Layout
from stepladder.train.clock import unmarked
from stepladder.train.objective import NextToken, Objective
from stepladder.train.packing import Packed
from stepladder.train.parallel import Ranks
from stepladder.train.precision import autocast


def unheard(is_last: bool) -> None:
    """Before the passes of a model whose gradients nobody awaits."""


def forward_backward(
    model: nn.Module,
    objective: Objective,
    micro_batches: Sequence[Any],
    layout: Layout,
    scale: float,
    mark: Callable[[str], None] = unmarked,
    expect: Callable[[bool], None] = unheard,
) -> float:
    """Gradients of this rank's micro-batches times `scale`; its part of the sum of their losses, in nats.

    `expect` hears before each backward pass whether it is the last.
    """
    for mixture in mixtures(model):
        mixture.balance_scale = scale
    if layout.degrees.pipeline > 1:
        from stepladder.train.pipeline import Pipelined

        assert isinstance(model, Pipelined)
        assert isinstance(objective, NextToken)
        inputs = [objective.inputs(batch) for batch in micro_batches]
        some = isinstance(micro_batches[0], Packed)
        mark("backward")  # the schedule interleaves both ways
        return model.backward(inputs, scale, some) / layout.degrees.tensor
    # Summed where it is: reading it would wait for the device at every micro-batch.
    loss_sum = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    for number, batch in enumerate(micro_batches, start=1):
        expect(number == len(micro_batches))
        mark("forward")
        with autocast(layout):
            loss = objective.loss(model, batch)
        mark("backward")
        (loss * scale).backward()
        loss_sum += loss.detach().double()
    return loss_sum.item() / layout.degrees.tensor


@torch.no_grad()
def clip_gradients(model: nn.Module, largest: float, ranks: Ranks) -> float:
    """Scale gradients so that their norm over all ranks is at most `largest` (0: no limit); the norm.

    With several ranks each adds the squares of what it holds, divided by the number of ranks that hold the
    same: one sum for shards over any mix of meshes.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if ranks.mesh is None:
        value = nn.utils.get_total_norm(gradients).item()
    else:
        holders = ranks.world // ranks.degrees.pipeline
        squares = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for gradient in gradients:
            squares += _squares(gradient) * (_shards(gradient) / holders)
        value = ranks.sum_tensor(squares).item() ** 0.5
    if largest and value > largest:
        torch._foreach_mul_([local(gradient) for gradient in gradients], largest / (value + 1e-6))
    return value


def _squares(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(local(gradient), dtype=torch.float64).square()


def _shards(gradient: Tensor) -> int:
    """Parts that a tensor is cut into. `is_shard` misses those of FSDP2 on a split matrix."""
    if not isinstance(gradient, DTensor):
        return 1
    sizes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
    parts = 1
    for size, placement in sizes:
        assert not placement.is_partial()
        parts *= 1 if placement.is_replicate() else size
    return parts
