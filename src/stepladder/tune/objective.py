"""An adapter and its splits in; what the one training loop needs, and the best weights so far, out (torch).

`Tuning` trains a model, `Probe` only a linear head on features that were computed once.
"""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepladder.models.export import WEIGHTS_FILE, read_tensors, write_tensors
from stepladder.models.hf import load_parameters, serialised
from stepladder.train.metrics import METRICS_FILE, read_metrics
from stepladder.tune.adapters import Adapter, DevScore, Part
from stepladder.tune.batches import Batch
from stepladder.tune.heads import TaskModel
from stepladder.tune.labels import Labels


class Tuning:
    """The adapter's loss; its score on dev decides which weights are kept."""

    def __init__(self, adapter: Adapter, dev: Part, keeper: "BestKeeper") -> None:
        self._adapter, self._dev, self._keeper = adapter, dev, keeper

    def count(self, batch: Batch) -> int:
        """Over how many the loss is averaged."""
        return self._adapter.count(batch)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Summed loss."""
        return self._adapter.loss(model, batch)

    def evaluate(self, model: TaskModel) -> dict[str, float]:
        """heldout_loss and heldout_score on dev."""
        return self._keeper.judge(model, self._adapter.judge(model, self._dev))


class Probe:
    """The same for a linear head alone on stored features: batches hold (features, targets)."""

    def __init__(self, adapter: Labels, features: Tensor, dev: Part, keeper: "BestKeeper") -> None:
        self._adapter, self._features, self._keeper = adapter, features, keeper
        self._targets = torch.from_numpy(dev.rows.targets)

    def count(self, batch: Any) -> int:
        return len(batch[1])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self._adapter.loss_of(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return self._keeper.judge(model, self._adapter.score_of(model(self._features), self._targets))


class FeatureBatches:
    """Shuffled batches of stored features, without end."""

    def __init__(self, features: Tensor, targets: np.ndarray, batch_examples: int, seed: int) -> None:
        self._features, self._targets, self._seed = features, torch.from_numpy(targets), seed
        self.batch_examples = min(batch_examples, len(targets))
        self.steps_per_epoch = len(targets) // self.batch_examples
        self.consumed = 0

    def next(self) -> list[tuple[Tensor, Tensor]]:
        """The next batch, as one micro-batch."""
        epoch, at = divmod(self.consumed // self.batch_examples, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._targets))
        rows = torch.from_numpy(order[at * self.batch_examples : (at + 1) * self.batch_examples])
        self.consumed += self.batch_examples
        return [(self._features[rows], self._targets[rows])]


class BestKeeper:
    """Keeps the weights with the best dev score on disk; sets `stop` when `patience` scores were no better.

    What was best so far is read from metrics.jsonl, which a resumed run shares with the run that was killed:
    both end with the same weights. The loop takes one more step after `stop`; what is scored there does not
    count, however good.
    """

    def __init__(self, folder: Path, patience: int, stop: threading.Event) -> None:
        self._folder, self._patience, self.stop = folder, patience, stop

    def history(self) -> list[DevScore]:
        """Dev scores so far, up to the end of patience."""
        path = self._folder / METRICS_FILE
        records = read_metrics(path) if path.exists() else ()
        scores: list[DevScore] = []
        for record in records:
            if record.get("heldout_score") is not None and not self.is_exhausted(scores):
                scores.append(DevScore(record["heldout_score"], -record["heldout_loss"]))
        return scores

    def is_exhausted(self, scores: list[DevScore] | None = None) -> bool:
        """Whether the last `patience` scores were no better than one before (patience 0: never)."""
        scores = self.history() if scores is None else scores
        return (
            bool(scores and self._patience) and len(scores) - 1 - scores.index(max(scores)) >= self._patience
        )

    def judge(self, model: nn.Module, score: DevScore) -> dict[str, float]:
        """Keep the weights when their score is the best, stop when patience is at its end."""
        past = self.history()
        if self.is_exhausted(past):
            self.stop.set()
        elif not past or score > max(past):
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            write_tensors(self._folder / "best" / WEIGHTS_FILE, serialised(trained))
        elif self.is_exhausted([*past, score]):
            self.stop.set()
        figures = {"heldout_loss": -score.negative_loss, "heldout_score": score.score}
        return figures | {"heldout_bits_per_byte": math.nan}

    def restore(self, model: nn.Module) -> DevScore:
        """Put the best weights back into the model; their score."""
        load_parameters(model, read_tensors(self._folder / "best"))
        return max(self.history())
