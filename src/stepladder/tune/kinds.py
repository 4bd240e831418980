"""A kind of task, or the card of a tuned folder, in; its adapter out (torch)."""

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.records import from_json
from stepladder.tune.adapters import Adapter
from stepladder.tune.answers import Answers, room_for_answers
from stepladder.tune.encode import Coder
from stepladder.tune.labels import Labels, standard
from stepladder.tune.rows import WRITTEN, Example, Kind
from stepladder.tune.spans import Spans, longest_answer


def adapter_for(kind: Kind, labels: Sequence[str], train: Sequence[Example], coder: Coder) -> Adapter:
    """The adapter of a kind, fitted to the training examples (their ratings' mean, their longest answer)."""
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
    kind = card["kind"]
    return from_json(Answers if kind in WRITTEN else Spans if kind == "span" else Labels, card)
