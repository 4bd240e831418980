"""A classifier and batches in; its loss, its dev figures and the best weights so far out (torch).

These are the adapters that let the one training loop tune: `Classify` trains the whole model, `Probe` only a
head on features that were computed once.
"""

import math
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepladder.models.export import WEIGHTS_FILE, read_tensors, write_tensors
from stepladder.models.hf import load_parameters, serialised
from stepladder.train.metrics import METRICS_FILE, read_metrics
from stepladder.tune.batches import Batch, Encoded
from stepladder.tune.heads import Classifier

_BATCH_EXAMPLES = 64


class DevScore(NamedTuple):
    """Compared in this order: more right is better, then less loss."""

    accuracy: float
    negative_loss: float


class Classify:
    """Cross-entropy over labels, summed over a batch; dev accuracy decides which weights are kept."""

    def __init__(self, dev: Encoded, keeper: "BestKeeper") -> None:
        self._dev, self._keeper = dev, keeper

    def count(self, batch: Batch) -> int:
        """Labels to predict."""
        return len(batch.labels)

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """Summed loss in nats."""
        ids, lengths, labels = (torch.from_numpy(a) for a in (batch.ids, batch.lengths, batch.labels))
        return F.cross_entropy(model(ids, lengths).float(), labels, reduction="sum")

    def evaluate(self, model: Classifier) -> dict[str, float]:
        """heldout_loss (nats an example) and heldout_accuracy on dev."""
        logits = predict_logits(model, self._dev)
        return self._keeper.judge(model, logits, torch.from_numpy(self._dev.labels))


class Probe(Classify):
    """The same for a linear head alone on stored features: batches hold (features, labels)."""

    def __init__(self, features: Tensor, labels: Tensor, keeper: "BestKeeper") -> None:
        self._features, self._labels, self._keeper = features, labels, keeper

    def count(self, batch: Any) -> int:
        return len(batch[1])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return self._keeper.judge(model, model(self._features), self._labels)


class FeatureBatches:
    """Shuffled batches of stored features, without end."""

    def __init__(self, features: Tensor, labels: Tensor, batch_examples: int, seed: int) -> None:
        self._features, self._labels, self._seed = features, labels, seed
        self.batch_examples = min(batch_examples, len(labels))
        self.steps_per_epoch = len(labels) // self.batch_examples
        self.consumed = 0

    def next(self) -> list[tuple[Tensor, Tensor]]:
        """The next batch, as one micro-batch."""
        epoch, at = divmod(self.consumed // self.batch_examples, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._labels))
        rows = torch.from_numpy(order[at * self.batch_examples : (at + 1) * self.batch_examples])
        self.consumed += self.batch_examples
        return [(self._features[rows], self._labels[rows])]


class BestKeeper:
    """Keeps the weights with the best dev score on disk; sets `stop` when `patience` scores were no better.

    What was best so far is read from metrics.jsonl, which a resumed run shares with the run that was killed:
    both end with the same weights.
    """

    def __init__(self, folder: Path, patience: int, stop: threading.Event) -> None:
        self._folder, self._patience, self.stop = folder, patience, stop

    def history(self) -> list[DevScore]:
        """Dev scores so far."""
        path = self._folder / METRICS_FILE
        records = read_metrics(path) if path.exists() else ()
        return [
            DevScore(record["heldout_accuracy"], -record["heldout_loss"])
            for record in records
            if record.get("heldout_accuracy") is not None
        ]

    def is_exhausted(self, scores: list[DevScore] | None = None) -> bool:
        """Whether the last `patience` scores were no better than one before (patience 0: never)."""
        scores = self.history() if scores is None else scores
        return (
            bool(scores and self._patience) and len(scores) - 1 - scores.index(max(scores)) >= self._patience
        )

    def judge(self, model: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Score dev logits, keep the weights when they are the best, stop when patience is at its end."""
        loss = F.cross_entropy(logits.float(), labels).item()
        score = DevScore((logits.argmax(-1) == labels).double().mean().item(), -loss)
        past = self.history()
        if not past or score > max(past):
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            write_tensors(self._folder / "best" / WEIGHTS_FILE, serialised(trained))
        elif self.is_exhausted([*past, score]):
            self.stop.set()
        return {"heldout_loss": loss, "heldout_accuracy": score.accuracy, "heldout_bits_per_byte": math.nan}

    def restore(self, model: nn.Module) -> DevScore:
        """Put the best weights back into the model; their score."""
        load_parameters(model, read_tensors(self._folder / "best"))
        return max(self.history())


@torch.no_grad()
def predict_logits(model: Classifier, examples: Encoded) -> Tensor:
    """Logits of all examples, in their order."""
    rows, parts = [], []
    for numbers, batch in examples.by_length(_BATCH_EXAMPLES):
        rows.append(torch.from_numpy(numbers))
        parts.append(model(torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)).float())
    logits = torch.cat(parts)
    out = torch.empty_like(logits)
    out[torch.cat(rows)] = logits
    return out


@torch.no_grad()
def compute_features(model: Classifier, examples: Encoded) -> Tensor:
    """Pooled states of all examples, in their order."""
    out = torch.empty(len(examples), model.network.shape.width)
    for numbers, batch in examples.by_length(_BATCH_EXAMPLES):
        out[torch.from_numpy(numbers)] = model.features(
            torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
        )
    return out
