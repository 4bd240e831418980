"""A list of tuning jobs in; a tuned model with its predictions in each job's folder out (torch).

    python -m stepladder.tune.worker --jobs jobs.json

Each job is one method and seed (see `tune/run.py`). Progress is told as JSON lines on stdout. A finished job
is skipped, an interrupted one resumed. Exit codes: 0 done, 2 a user error, 75 stopped half-way.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from stepladder.errors import StepladderError, TaskError
from stepladder.models.export import read_shape, weights_folder
from stepladder.models.hf import load_folder, random_network
from stepladder.models.words import files_beside
from stepladder.records import Layout, Run, from_json, to_json
from stepladder.store import DONE_FILE, read_json, write_json, write_text
from stepladder.train.choices import usual_attention
from stepladder.train.loop import Gauges, Job, Stopped, train
from stepladder.train.metrics import METRICS_FILE, last_line
from stepladder.train.objective import Objective
from stepladder.train.parallel import Ranks
from stepladder.train.settle import use_fast_fp32
from stepladder.train.trackers import Trackers, wanted_trackers
from stepladder.train.worker import end_with_owner
from stepladder.tune.adapters import Adapter, Part
from stepladder.tune.batches import TaskBatches
from stepladder.tune.encode import Coder
from stepladder.tune.heads import LinearProbe, TaskModel, save_tuned, with_own_head
from stepladder.tune.kinds import adapter_for
from stepladder.tune.labels import Labels
from stepladder.tune.lora import add_lora, merge_lora
from stepladder.tune.objective import BestKeeper, FeatureBatches, Probe, Tuning
from stepladder.tune.rates import recipe_of
from stepladder.tune.rows import gold_of
from stepladder.tune.run import METHODS, TuneJob
from stepladder.tune.tasks import load_task

EXIT_USER_ERROR, EXIT_RESUME = 2, 75
_PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Encodings:
    """A task as numbers: the adapter of its kind, its splits, the tokenizer's files by name."""

    adapter: Adapter
    splits: dict[str, Part]
    words: Mapping[str, str]


class _Stop(threading.Event):
    """Set when its job has learned enough, or when the process is told to stop."""

    def __init__(self, outside: threading.Event) -> None:
        super().__init__()
        self._outside = outside

    def is_set(self) -> bool:
        return super().is_set() or self._outside.is_set()


def run_job(job: TuneJob, task: Encodings, stop: threading.Event, on_step: Callable[..., None]) -> None:
    """Tune, keep the best weights on dev, predict the test split; a job that is done is left as it is.

    `on_step` hears (step, examples, loss).

    Raises:
        Stopped: `stop` was set from outside.
        TaskError: the loss diverged.
    """
    out, adapter, dev = Path(job.out), task.adapter, task.splits["dev"]
    if (out / DONE_FILE).exists():
        return
    started = time.perf_counter()
    model = build_model(job, adapter)
    keeper = BestKeeper(out, job.options.patience, _Stop(stop))
    trained: nn.Module = model
    if job.method == "frozen" and isinstance(adapter, Labels):
        features = {split: adapter.features(model, task.splits[split]) for split in ("train", "dev")}
        trained = LinearProbe(features["train"], adapter.outputs)
        objective: Objective = Probe(adapter, features["dev"], dev, keeper)
        targets = task.splits["train"].rows.targets
        batches = FeatureBatches(features["train"], targets, job.options.batch_examples, job.seed)
    else:
        objective = Tuning(adapter, dev, keeper)
        batches = TaskBatches(task.splits["train"].rows, job.options.batch_examples, job.seed)
    setup_seconds = time.perf_counter() - started
    counts = {
        "trained_params": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "params": sum(parameter.numel() for _, parameter in nn.Module.named_parameters(model)),
    }
    out.mkdir(parents=True, exist_ok=True)
    with Trackers(wanted_trackers(), out, f"{Path(job.task).name}-{job.method}-{job.seed}", job) as trackers:
        hear = (on_step, trackers.log)
        run = None if keeper.is_exhausted() else _train(trained, objective, batches, keeper, (job, *hear))
        status = run.status if run else "ok"
        if status != "ok" and not keeper.history():
            what = f"{job.method} tuning with seed {job.seed} failed"
            raise TaskError(what, got=status, next_command="--rate 0.3 or lower")
        best = keeper.restore(trained)
        if isinstance(trained, LinearProbe):
            trained.fold_into(model)
        merge_lora(model.network)
        write_outcome(model.eval(), task, out)
        result = {"method": METHODS[job.method], "seed": job.seed, "status": status}
        result |= {"seconds": round(setup_seconds + last_line(out / METRICS_FILE)["seconds"], 3)}
        result |= {"dev_metric": adapter.metric, "dev_score": best.score, "dev_loss": -best.negative_loss}
        if run:
            spent = to_json(run)
            result |= {key: spent[key] for key in ("joules", "energy_source", "peak_bytes")}
        write_json(out / DONE_FILE, result | counts)
        trackers.finish(result | counts)


