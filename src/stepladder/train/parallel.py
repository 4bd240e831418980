"""A layout in; this process's place among all, and the model placed on it, out.

Processes form a mesh: pipeline, replicate, shard, context, expert, tensor (the last are neighbours). What
the loop needs of it are a few sums.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stepladder.errors import TrainError
from stepladder.models.shard import (
    recompute_blocks,
    shard_model,
    split_matrices,
    split_positions,
    spread_experts,
)
from stepladder.models.transformer import Transformer
from stepladder.plan.layout import DIMENSIONS, mesh_sizes
from stepladder.records import Degrees, Layout
from stepladder.train.spread import Spread

if TYPE_CHECKING:
    from stepladder.train.pipeline import Pipelined


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Where this process stands. `mesh` is None for one process."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None = None
    degrees: Degrees = field(default_factory=Degrees)

    @property
    def replicas(self) -> int:
        """Processes that gradients are averaged over: they differ in their sequences or positions."""
        return self.world // (self.degrees.tensor * self.degrees.pipeline)

    @property
    def data(self) -> tuple[int, int]:
        """(which of the data replicas this is, how many there are): replicas read different sequences."""
        if self.mesh is None:
            return 0, 1
        place, count = 0, 1
        for name in ("replicate", "shard", "expert"):
            part = self.mesh[name]
            place, count = place * part.size() + part.get_local_rank(), count * part.size()
        return place, count

    @property
    def place(self) -> int:
        """Where in the pipeline this is."""
        return self.rank // (self.world // self.degrees.pipeline)

    @property
    def is_first_of_stage(self) -> bool:
        """Whether this is the one of the processes with the same layers that writes what they have."""
        return self.rank % (self.world // self.degrees.pipeline) == 0

    def group(self, name: str) -> dist.ProcessGroup:
        """The processes along a dimension of the mesh."""
        assert self.mesh is not None
        return self.mesh[name].get_group()

    @property
    def weight(self) -> float:
        """What a sum of losses over ranks counts of this one, where a tensor group holds the same."""
        return 1 / self.degrees.tensor

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in double precision."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def count(self, value: float) -> float:
        """The sum over data replicas of what all processes of a replica know."""
        return self.sum([value])[0] / self.degrees.model

    def sum_tensor(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def share(self, value: object) -> object:
        """Rank 0's value (small, picklable) on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()


def start(layout: Layout) -> Ranks:
    """Join the process group that torchrun describes in the environment; nothing to join for one process.

    Raises:
        TrainError: this build or machine cannot do what the layout asks for.
    """
    if layout.device == "cuda" and not torch.cuda.is_available():
        raise TrainError(
            "the plan is for CUDA and this machine or this build of torch has none",
            got=f"torch {torch.__version__}",
            next_command="stepladder doctor",
        )
    device = torch.device("cpu")
    if layout.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(layout.threads)
    if layout.processes == 1:
        return Ranks(rank=0, world=1, device=device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != layout.processes:
        raise TrainError(
            "the number of processes is not the plan's",
            got=str(world),
            allowed=str(layout.processes),
            next_command="stepladder train plan.json --out DIR (it starts torchrun itself)",
        )
    if not dist.is_initialized():
        dist.init_process_group("nccl" if layout.device == "cuda" else "gloo")
    return join(layout, device)


def join(layout: Layout, device: torch.device) -> Ranks:
    """The mesh of a layout over the process group that is there."""
    mesh = init_device_mesh(device.type, mesh_sizes(layout).as_tuple(), mesh_dim_names=DIMENSIONS)
    return Ranks(
        rank=dist.get_rank(), world=dist.get_world_size(), device=device, mesh=mesh, degrees=layout.degrees
    )


def finish() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def place_model(model: Transformer, layout: Layout, ranks: Ranks) -> "tuple[Transformer | Pipelined, Spread]":
    """Move the model to its device, split, cut and shard it as the layout says."""
    if next(model.parameters()).device != ranks.device:  # also true of tensors that are only thought of
        model.to(ranks.device)
    if layout.recompute != "none":
        recompute_blocks(model, layout.recompute)
    if ranks.mesh is None:
        return model, Spread()
    degrees = layout.degrees
    spread = Spread()
    if degrees.tensor > 1:
        split_matrices(model, ranks.mesh["tensor"])
        spread = replace(spread, tensor=ranks.group("tensor"))
    if degrees.context > 1:
        group, mask = ranks.group("context"), model.causal_mask
        positions = split_positions(model, group)
        spread = replace(spread, positions=positions, context=group, causal_mask=mask)
    mesh, of_experts = _state_mesh(layout, ranks.mesh), None
    if degrees.expert > 1:
        spread_experts(model, ranks.mesh["expert"])
        of_experts = _state_mesh(replace(layout, degrees=replace(degrees, expert=1)), ranks.mesh)
    if degrees.pipeline > 1:
        # Only here: it brings torch's tracing along, .9 CPU seconds and 28 MB.
        from stepladder.train.pipeline import Pipelined, cut_stages

        parts = cut_stages(model, layout, ranks.place)
        if mesh is not None:
            for part in parts.values():
                shard_model(part, mesh, layout.precision, of_experts)
        return Pipelined(parts, layout, ranks.group("pipeline"), ranks.device, spread), spread
    if mesh is not None:
        shard_model(model, mesh, layout.precision, of_experts)
    return model, spread


def _state_mesh(layout: Layout, mesh: DeviceMesh) -> DeviceMesh | None:
    """What FSDP2 shards over (processes that share positions or experts share state, too); None without."""
    if layout.shard not in ("fsdp", "hsdp"):
        return None
    degrees, inner = layout.degrees, "shard"
    for name, size in (("context", degrees.context), ("expert", degrees.expert)):
        if size > 1:
            # Experts and positions are not shared out together, so that two dimensions are joined at most.
            mesh["shard", name]._flatten(f"shard_{name}")
            inner = f"shard_{name}"
    return mesh[inner] if mesh["replicate"].size() == 1 else mesh["replicate", inner]
