"""A model and meshes of processes in; the same model sharded, split or cut over them out, names unchanged.

Shared out are state (FSDP2, HSDP), matrices (tensor with sequence parallel), positions (context parallel) and
layers (pipeline). The model file knows of none of it. Norm gains stay whole on all of a tensor group and
see its share of the positions only: their gradients are sums over that group (`sum_over_tensor_group`).
"""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint

from stepladder.models.experts import mixtures
from stepladder.models.transformer import Attend, Transformer


def shard_model(
    model: Transformer, mesh: DeviceMesh, precision: str, of_experts: DeviceMesh | None = None
) -> Transformer:
    """Shard each block, then the rest, over `mesh`; parameters become DTensors under the same names.

    With "bf16" blocks gather their weights in bf16: autocast would keep a copy of every gathered weight for
    the backward pass. Gradients are reduced in fp32, and the states between blocks stay as they are.

    Experts that are spread over processes are sharded over the mesh `of_experts`, which leaves these out;
    their gradients have the sequences of all of them, so they are divided as those of `mesh` are.

    A mesh of two dimensions holds a copy for each place of the first (HSDP). `hidden` counts as a forward
    too: losses read hidden states and the head's weight, which the root keeps whole between forward and
    backward.
    """
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for mixture in mixtures(model) if of_experts is not None else ():
        assert of_experts is not None
        # Whole experts where there are enough, else parts of each.
        spread = dist.get_world_size(mixture.group) * of_experts.shape[-1]
        cut = Shard(1 if mixture.settings.count % spread else 0)
        experts = fully_shard(
            mixture.experts, mesh=of_experts, mp_policy=policy, shard_placement_fn=lambda _, cut=cut: cut
        )
        experts.set_gradient_divide_factor(float(mesh.size()))
        # Gloo cannot divide on the way; with a shard group of one torch 2.13 would then divide twice.
        experts.set_force_sum_reduction_for_comms(of_experts.shape[-1] > 1)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "hidden")
    return model


def split_matrices(model: Transformer, mesh: DeviceMesh) -> Transformer:
    """Tensor parallel with sequence parallel: matrices by heads, hidden units and vocabulary over `mesh`.

    Between the matrices a process holds its share of the positions: `hidden` answers (B, T / processes, D).
    """
    columns = ColwiseParallel()
    whole = {"input_layouts": (Shard(1),), "desired_input_layouts": (Replicate(),)}
    block: dict[str, ParallelStyle] = {
        "self_attn": PrepareModuleInput(
            input_layouts=(Shard(1), None, None, None), desired_input_layouts=(Replicate(), None, None, None)
        ),
        "mlp": PrepareModuleInput(**whole),
    }
    block |= {f"self_attn.{name}_proj": columns for name in "qkv"}
    block |= {f"mlp.{name}_proj": columns for name in ("gate", "up")}
    block |= {
        name: RowwiseParallel(output_layouts=Shard(1)) for name in ("self_attn.o_proj", "mlp.down_proj")
    }
    for layer in model.layers:
        parallelize_module(layer, mesh, block)
    if isinstance(model.embed_tokens, nn.Embedding):
        whole_ids = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
        parallelize_module(model, mesh, {"embed_tokens": whole_ids})
    if model.shape.tied_head:
        model.lm_head.weight = model.embed_tokens.weight
    elif isinstance(model.lm_head, nn.Linear):
        parallelize_module(model, mesh, {"lm_head": columns})
    return model


def spread_experts(model: nn.Module, mesh: DeviceMesh) -> None:
    """Expert parallel: each process of `mesh` keeps an equal part of the experts of every mixture."""
    for mixture in mixtures(model):
        mixture.group = mesh.get_group()
        for name, weight in list(mixture.experts.named_parameters()):
            part = distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None)
            mixture.experts.register_parameter(name, nn.Parameter(part))


def split_positions(model: Transformer, group: dist.ProcessGroup) -> Tensor:
    """Context parallel: this process computes the positions (T / processes) that are returned.

    The sequence is cut into twice as many chunks as there are processes; each takes one from the front and
    one from the back, so that all have the same work under a causal mask (as Llama 3, arXiv:2407.21783).
    Keys and values are gathered; masks must have rows for the own positions and columns in the gathered
    order: `rows_and_columns`.
    """
    places = _positions(model.shape.context_tokens, group)
    mine = places[dist.get_rank(group)]
    model.rope_cos, model.rope_sin = model.rope_cos[mine], model.rope_sin[mine]
    for layer in model.layers:
        attend = layer.get_submodule("self_attn")
        assert isinstance(attend, Attend)
        for name in ("_explicit", "_sdpa"):
            setattr(attend, name, partial(_attend_to_all, getattr(attend, name), group))
    return mine


