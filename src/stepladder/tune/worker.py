"""A list of tuning jobs in; a tuned model with its predictions in each job's folder out (torch).

    python -m stepladder.tune.worker --jobs jobs.json

Each job is one method and seed (see `tune/run.py`). Progress is told as JSON lines on stdout. A finished job
is skipped, an interrupted one resumed. Exit codes: 0 done, 2 a user error, 75 stopped half-way.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import nn

from stepladder.errors import StepladderError, TaskError
from stepladder.models.export import read_shape, weights_folder
from stepladder.models.hf import load_folder, random_network
from stepladder.records import Layout, Recipe, from_json
from stepladder.store import DONE_FILE, read_json, write_json, write_text
from stepladder.train.choices import usual_attention
from stepladder.train.loop import Job, Stopped, train
from stepladder.train.metrics import METRICS_FILE, last_line
from stepladder.train.objective import Objective
from stepladder.train.parallel import Ranks
from stepladder.train.settle import use_fast_fp32
from stepladder.train.worker import end_with_owner
from stepladder.tune.batches import Encoded, TaskBatches
from stepladder.tune.encode import encode_texts
from stepladder.tune.heads import Classifier, LinearProbe, save_classifier
from stepladder.tune.objective import (
    BestKeeper,
    Classify,
    FeatureBatches,
    Probe,
    compute_features,
    predict_logits,
)
from stepladder.tune.run import METHODS, TuneJob
from stepladder.tune.tasks import load_task

EXIT_USER_ERROR, EXIT_RESUME = 2, 75
_PROGRESS_SECONDS = 0.5
# Peak rates of a classifier from scratch at width 64; fine-tuning takes options.rate of them (docs/log.md).
_EMBED_LR, _HEAD_LR, _HIDDEN_LR = 1.6e-2, 3e-3, 3e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """A task as numbers: its splits encoded, its labels in order, the tokenizer's definition."""

    splits: dict[str, Encoded]
    labels: tuple[str, ...]
    tokenizer_json: str


class _Stop(threading.Event):
    """Set when its job has learned enough, or when the process is told to stop."""

    def __init__(self, outside: threading.Event) -> None:
        super().__init__()
        self._outside = outside

    def is_set(self) -> bool:
        return super().is_set() or self._outside.is_set()


def run_job(job: TuneJob, texts: Texts, stop: threading.Event, on_step: Callable[..., None]) -> None:
    """Tune, keep the best weights on dev, predict the test split; a job that is done is left as it is.

    Raises:
        Stopped: `stop` was set from outside.
        TaskError: the loss diverged.
    """
    out = Path(job.out)
    if (out / DONE_FILE).exists():
        return
    started = time.perf_counter()
    model = build_classifier(job, len(texts.labels))
    keeper = BestKeeper(out, job.options.patience, _Stop(stop))
    labels = {split: torch.from_numpy(encoded.labels) for split, encoded in texts.splits.items()}
    if job.method == "frozen":
        features = {split: compute_features(model, texts.splits[split]) for split in ("train", "dev")}
        trained = LinearProbe(features["train"], len(texts.labels))
        objective = Probe(features["dev"], labels["dev"], keeper)
        batches = FeatureBatches(features["train"], labels["train"], job.options.batch_examples, job.seed)
    else:
        trained, objective = model, Classify(texts.splits["dev"], keeper)
        batches = TaskBatches(texts.splits["train"], job.options.batch_examples, job.seed)
    setup_seconds = time.perf_counter() - started
    status = "ok" if keeper.is_exhausted() else _train(trained, objective, batches, keeper, (job, on_step))
    if status != "ok" and not keeper.history():
        raise TaskError(
            f"{job.method} tuning with seed {job.seed} failed", got=status, next_command="--rate 0.3 or lower"
        )
    best = keeper.restore(trained)
    if isinstance(trained, LinearProbe):
        trained.fold_into(model)
    write_outcome(model.eval(), texts, out)
    result = {"method": METHODS[job.method], "seed": job.seed, "status": status}
    result |= {"seconds": round(setup_seconds + last_line(out / METRICS_FILE)["seconds"], 3)}
    result |= {"dev_accuracy": best.accuracy, "dev_loss": -best.negative_loss}
    write_json(out / DONE_FILE, result)


