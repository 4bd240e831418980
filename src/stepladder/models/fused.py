"""Activations in; norms and rotations of them out, each as one step of autograd with a gradient by hand.

For small models on a CPU the elementwise operations cost as much as the products: every pass over the
activations that is saved counts. Shapes: N rows, D width, E head dimension.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class RMSNormStep(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension, in fp32; the result in autocast's type, if any."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        # One pass: the norm's kernel squares and adds without a tensor of squares.
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = wide * inverse
        ctx.save_for_backward(normed, inverse, weight)
        ctx.input_dtype = x.dtype
        out = normed * weight.float()
        kind = x.device.type
        return out.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else out.type_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        normed, inverse, weight = ctx.saved_tensors
        grad = grad.float()
        grad_normed = grad * normed
        grad_weight = _weight_grad(ctx, grad_normed, weight)
        # d x = (g - normed * mean(g * normed)) * inverse with g = grad * weight
        inner = (grad_normed @ weight.float()).unsqueeze(-1).div_(-normed.shape[-1])
        grad_x = torch.addcmul(grad.mul(weight.float()), normed, inner).mul_(inverse)
        return grad_x.to(ctx.input_dtype), grad_weight, None


def _weight_grad(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor | None:
    """The sum over all rows; None where the weight is fixed."""
    return rows.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight (arXiv:1910.07467)."""
    return RMSNormStep.apply(x, weight, eps)


class NormRotateStep(torch.autograd.Function):
    """RMS norm over the head dimension, times weight, then rotary: x (B, T, H, E), weight (E), tables (T, E).

    With r the inverse rotation of the gradient, d weight = sum(r * normed) and the norm sees r * weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        half = x.shape[-1] // 2
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = wide * inverse
        # The weight goes into the tables, which are smaller than the activations.
        scale = weight.float()
        cos_weight = (cos * scale).unsqueeze(1)
        sin_first = (sin[:, :half] * scale[half:]).unsqueeze(1)
        sin_second = (sin[:, half:] * scale[:half]).unsqueeze(1)
        out = normed * cos_weight
        out[..., :half].addcmul_(normed[..., half:], sin_first, value=-1)
        out[..., half:].addcmul_(normed[..., :half], sin_second)
        ctx.save_for_backward(normed, inverse, weight, cos, sin)
        ctx.input_dtype = x.dtype
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        normed, inverse, weight, cos, sin = ctx.saved_tensors
        half = normed.shape[-1] // 2
        grad = grad.float()
        back = grad * cos.unsqueeze(1)
        back[..., :half].addcmul_(grad[..., half:], sin[:, half:].unsqueeze(1))
        back[..., half:].addcmul_(grad[..., :half], sin[:, :half].unsqueeze(1), value=-1)
        along = back * normed
        grad_weight = _weight_grad(ctx, along, weight)
        inner = (along @ weight.float()).unsqueeze(-1).div_(-normed.shape[-1])
        grad_x = torch.addcmul(back.mul_(weight.float()), normed, inner).mul_(inverse)
        return grad_x.to(ctx.input_dtype), grad_weight, None, None, None


def norm_rotate(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Heads x (B, T, H, E), each normed (arXiv:2010.04245) and turned by its position."""
    return NormRotateStep.apply(x, weight, cos, sin, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads x (B, T, H, E) turned by their positions, without a norm."""
    first, second = x.chunk(2, dim=-1)
    turned = x * cos.unsqueeze(1) + torch.cat((-second, first), dim=-1) * sin.unsqueeze(1)
    return turned.type_as(x)


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of `model.layers` for passes with a gradient; one graph serves all of equal shape.

    Passes without a gradient stay as they are: their batches have other shapes and would compile again.
    """
    for layer in model.get_submodule("layers").children():
        layer.forward = _with_gradient(torch.compile(layer.forward, dynamic=False), layer.forward)


def _with_gradient(compiled: Callable[..., Tensor], eager: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(*inputs: Tensor | None) -> Tensor:
        return (compiled if torch.is_grad_enabled() else eager)(*inputs)

    return forward
