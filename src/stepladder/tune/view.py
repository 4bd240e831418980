"""A network's folder and texts in; pooled features, and logits where it was tuned for labels, out (torch)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stepladder.errors import TaskError
from stepladder.models.export import find_tokenizer, weights_folder
from stepladder.models.hf import load_folder
from stepladder.tune.encode import Coder
from stepladder.tune.heads import TaskModel, load_tuned, tuned_folder
from stepladder.tune.kinds import adapter_of
from stepladder.tune.labels import Labels
from stepladder.tune.rows import Example


def pooled_features(model: Path, texts: Sequence[str], *, tokenizer: Path | None = None) -> np.ndarray:
    """Mean final states (N, D) of a network as it is."""
    network = TaskModel(load_folder(weights_folder(model)), 0).eval()
    words = tokenizer if tokenizer is not None else find_tokenizer(model)
    coder = Coder(words if words.is_dir() else words.parent, network.network.shape)
    adapter = Labels(kind="classification", labels=())
    return adapter.features(network, adapter.encode(coder, _examples(texts))).double().numpy()


def tuned_view(folder: Path, texts: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(labels, logits (N, labels), features (N, D)) by a network tuned for classification.

    Raises:
        TaskError: the folder holds no tuned model, or one of another kind of task.
    """
    model, card = load_tuned(folder)
    adapter = adapter_of(card)
    if not isinstance(adapter, Labels) or adapter.kind != "classification":
        raise TaskError(
            f"{folder} was not tuned for one label a text", got=adapter.kind, allowed="classification"
        )
    coder = Coder(tuned_folder(folder), model.network.shape, adapter.pool)
    features = adapter.features(model, adapter.encode(coder, _examples(texts)))
    with torch.no_grad():
        logits = model.task_head(features)
    return adapter.labels, logits.double().numpy(), features.double().numpy()


def _examples(texts: Sequence[str]) -> list[Example]:
    return [Example(text=text, targets=(), group="") for text in texts]
