"""A layout in; the context in which its forward passes run out (torch)."""

from contextlib import AbstractContextManager, nullcontext

import torch

from stepladder.records import Layout


def autocast(layout: Layout) -> AbstractContextManager[object]:
    """bf16 autocast where the layout says so."""
    if layout.precision == "bf16":
        return torch.autocast(layout.device, dtype=torch.bfloat16)
    return nullcontext()