def _train(
    model: nn.Module,
    objective: Objective,
    batches: TaskBatches | FeatureBatches,
    keeper: BestKeeper,
    what: tuple[TuneJob, Callable[..., None], Callable[..., None]],
) -> Run:
    """Run the training loop to its end, or to the end of patience; what it came to.

    `what` is the job, who hears of its steps and who of its records.
    """
    job, on_step, on_record = what

    def hear(step: int, _: int, loss: float) -> None:
        on_step(step, step * batches.batch_examples, loss)

    told = replace(loop_job(job, model, batches, keeper.stop, hear), gauges=Gauges(on_record=on_record))
    try:
        return train(model, objective, batches, told)
    except Stopped as stopped:
        if not keeper.is_exhausted():
            raise
        return stopped.so_far


def loop_job(
    job: TuneJob,
    model: nn.Module,
    batches: TaskBatches | FeatureBatches,
    stop: threading.Event,
    on_step: Callable[[int, int, float], None],
) -> Job:
    """What the training loop is told of a job."""
    options = job.options
    layout = Layout(precision="bf16" if options.precision == "bf16" else "fp32")
    return Job(
        name=f"{job.method}-{job.seed}",
        recipe=recipe_of(job, model, batches.batch_examples),
        layout=layout,
        ranks=Ranks(rank=0, world=1, device=torch.device("cpu")),
        steps=batches.steps_per_epoch * options.epochs,
        folder=Path(job.out),
        stop=stop,
        on_step=on_step,
        evaluations=options.epochs * options.evaluations_per_epoch - 1,
    )


def write_outcome(model: TaskModel, task: Encodings, out: Path) -> None:
    """model/ and predictions.jsonl (index, gold, predicted, probability) of the test split."""
    adapter = task.adapter.settle(model, task.splits["dev"])
    save_tuned(model, to_json(adapter), out / "model", task.words)
    test = task.splits["test"]
    pairs = zip(test.examples, adapter.predict(model, test), strict=True)
    rows = [{"index": at, "gold": gold_of(e, adapter.kind), **said} for at, (e, said) in enumerate(pairs)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(out / "predictions.jsonl", "".join(lines))


def encode_task(job: TuneJob) -> Encodings:
    """Read and tokenise a task; texts are cut to the context."""
    task = load_task(Path(job.task))
    coder = Coder(Path(job.tokenizer), read_shape(weights_folder(Path(job.model))), job.options.pool)
    adapter = adapter_for(task.kind, task.labels, task.train, coder)
    splits = {split: adapter.encode(coder, members) for split, members in task.splits().items()}
    folder = Path(job.tokenizer)
    words = {"tokenizer.json": (folder / "tokenizer.json").read_text(encoding="utf-8")}
    return Encodings(adapter=adapter, splits=splits, words=words | files_beside(folder))


def build_model(job: TuneJob, adapter: Adapter) -> TaskModel:
    """The pretrained network, or one of the same shape with the weights that the seed draws, and a head."""
    torch.manual_seed(job.seed)
    shape = read_shape(weights_folder(Path(job.model)))
    precision = "bf16" if job.options.precision == "bf16" else "fp32"
    attention = usual_attention(shape.context_tokens, "cpu", precision)
    if job.method == "scratch":
        network = random_network(shape, job.seed, attention=attention)
    else:
        network = load_folder(Path(job.model), attention=attention)
    # The head for next tokens plays no part; where it is tied it is the embedding and stays trainable.
    if adapter.outputs and not shape.tied_head:
        network.lm_head.weight.requires_grad_(False)
    if job.method == "frozen":
        network.requires_grad_(False)
        if not adapter.outputs:
            network = with_own_head(network)
    if job.method == "lora":
        add_lora(network, job.options.lora_rank, job.options.lora_alpha, job.seed)
    return TaskModel(network, adapter.outputs)


Tell = Callable[[Mapping[str, Any]], None]


def main(words: list[str] | None = None) -> int:
    """Parse the command line, run the jobs one after the other, return the exit code."""
    return serve(words, "stepladder.tune.worker", _run_jobs)


def _run_jobs(values: list[Any], stop: threading.Event, tell: Tell) -> None:
    jobs = [from_json(TuneJob, value) for value in values]
    task = encode_task(jobs[0])
    for job in jobs:
        if stop.is_set():
            raise Stopped
        run_job(job, task, stop, _reporter(tell, job))
        tell({"event": "done", "out": job.out})


def serve(
    words: list[str] | None, module: str, work: Callable[[list[Any], threading.Event, Tell], None]
) -> int:
    """Parse --jobs and --owner and let `work` do the jobs; what it tells goes to stdout as JSON lines."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=sys.modules[work.__module__].__doc__
    )
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
        work(read_json(options.jobs), stop, functools.partial(_tell, events))
    except Stopped:
        return EXIT_RESUME
    except StepladderError as error:
        fields = {key: getattr(error, key) for key in ("wrong", "got", "allowed", "next_command")}
        _tell(events, {"event": "failed", **fields})
        return EXIT_USER_ERROR
    return 0


def _reporter(tell: Tell, job: TuneJob) -> Callable[..., None]:
    last = 0.0

    def report(step: int, examples: int, loss: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PROGRESS_SECONDS:
            last = now
            tell({"event": "progress", "out": job.out, "examples": examples, "loss": loss})

    return report


def _tell(events: TextIO, event: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner is gone; the job still ends properly
        events.write(json.dumps(event) + "\n")
        events.flush()


if __name__ == "__main__":
    sys.exit(main())
