"""A network in; the same network with a head for a task, and folders of both, out (torch)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stepladder.errors import TaskError
from stepladder.models.export import read_tensors, write_tensors
from stepladder.models.hf import load_folder, load_parameters, save_folder, serialised
from stepladder.models.transformer import Transformer
from stepladder.store import read_json, write_json, write_text

Pool = Literal["mean", "last"]
HEAD_FILE, HEAD_WEIGHTS = "head.json", "head"


class TaskModel(nn.Module):
    """A network with a linear head of `outputs` values on its final states; none where it answers in words.

    Padding stands on the right and is left out of the network (`Transformer.hidden_real`).
    """

    def __init__(self, network: Transformer, outputs: int) -> None:
        super().__init__()
        self.network = network
        if outputs:
            self.task_head = nn.Linear(network.shape.width, outputs)
            nn.init.zeros_(self.task_head.weight)
            nn.init.zeros_(self.task_head.bias)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that are trained: optimisers and checkpoints need no others."""
        return (pair for pair in super().named_parameters(*args, **options) if pair[1].requires_grad)

    def states(self, ids_BT: Tensor, lengths_B: Tensor, types_BT: Tensor | None = None) -> Tensor:
        """Final states of all tokens, (B, T, D); zeros for padding."""
        return self.network.hidden_real(ids_BT, lengths_B, types_BT)

    def features(self, ids_BT: Tensor, lengths_B: Tensor, pool: Pool) -> Tensor:
        """Pooled states, (B, D), fp32."""
        if pool == "last":
            return self.network.hidden_real(ids_BT, lengths_B, last=True).float()
        return self.states(ids_BT, lengths_B).float().sum(1) / lengths_B[:, None]


def with_own_head(network: Transformer) -> Transformer:
    """Only the vocabulary's matrix is trained; where it is tied, a copy of its own."""
    if network.shape.tied_head:
        weight = network.lm_head.weight
        network.shape = replace(network.shape, tied_head=False)
        network.lm_head.weight = nn.Parameter(weight.detach().clone())
    network.lm_head.requires_grad_(True)
    return network


class LinearProbe(nn.Module):
    """A linear head on standardised features; `fold_into` gives a model the same head, unscaled."""

    def __init__(self, features: Tensor, outputs: int) -> None:
        super().__init__()
        # Named like the model's head, so that the optimiser gives it the head's rate.
        self.task_head = nn.Linear(features.shape[1], outputs)
        nn.init.zeros_(self.task_head.weight)
        nn.init.zeros_(self.task_head.bias)
        self.register_buffer("mean", features.mean(0), persistent=False)
        self.register_buffer("spread", features.std(0) + 1e-6, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Outputs of raw features, (B, outputs)."""
        return self.task_head((features - self.mean) / self.spread)

    @torch.no_grad()
    def fold_into(self, model: TaskModel) -> None:
        """Write W / spread and b - W mean / spread into the model's head."""
        scaled = self.task_head.weight / self.spread
        model.task_head.weight.copy_(scaled)
        model.task_head.bias.copy_(self.task_head.bias - scaled @ self.mean)


def save_tuned(model: TaskModel, card: dict[str, Any], folder: Path, words: Mapping[str, str]) -> None:
    """Network, head, card and tokenizer in one folder, which `load_tuned` and export read.

    `words` are the tokenizer's files: tokenizer.json and what belongs to it.
    """
    for name, text in words.items():
        write_text(folder / name, text)
    save_folder(model.network, folder)
    if hasattr(model, "task_head"):
        head = serialised({"weight": model.task_head.weight, "bias": model.task_head.bias})
        write_tensors(folder / HEAD_WEIGHTS / "model.safetensors", head)
    write_json(folder / HEAD_FILE, card)


def tuned_folder(folder: Path) -> Path:
    """The folder that holds card and tokenizer: a tuned run or its `model` folder.

    Raises:
        TaskError: the folder holds no tuned model.
    """
    for candidate in (folder, folder / "model"):
        if (candidate / HEAD_FILE).exists():
            return candidate
    raise TaskError(
        f"{folder} holds no tuned model",
        allowed="a folder that `stepladder tune` wrote, such as tune/TASK/full-0",
        next_command=f"stepladder tune {folder} --task TASK.jsonl",
    )


def load_tuned(folder: Path) -> tuple[TaskModel, dict[str, Any]]:
    """The model in eval mode and its card; TaskError as `tuned_folder`."""
    folder = tuned_folder(folder)
    card = read_json(folder / HEAD_FILE)
    stored = read_tensors(folder / HEAD_WEIGHTS) if (folder / HEAD_WEIGHTS).exists() else {}
    model = TaskModel(load_folder(folder), stored["bias"]["shape"][0] if stored else 0)
    if stored:
        load_parameters(model.task_head, stored)
    return model.eval(), card
