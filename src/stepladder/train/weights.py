"""A trained model, however it is spread, in; one file of its weights and its shape out (torch)."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stepladder.errors import StoreError
from stepladder.records import Shape, to_json
from stepladder.store import write_json
from stepladder.train.parallel import Ranks

_WEIGHTS = "model.safetensors"


def write_model(model: nn.Module, shape: Shape, folder: Path, ranks: Ranks) -> None:
    """Final weights, gathered over ranks, written under a hidden name and renamed.

    Each process of a pipeline writes what it has; rank 0 joins the files. All ranks share the file system.
    """
    is_writer = ranks.is_first_of_stage
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if is_writer:
            weights[name] = value.cpu().contiguous()
    parts = folder / ".parts"
    if ranks.rank == 0:
        shutil.rmtree(parts, ignore_errors=True)
    ranks.barrier()
    if is_writer:
        _save(weights, parts / f"{ranks.place}.safetensors")
    ranks.barrier()
    if ranks.rank == 0:
        _join(parts, shape, folder)


def _join(parts: Path, shape: Shape, folder: Path) -> None:
    files = sorted(parts.iterdir())
    write_json(folder / "shape.json", to_json(shape))
    if len(files) == 1:
        files[0].rename(folder / _WEIGHTS)
    else:
        whole: dict[str, Tensor] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                whole |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        _save(whole, folder / f".{_WEIGHTS}")
        (folder / f".{_WEIGHTS}").rename(folder / _WEIGHTS)
    shutil.rmtree(parts)


def _save(weights: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(weights, path)
    except Exception as error:  # safetensors reports a full disk in a type of its own
        path.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path.parent}", got=str(error), next_command="df -h") from error
