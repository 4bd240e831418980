"""A number of examples in; a real labelled set of each kind that this machine can make, and its cost, out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """What a tuning of one task takes at most. `seconds` is 0 where the model's own speed is not known."""

    runs: int
    tokens: int
    seconds: float


def tuning_cost(
    model: Path, task: Task, tokenizer: Path | None, *, runs: int, epochs: int, workers: int
) -> Cost:
    """Tokens read in training, from a sample, and the seconds at the speed of the model's own training."""
    shape = read_shape(weights_folder(model))
    coder = Coder(tokenizer if tokenizer is not None else find_tokenizer(model), shape)
    sample = task.train[:_SAMPLE]
    texts = ["\n".join((e.question, e.text, *e.targets[:1])) for e in sample]
    mean = sum(len(ids) for ids in coder.texts(texts)) / len(texts)
    tokens = round(mean * len(task.train) * epochs) * runs
    run = model / "run.json"
    speed = _speed(read_json(run)) if run.exists() else 0.0
    return Cost(runs=runs, tokens=tokens, seconds=tokens / speed / min(workers, runs) if speed else 0.0)


def _speed(run: dict[str, float]) -> float:
    """Tokens a second, 0 where a run does not say."""
    return run["tokens"] / run["seconds"] if run.get("seconds") and run.get("tokens") else 0.0


def cost_lines(model: Path, tasks: Sequence[Task], tokenizer: Path | None, **how: int) -> list[str]:
    """A line a task, and the sum; `how` as for `tuning_cost`."""
    costs = [tuning_cost(model, task, tokenizer, **how) for task in tasks]
    lines = [f"{task.name} ({task.kind}): {_cost(cost)}" for task, cost in zip(tasks, costs, strict=True)]
    total = Cost(
        runs=sum(cost.runs for cost in costs),
        tokens=sum(cost.tokens for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
    )
    return [*lines, f"all: {_cost(total)}"] if len(costs) > 1 else lines


def _cost(cost: Cost) -> str:
    time = (
        f"{cost.seconds:,.0f} s at most, at the speed of the model's own training"
        if cost.seconds
        else "how long is not known: the folder has no run.json"
    )
    return f"{cost.runs} runs, {cost.tokens:,} tokens, {time}"
