"""A run folder or a Hugging Face folder in; our network with its weights out (torch); `export.py` writes."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from stepladder.errors import ExportError
from stepladder.models.export import (
    SHAPE_FILE,
    WEIGHTS_FILE,
    Tensors,
    family_beside,
    our_names,
    read_shape,
    read_tensors,
    weights_folder,
    write_tensors,
)
from stepladder.models.transformer import Attention, Transformer
from stepladder.records import Shape, to_json
from stepladder.store import write_json

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def load_folder(folder: Path, *, attention: Attention = "explicit") -> Transformer:
    """The network of a run folder, of our own export, or of a family's folder, in fp32 and in eval mode.

    Raises:
        ExportError: the folder has no weights, they are damaged, or the configuration is not ours to compute.
    """
    source = weights_folder(folder)
    shape = read_shape(source)
    network = Transformer(shape, attention)
    load_parameters(network, our_names(read_tensors(source), shape, family_beside(source)))
    return network.eval()


def load_decoder(folder: Path, *, attention: Attention = "explicit") -> Transformer:
    """As `load_folder`, for what reads a text forwards.

    Raises:
        ExportError: as there, or the network is an encoder.
    """
    network = load_folder(folder, attention=attention)
    if not network.shape.causal:
        raise ExportError(
            f"{folder} is an encoder: it fills masks and cannot continue or score a text",
            allowed="a decoder",
            next_command=f"stepladder tune --from {folder} --task TASK",
        )
    return network


def load_parameters(model: nn.Module, tensors: Tensors) -> None:
    """Copy tensors into the parameters of the same names, in the parameters' own type."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, stored in tensors.items():
            values = torch.frombuffer(bytearray(stored["data"]), dtype=_DTYPES[stored["dtype"]])
            parameters[name].copy_(values.view(stored["shape"]))


def save_folder(network: Transformer, folder: Path) -> None:
    """Weights and shape in the layout of a run's `model` folder; a tied head is stored once."""
    write_json(folder / SHAPE_FILE, to_json(network.shape))
    write_tensors(folder / WEIGHTS_FILE, serialised(dict(network.named_parameters())))


def serialised(parameters: Mapping[str, torch.Tensor]) -> Tensors:
    """Parameters as safetensors' raw tensors."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    return {
        name: {
            "dtype": names[value.dtype],
            "shape": list(value.shape),
            "data": value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes(),
        }
        for name, value in parameters.items()
    }


def random_network(shape: Shape, seed: int, *, attention: Attention = "explicit") -> Transformer:
    """A network with the initial weights that `seed` draws."""
    network = Transformer(shape, attention)
    network.reset_parameters(torch.Generator().manual_seed(seed))
    return network
