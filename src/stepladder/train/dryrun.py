"""A plan in; whether its layout builds, memory by term and collectives of a step, without its devices, out.

    python -m stepladder.train.dryrun plan.json

This process stands for one of each stage of the pipeline in turn: the process group is torch's fake one, the
state is laid out on the meta device, and a forward and backward pass of one micro-batch runs on fake tensors,
with what autograd keeps and what is sent counted. FSDP2 is built, but not in the passes (torch's fake tensors
do not run it on split matrices): what it gathers and reduces is added from the sizes of the shards.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from stepladder.errors import StepladderError, TrainError
from stepladder.models.shard import local
from stepladder.models.transformer import Attention, Transformer
from stepladder.plan.layout import DIMENSIONS, layout_problems, mesh_sizes, micro_sequences
from stepladder.records import Layout, Plan, from_json
from stepladder.store import read_json
from stepladder.train import parallel
from stepladder.train.checkpoint import prepare_state
from stepladder.train.choices import choose
from stepladder.train.head import chunks_of
from stepladder.train.optim import build_optimisers
from stepladder.train.pipeline import Pipelined
from stepladder.train.precision import autocast

_SENDING = ("all_gather", "allgather", "reduce_scatter", "all_reduce", "allreduce", "all_to_all", "alltoall")
_PUBLIC_NAMES = {"allgather": "all_gather", "allreduce": "all_reduce", "alltoall_base": "all_to_all"}


def dry_run(plan: Plan) -> dict[str, Any]:
    """For stages that differ: {"rank", "memory_bytes": by term, "collectives": calls and bytes a step}.

    Bytes of a collective are those of the whole tensor. Not counted: what allocators hold beyond what is in
    use, the process itself, batches, the chunk of logits in hand.

    Raises:
        TrainError: the layout cannot be built.
    """
    started = time.monotonic()
    problems = layout_problems(plan.layout, plan.shape, plan.recipe)
    if problems:
        raise TrainError(f"the layout of {plan.name!r} cannot be built", got="; ".join(problems))
    dist.init_process_group("fake", rank=0, world_size=plan.layout.processes, store=FakeStore())
    try:
        ranks = parallel.join(plan.layout, torch.device("cpu"))
        # The mesh of rank 0 serves for all: places along other dimensions hold as much.
        stages = [_stage(plan, replace(ranks, rank=rank)) for rank in _different_ranks(plan)]
    finally:
        dist.destroy_process_group()
    return {
        "processes": plan.layout.processes,
        "mesh": dict(zip(DIMENSIONS, mesh_sizes(plan.layout).as_tuple(), strict=True)),
        "stages": stages,
        "seconds": time.monotonic() - started,
    }


def _different_ranks(plan: Plan) -> list[int]:
    """Ranks whose stages differ: the first holds most micro-batches, the last has the head."""
    last = plan.layout.degrees.pipeline - 1
    group = plan.layout.processes // plan.layout.degrees.pipeline
    return [place * group for place in sorted({0, min(1, last), last})]


def _stage(plan: Plan, ranks: parallel.Ranks) -> dict[str, Any]:
    layout = plan.layout
    memory, shards = _state_bytes(plan, ranks)
    sequences = plan.recipe.batch_tokens // plan.shape.context_tokens // mesh_sizes(layout).data
    micro = micro_sequences(layout, sequences)
    kept, calls = _passes(plan, ranks, micro)
    count = -(-sequences // micro)
    memory["activations"] = kept * in_flight(layout, count, ranks.place)
    collectives = {name: {key: n * count for key, n in item.items()} for name, item in calls.items()}
    collectives |= _between_steps(plan, shards, memory["gradients"], count)
    return {"rank": ranks.rank, "micro_batches": count, "memory_bytes": memory, "collectives": collectives}


def in_flight(layout: Layout, micro_batches: int, place: int) -> int:
    """Micro-batches whose activations a process holds at once.

    1F1B holds as many as stages follow, itself included (arXiv:2104.04473); interleaved and zero-bubble
    schedules at most one more turn of the pipeline; GPipe all.
    """
    degrees = layout.degrees
    if degrees.pipeline == 1:
        return 1
    if degrees.schedule == "gpipe":
        return micro_batches
    left = degrees.pipeline - place
    return min(micro_batches, left if degrees.stages == 1 else degrees.pipeline)


def _state_bytes(plan: Plan, ranks: parallel.Ranks) -> tuple[dict[str, int], int]:
    """(bytes here of parameters, gradients, optimiser, gathered layers; whole bytes of what is sharded)."""
    ranks = replace(ranks, device=torch.device("meta"))
    with torch.device("meta"):
        model = Transformer(plan.shape)
    model, _ = parallel.place_model(model, plan.layout, ranks)
    optimisers = build_optimisers(model, plan.recipe)
    prepare_state(optimisers)
    parameters = [local(p).nbytes for p in model.parameters()]
    states = [
        local(value).nbytes
        for part in optimisers.parts
        for item in part.state.values()
        for value in item.values()
    ]
    memory = {"parameters": sum(parameters), "gradients": sum(parameters), "optimiser": sum(states)}
    sharded = plan.layout.shard in ("fsdp", "hsdp")
    whole = sum(parameters)
    if sharded:
        shards = mesh_sizes(plan.layout).shard * plan.layout.degrees.context

        def gathered(module: nn.Module) -> int:
            # A process gathers the experts that it keeps, not those of others.
            spread = plan.layout.degrees.expert
            return sum(
                local(p).nbytes * (shards // spread if p.ndim > 2 else shards) for p in module.parameters()
            )

        whole = gathered(model)
        layers = [gathered(layer) for layer in model.layers]
        outside = whole - sum(layers)
        # The layer that is computed, the one that is fetched ahead, and what the root keeps whole.
        value_bytes = 2 if plan.layout.precision == "bf16" else 4
        memory["gathered"] = 2 * max(layers) * value_bytes // 4 + outside
    return memory, whole


def _passes(plan: Plan, ranks: parallel.Ranks, sequences: int) -> tuple[int, dict[str, dict[str, int]]]:
    """Bytes that autograd keeps of a micro-batch, and collectives inside its passes by dimension."""
    unsharded = replace(plan.layout, shard="none")
    shape = plan.shape
    kept = _Kept()
    with FakeTensorMode(), _Sent(ranks) as sent, saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        model = Transformer(shape, cast(Attention, choose(plan, {})["attention"].value))
        model, spread = parallel.place_model(model, unsharded, ranks)
        kept.ignore(model)
        ids = torch.zeros(sequences, shape.context_tokens, dtype=torch.long)
        ids, targets, mask = spread.inputs(ids, ids, None)
        for stage, part in _parts(model).items():
            width = shape.width // plan.layout.degrees.tensor
            states = ids if stage == 0 else torch.zeros(*ids.shape, width, requires_grad=True)
            with autocast(replace(plan.layout, device="cpu")), chunks_of(plan.layout.device):
                out = part.hidden(states, mask)
                head = getattr(part.lm_head, "weight", None)
                if head is not None:
                    out = spread.sum(out, head, targets, some=False)
            out.backward(torch.ones_like(out))
        copies = 0
        if plan.layout.precision == "bf16" and plan.layout.shard in ("fsdp", "hsdp"):
            # FSDP2 gathers matrices in bf16 and drops them: autocast keeps no copies of its own.
            copies = sum(2 * local(p).numel() for p in model.layers.parameters() if p.ndim > 1)
        return kept.num_bytes - copies, sent.calls


def _parts(model: nn.Module) -> Mapping[int, Any]:
    return model.parts if isinstance(model, Pipelined) else {0: model}


def _between_steps(plan: Plan, whole: int, gradients: int, micro_batches: int) -> dict[str, dict[str, int]]:
    """What FSDP2, data parallelism and the pipeline send besides, per step."""
    layout, sizes = plan.layout, mesh_sizes(plan.layout)
    found: dict[str, dict[str, int]] = {}
    if layout.shard in ("fsdp", "hsdp"):
        # Every micro-batch gathers its layers for both passes; gradients are reduced once.
        found["shard all_gather"] = {
            "calls": 2 * micro_batches * plan.shape.num_layers,
            "bytes": 2 * micro_batches * whole,
        }
        found["shard reduce_scatter"] = {"calls": plan.shape.num_layers + 1, "bytes": whole}
    elif sizes.data * sizes.context > 1:
        found["replicate all_reduce"] = {"calls": 1, "bytes": gradients}
    if layout.degrees.pipeline > 1:
        sequences = plan.recipe.batch_tokens // plan.shape.context_tokens // sizes.data
        positions = plan.shape.context_tokens // sizes.context // sizes.tensor
        states = 4 * sequences * positions * plan.shape.width * layout.degrees.stages
        found["pipeline send"] = {"calls": 2 * micro_batches * layout.degrees.stages, "bytes": 2 * states}
    return found


class _Kept:
    """Bytes of what autograd saves for backward, each storage once, parameters left out."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._seen: dict[int, Tensor] = {}

    def ignore(self, model: nn.Module) -> None:
        """Parameters and tables live on anyway."""
        for tensor in (*model.parameters(), *model.buffers()):
            self._see(local(tensor))
        self.num_bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Count what autograd saves."""
        self._see(local(tensor))
        return tensor

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor  # kept, so that the address is not used again
            self.num_bytes += storage.nbytes()


class _Sent(TorchDispatchMode):
    """Calls and bytes of collectives by dimension of the mesh."""

    def __init__(self, ranks: parallel.Ranks) -> None:
        super().__init__()
        self.calls: dict[str, dict[str, int]] = {}
        self._names: dict[str, str] = {}
        if ranks.mesh is not None:
            self._names = {str(ranks.group(name).group_name): name for name in DIMENSIONS}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if "c10d" in func.namespace and name.rstrip("_").startswith(_SENDING):
            self._count(name.removesuffix("_into_tensor").removesuffix("_tensor").rstrip("_"), args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:
        group = next((self._group(arg) for arg in args if self._group(arg)), "all")
        tensors = args[0] if isinstance(args[0], list) else [args[0]]
        while tensors and isinstance(tensors[0], list):
            tensors = tensors[0]
        whole = sum(local(tensor).nbytes for tensor in tensors)
        if name == "all_gather":  # of the functional kind, whose argument is the share
            whole *= int(args[1])
        name = _PUBLIC_NAMES.get(name, name)
        entry = self.calls.setdefault(f"{group} {name}", {"calls": 0, "bytes": 0})
        entry["calls"] += 1
        entry["bytes"] += whole

    def _group(self, arg: Any) -> str:
        if isinstance(arg, str):
            return self._names.get(arg, "")
        if isinstance(arg, torch.ScriptObject):
            try:
                return self._names.get(dist.ProcessGroup.unbox(arg).group_name, "")
            except RuntimeError:  # a reduction, not a group
                return ""
        return ""


def main(words: list[str] | None = None) -> int:
    """Print the dry run of a plan as one JSON object; a layout that does not build is {"failed": reason}."""
    parser = argparse.ArgumentParser(prog="python -m stepladder.train.dryrun")
    parser.add_argument("plan", type=Path)
    options = parser.parse_args(words)
    try:
        found = dry_run(from_json(Plan, read_json(options.plan)))
    except StepladderError as error:
        found = {"failed": str(error)}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
