"""Many small plans in; Runs or failures in the same order out, trained side by side by long-lived workers.

Each worker is one process with one thread that keeps torch loaded and takes the next plan as soon as it is
free. A failing plan is reported and the others go on; a crashed worker is replaced.
"""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepladder.errors import StepladderError
from stepladder.launch.environment import cores_for, pin, serve_command, worker_environment
from stepladder.launch.process import OnProgress, finished_run, read_plan, stop_process
from stepladder.records import Layout, Plan, Run, from_json

Job = tuple[Path, Path]
# A job whose worker died is tried again; the second crash is the job's fault, not the worker's.
_MOST_CRASHES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFailure:
    """A plan that could not be trained, and why."""

    name: str
    out: Path
    reason: str


@dataclass(kw_only=True)
class _Worker:
    process: subprocess.Popen[bytes]
    slot: int
    job: int | None = None
    unread: bytes = b""


@dataclass(kw_only=True)
class _Pool:
    """The state of one `run_many`."""

    jobs: Sequence[Job]
    plans: list[Plan | None]
    results: list[Run | JobFailure | None]
    waiting: list[int]
    on_progress: OnProgress | None
    cores: Mapping[int, int] | None
    workers: list[_Worker] = field(default_factory=list)
    crashes: dict[int, int] = field(default_factory=dict)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)


def run_many(
    jobs: Sequence[Job], *, workers: int, on_progress: OnProgress | None = None
) -> list[Run | JobFailure]:
    """Train (plan.json, folder) pairs on `workers` processes; finished ones are skipped.

    The dearest plan starts first, so that the last to end is a short one. Ctrl-C lets every worker write a
    checkpoint and is raised again; the same call then goes on.
    """
    pool = _open(jobs, workers, on_progress)
    try:
        for slot in range(min(workers, len(pool.waiting))):
            _start_worker(pool, slot)
        while pool.workers:
            for key, _ in pool.selector.select(timeout=1.0):
                _hear(pool, key.data)
    except BaseException:
        # Closing stdin asks all of them at once; stop_process then waits for each.
        for worker in pool.workers:
            worker.process.terminate()
        raise
    finally:
        for worker in pool.workers:
            stop_process(worker.process)
        pool.selector.close()
    return [result for result in pool.results if result is not None]


def _open(jobs: Sequence[Job], workers: int, on_progress: OnProgress | None) -> _Pool:
    """Sort the jobs into finished, failed before they start, and waiting."""
    pool = _Pool(
        jobs=jobs,
        plans=[None] * len(jobs),
        results=[None] * len(jobs),
        waiting=[],
        on_progress=on_progress,
        cores=cores_for(workers, 1),
    )
    for index, (plan_path, out) in enumerate(jobs):
        try:
            plan = read_plan(plan_path)
            pool.plans[index] = plan
            pool.results[index] = finished_run(plan_path, out)
        except StepladderError as error:
            pool.results[index] = JobFailure(name=plan_path.stem, out=out, reason=str(error))
        if pool.results[index] is None:
            pool.waiting.append(index)
    pool.waiting.sort(key=lambda index: -_cost(pool.plans[index]))
    return pool


def _cost(plan: Plan | None) -> float:
    assert plan is not None
    shape = plan.shape
    matrices = shape.num_layers * shape.width * (4 * shape.width + 3 * shape.ffn_width)
    return plan.tokens * (matrices + shape.vocab_size * shape.width)


def _start_worker(pool: _Pool, slot: int) -> None:
    process = subprocess.Popen(
        serve_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=worker_environment(Layout(threads=1)),
        start_new_session=True,
    )
    pin(process.pid, pool.cores, slot)
    worker = _Worker(process=process, slot=slot)
    pool.workers.append(worker)
    pool.selector.register(process.stdout, selectors.EVENT_READ, worker)  # pyrefly: ignore[bad-argument-type]


def _hear(pool: _Pool, worker: _Worker) -> None:
    """What a worker has said since, or its end. Read below Python's buffers: select cannot see into them."""
    assert worker.process.stdout is not None
    said = os.read(worker.process.stdout.fileno(), 65_536)
    if not said:
        _replace(pool, worker)
        return
    *lines, worker.unread = (worker.unread + said).split(b"\n")
    for line in lines:
        if line.startswith(b"{"):
            _act(pool, worker, json.loads(line))


def _act(pool: _Pool, worker: _Worker, event: Mapping[str, Any]) -> None:
    """One event of a worker."""
    kind, index = event["event"], worker.job
    if kind == "ready":
        _give_next(pool, worker)
        return
    if index is None:
        return
    plan = pool.plans[index]
    assert plan is not None
    if kind == "progress" and pool.on_progress:
        pool.on_progress(plan.name, event["tokens"], plan.tokens, event["loss"])
    elif kind == "done":
        run = pool.results[index] = from_json(Run, event["run"])
        if pool.on_progress:
            pool.on_progress(plan.name, run.tokens, plan.tokens, run.loss)
        _give_next(pool, worker)
    elif kind == "failed":
        pool.results[index] = JobFailure(name=plan.name, out=pool.jobs[index][1], reason=event["reason"])
        _give_next(pool, worker)


def _give_next(pool: _Pool, worker: _Worker) -> None:
    """The next waiting plan; without one the worker's stdin is closed and it ends."""
    stdin = worker.process.stdin
    assert stdin is not None
    worker.job = None
    if not pool.waiting:
        stdin.close()
        return
    worker.job = pool.waiting.pop(0)
    plan_path, out = pool.jobs[worker.job]
    try:
        stdin.write(json.dumps({"plan": str(plan_path), "out": str(out)}).encode() + b"\n")
        stdin.flush()
    except BrokenPipeError:  # it died this moment: its end of stdout says so next
        pass


def _replace(pool: _Pool, worker: _Worker) -> None:
    """A worker has ended: properly, or in a crash that its job may be tried again after."""
    pool.selector.unregister(worker.process.stdout)  # pyrefly: ignore[bad-argument-type]
    pool.workers.remove(worker)
    stop_process(worker.process)
    index, code = worker.job, worker.process.returncode
    if index is not None and pool.results[index] is None:
        plan = pool.plans[index]
        assert plan is not None
        pool.crashes[index] = pool.crashes.get(index, 0) + 1
        if pool.crashes[index] < _MOST_CRASHES:
            print(f"warning: the worker of {plan.name} ended with {code}; trying again", file=sys.stderr)
            pool.waiting.insert(0, index)
        else:
            reason = f"its worker ended with exit code {code}, {pool.crashes[index]} times"
            pool.results[index] = JobFailure(name=plan.name, out=pool.jobs[index][1], reason=reason)
    if pool.waiting:
        _start_worker(pool, worker.slot)