def _train(
    model: nn.Module,
    objective: Objective,
    batches: TaskBatches | FeatureBatches,
    keeper: BestKeeper,
    what: tuple[TuneJob, Callable[..., None]],
) -> str:
    """Run the training loop to its end, or to the end of patience; the run's status."""
    job, on_step = what
    options = job.options
    rate = 1.0 if job.method == "scratch" else options.rate
    width = read_shape(weights_folder(Path(job.model))).width
    recipe = Recipe(
        batch_tokens=batches.batch_examples,
        embed_lr=_EMBED_LR * rate,
        head_lr=_HEAD_LR * 64 / width * rate,
        hidden_lr=_HIDDEN_LR * 64 / width * rate,
        weight_decay=options.weight_decay,
        beta2=0.99,
        warmup_share=0.1,
        decay_share=0.5,
    )
    layout = Layout(precision="bf16" if options.precision == "bf16" else "fp32")
    loop_job = Job(
        name=f"{job.method}-{job.seed}",
        recipe=recipe,
        layout=layout,
        ranks=Ranks(rank=0, world=1, device=torch.device("cpu")),
        steps=batches.steps_per_epoch * options.epochs,
        folder=Path(job.out),
        stop=keeper.stop,
        on_step=on_step,
        evaluations=options.epochs * options.evaluations_per_epoch - 1,
    )
    try:
        return train(model, objective, batches, loop_job).status
    except Stopped:
        if not keeper.is_exhausted():
            raise
        return "ok"


def write_outcome(model: Classifier, texts: Texts, out: Path) -> None:
    """model/ and predictions.jsonl (index, gold, predicted, probability) of the test split."""
    save_classifier(model, texts.labels, out / "model", texts.tokenizer_json)
    chances = torch.softmax(predict_logits(model, texts.splits["test"]), dim=-1)
    sure, numbers = chances.max(dim=-1)
    lines = []
    for at, (gold, number) in enumerate(zip(texts.splits["test"].labels, numbers.tolist(), strict=True)):
        row = {"index": at, "gold": texts.labels[gold], "predicted": texts.labels[number]}
        row["probability"] = round(float(sure[at]), 6)
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(out / "predictions.jsonl", "\n".join(lines) + "\n")


def encode_task(job: TuneJob) -> Texts:
    """Read and tokenise a task; texts are cut to the context."""
    task = load_task(Path(job.task))
    context = read_shape(weights_folder(Path(job.model))).context_tokens
    numbers = {label: at for at, label in enumerate(task.labels)}
    splits = {
        split: Encoded(
            texts=encode_texts(Path(job.tokenizer), [example.text for example in members], context),
            labels=np.asarray([numbers[example.label] for example in members], dtype=np.int64),
        )
        for split, members in task.splits().items()
    }
    definition = (Path(job.tokenizer) / "tokenizer.json").read_text(encoding="utf-8")
    return Texts(splits=splits, labels=task.labels, tokenizer_json=definition)


def build_classifier(job: TuneJob, num_labels: int) -> Classifier:
    """The pretrained network, or one of the same shape with the weights that the seed draws."""
    torch.manual_seed(job.seed)
    shape = read_shape(weights_folder(Path(job.model)))
    attention = usual_attention(shape.context_tokens, "cpu", "bf16")
    if job.method == "scratch":
        network = random_network(shape, job.seed, attention=attention)
    else:
        network = load_folder(Path(job.model), attention=attention)
    # The head for next tokens plays no part; where it is tied it is the embedding and stays trainable.
    if not shape.tied_head:
        network.lm_head.weight.requires_grad_(False)
    if job.method == "frozen":
        network.requires_grad_(False)
    return Classifier(network, num_labels, job.options.pool)


def main(words: list[str] | None = None) -> int:
    """Parse the command line, run the jobs one after the other, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stepladder.tune.worker", description=__doc__)
    parser.add_argument("--jobs", type=Path, required=True, help="JSON list of jobs")
    parser.add_argument("--owner", type=int, help="process whose end stops this one")
    options = parser.parse_args(words)
    stop = threading.Event()
    if options.owner:
        end_with_owner(options.owner, stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Events keep the real stdout; whatever a library prints goes to stderr.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    use_fast_fp32()
    try:
        jobs = [from_json(TuneJob, value) for value in read_json(options.jobs)]
        texts = encode_task(jobs[0]) if jobs else None
        for job in jobs:
            assert texts is not None
            if stop.is_set():
                return EXIT_RESUME
            run_job(job, texts, stop, _reporter(events, job))
            _tell(events, {"event": "done", "out": job.out})
    except Stopped:
        return EXIT_RESUME
    except StepladderError as error:
        fields = {key: getattr(error, key) for key in ("wrong", "got", "allowed", "next_command")}
        _tell(events, {"event": "failed", **fields})
        return EXIT_USER_ERROR
    return 0


def _reporter(events: TextIO, job: TuneJob) -> Callable[..., None]:
    last = 0.0

    def report(step: int, tokens: int, loss: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PROGRESS_SECONDS:
            last = now
            _tell(events, {"event": "progress", "out": job.out, "examples": tokens, "loss": loss})

    return report


def _tell(events: TextIO, event: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner is gone; the job still ends properly
        events.write(json.dumps(event) + "\n")
        events.flush()


if __name__ == "__main__":
    sys.exit(main())
