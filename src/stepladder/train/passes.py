"""A model, an objective and the micro-batches of a step in; averaged, clipped gradients and the loss out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from stepladder.models.shard import sync_gradients
from stepladder.records import Layout
from stepladder.train.clock import unmarked
from stepladder.train.objective import Objective
from stepladder.train.parallel import Ranks, autocast


def forward_backward(
    model: nn.Module,
    objective: Objective,
    micro_batches: Sequence[Any],
    layout: Layout,
    scale: float,
    mark: Callable[[str], None] = unmarked,
) -> float:
    """Gradients of this rank's micro-batches times `scale`; the sum of their losses, not scaled, in nats."""
    loss_sum = 0.0
    for number, batch in enumerate(micro_batches, start=1):
        sync_gradients(model, number == len(micro_batches))
        mark("forward")
        with autocast(layout):
            loss = objective.loss(model, batch)
        mark("backward")
        (loss * scale).backward()
        loss_sum += loss.detach().double().item()
    return loss_sum


def average_gradients(model: nn.Module, layout: Layout, ranks: Ranks) -> None:
    """Data parallel without shards: one all-reduce of all gradients as one flat tensor.

    FSDP2 reduces its own. For models that fit one process this costs less than DDP's buckets and hooks, and
    it works with any objective; nothing overlaps with the backward pass.
    """
    if layout.shard != "ddp":
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= ranks.world
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


@torch.no_grad()
def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale gradients so that their norm over all ranks is at most `largest` (0: no limit); the norm."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    value = norm.item()
    if largest and value > largest:
        torch._foreach_mul_(gradients, largest / (value + 1e-6))
    return value
