"""Questions, texts to translate or to shorten in; what a decoder writes after a prompt, out (torch).

The network learns the answer and the end token after the prompt of `tune/prompts.py`; the prompt itself costs
nothing. A text that leaves no room for the answer loses its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.models.generate import generate_many
from stepladder.tune.adapters import DevScore, Part
from stepladder.tune.batches import Batch, Encoded
from stepladder.tune.encode import CHARACTERS_PER_TOKEN, Coder
from stepladder.tune.heads import TaskModel
from stepladder.tune.prompts import answer_of, prompt_ids, said
from stepladder.tune.rows import Example, Kind

_BATCH_EXAMPLES = 64
# What an answer may take of the context: a translation is as long as its source.
_SHARES: dict[Kind, float] = {"translation": 0.5, "summarisation": 0.33, "answer": 0.25}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """At most `new_tokens` tokens after a prompt, greedily."""

    kind: Kind
    new_tokens: int

    @property
    def metric(self) -> str:
        return "-nats per byte"

    @property
    def outputs(self) -> int:
        return 0

    def encode(self, coder: Coder, examples: Sequence[Example]) -> Part:
        """Rows are prompt, answer and end; the target is the place of the answer's first token."""
        prompts = [self._prompt(coder, example) for example in examples]
        rows = []
        for prompt, example in zip(prompts, examples, strict=True):
            is_known = bool(example.targets) or self.kind == "answer"
            answer = coder.tokenizer.encode(answer_of(example, self.kind)) if is_known else []
            # An answer that is cut has no end to be learned.
            answer = [*answer, coder.tokenizer.end_id][: self.new_tokens]
            rows.append(np.asarray([*prompt, *answer], dtype=np.int64))
        starts = np.asarray([len(prompt) for prompt in prompts], dtype=np.int64)
        return Part(examples=examples, rows=Encoded(texts=rows, targets=starts), extra=(coder, prompts))

    def count(self, batch: Batch) -> int:
        """Tokens of answers."""
        return int((batch.lengths - batch.targets).sum())

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Nats of the answers' tokens, summed; the vocabulary's matrix sees no other states."""
        ids, lengths, starts = (torch.from_numpy(a) for a in (batch.ids, batch.lengths, batch.targets))
        places = torch.arange(1, ids.shape[1])
        taught = (places >= starts[:, None]) & (places < lengths[:, None])
        states = model.states(ids, lengths)[:, :-1][taught]
        logits = model.network.lm_head(states).float()
        return F.cross_entropy(logits, ids[:, 1:][taught], reduction="sum")

    @torch.no_grad()
    def judge(self, model: TaskModel, dev: Part) -> DevScore:
        """Nats of the answers, by their bytes and by their tokens."""
        batches = [batch for _, batch in dev.rows.by_length(_BATCH_EXAMPLES)]
        nats = sum(self.loss(model, batch).item() for batch in batches)
        num_bytes = sum(len(answer_of(example, self.kind).encode()) for example in dev.examples)
        return DevScore(-nats / num_bytes, -nats / sum(self.count(batch) for batch in batches))

    def settle(self, model: TaskModel, dev: Part) -> "Answers":
        return self

    def predict(self, model: TaskModel, part: Part) -> list[dict[str, Any]]:
        """The text that the network writes, without what stands around it."""
        coder, prompts = part.extra
        words = coder.tokenizer
        found: list[list[int]] = [[] for _ in prompts]
        # Prompts of like length go together.
        for numbers, _ in part.rows.by_length(_BATCH_EXAMPLES):
            asked = [prompts[number] for number in numbers]
            written = generate_many(
                model.network, asked, self.new_tokens, end=words.end_id, vocabulary=coder.usable_ids
            )
            for number, ids in zip(numbers.tolist(), written, strict=True):
                found[number] = ids
        texts = [words.decode(ids) for ids in found]
        # What was learned with its end may have several lines.
        return [
            {"predicted": said(text, "answer") if self.kind == "answer" else text.strip()} for text in texts
        ]

    def _prompt(self, coder: Coder, example: Example) -> list[int]:
        """Ids of the prompt, its text cut until the answer has room."""
        start = coder.tokenizer.start_ids
        room = coder.context_tokens - self.new_tokens - len(start)
        cut = replace(example, text=example.text[: coder.context_tokens * CHARACTERS_PER_TOKEN])
        return [*start, *prompt_ids(coder.tokenizer.encode, cut, self.kind, room)]


def room_for_answers(kind: Kind, coder: Coder, examples: Sequence[Example]) -> int:
    """Tokens of the longest training answer with its end, within a share of the context."""
    longest = max(len(coder.tokenizer.encode(answer_of(example, kind))) for example in examples) + 1
    return min(longest, int(coder.context_tokens * _SHARES[kind]))
