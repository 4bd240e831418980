"""Checkpoints and tasks in; what each checkpoint makes of each task, in a folder of its own, out (no torch).

Steps, in the order of what they are worth to a forecast: what the gold answers cost after their prompt,
answers without and with examples, a head on frozen features, all weights tuned. Layout of a probe's folder:
that of a tuned folder (`tune/run.py`) without weights, and answers.json; `stepladder eval` shows its table.
"""

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.errors import TaskError, did_you_mean
from stepladder.models.export import read_shape, weights_folder
from stepladder.progress import Progress
from stepladder.records import Shape
from stepladder.store import DONE_FILE, open_artefact, read_json, write_json
from stepladder.tune.prompts import answer_of, prompt_of
from stepladder.tune.rows import Example, Kind
from stepladder.tune.run import deal_jobs
from stepladder.tune.tasks import SPLITS, Task, load_task, write_task

ANSWERS, SHOTS, FROZEN, FULL = "answers", "shots", "frozen", "full"
STEPS = (ANSWERS, SHOTS, FROZEN, FULL)
USUAL_STEPS = (ANSWERS, SHOTS, FROZEN)
# Passes over the training examples, at most: a head on stored features costs nearly nothing.
EPOCHS = {FROZEN: 20, FULL: 4}
DESIGN_FILE = "design.json"
# Kinds with a small head, whose frozen features are computed once.
_HEADED: tuple[Kind, ...] = ("classification", "multilabel", "rating")
# Fewer test examples than this say little (a standard error of four points), more say little more.
LEAST_TESTS, MOST_TESTS = 150, 1_000
_TRAIN, _DEV, _SAMPLE = 1000, 200, 100
# A pass forward is a third of a training step's work. Start of a process; loading and writing of a step.
_FORWARD, _START_SECONDS, _STEP_SECONDS = 3.0, 4.0, 0.3
# Ratings that are offered; how much more a written token costs than one that is read in a row.
_RATINGS, _WRITTEN_PASSES = 5, 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeDesign:
    """What is asked about one task: steps, the number of test examples, and the expected core-seconds.

    Without steps the task is not probed, and `reason` says why.
    """

    task: str
    steps: tuple[str, ...]
    tests: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeJob:
    """One checkpoint and one task, for a worker. Paths are absolute; `tokenizer` is a folder."""

    model: str
    tokenizer: str
    out: str
    steps: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether all of its steps are."""
        return (Path(self.out) / DONE_FILE).exists()


def check_steps(steps: Sequence[str]) -> None:
    """Refuse steps that there are not."""
    if wrong := [step for step in steps if step not in STEPS]:
        raise TaskError(f"no probe {wrong[0]!r}{did_you_mean(wrong[0], STEPS)}", allowed=", ".join(STEPS))


def design_probe(
    task: Task,
    rungs: Mapping[Path, float],
    tokenizer: Path,
    seconds: float,
    steps: Sequence[str] = USUAL_STEPS,
) -> ProbeDesign:
    """As many test examples as `seconds` of all rungs together pay for, at most 1,000.

    `rungs` are the checkpoints with the tokens a second of their training. Where fewer than 150 could be
    afforded the dearest step is left out; what the gold answers cost comes first and goes last.
    """
    check_steps(steps)
    shape = read_shape(weights_folder(next(iter(rungs))))
    kept = [step for step in steps if _applies(step, task, shape)]
    costs = _costs(task, tokenizer, shape)
    least = min(LEAST_TESTS, len(task.test))
    per_token = sum(1 / (_FORWARD * speed) for speed in rungs.values())
    while kept:
        fixed = _START_SECONDS + len(rungs) * _STEP_SECONDS * len(kept)
        fixed += per_token * sum(costs[step][0] for step in kept)
        each = per_token * sum(costs[step][1] for step in kept)
        tests = int(max(min((seconds - fixed) / each, MOST_TESTS, len(task.test)), 0))
        if tests >= least:
            return ProbeDesign(task=task.name, steps=tuple(kept), tests=tests, seconds=fixed + each * tests)
        dearest = max(kept, key=lambda step: (step != ANSWERS, costs[step][0] + least * costs[step][1]))
        wanted = fixed + each * least
        kept.remove(dearest)
    reason = f"it would take {wanted:.0f} core-seconds of {seconds:.0f}" if steps else "no step was asked for"
    return ProbeDesign(task=task.name, steps=(), tests=0, seconds=0.0, reason=reason)


def sample_task(task: Task, tests: int, seed: int = 0) -> Task:
    """So many of its test examples, and few to train on; drawn with `seed`."""

    def some(part: tuple[Example, ...], count: int) -> tuple[Example, ...]:
        return tuple(random.Random(seed).sample(part, min(count, len(part))))

    train, dev, test = some(task.train, _TRAIN), some(task.dev, _DEV), some(task.test, tests)
    return replace(task, train=train, dev=dev, test=test)


def keep_probe(folder: Path, task: Task, design: ProbeDesign, asked: str) -> None:
    """Write what every checkpoint is asked, once: the machine's example sets change with its packages.

    `asked` is the name under which the user knows the task.
    """
    write_task(sample_task(task, design.tests), folder)
    write_json(folder / DESIGN_FILE, {"asked": asked, "steps": list(design.steps), "tests": design.tests})


def probe_checkpoints(
    folders: Sequence[Path], kept: Sequence[Path], *, tokenizer: Path, workers: int = 1, quiet: bool = False
) -> list[Path]:
    """Ask each checkpoint what each folder of `keep_probe` holds; the probes' folders, CHECKPOINT/tasks/NAME.

    `workers` processes of one thread share the checkpoints. What is done is kept, what was interrupted goes
    on.

    Raises:
        FingerprintError: a probe was made of other examples.
        TaskError: a probe failed; the reason is the worker's.
        Interrupted: stopped half-way; the same call goes on.
    """
    jobs = []
    for folder in folders:
        for asked in kept:
            task, steps = load_task(asked), read_json(asked / DESIGN_FILE)["steps"]
            out = folder / "tasks" / asked.name
            open_artefact(out, {"task": task.fingerprint, "steps": steps})
            if not all((out / f"{split}.jsonl").exists() for split in SPLITS):
                write_task(task, out)
            job = ProbeJob(
                model=str(folder.resolve()),
                tokenizer=str(tokenizer.resolve()),
                out=str(out.resolve()),
                steps=tuple(steps),
            )
            jobs.append(job)
    if waiting := [job for job in jobs if not job.is_done]:
        total = sum(len(job.steps) for job in jobs)
        finished = total - sum(len(job.steps) for job in waiting)
        with Progress("probe", total, "steps", quiet=quiet) as progress:
            progress.resume_at(finished)
            lock = threading.Lock()

            def hear(event: Mapping[str, Any]) -> None:
                with lock:
                    progress.advance(1, event["name"])

            deal_jobs("stepladder.tune.probe_worker", waiting, folders[0] / "tasks", workers, hear)
    return [Path(job.out) for job in jobs]


def _applies(step: str, task: Task, shape: Shape) -> bool:
    """An encoder has no answers of its own; a head on stored features is for labels and ratings."""
    if step in (ANSWERS, SHOTS):
        return shape.causal
    return step != FROZEN or task.kind in _HEADED


def _costs(task: Task, tokenizer: Path, shape: Shape) -> dict[str, tuple[float, float]]:
    """Tokens read forward for each step: whatever the number of test examples, and for each of them."""
    words = load_tokenizer(tokenizer)

    def mean(texts: Sequence[str]) -> float:
        return sum(min(len(ids), shape.context_tokens) for ids in words.encode_batch(list(texts))) / len(
            texts
        )

    sample: Sequence[Example] = task.test[:_SAMPLE]
    context = shape.context_tokens
    prompt = mean([prompt_of(example, task.kind) for example in sample])
    answer = mean([answer_of(example, task.kind) for example in sample])
    whole, shown = min(prompt + answer, context), min(prompt + context / 2, context)
    # A prompt is read once for all of its choices.
    said = answer * (len(task.labels) or _RATINGS) if task.kind in _HEADED else answer * _WRITTEN_PASSES
    learned = min(_TRAIN, len(task.train)) + min(_DEV, len(task.dev))
    return {
        ANSWERS: (0.0, whole),
        SHOTS: (0.0, prompt + shown + 2 * said),
        FROZEN: (learned * whole, whole),
        FULL: (_FORWARD * EPOCHS[FULL] * learned * whole, whole),
    }
