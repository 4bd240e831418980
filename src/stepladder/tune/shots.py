"""A tuned folder and a decoder in; its answers as it is, with and without examples before, out (torch).

Labels and ratings are chosen: the likeliest after the prompt, beyond what it is after a prompt with no text
(domain-conditional mutual information, arXiv:2104.08315). Other answers are written greedily. Examples in the
prompt come from the training split, the same for all test examples, as many as half the context holds.
"""

import json
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.models.export import find_tokenizer
from stepladder.models.generate import generate_many
from stepladder.models.hf import load_folder
from stepladder.models.score import score_choices
from stepladder.models.transformer import Transformer
from stepladder.progress import Progress
from stepladder.store import DONE_FILE, read_json, write_json, write_text
from stepladder.tune.prompts import answer_of, few_shot, parts_of, prompt_ids, said
from stepladder.tune.rows import Example, Kind, gold_of
from stepladder.tune.tasks import Task, load_task

ZERO_SHOT, FEW_SHOT = "zero-shot", "few-shot"
# Examples of a prompt at most, and test examples in hand at once.
_SHOTS, _BATCH = 16, 64
# Ratings that are offered: the means of so many parts of the training ratings.
_RATINGS = 5
# An answer may be as long as nearly all training answers are, and a quarter of the context.
_ANSWER_SHARE = 0.95


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """A decoder with its words, and how long an answer may be."""

    network: Transformer
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    begin: list[int]
    end: int
    vocabulary: int
    kind: Kind
    answer_tokens: int

    def prompt(self, example: Example, shots: Sequence[int]) -> list[int]:
        """Ids of beginning, shots and prompt that leave room for an answer."""
        room = self.network.shape.context_tokens - self.answer_tokens - len(self.begin) - len(shots)
        return [*self.begin, *shots, *prompt_ids(self.encode, example, self.kind, room)]


def write_shots(
    folder: Path, model: Path, *, tokenizer: Path | None = None, seed: int = 0, quiet: bool = False
) -> list[Path]:
    """Answer the test split of a tuned folder with `model` as it is; the folders of what was written.

    An encoder, which cannot, gets no rows. What is done is kept. Where no training example fits beside a
    prompt there is no few-shot row.
    """
    network = load_folder(model).eval()
    if not network.shape.causal:
        return []
    task = load_task(folder)
    reader = _reader(network, tokenizer if tokenizer is not None else find_tokenizer(model), task)
    shots = _shots(reader, task, seed)
    written = []
    for method, chosen in ((ZERO_SHOT, []), (FEW_SHOT, shots)):
        if method == FEW_SHOT and not chosen:
            continue
        out = folder / f"{method}-{seed}"
        written.append(out)
        if (out / DONE_FILE).exists() and read_json(out / DONE_FILE)["method"] == method:
            continue
        started = time.perf_counter()
        before = reader.encode(few_shot(chosen, task.kind)) if chosen else []
        with Progress(method, len(task.test), "examples", quiet=quiet) as progress:
            rows = _answers(reader, task, before, progress)
        pairs = zip(task.test, rows, strict=True)
        lines = [{"index": at, "gold": gold_of(e, task.kind), **row} for at, (e, row) in enumerate(pairs)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(out / "predictions.jsonl", text)
        seconds = round(time.perf_counter() - started, 3)
        done = {"method": method, "seed": seed, "seconds": seconds, "shots": len(chosen)}
        write_json(out / DONE_FILE, done)
    return written


def _reader(network: Transformer, tokenizer: Path, task: Task) -> _Reader:
    words = load_tokenizer(tokenizer)
    answers = words.encode_batch([answer_of(example, task.kind) for example in task.train])
    lengths = sorted(map(len, answers))
    usual = lengths[min(math.ceil(_ANSWER_SHARE * len(lengths)), len(lengths) - 1)]
    return _Reader(
        network=network,
        encode=words.encode,
        decode=words.decode,
        begin=list(words.start_ids),
        end=words.end_id,
        vocabulary=min(words.vocab_size, network.shape.vocab_size),
        kind=task.kind,
        answer_tokens=min(usual + 1, network.shape.context_tokens // 4),
    )


def _shots(reader: _Reader, task: Task, seed: int) -> list[Example]:
    """Training examples, drawn label by label, until half the context is full."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in random.Random(seed).sample(task.train, len(task.train)):
        by_label[example.label if task.labels else ""].append(example)
    turns = [queue[at] for at in range(_SHOTS) for queue in by_label.values() if at < len(queue)]
    left, chosen = reader.network.shape.context_tokens // 2, []
    for example in turns:
        size = len(reader.encode(few_shot([example], task.kind)))
        if size <= left and len(chosen) < _SHOTS:
            chosen.append(example)
            left -= size
    return chosen


def _answers(reader: _Reader, task: Task, shots: Sequence[int], progress: Progress) -> list[dict[str, Any]]:
    """ "predicted" and, of a choice, "probability" of each test example."""
    answer = (
        _chooser(reader, task, shots) if task.kind in ("classification", "multilabel", "rating") else None
    )
    rows: list[dict[str, Any]] = []
    for start in range(0, len(task.test), _BATCH):
        prompts = [reader.prompt(example, shots) for example in task.test[start : start + _BATCH]]
        if answer is not None:
            rows += answer(prompts)
        else:
            texts = map(reader.decode, _written(reader, prompts))
            rows += [{"predicted": said(text, task.kind)} for text in texts]
        progress.update(len(rows))
    return rows


def _written(reader: _Reader, prompts: Sequence[list[int]]) -> list[list[int]]:
    return generate_many(
        reader.network, prompts, reader.answer_tokens, end=reader.end, vocabulary=reader.vocabulary
    )


def _chooser(
    reader: _Reader, task: Task, shots: Sequence[int]
) -> Callable[[Sequence[list[int]]], list[dict[str, Any]]]:
    """Prompts to rows, by the mutual information of each choice with its prompt."""
    choices = task.labels or _ratings(task)
    names = [reader.encode(answer_of(Example(text="", targets=(c,), group=""), task.kind)) for c in choices]
    before, _, behind = parts_of(Example(text="", targets=(), group=""), task.kind)
    empty = [*reader.begin, *shots, *reader.encode(before + behind)]
    usual = statistics.mean(len(example.targets) for example in task.train)

    def rows(prompts: Sequence[list[int]]) -> list[dict[str, Any]]:
        gains = score_choices(reader.network, prompts, names, neutral=empty)
        return [_chosen(task.kind, choices, gain, usual) for gain in gains]

    return rows


def _chosen(kind: Kind, choices: Sequence[str], gain: torch.Tensor, usual: float) -> dict[str, Any]:
    chances = torch.softmax(gain, dim=-1)
    best = int(chances.argmax())
    if kind == "classification":
        return {"predicted": choices[best], "probability": round(float(chances[best]), 6)}
    if kind == "rating":
        return {"predicted": float(chances @ torch.tensor([float(one) for one in choices]))}
    # As many labels as an example usually has.
    order = gain.argsort(descending=True).tolist()
    return {"predicted": sorted(choices[at] for at in order[: round(usual)])}


def _ratings(task: Task) -> tuple[str, ...]:
    """Means of equal parts of the training ratings, as they would be written."""
    values = sorted(float(example.label) for example in task.train)
    parts = [
        values[len(values) * at // _RATINGS : len(values) * (at + 1) // _RATINGS] for at in range(_RATINGS)
    ]
    return tuple(dict.fromkeys(f"{statistics.mean(part):.3g}" for part in parts if part))
