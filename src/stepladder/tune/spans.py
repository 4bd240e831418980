"""Questions with a passage in; the piece of the passage that answers, to the character, or none, out (torch).

A row is question, passage and an end token: a causal network's states of the passage have seen the question,
that of the end token has seen all of it and stands for "no answer". Passages longer than the context are cut
into windows that overlap by a third.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.tune.adapters import DevScore, Part
from stepladder.tune.batches import Batch, Encoded
from stepladder.tune.encode import CHARACTERS_PER_TOKEN, Coder
from stepladder.tune.heads import TaskModel
from stepladder.tune.rows import Example, Kind

_BATCH_WINDOWS = 64
# Beyond what any log odds reach: always answer, never answer.
_ALWAYS, _NEVER = -1e9, 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Of each row: the example that it is of, and the characters (tokens, 2) of its part of the passage."""

    examples: tuple[int, ...]
    spans: tuple[np.ndarray, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The best answer to a question: characters from `start` to `stop`, its log odds against none, and the
    probabilities of the answer and of none.
    """

    start: int
    stop: int
    odds: float
    sure: float
    none: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """Start and end scores over tokens; answers of at most `longest` tokens whose log odds against none
    exceed `threshold`.
    """

    longest: int
    threshold: float = 0.0
    kind: Kind = "span"

    @property
    def metric(self) -> str:
        return "F1 of characters"

    @property
    def outputs(self) -> int:
        return 2

    def encode(self, coder: Coder, examples: Sequence[Example]) -> Part:
        """Rows are windows. Targets: first and last token of the answer (or twice the end token), then the
        first token of the passage and the one behind its last.
        """
        rows, types, targets, owners, spans = [], [], [], [], []
        for number, example in enumerate(examples):
            for ids, kinds, first, characters in windows(coder, example):
                answer = next(iter(_answer_tokens(example, characters)), None)
                places = [len(ids) - 1] * 2 if answer is None else [first + at for at in answer]
                rows.append(np.asarray(ids, dtype=np.int64))
                types.append(np.asarray(kinds, dtype=np.int64))
                targets.append([*places, first, first + len(characters)])
                owners.append(number)
                spans.append(characters)
        return Part(
            examples=examples,
            rows=Encoded(
                texts=rows,
                targets=np.asarray(targets, dtype=np.int64),
                types=types if coder.token_types > 1 else (),
            ),
            extra=Windows(examples=tuple(owners), spans=tuple(spans)),
        )

    def count(self, batch: Batch) -> int:
        """Windows."""
        return len(batch.targets)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Nats a place, the mean of start and end, summed over windows."""
        return self._loss(self._scores(model, batch), batch)

    def judge(self, model: TaskModel, dev: Part) -> DevScore:
        """F1 of characters at the best threshold."""
        found, loss = self._search(model, dev)
        return DevScore(_best_threshold(found, dev.examples)[1], -loss)

    def settle(self, model: TaskModel, dev: Part) -> "Spans":
        """With the threshold that is best on dev."""
        return replace(self, threshold=_best_threshold(self._search(model, dev)[0], dev.examples)[0])

    def predict(self, model: TaskModel, part: Part) -> list[dict[str, Any]]:
        """The answer, "" for none, the character at which it starts (-1) and its probability."""
        answers = []
        for example, best in zip(part.examples, self._search(model, part)[0], strict=True):
            if best.odds > self.threshold:
                said = {"predicted": example.text[best.start : best.stop], "start": best.start}
                answers.append({**said, "probability": round(best.sure, 6)})
            else:
                answers.append({"predicted": "", "start": -1, "probability": round(best.none, 6)})
        return answers

    def _scores(self, model: TaskModel, batch: Batch) -> Tensor:
        """Start and end logits, (B, T, 2), -inf where no answer can be."""
        ids, lengths = torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
        types = None if batch.types is None else torch.from_numpy(batch.types)
        scores = model.task_head(model.states(ids, lengths, types)).float()
        places, targets = torch.arange(ids.shape[1]), torch.from_numpy(batch.targets)
        allowed = (places >= targets[:, 2:3]) & (places < targets[:, 3:4]) | (places == lengths[:, None] - 1)
        return scores.masked_fill(~allowed[..., None], float("-inf"))

    def _loss(self, scores: Tensor, batch: Batch) -> Tensor:
        targets = torch.from_numpy(batch.targets)
        ends = [F.cross_entropy(scores[..., k], targets[:, k], reduction="sum") for k in (0, 1)]
        return (ends[0] + ends[1]) / 2

    @torch.no_grad()
    def _search(self, model: TaskModel, part: Part) -> tuple[list[Found], float]:
        """The best answer to each question over its windows, and the loss of a window."""
        best: dict[int, Found] = {}
        total = 0.0
        for numbers, batch in part.rows.by_length(_BATCH_WINDOWS):
            scores = self._scores(model, batch)
            total += self._loss(scores, batch).item()
            for number, likely in zip(numbers.tolist(), self._likeliest(scores, batch), strict=True):
                owner = part.extra.examples[number]
                found = _placed(likely, part.extra.spans[number], part.examples[owner])
                known = best.get(owner)
                if known is not None:
                    # No answer must be so in every window.
                    none = min(found.none, known.none)
                    found = replace(max(found, known, key=lambda one: one.odds), none=none)
                best[owner] = found
        return [best[at] for at in range(len(part.examples))], total / len(part.rows)

    def _likeliest(self, scores: Tensor, batch: Batch) -> list[tuple[int, int, float, float]]:
        """Of each window: first and last passage token of the best span, its log-probability, and none's."""
        logs, (_, tokens, _) = torch.log_softmax(scores, dim=1), scores.shape
        rows, ends = torch.arange(len(logs)), torch.from_numpy(batch.lengths) - 1
        none = logs[rows, ends].sum(-1)
        # The end token is no part of a passage.
        logs[rows, ends] = float("-inf")
        ok = torch.ones(tokens, tokens, dtype=torch.bool).triu_().tril_(self.longest - 1)
        pairs = (logs[:, :, None, 0] + logs[:, None, :, 1]).masked_fill_(~ok, float("-inf"))
        score, at = pairs.flatten(1).max(dim=1)
        first = torch.from_numpy(batch.targets)[:, 2]
        found = (at // tokens - first, at % tokens - first, score, none)
        return list(zip(*(part.tolist() for part in found), strict=True))


def _placed(likely: tuple[int, int, float, float], spans: np.ndarray, example: Example) -> Found:
    """A span of tokens as characters; `spans` are those of the window's passage tokens."""
    begin, last, score, none = likely
    start, stop = int(spans[begin, 0]), int(spans[last, 1])
    said = example.text[start:stop]
    # Tokens take the blank before a word with them.
    start, stop = start + len(said) - len(said.lstrip()), stop - len(said) + len(said.rstrip())
    odds = score - none if stop > start else _ALWAYS
    return Found(start=start, stop=stop, odds=odds, sure=np.exp(score).item(), none=np.exp(none).item())


def longest_answer(coder: Coder, examples: Sequence[Example]) -> int:
    """Tokens of the longest answer."""
    return max((len(coder.tokenizer.encode(e.label)) for e in examples if e.targets), default=1) + 1


def windows(coder: Coder, example: Example) -> list[tuple[list[int], list[int], int, np.ndarray]]:
    """(ids, token types, place of the first passage token, characters of passage tokens) of each window."""
    words, template = coder.tokenizer, coder.tokenizer.template
    question = words.encode(example.question[: coder.context_tokens * CHARACTERS_PER_TOKEN])
    question = question[: coder.context_tokens // 2]
    ids, characters = words.encode_with_offsets(example.text)
    room = max(coder.context_tokens - len(question) - template.pair_extra - 1, 1)
    step = room - room // 3
    found = []
    for start in range(0, max(len(ids) - room // 3, 1), step):
        pair = template.join(question, ids[start : start + room], characters[start : start + room])
        is_open = pair.spans[-1] is not None
        row = [*pair.ids, words.end_id] if is_open else pair.ids
        kinds = [*pair.type_ids, pair.type_ids[-1]] if is_open else pair.type_ids
        spans = [span for span in pair.spans if span is not None]
        first = next((at for at, span in enumerate(pair.spans) if span is not None), 0)
        found.append((row, kinds, first, np.asarray(spans, dtype=np.int64).reshape(-1, 2)))
    return found


def _answer_tokens(example: Example, characters: np.ndarray) -> list[tuple[int, int]]:
    """First and last token of each answer that lies in a window as a whole."""
    found = []
    for start, said in zip(example.starts, example.targets, strict=False):
        stop = start + len(said)
        touched = np.flatnonzero((characters[:, 1] > start) & (characters[:, 0] < stop))
        if len(touched) and characters[touched[0], 0] <= start and characters[touched[-1], 1] >= stop:
            found.append((int(touched[0]), int(touched[-1])))
    return found


def _overlap(found: Found, example: Example) -> float:
    """F1 of the characters of the best answer against the closest accepted one; 0 where there is none."""
    scores = [0.0]
    for start, said in zip(example.starts, example.targets, strict=True):
        both = min(found.stop, start + len(said)) - max(found.start, start)
        scores.append(2 * max(both, 0) / (found.stop - found.start + len(said)))
    return max(scores)


def _best_threshold(found: Sequence[Found], examples: Sequence[Example]) -> tuple[float, float]:
    """(threshold on the log odds, mean F1): half-way between the two questions that it parts best."""
    order = sorted(range(len(found)), key=lambda at: -found[at].odds)
    odds = [_NEVER, *(found[at].odds for at in order), _ALWAYS]
    score = best = float(sum(not example.targets for example in examples))
    threshold = _NEVER
    for place, at in enumerate(order, start=1):
        score += _overlap(found[at], examples[at]) if examples[at].targets else -1.0
        # Equal odds cannot be parted; of equal scores the one that answers more is taken.
        if score >= best and odds[place] > odds[place + 1]:
            best, threshold = score, (odds[place] + odds[place + 1]) / 2
            threshold = _ALWAYS if place == len(order) else threshold
    return threshold, best / len(examples)
