"""Texts with a label, labels or a rating in; losses, scores and predictions by a pooled head out (torch)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.tune.adapters import DevScore, Part
from stepladder.tune.batches import Batch, Encoded
from stepladder.tune.encode import Coder
from stepladder.tune.heads import Pool, TaskModel
from stepladder.tune.rows import Example, Kind

_METRICS: dict[Kind, str] = {"classification": "accuracy", "multilabel": "micro-F1", "rating": "-MSE"}
_BATCH_EXAMPLES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Classification (softmax), several labels (a sigmoid each, those above `threshold` apply) or a rating
    (one value, standardised with the training ratings' `mean` and `spread`).
    """

    kind: Kind
    labels: tuple[str, ...]
    pool: Pool = "mean"
    threshold: float = 0.5
    mean: float = 0.0
    spread: float = 1.0

    @property
    def metric(self) -> str:
        return _METRICS[self.kind]

    @property
    def outputs(self) -> int:
        return len(self.labels) or 1

    def encode(self, coder: Coder, examples: Sequence[Example]) -> Part:
        """A row an example. Targets: label numbers, (N, labels) of 0 and 1, or standardised ratings."""
        numbers = {label: at for at, label in enumerate(self.labels)}
        if self.kind == "classification":
            targets = np.asarray([numbers.get(e.label, -1) for e in examples], dtype=np.int64)
        elif self.kind == "multilabel":
            targets = np.asarray([[la in e.targets for la in self.labels] for e in examples], np.float32)
        else:
            ratings = [float(e.label) if e.targets else self.mean for e in examples]
            targets = ((np.asarray(ratings) - self.mean) / self.spread).astype(np.float32)
        texts = coder.texts([example.text for example in examples])
        return Part(examples=examples, rows=Encoded(texts=texts, targets=targets))

    def count(self, batch: Batch) -> int:
        """Examples."""
        return len(batch.targets)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Nats an example (classification), a label of it (multilabel), or half squared deviations."""
        return self.loss_of(self._outputs(model, batch), torch.from_numpy(batch.targets))

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of head outputs, (B, outputs), summed over examples."""
        if self.kind == "classification":
            return F.cross_entropy(outputs.float(), targets, reduction="sum")
        if self.kind == "multilabel":
            each = F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="sum")
            return each / len(self.labels)
        return (outputs.float()[:, 0] - targets).square().sum() / 2

    def judge(self, model: TaskModel, dev: Part) -> DevScore:
        """Accuracy, micro-F1 at the best threshold, or the negative squared error of a rating."""
        return self.score_of(self.all_outputs(model, dev), torch.from_numpy(dev.rows.targets))

    def score_of(self, outputs: Tensor, targets: Tensor) -> DevScore:
        loss = self.loss_of(outputs, targets).item() / len(targets)
        if self.kind == "classification":
            return DevScore((outputs.argmax(-1) == targets).double().mean().item(), -loss)
        if self.kind == "multilabel":
            return DevScore(best_threshold(torch.sigmoid(outputs), targets)[1], -loss)
        return DevScore(-2 * loss * self.spread**2, -loss)

    def settle(self, model: TaskModel, dev: Part) -> "Labels":
        """With the threshold that is best on dev, where one is needed."""
        if self.kind != "multilabel":
            return self
        chances, targets = torch.sigmoid(self.all_outputs(model, dev)), torch.from_numpy(dev.rows.targets)
        return replace(self, threshold=best_threshold(chances, targets)[0])

    def predict(self, model: TaskModel, part: Part) -> list[dict[str, Any]]:
        """A label and its probability, the labels that apply, or a rating."""
        outputs = self.all_outputs(model, part)
        if self.kind == "rating":
            return [{"predicted": round(x * self.spread + self.mean, 6)} for x in outputs[:, 0].tolist()]
        if self.kind == "multilabel":
            chances = torch.sigmoid(outputs)
            said = chances >= self.threshold
            # Of the whole answer, labels taken as independent.
            sure = torch.where(said, chances, 1 - chances).prod(-1).tolist()
            names = [[la for la, yes in zip(self.labels, row, strict=True) if yes] for row in said.tolist()]
            pairs = zip(names, sure, strict=True)
            return [{"predicted": labels, "probability": round(chance, 6)} for labels, chance in pairs]
        sure, numbers = torch.softmax(outputs, dim=-1).max(dim=-1)
        pairs = zip(numbers.tolist(), sure.tolist(), strict=True)
        return [{"predicted": self.labels[at], "probability": round(chance, 6)} for at, chance in pairs]

    def all_outputs(self, model: TaskModel, part: Part) -> Tensor:
        """Head outputs of all examples, in their order."""
        return _in_order(part.rows, lambda batch: self._outputs(model, batch).float())

    def features(self, model: TaskModel, part: Part) -> Tensor:
        """Pooled states of all examples, in their order."""
        return _in_order(part.rows, lambda batch: self._pooled(model, batch))

    def _pooled(self, model: TaskModel, batch: Batch) -> Tensor:
        return model.features(torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths), self.pool)

    def _outputs(self, model: TaskModel, batch: Batch) -> Tensor:
        return model.task_head(self._pooled(model, batch))


@torch.no_grad()
def _in_order(rows: Encoded, compute: Any) -> Tensor:
    numbers, parts = [], []
    for numbered, batch in rows.by_length(_BATCH_EXAMPLES):
        numbers.append(torch.from_numpy(numbered))
        parts.append(compute(batch))
    found = torch.cat(parts)
    out = torch.empty_like(found)
    out[torch.cat(numbers)] = found
    return out


def best_threshold(chances: Tensor, targets: Tensor) -> tuple[float, float]:
    """(threshold, micro-F1): half-way between the two chances that it parts best, 0.5 if none."""
    order = chances.flatten().argsort(descending=True, stable=True)
    sorted_chances, hits = chances.flatten()[order].double(), targets.flatten()[order].double().cumsum(0)
    said = torch.arange(1, len(order) + 1, dtype=torch.float64)
    scores = 2 * hits / (said + targets.sum())
    # Equal chances cannot be parted.
    following = torch.cat((sorted_chances[1:], sorted_chances.new_zeros(1)))
    scores[sorted_chances == following] = -1
    at = int(scores.argmax())
    if scores[at] <= 0:
        return 0.5, 0.0
    return ((sorted_chances[at] + following[at]) / 2).item(), scores[at].item()


def standard(examples: Sequence[Example]) -> tuple[float, float]:
    """Mean and standard deviation of the ratings."""
    ratings = [float(example.label) for example in examples]
    return statistics.fmean(ratings), statistics.pstdev(ratings)
