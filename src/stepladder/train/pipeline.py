"""The stages of this process in; one model that runs through all processes of the pipeline out (torch).

Schedules are those of torch.distributed.pipelining. Held-out passes go from stage to stage without one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleMulti,
    PipelineScheduleSingle,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from stepladder.models.shard import Layers, cut_layers
from stepladder.models.transformer import Transformer
from stepladder.records import Layout
from stepladder.train.precision import autocast
from stepladder.train.spread import Inputs, Spread

_ONE_STAGE = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
_SEVERAL = {
    "interleaved": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
    "zbv": ScheduleZBVZeroBubble,
}


def stages_of(layout: Layout, place: int) -> list[int]:
    """Stages of the process at `place` of its pipeline: every n-th, or for "zbv" one down and one back up."""
    degrees = layout.degrees
    if degrees.schedule == "zbv":
        return [place, 2 * degrees.pipeline - 1 - place]
    return [place + turn * degrees.pipeline for turn in range(degrees.stages)]


def cut_stages(model: Transformer, layout: Layout, place: int) -> dict[int, Transformer]:
    """The stages of a process by number. Layers are shared out evenly, the last stages get one fewer."""
    stages = layout.degrees.pipeline * layout.degrees.stages
    bounds = [-(-number * model.shape.num_layers // stages) for number in range(stages + 1)]
    parts = {}
    for number in stages_of(layout, place):
        span, ends = (bounds[number], bounds[number + 1]), (number == 0, number == stages - 1)
        part = cut_layers(model, span, ends, layout.degrees.tensor)
        part.forward = _forward(part, layout)
        parts[number] = part
    return parts


def _forward(part: Transformer, layout: Layout) -> Any:
    hidden = part.hidden

    def forward(states: Tensor, mask: Tensor | None = None) -> Tensor:
        # Only forward runs under autocast: a schedule runs both passes.
        with autocast(layout):
            return hidden(states, mask)

    return forward


class Pipelined(nn.Module):
    """What a process has of a pipelined model. All processes of the pipeline call every method together."""

    lm_head: nn.Linear

    def __init__(
        self,
        parts: Mapping[int, Transformer],
        layout: Layout,
        group: dist.ProcessGroup,
        device: torch.device,
        spread: Spread,
    ) -> None:
        super().__init__()
        degrees = layout.degrees
        self._layout, self._group, self._spread, self._device = layout, group, spread, device
        self._count = degrees.pipeline * degrees.stages
        self._owner = {
            stage: place for place in range(degrees.pipeline) for stage in stages_of(layout, place)
        }
        blocks: dict[str, nn.Module] = {}
        for part in parts.values():
            blocks |= dict(part.layers.named_children())
            for name in ("embed_tokens", "norm", "lm_head"):
                child = part.get_submodule(name)
                if next(child.parameters(), None) is not None:
                    self.add_module(name, child)
        self.layers = Layers(blocks)
        # Not as children: their weights have their names above.
        self.parts: Mapping[int, Transformer] = dict(parts)
        self._width = next(iter(parts.values())).shape.width
        self._stages: list[Any] = [
            PipelineStage(part, number, self._count, device, group=group) for number, part in parts.items()
        ]
        self._schedules: dict[int, PipelineScheduleSingle | PipelineScheduleMulti] = {}
        self._scale, self._some = 1.0, False

    def hidden(self, ids_BT: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Final states on the process with the last stage, None elsewhere; no gradient."""
        states: Tensor | None = ids_BT
        for stage in range(self._count):
            states = self._pass_on(stage, states, ids_BT.shape, mask)
        return states if self._count - 1 in self.parts else None

    def _pass_on(
        self, stage: int, states: Tensor | None, shape: torch.Size, mask: Tensor | None
    ) -> Tensor | None:
        """Run a stage if it is here, and bring its output to the process of the next one."""
        is_here, is_next_here = stage in self.parts, stage + 1 in self.parts
        if is_here:
            states = self.parts[stage](states, mask)
        if stage + 1 == self._count or is_here == is_next_here:
            return states
        if is_here:
            assert states is not None
            dist.send(states.float().contiguous(), self._global(stage + 1), group=self._group)
            return None
        received = torch.empty(*shape, self._width // self._layout.degrees.tensor, device=self._device)
        dist.recv(received, self._global(stage), group=self._group)
        return received

    def _global(self, stage: int) -> int:
        return dist.get_global_rank(self._group, self._owner[stage])

    def backward(self, inputs: Sequence[Inputs], scale: float, some: bool) -> float:
        """Gradients of micro-batches times `scale`; the sum of their losses here (0 without the last stage).

        `some` as in `Spread.sum`.
        """
        self._scale, self._some = scale, some
        schedule = self._schedules.get(len(inputs)) or self._schedule(len(inputs))
        self._schedules[len(inputs)] = schedule
        ids = torch.cat([ids for ids, _, _ in inputs])
        targets = torch.cat([targets for _, targets, _ in inputs])
        losses: list[Tensor] = []
        keywords: dict[str, Any] = _joined_masks(inputs)
        if self._count - 1 in self.parts:
            keywords |= {"target": targets, "losses": losses}
        schedule.step(*((ids,) if 0 in self.parts else ()), **keywords)
        return sum(loss.detach().double().item() for loss in losses) / scale

    def _schedule(self, count: int) -> PipelineScheduleSingle | PipelineScheduleMulti:
        name = self._layout.degrees.schedule
        if name in _ONE_STAGE:
            return _ONE_STAGE[name](self._stages[0], count, loss_fn=self._loss, scale_grads=False)
        return _SEVERAL[name](list(self._stages), count, loss_fn=self._loss, scale_grads=False)

    def _loss(self, states: Tensor, targets: Tensor) -> Tensor:
        with autocast(self._layout):
            return self._spread.sum(states, self.lm_head.weight, targets, self._some) * self._scale


def _joined_masks(inputs: Sequence[Inputs]) -> dict[str, Tensor]:
    """{"mask": (B, 1, rows, T)} of all micro-batches; nothing where the model's own causal mask is meant."""
    masks = [mask for _, _, mask in inputs]
    if all(mask is None for mask in masks):
        return {}
    whole = []
    for ids, _, mask in inputs:
        if mask is None:
            mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        whole.append(mask if mask.ndim == 4 else mask.expand(len(ids), 1, *mask.shape))
    return {"mask": torch.cat(whole)}
