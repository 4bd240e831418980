"""A model and a layout in; the same model with its blocks sharded (FSDP2) or recomputed out."""

from functools import partial

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from stepladder.models.transformer import Transformer


def shard_model(model: Transformer, mesh: DeviceMesh) -> Transformer:
    """Shard each block, then the rest, over `mesh`; parameters become DTensors under the same names.

    `hidden` counts as a forward too: losses read hidden states and the head's weight, which the root keeps
    whole between forward and backward.
    """
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "hidden")
    return model


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
