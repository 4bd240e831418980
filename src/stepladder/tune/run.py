"""A checkpoint, a task and options in; tuned models and their predictions in a folder out (no torch).

Layout of the folder: task.json and train/dev/test.jsonl, and for each method and seed `METHOD-SEED/` with
metrics.jsonl, model/, predictions.jsonl and done.json. `eval/table.py` turns it into a table.
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stepladder.errors import TaskError, TrainError
from stepladder.launch.environment import worker_environment
from stepladder.launch.local import EXIT_RESUME, Interrupted, read_events, stop_process
from stepladder.models.export import find_tokenizer, read_shape, read_tokenizer, weights_folder
from stepladder.models.words import find_corpus
from stepladder.progress import Progress
from stepladder.records import Layout, Plan, Shape, from_json, to_json
from stepladder.store import DONE_FILE, ORIGIN_FILE, fingerprint, open_artefact, read_json, write_json
from stepladder.tune.rows import KINDS, WRITTEN
from stepladder.tune.tasks import Task, write_task

Method = Literal["full", "lora", "frozen", "scratch"]
# What a table calls them.
METHODS: dict[Method, str] = {
    "full": "fine-tuned",
    "lora": "LoRA",
    "frozen": "frozen features",
    "scratch": "from scratch",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneOptions:
    """How to tune. `rate` scales the learning rates of a pretrained network against one from scratch.

    The best weights on dev are kept. Tuning ends when `patience` dev scores in a row were no better than one
    before (0: never). `precision` "auto" is that of the run's own plan, which was chosen by measurement, else
    fp32. Adapters of LoRA have `lora_rank` columns and are added `lora_alpha / lora_rank` times.
    """

    methods: tuple[Method, ...] = ("full", "scratch")
    seeds: int = 1
    epochs: int = 4
    batch_examples: int = 32
    rate: float = 1.0
    weight_decay: float = 0.1
    pool: Literal["mean", "last"] = "mean"
    patience: int = 4
    evaluations_per_epoch: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    lora_rank: int = 8
    lora_alpha: float = 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneJob:
    """One method and seed: what a worker needs. Paths are absolute; `tokenizer` is a folder."""

    model: str
    tokenizer: str
    task: str
    out: str
    method: Method
    seed: int
    options: TuneOptions = field(default_factory=TuneOptions)


def tune_task(
    model: Path,
    task: Task,
    out: Path,
    *,
    tokenizer: Path | None = None,
    options: TuneOptions | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> list[Path]:
    """Tune `model` on the task with every method and seed; the folders of the runs, each with predictions.

    `model` is a run folder or a folder in the Qwen3 layout, `tokenizer` the folder of its tokenizer.json (by
    default what the run names). `workers` processes of one thread share the runs. What is done is kept, what
    was interrupted goes on.

    Raises:
        FingerprintError: `out` was made from another model, task or options.
        TaskError: a run failed; the reason is the worker's.
        Interrupted: stopped half-way; the same call goes on.
    """
    options = options or TuneOptions()
    check_options(options)
    if options.precision == "auto":
        options = replace(options, precision=planned_precision(model))
    source = weights_folder(model)
    check_kind(read_shape(source), task)
    tokenizer = tokenizer if tokenizer is not None else find_tokenizer(model)
    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    fields = {
        "task": task.fingerprint,
        "shape": to_json(read_shape(source)),
        "weights": _weights_stamp(source),
        "tokenizer": fingerprint(read_tokenizer(folder)),
        # More methods or seeds may be added to a folder later.
        "options": {key: value for key, value in to_json(options).items() if key not in ("methods", "seeds")},
    }
    open_artefact(out, fields)
    write_task(task, out)
    _keep_origin(out, model)
    jobs = [
        TuneJob(
            model=str(source.resolve()),
            tokenizer=str(folder.resolve()),
            task=str(out.resolve()),
            out=str((out / f"{method}-{seed}").resolve()),
            method=method,
            seed=seed,
            options=options,
        )
        for seed in range(options.seeds)
        for method in options.methods
    ]
    waiting = [job for job in jobs if not (Path(job.out) / DONE_FILE).exists()]
    if waiting:
        most = len(task.train) * options.epochs * len(waiting)
        with Progress("tune", most, "examples", quiet=quiet) as progress:
            _run_workers(waiting, out, workers, progress)
    return [Path(job.out) for job in jobs]


def _keep_origin(out: Path, model: Path) -> None:
    """Write which model is tuned and, where that is known, the corpus behind it; relative to `out`."""
    corpus = find_corpus(model)
    named = {"model": model, **({"corpus": corpus} if corpus else {})}
    here = out.resolve()
    write_json(out / ORIGIN_FILE, {key: os.path.relpath(path.resolve(), here) for key, path in named.items()})


def check_kind(shape: Shape, task: Task) -> None:
    """Refuse to let an encoder write."""
    if not shape.causal and task.kind in WRITTEN:
        raise TaskError(
            f"an encoder cannot be tuned on {task.name}: it does not write text",
            got=f"kind = {task.kind!r}",
            allowed=", ".join(kind for kind in KINDS if kind not in WRITTEN) + "; or a decoder",
            next_command=f"stepladder tune FOLDER --task {task.name} --kind span"
            if task.kind == "answer"
            else "",
        )


def planned_precision(model: Path) -> Literal["fp32", "bf16"]:
    """The precision that a run on a CPU was trained with; fp32 where there is no such plan."""
    plan = model / "plan.json"
    layout = from_json(Plan, read_json(plan)).layout if plan.exists() else Layout()
    return layout.precision if layout.device == "cpu" else "fp32"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_options(options: TuneOptions) -> None:
    """Refuse options that no run can have; all problems at once."""
    problems = [f"unknown method {m!r}" for m in options.methods if m not in METHODS]
    problems += [] if options.methods else ["no method"]
    counts = ("seeds", "epochs", "batch_examples", "evaluations_per_epoch", "lora_rank")
    problems += [f"{name} = {getattr(options, name)}" for name in counts if getattr(options, name) < 1]
    problems += [] if options.rate > 0 else [f"rate = {options.rate}"]
    others = ("weight_decay", "patience")
    problems += [f"{name} = {getattr(options, name)}" for name in others if getattr(options, name) < 0]
    if problems:
        raise TaskError(
            "these tuning options cannot work",
            got="; ".join(problems),
            allowed=f"methods {', '.join(METHODS)}; counts of one or more; a positive rate",
        )


def _weights_stamp(source: Path) -> str:
    """A fingerprint of the weights' bytes."""
    digest = hashlib.sha256()
    for path in sorted(source.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _run_workers(jobs: Sequence[TuneJob], out: Path, workers: int, progress: Progress) -> None:
    """Deal the jobs to processes and wait; the first failure is raised when all have ended."""
    done: dict[str, int] = {}
    lock = threading.Lock()

    def hear(event: Mapping[str, Any]) -> None:
        with lock:
            if event["event"] == "progress":
                done[event["out"]] = event["examples"]
                progress.update(sum(done.values()), f"loss {event['loss']:.3f}")
            elif event["event"] == "done":
                # A run may end early, at the end of its patience.
                done[event["out"]] = round(progress.total / len(jobs))
                progress.update(sum(done.values()))

    deal_jobs("stepladder.tune.worker", jobs, out, workers, hear)


def deal_jobs(
    module: str, jobs: Sequence[Any], out: Path, workers: int, hear: Callable[[Mapping[str, Any]], None]
) -> None:
    """Deal jobs (nouns) to `workers` processes of `module` and wait; `hear` gets their events, from threads.

    The lists of jobs lie in `out` meanwhile. The first failure is raised when all processes have ended.
    """
    failures: list[Mapping[str, Any]] = []

    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == "failed":
            failures.append(event)
        else:
            hear(event)

    shares = [jobs[at::workers] for at in range(min(workers, len(jobs)))]
    processes: list[tuple[subprocess.Popen[str], threading.Thread]] = []
    files = [out / f".jobs-{number}.json" for number in range(len(shares))]
    try:
        for file, share in zip(files, shares, strict=True):
            write_json(file, [to_json(job) for job in share])
            processes.append(_start(module, file, listen))
        for process, listener in processes:
            listener.join()
            process.wait()
    except BaseException:
        # Ask all of them at once; stop_process then waits for each.
        for process, _ in processes:
            process.terminate()
        raise
    finally:
        for process, listener in processes:
            stop_process(process)
            listener.join()
        for file in files:
            file.unlink(missing_ok=True)
    _raise_first(failures, [process.returncode for process, _ in processes])


def _raise_first(failures: Sequence[Mapping[str, Any]], codes: Sequence[int]) -> None:
    if failures:
        keys = ("got", "allowed", "next_command")
        raise TaskError(failures[0]["wrong"], **{key: failures[0][key] for key in keys})
    if EXIT_RESUME in codes:
        raise Interrupted("tuning stopped half-way")
    if any(codes):
        raise TrainError(
            "a tuning process crashed", got=f"exit codes {codes}", next_command="run the same command again"
        )


def _start(
    module: str, jobs: Path, hear: Callable[[Mapping[str, Any]], None]
) -> tuple[subprocess.Popen[str], threading.Thread]:
    """One worker process and the thread that listens to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--jobs", str(jobs), "--owner", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=worker_environment(Layout(threads=1)),
        # A group of its own: Ctrl-C of the terminal reaches us alone, and we tell it once.
        start_new_session=True,
    )
    stream = process.stdout
    assert stream is not None

    def listen() -> None:
        for event in read_events(stream):
            hear(event)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    return process, listener
