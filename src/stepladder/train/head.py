"""Hidden states, the head's weight and targets in; cross-entropy and its gradients out, in chunks of rows.

Either the whole vocabulary is here, or each process of a group has an equal share of its rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from stepladder.plan.memory import head_rows

# The device whose chunks are taken where tensors only stand for those of another machine.
_device: ContextVar[str] = ContextVar("device", default="")


@contextmanager
def chunks_of(device: str) -> Iterator[None]:
    """Cut rows as on `device`, wherever the tensors are."""
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


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


def row_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row (N, D) against its target, fp32, no gradient."""
    dtype = _product_dtype(hidden)
    states, matrix = hidden.to(dtype), weight.to(dtype)
    # Written in place: small results kept between freed chunks would keep glibc from using these again.
    losses = torch.empty(len(targets), device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows in _row_chunks(states, matrix):
            logits = (states[rows] @ matrix.T).float()
            losses[rows] = F.cross_entropy(logits, targets[rows], reduction="none")
    return losses


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _row_chunks(states: Tensor, matrix: Tensor) -> list[slice]:
    rows = head_rows(matrix.shape[0], _device.get() or states.device.type)
    return [slice(at, min(at + rows, len(states))) for at in range(0, len(states), rows)]


class VocabularyHeadLoss(torch.autograd.Function):
    """HeadLoss with an equal share of the vocabulary on each process of `group`; the loss is the same on all.

    The gradient of `hidden` is this process's part of it: what gathered the states sums it over the group.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, group: dist.ProcessGroup
    ) -> Tensor:
        dtype = _product_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden, grad_weight = torch.empty_like(states), torch.zeros_like(weight)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _row_chunks(states, matrix):
                losses, gradient, wanted, mine = _shared_softmax(states[rows], matrix, targets[rows], group)
                loss += losses.sum()
                gradient.scatter_add_(1, wanted, -mine.to(gradient.dtype))
                gradient = gradient.to(dtype)
                grad_hidden[rows] = gradient @ matrix
                grad_weight += gradient.T @ states[rows]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_weight * grad_loss, None, None


def vocabulary_row_losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: dist.ProcessGroup
) -> Tensor:
    """`row_losses` with an equal share of the vocabulary on each process of `group`."""
    dtype = _product_dtype(hidden)
    states, matrix = hidden.to(dtype), weight.to(dtype)
    losses = torch.empty(len(targets), device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows in _row_chunks(states, matrix):
            losses[rows] = _shared_softmax(states[rows], matrix, targets[rows], group)[0]
    return losses


def _shared_softmax(
    states: Tensor, matrix: Tensor, targets: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(losses (N), probabilities (N, own columns), target's column (N, 1), whether it is here (N, 1))."""
    logits = (states @ matrix.T).float()
    largest = logits.amax(dim=-1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    logits -= largest[:, None]
    wanted = (targets - dist.get_rank(group) * len(matrix))[:, None]
    mine = (wanted >= 0) & (wanted < len(matrix))
    wanted = wanted.clamp(0, len(matrix) - 1)
    target_logits = logits.gather(1, wanted).mul_(mine).squeeze(1)
    exponentials = logits.exp_()
    sums = torch.stack((exponentials.sum(dim=-1), target_logits))
    dist.all_reduce(sums, group=group)
    return sums[0].log() - sums[1], exponentials.div_(sums[0][:, None]), wanted, mine
