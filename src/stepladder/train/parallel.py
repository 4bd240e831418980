"""A layout in; this process's rank, device and mesh, and the few collectives that the loop needs, out."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stepladder.errors import TrainError
from stepladder.models.shard import recompute_blocks, shard_model
from stepladder.models.transformer import Transformer
from stepladder.records import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Where this process stands. `mesh` is None for one process."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None = None

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in double precision."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

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
        TrainError: the layout asks for what this build or machine cannot do.
    """
    check_layout(layout)
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
    mesh = init_device_mesh(layout.device, (world,), mesh_dim_names=("data",))
    return Ranks(rank=dist.get_rank(), world=world, device=device, mesh=mesh)


def finish() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_layout(layout: Layout) -> None:
    """Refuse a layout that cannot run here, before anything is loaded."""
    degrees = layout.tensor_parallel * layout.pipeline_parallel * layout.context_parallel
    if degrees > 1:
        raise TrainError(
            "this layout is not trained yet",
            got=f"tensor {layout.tensor_parallel}, pipeline {layout.pipeline_parallel}, "
            f"context {layout.context_parallel}",
            allowed="1 each; shard = none, ddp or fsdp over the processes",
        )
    if (layout.processes > 1) != (layout.shard != "none"):
        raise TrainError(
            "processes and shard do not go together",
            got=f"{layout.processes} processes, shard = {layout.shard}",
            allowed="one process with none; several with ddp or fsdp",
        )
    if layout.device == "cuda" and not torch.cuda.is_available():
        raise TrainError(
            "the plan is for CUDA and this machine or this build of torch has none",
            got=f"torch {torch.__version__}",
            next_command="stepladder doctor",
        )


def place_model(model: Transformer, layout: Layout, ranks: Ranks) -> Transformer:
    """Move the model to its device and shard it as the layout says."""
    model.to(ranks.device)
    if layout.recompute != "none":
        recompute_blocks(model, layout.recompute)
    if layout.shard == "fsdp":
        assert ranks.mesh is not None
        shard_model(model, ranks.mesh)
    return model


def autocast(layout: Layout) -> AbstractContextManager[object]:
    """bf16 autocast where the layout says so."""
    if layout.precision == "bf16":
        return torch.autocast(layout.device, dtype=torch.bfloat16)
    return nullcontext()
