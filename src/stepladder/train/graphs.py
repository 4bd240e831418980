"""A model and an objective in; what computes the gradients of a step, as CUDA graphs if so asked, out.

A small model leaves a GPU waiting for Python: a captured pass starts all its kernels with one call. It
repeats the same kernels on the same addresses, so inputs, gradients and the scale lie in buffers that stay
(https://docs.pytorch.org/docs/2.13/notes/cuda.html#cuda-graphs, whole-network capture).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepladder.records import Layout
from stepladder.train.clock import unmarked
from stepladder.train.objective import NextToken, Objective
from stepladder.train.passes import forward_backward, unheard
from stepladder.train.precision import autocast

Run = Callable[[], None]
# (micro-batches, scale, mark) -> sum of the losses in nats, as `forward_backward`.
Passes = Callable[[Sequence[Any], float, Callable[[str], None]], float]
_WARM_UPS = 3


def passes_of(
    model: nn.Module, objective: Objective, layout: Layout, expect: Callable[[bool], None] = unheard
) -> Passes:
    """`forward_backward` of this run, or the same from captured graphs where the layout says so."""
    if layout.cuda_graphs:
        return StaticPasses(model, objective, layout, capture)

    def plain(micro_batches: Sequence[Any], scale: float, mark: Callable[[str], None] = unmarked) -> float:
        return forward_backward(model, objective, micro_batches, layout, scale, mark, expect)

    return plain


def capture(run: Run) -> Run:
    """What repeats the kernels of `run`; it has run a few times before, as capturing asks for."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # The thread that writes checkpoints may call CUDA meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """Buffers of micro-batches of one shape, ids and targets (B, T), and what runs both passes over them."""

    ids: Tensor
    targets: Tensor
    loss: Tensor
    repeat: Run


class StaticPasses:
    """Gradients of micro-batches of windows, in buffers; `capture` makes of a pass what repeats it.

    One process, no experts, no masks (`plan/layout.py` and `worker.check_plan` refuse them).
    """

    def __init__(
        self, model: nn.Module, objective: Objective, layout: Layout, capture: Callable[[Run], Run]
    ) -> None:
        assert isinstance(objective, NextToken)
        self._model, self._objective, self._layout, self._capture = model, objective, layout, capture
        self._parameters = [one for one in model.parameters() if one.requires_grad]
        self._gradients = [torch.zeros_like(one) for one in self._parameters]
        self._scale = torch.zeros((), device=self._parameters[0].device)
        self._passes: dict[torch.Size, _Pass] = {}

    def __call__(
        self, micro_batches: Sequence[Any], scale: float, mark: Callable[[str], None] = unmarked
    ) -> float:
        """Gradients of the micro-batches times `scale`; the sum of their losses in nats."""
        mark("backward")  # both ways in one
        torch._foreach_zero_(self._gradients)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # the optimiser lets go of it at each step
        self._scale.fill_(scale)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._scale.device)
        for batch in micro_batches:
            ids, targets, mask = self._objective.inputs(batch)
            assert mask is None
            known = self._passes.get(ids.shape)
            if known is None:
                known = self._passes[ids.shape] = self._captured(ids, targets)
            known.ids.copy_(ids)
            known.targets.copy_(targets)
            known.repeat()
            loss_sum += known.loss.double()
        return loss_sum.item()

    def _captured(self, ids: Tensor, targets: Tensor) -> _Pass:
        """The passes over a new shape; the gradients so far are kept from the warming up."""
        still = [one.clone(memory_format=torch.contiguous_format) for one in (ids, targets)]
        loss = torch.zeros((), device=ids.device)

        def run() -> None:
            with autocast(self._layout):
                found = self._objective.loss_of(self._model, (*still, None))  # pyrefly: ignore
            (found * self._scale).backward()
            loss.copy_(found.detach())

        so_far = [gradient.clone() for gradient in self._gradients]
        repeat = self._capture(run)
        torch._foreach_copy_(self._gradients, so_far)
        return _Pass(ids=still[0], targets=still[1], loss=loss, repeat=repeat)
