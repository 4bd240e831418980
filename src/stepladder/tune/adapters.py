"""What a kind of task adds to the one training loop: the interface of its adapter (torch).

An adapter says how examples become rows of tokens, what is lost on a batch, how good a model is on dev, and
what it predicts. Its fields are the card of a tuned folder: all that `stepladder predict` has to know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from stepladder.tune.batches import Batch, Encoded
from stepladder.tune.encode import Coder
from stepladder.tune.heads import TaskModel
from stepladder.tune.rows import Example, Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A split as numbers; `rows` are in the order of `examples`, or as the kind says in `extra`."""

    examples: Sequence[Example]
    rows: Encoded
    extra: Any = None


class DevScore(NamedTuple):
    """Compared in this order: a higher score is better, then less loss."""

    score: float
    negative_loss: float


class Adapter(Protocol):
    """What a kind of task adds to the loop. `metric` names the score of `judge`."""

    @property
    def kind(self) -> Kind: ...

    @property
    def metric(self) -> str: ...

    @property
    def outputs(self) -> int:
        """Outputs of its head; 0: none, it speaks through the network's own."""
        ...

    def encode(self, coder: Coder, examples: Sequence[Example]) -> Part: ...

    def count(self, batch: Batch) -> int:
        """Over how many the loss is averaged."""
        ...

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Summed over a batch."""
        ...

    def judge(self, model: TaskModel, dev: Part) -> DevScore: ...

    def settle(self, model: TaskModel, dev: Part) -> "Adapter":
        """The same with what is chosen on dev once the weights are fixed, such as a threshold."""
        ...

    def predict(self, model: TaskModel, part: Part) -> list[dict[str, Any]]:
        """ "predicted" and, where there is one, "probability" of each example."""
        ...
