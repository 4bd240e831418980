"""A number of examples in; a real labelled set of each kind that this machine can make, and its cost, out."""

import functools
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stepladder.errors import StepladderError
from stepladder.models.export import find_tokenizer, read_shape, weights_folder
from stepladder.store import read_json
from stepladder.tune.encode import Coder
from stepladder.tune.examples import example_task
from stepladder.tune.rows import WRITTEN, Kind
from stepladder.tune.tasks import Task

# For each kind the sets that may serve, the first that can be made is taken.
_SUITE: dict[Kind, tuple[str, ...]] = {
    "classification": ("text-kind", "docstring-topic"),
    "multilabel": ("package-tags",),
    "rating": ("sentiment-rating",),
    "span": ("package-questions",),
    "answer": ("package-questions",),
    "translation": ("django-de",),
    "summarisation": ("package-summary", "docstring-summary"),
}
_SAMPLE = 200
# A pass without a gradient takes a third of a training step's products. A token of answers, written one after
# the other in batches, takes as long as about five in training: 2,230 a CPU second at 1.9 M parameters
# (bench/README.md) against 12,489 at 1.3 M (docs/log.md).
_READ, _WRITTEN = 1 / 3, 5.0


def suite(*, examples: int, seed: int = 0, written: bool = True) -> tuple[list[Task], list[str]]:
    """A task of each kind (`written` ones not for an encoder), and a sentence for each that is missing."""
    tasks: list[Task] = []
    missing: list[str] = []
    for kind, names in _SUITE.items():
        if kind in WRITTEN and not written:
            continue
        reasons = []
        for name in names:
            try:
                task = example_task(name, seed=seed, examples=examples)
            except StepladderError as error:
                reasons.append(f"{name} ({error.wrong})")
                continue
            tasks.append(as_kind(task, kind))
            break
        else:
            missing.append(f"no task of kind {kind}: {'; '.join(reasons)}")
    return tasks, missing


def as_kind(task: Task, kind: Kind) -> Task:
    """Questions whose answers are to be written, not to be found; any other task as it is."""
    if kind != "answer" or task.kind == kind:
        return task
    return replace(task, kind=kind, name=f"{task.name}-written")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What tuning one task takes at most: tokens to train on, to read for scores, and to write as answers.

    `seconds` (of training) and `scoring_seconds` (of reading and writing) are 0 where the model's own speed
    is not known.
    """

    runs: int
    tokens: int
    scored_tokens: int
    written_tokens: int
    seconds: float
    scoring_seconds: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """How often and by how many processes a task is tuned; `shots`: a decoder is also asked as it is."""

    runs: int
    epochs: int
    workers: int
    shots: bool = True


def tuning_cost(model: Path, task: Task, tokenizer: Path | None, scope: Scope) -> Cost:
    """Tokens of training and scoring, from a sample, and seconds at the speed of the model's own training.

    Scored are dev after every pass and once more for what is chosen on it, and test at the end. A decoder as
    it is reads every test example without and with examples before it, which fill half of its context.
    """
    shape = read_shape(weights_folder(model))
    coder = Coder(tokenizer if tokenizer is not None else find_tokenizer(model), shape)
    sample = task.train[:_SAMPLE]
    texts = ["\n".join((e.question, e.text, *e.targets[:1])) for e in sample]
    mean = sum(len(ids) for ids in coder.texts(texts)) / len(texts)
    tokens = round(mean * len(task.train) * scope.epochs) * scope.runs
    scored = mean * (len(task.dev) * (scope.epochs + 1) + len(task.test)) * scope.runs
    asked = 2 if scope.shots and shape.causal else 0
    scored += asked * len(task.test) * (mean + shape.context_tokens / 4)
    answers = coder.texts([e.label for e in sample]) if task.kind in WRITTEN else []
    written = max(map(len, answers), default=0) * len(task.test) * (scope.runs + asked)
    run = model / "run.json"
    speed = _speed(read_json(run)) if run.exists() else 0.0
    side_by_side = min(scope.workers, scope.runs)
    return Cost(
        runs=scope.runs,
        tokens=tokens,
        scored_tokens=round(scored),
        written_tokens=written,
        seconds=tokens / speed / side_by_side if speed else 0.0,
        # One process asks a decoder as it is; counted as if all of it were read by one.
        scoring_seconds=(_READ * scored + _WRITTEN * written) / speed if speed else 0.0,
    )


def _speed(run: dict[str, float]) -> float:
    """Tokens a second, 0 where a run does not say."""
    return run["tokens"] / run["seconds"] if run.get("seconds") and run.get("tokens") else 0.0


def cost_lines(model: Path, tasks: Sequence[Task], tokenizer: Path | None, scope: Scope) -> list[str]:
    """A line a task, and the sum."""
    costs = [tuning_cost(model, task, tokenizer, scope) for task in tasks]
    lines = [f"{task.name} ({task.kind}): {_cost(cost)}" for task, cost in zip(tasks, costs, strict=True)]
    if len(costs) > 1:
        lines.append(f"all: {_cost(functools.reduce(operator.add, costs))}")
    return lines


def _cost(cost: Cost) -> str:
    scoring = f"{cost.scored_tokens:,} to score"
    scoring += f" and {cost.written_tokens:,} to write" if cost.written_tokens else ""
    told = f"{cost.runs} runs, {cost.tokens:,} tokens to train on, {scoring}"
    if not cost.seconds:
        return f"{told}; how long is not known: the folder has no run.json"
    return (
        f"{told}; {cost.seconds:,.0f} + {cost.scoring_seconds:,.0f} s at most, "
        "at the speed of the model's own training"
    )
