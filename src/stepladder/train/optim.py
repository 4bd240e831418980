"""A model and a recipe in; one optimiser with a rate of its own for embeddings, head, matrices and norms out.

The rates are used as given: scaling with width and length is the plan's business (docs/log.md).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from stepladder.models.shard import local
from stepladder.plan.memory import MUON_VALUES
from stepladder.records import Recipe

# Coefficients of the quintic Newton-Schulz iteration and its five steps: Jordan et al. 2024, "Muon: an
# optimizer for hidden layers in neural networks".
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
# Norm gains take the rate that matrices have under AdamW: 1.5e-3 / 3.2e-2 of the head's (docs/log.md).
_NORM_SHARE_OF_HEAD = 1.5e-3 / 3.2e-2
# Groups of matrices inside. Experts are one of their own: they may lie on other processes than the rest.
_HIDDEN = ("hidden", "experts")


class Muon(Optimizer):
    """Momentum whose matrix updates are made orthogonal; matrices of equal shape go through together."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        """One update; sharded matrices are gathered, since orthogonality is a matter of the whole matrix."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, alike in by_shape.items():
                most = max(MUON_VALUES // shape.numel(), 1)
                for at in range(0, len(alike), most):
                    self._update(alike[at : at + most], group)

    def _update(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Step matrices, or stacks of them, of one shape together."""
        directions = [self._direction(parameter, group["momentum"]) for parameter in parameters]
        *stack, rows, columns = parameters[0].shape
        # A stack may have other sizes here than elsewhere, so each goes by itself.
        updates = map(orthogonalise, directions) if stack else orthogonalise(torch.stack(directions)).unbind()
        # Tall matrices need longer steps for the same change of their output's size (as Jordan).
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            change = update.to(parameter.dtype)
            if has_whole_matrices(parameter):
                local(parameter).add_(change, alpha=-rate)
            else:
                parameter.add_(_like(change, parameter), alpha=-rate)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - momentum)
        direction = gradient.lerp(buffer, momentum)
        if has_whole_matrices(direction):
            return local(direction)
        assert isinstance(direction, DTensor)
        return direction.full_tensor()


def has_whole_matrices(tensor: Tensor) -> bool:
    """Whether no matrix of it is cut here: a stack may be shared out along its first dimension."""
    if not isinstance(tensor, DTensor):
        return True
    cuts = [placement for placement in tensor.placements if not placement.is_replicate()]
    return all(tensor.ndim > 2 and getattr(placement, "dim", 1) == 0 for placement in cuts)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values moved near 1."""
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    if x.is_cuda:
        x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if is_tall else x


class Optimisers:
    """The optimisers of one run behind one `step`; peak rates are kept, the schedule gives a factor."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        for part in parts:
            for group in part.param_groups:
                group["peak_lr"] = group["lr"]

    def step(self, factor: float) -> None:
        """Update all weights at `factor` of their peak rates and forget the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * factor
            part.step()
            part.zero_grad(set_to_none=True)


def build_optimisers(model: nn.Module, recipe: Recipe) -> Optimisers:
    """AdamW in groups, and Muon for the hidden matrices where the recipe says so.

    Weight decay touches hidden matrices only. A parameter that does not require a gradient is left out.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in ("embed", "head", *_HIDDEN, "norm")}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter_group(name, parameter)].append(parameter)
    uses_muon = recipe.optimiser == "muon"
    norm_lr = _NORM_SHARE_OF_HEAD * recipe.head_lr if uses_muon else recipe.hidden_lr
    rates = {"embed": recipe.embed_lr, "head": recipe.head_lr, "norm": norm_lr}
    rates |= dict.fromkeys(_HIDDEN, recipe.hidden_lr)
    adam = []
    for name, parameters in groups.items():
        if parameters and not (uses_muon and name in _HIDDEN):
            decay = recipe.weight_decay if name in _HIDDEN else 0.0
            adam.append({"params": parameters, "lr": rates[name], "weight_decay": decay, "name": name})
    parts: list[Optimizer] = []
    if adam:
        # One C++ call for all tensors of a group: for 30 small tensors 4x faster than the Python loop.
        parts.append(torch.optim.AdamW(adam, betas=(recipe.beta1, recipe.beta2), fused=True))
    hidden = [{"params": groups[name], "name": name} for name in _HIDDEN if groups[name]]
    if uses_muon and hidden:
        parts.append(Muon(hidden, lr=recipe.hidden_lr, weight_decay=recipe.weight_decay))
    return Optimisers(parts)


def parameter_group(name: str, parameter: Tensor) -> str:
    """embed, head, hidden (a matrix inside), experts (stacked ones) or norm.

    norm is anything with one dimension, and the tables of learned positions and token types: their rows are
    looked up, so they are neither decayed nor made orthogonal, and they begin as small as matrices do.
    """
    if name.endswith(("embed_positions.weight", "embed_types.weight")):
        return "norm"
    if parameter.ndim != 2:
        return "norm" if parameter.ndim < 2 else "experts"
    if name.endswith("embed_tokens.weight"):
        return "embed"
    return "head" if "head" in name.split(".")[-2] else "hidden"


def _like(full: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor that all ranks hold, laid out as `parameter` is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return full
