"""A kind of task in; what it adds to the one training loop, its adapter, out (torch).

An adapter says how examples become rows of tokens, what is lost on a batch, how good a model is on dev, and
what it predicts. Its fields are the card of a tuned folder: all that `stepladder predict` has to know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from stepladder.records import from_json
from stepladder.tune.batches import Batch, Encoded
from stepladder.tune.encode import Coder
from stepladder.tune.heads import TaskModel
from stepladder.tune.rows import WRITTEN, Example, Kind


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


def adapter_for(kind: Kind, labels: Sequence[str], train: Sequence[Example], coder: Coder) -> Adapter:
    """The adapter of a kind, fitted to the training examples (their ratings' mean, their longest answer)."""
    from stepladder.tune.answers import Answers, room_for_answers
    from stepladder.tune.labels import Labels, standard
    from stepladder.tune.spans import Spans, longest_answer

    if kind in WRITTEN:
        return Answers(kind=kind, new_tokens=room_for_answers(kind, coder, train))
    if kind == "span":
        return Spans(longest=longest_answer(coder, train))
    if kind == "rating":
        mean, spread = standard(train)
        return Labels(kind=kind, labels=(), pool=coder.pool, mean=mean, spread=spread)
    return Labels(kind=kind, labels=tuple(labels), pool=coder.pool)


def adapter_of(card: Mapping[str, Any]) -> Adapter:
    """The adapter that a card is of."""
    from stepladder.tune.answers import Answers
    from stepladder.tune.labels import Labels
    from stepladder.tune.spans import Spans

    kind = card["kind"]
    return from_json(Answers if kind in WRITTEN else Spans if kind == "span" else Labels, card)
