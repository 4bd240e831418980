"""A model, an objective and the micro-batches of a step in; averaged, clipped gradients and the loss out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stepladder.models.experts import mixtures
from stepladder.models.shard import local, sum_over_tensor_group, sync_gradients
from stepladder.records import Layout
from stepladder.train.clock import unmarked
from stepladder.train.objective import NextToken, Objective
from stepladder.train.packing import Packed
from stepladder.train.parallel import Ranks
from stepladder.train.precision import autocast


def forward_backward(
    model: nn.Module,
    objective: Objective,
    micro_batches: Sequence[Any],
    layout: Layout,
    scale: float,
    mark: Callable[[str], None] = unmarked,
) -> float:
    """Gradients of this rank's micro-batches times `scale`; its part of the sum of their losses, in nats."""
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
    loss_sum = 0.0
    for number, batch in enumerate(micro_batches, start=1):
        sync_gradients(model, number == len(micro_batches))
        mark("forward")
        with autocast(layout):
            loss = objective.loss(model, batch)
        mark("backward")
        (loss * scale).backward()
        loss_sum += loss.detach().double().item()
    return loss_sum / layout.degrees.tensor


def average_gradients(model: nn.Module, layout: Layout, ranks: Ranks) -> None:
    """Complete the gradients of a step: sums over tensor groups, means over replicas of what is not sharded.

    FSDP2 reduces its own. Without shards one all-reduce of all gradients as one flat tensor costs less than
    DDP's buckets and hooks for models that fit one process, and works with any objective; nothing overlaps
    with the backward pass.
    """
    if ranks.mesh is None:
        return
    if layout.degrees.tensor > 1:
        sum_over_tensor_group(model, ranks.group("tensor"))
    if layout.shard in ("fsdp", "hsdp") or ranks.replicas == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    # Spread experts have seen the tokens of all processes that share them out.
    spread = [local(one) for one in gradients if one.ndim > 2 and layout.degrees.expert > 1]
    others = [local(one) for one in gradients if one.ndim <= 2 or layout.degrees.expert == 1]
    _average(others, ranks, ("replicate", "context", "expert"))
    _average(spread, ranks, ("replicate", "context"))


def _average(gradients: Sequence[Tensor], ranks: Ranks, dimensions: Sequence[str]) -> None:
    """Sums over the dimensions, over the number of replicas; in place."""
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    for name in dimensions:
        group = ranks.group(name)
        if dist.get_world_size(group) > 1:
            dist.all_reduce(flat, group=group)
    flat /= ranks.replicas
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


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
        squares = sum(_squares(gradient) * _shards(gradient) / holders for gradient in gradients)
        value = ranks.sum([squares])[0] ** 0.5
    if largest and value > largest:
        torch._foreach_mul_([local(gradient) for gradient in gradients], largest / (value + 1e-6))
    return value


def _squares(gradient: Tensor) -> float:
    return local(gradient).double().square().sum().item()


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