def rows_and_columns(mask: Tensor, group: dist.ProcessGroup) -> Tensor:
    """A mask (..., T, T) as a context-parallel process needs it: (..., T / processes, T)."""
    places = _positions(mask.shape[-1], group)
    mine = places[dist.get_rank(group)].to(mask.device)
    return mask.index_select(-2, mine).index_select(-1, places.flatten().to(mask.device))


def _positions(tokens: int, group: dist.ProcessGroup) -> Tensor:
    """Positions of each process, (processes, T / processes)."""
    size = dist.get_world_size(group)
    chunks = torch.arange(tokens).view(2 * size, -1)
    return torch.cat((chunks[:size], chunks[size:].flip(0)), dim=1)


class _Gather(torch.autograd.Function):
    """Shares of all processes joined; the gradient of a share is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
        ctx.dim, ctx.group = dim, group
        share = share.contiguous()
        shares = [torch.empty_like(share) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shares, share, group=group)
        return torch.cat(shares, dim=dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyrefly: ignore[bad-override]
        size, rank = dist.get_world_size(ctx.group), dist.get_rank(ctx.group)
        # Gloo has no reduce-scatter for every type; the sum of all is one call everywhere.
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(size, dim=ctx.dim)[rank], None, None


def gathered(share: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Equal shares of a tensor along `dim`, joined in the order of the processes; differentiable."""
    return _Gather.apply(share, dim, group)


def _attend_to_all(attend: partial[Tensor], group: dist.ProcessGroup, *states: Tensor | None) -> Tensor:
    """Queries (B, H, T / processes, E) against keys and values of all processes."""
    query, key, value, mask = states
    assert key is not None
    assert value is not None
    key, value = (gathered(x, 2, group) for x in (key, value))
    return attend(query, key, value, mask)


class Layers(nn.Module):
    """Some of a model's blocks under the numbers that they have in the whole."""

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._modules.values())  # pyrefly: ignore[bad-return]

    def __len__(self) -> int:
        return len(self._modules)


class _Handover(nn.Module):
    """States (B, T / parts, D) of a sequence-parallel process seen as (B, T, D / parts), or back."""

    def __init__(self, parts: int, *, arrives: bool) -> None:
        super().__init__()
        self.parts, self.arrives = parts, arrives

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        if self.arrives:
            return x.reshape(batch, tokens // self.parts, width * self.parts)
        # A stage may not answer a view: zero-bubble schedules detach what it answers in place.
        return x.reshape(batch, tokens * self.parts, width // self.parts).clone()


def cut_layers(
    model: Transformer, span: tuple[int, int], ends: tuple[bool, bool], tensor: int
) -> Transformer:
    """Blocks span[0] to span[1] (exclusive) of a model as a model, sharing its weights.

    `ends` says whether it is the first and the last part. A part that is not first takes states in place of
    ids, one that is not last answers them without the final norm: (B, T, D / tensor), so that their second
    dimension is that of the ids, which tables and masks are cut to.
    """
    part = copy.copy(model)
    part._modules, part._buffers = dict(model._modules), dict(model._buffers)
    blocks = dict(model.layers.named_children())
    part._modules["layers"] = Layers({str(number): blocks[str(number)] for number in range(*span)})
    if not ends[0]:
        part._modules["embed_tokens"] = _Handover(tensor, arrives=True) if tensor > 1 else nn.Identity()
    if not ends[1]:
        part._modules["norm"] = _Handover(tensor, arrives=False) if tensor > 1 else nn.Identity()
        part._modules["lm_head"] = nn.Identity()
    return part


def recompute_blocks(model: Transformer, recompute: str) -> None:
    """Drop activations in forward and compute them again in backward: of attention only, or of blocks."""
    for layer in model.layers:
        assert isinstance(layer, nn.Module)
        part = layer if recompute == "full" else layer.get_submodule("self_attn")
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def sync_gradients(model: nn.Module, is_last: bool) -> None:
    """Tell a sharded model whether this backward is the last of its step: only then are gradients reduced."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)


def reshard(model: nn.Module) -> None:
    """Give back what a pass without a backward left whole: the root of FSDP2 waits for one that never comes.

    Until then the model's parameters are others than those that the optimiser knows.
    """
    for module in (model, *getattr(model, "parts", {}).values()):
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sum_over_tensor_group(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Complete the gradients of norm gains, which each process of a tensor group has for its positions."""
    gradients = [local(p.grad) for p in model.parameters() if p.ndim < 2 and p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat, group=group)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
