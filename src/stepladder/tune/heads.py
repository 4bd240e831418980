"""A network in; the same network with a head over labels out, and folders of both (torch)."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stepladder.errors import TaskError
from stepladder.models.export import read_tensors, write_tensors
from stepladder.models.hf import load_folder, load_parameters, save_folder, serialised
from stepladder.models.transformer import Transformer
from stepladder.store import read_json, write_json, write_text

Pool = Literal["mean", "last"]
HEAD_FILE, HEAD_WEIGHTS = "head.json", "head"


class Classifier(nn.Module):
    """Logits over labels from the pooled final states of a network.

    Padding stands on the right, so a causal network's states of real tokens do not see it; an encoder gets a
    mask.
    """

    def __init__(self, network: Transformer, num_labels: int, pool: Pool) -> None:
        super().__init__()
        self.network, self.pool = network, pool
        self.class_head = nn.Linear(network.shape.width, num_labels)
        nn.init.zeros_(self.class_head.weight)
        nn.init.zeros_(self.class_head.bias)

    def features(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Pooled states, (B, D), fp32."""
        real_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None]
        mask = None if self.network.shape.causal else real_BT[:, None, None, :]
        hidden_BTD = self.network.hidden(ids_BT, mask).float()
        if self.pool == "last":
            return hidden_BTD[torch.arange(len(ids_BT), device=ids_BT.device), lengths_B - 1]
        return (hidden_BTD * real_BT[..., None]).sum(1) / lengths_B[:, None]

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, (B, labels)."""
        return self.class_head(self.features(ids_BT, lengths_B))


class LinearProbe(nn.Module):
    """A linear head on standardised features; `fold_into` gives a classifier the same head, unscaled."""

    def __init__(self, features: Tensor, num_labels: int) -> None:
        super().__init__()
        # Named like the classifier's head, so that the optimiser gives it the head's rate.
        self.class_head = nn.Linear(features.shape[1], num_labels)
        nn.init.zeros_(self.class_head.weight)
        nn.init.zeros_(self.class_head.bias)
        self.register_buffer("mean", features.mean(0), persistent=False)
        self.register_buffer("spread", features.std(0) + 1e-6, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of raw features, (B, labels)."""
        return self.class_head((features - self.mean) / self.spread)

    @torch.no_grad()
    def fold_into(self, classifier: Classifier) -> None:
        """Write W / spread and b - W mean / spread into the classifier's head."""
        scaled = self.class_head.weight / self.spread
        classifier.class_head.weight.copy_(scaled)
        classifier.class_head.bias.copy_(self.class_head.bias - scaled @ self.mean)


def save_classifier(model: Classifier, labels: tuple[str, ...], folder: Path, tokenizer_json: str) -> None:
    """Network, head, labels and tokenizer in one folder, which `load_classifier` and export read."""
    write_text(folder / "tokenizer.json", tokenizer_json)
    save_folder(model.network, folder)
    head = serialised({"weight": model.class_head.weight, "bias": model.class_head.bias})
    write_tensors(folder / HEAD_WEIGHTS / "model.safetensors", head)
    write_json(folder / HEAD_FILE, {"kind": "classification", "labels": list(labels), "pool": model.pool})


def classifier_folder(folder: Path) -> Path:
    """The folder that holds head and tokenizer: a tuned run or its `model` folder.

    Raises:
        TaskError: the folder holds no classifier.
    """
    for candidate in (folder, folder / "model"):
        if (candidate / HEAD_FILE).exists():
            return candidate
    raise TaskError(
        f"{folder} holds no tuned classifier",
        allowed="a folder that `stepladder tune` wrote, such as tune/TASK/full-0",
        next_command=f"stepladder tune {folder} --task TASK.jsonl",
    )


def load_classifier(folder: Path) -> tuple[Classifier, tuple[str, ...]]:
    """The model in eval mode and its labels; TaskError as `classifier_folder`."""
    folder = classifier_folder(folder)
    card = read_json(folder / HEAD_FILE)
    model = Classifier(load_folder(folder), len(card["labels"]), card["pool"])
    load_parameters(model.class_head, read_tensors(folder / HEAD_WEIGHTS))
    return model.eval(), tuple(card["labels"])
