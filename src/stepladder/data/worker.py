"""A list of tasks in; their results in the same order out, computed by this process or by several.

A worker process reads tasks as JSON lines from its input and answers one line each. Own processes, because
a forked one inherits the locks of polars' threads and a spawned one needs the caller's main module to be
importable. A process that dies is replaced and its task is given out again.
"""

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from stepladder import errors
from stepladder.data.steps import run_step
from stepladder.errors import DataError, StepladderError

ATTEMPTS = 3
# One thread each: the processes are the parallelism, and CPU seconds stay what they say.
ENVIRONMENT = {
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
# Ctrl-C reaches every process of the terminal: the workers leave it to their owner, who ends them.
_COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from stepladder.data.worker import serve; serve()"
)
_END_SECONDS = 10
# getrusage(2): kilobytes, on macOS bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

OnDone = Callable[[int, Any], None]


@dataclass(slots=True)
class Spent:
    """What the tasks of a step cost: CPU seconds, and the most memory that one of their processes held."""

    tasks: int = 0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


class Executor(Protocol):
    """Runs the tasks of one step after the other; a context manager that ends its processes.

    `spent` tells by step what the tasks cost, wherever they ran; those found on disk cost next to nothing.
    """

    spent: dict[str, Spent]

    def run(self, step: str, tasks: Sequence[Mapping[str, Any]], on_done: OnDone) -> list[Any]:
        """Results of `step` for each of `tasks`; `on_done` is called with (index, result) as they come."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class LocalPool:
    """At most `workers` processes, started when tasks need them and kept for the next step.

    With one worker, or for a single task while no process runs, tasks run in the calling process.
    """

    def __init__(self, workers: int) -> None:
        self.spent: dict[str, Spent] = {}
        self._workers = workers
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the pool can be used again and then starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def run(self, step: str, tasks: Sequence[Mapping[str, Any]], on_done: OnDone) -> list[Any]:
        """Results of `step` for each of `tasks`; `on_done` is called with (index, result) as they come.

        Raises:
            StepladderError: the first error of a task; one that kills its process three times: DataError.
        """
        if self._workers <= 1 or (len(tasks) <= 1 and not self._idle):
            results = []
            for index, task in enumerate(tasks):
                started = time.process_time()
                results.append(run_step(step, task))
                _add(self.spent, step, time.process_time() - started, _peak_bytes())
                on_done(index, results[-1])
            return results
        job = _Job(step, tasks)
        count = min(self._workers, len(tasks))
        threads = [threading.Thread(target=self._serve, args=(job,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        finished: list[Any] = [None] * len(tasks)
        try:
            for _ in tasks:
                index, told = job.answers.get()
                if isinstance(told, Exception):
                    raise told
                finished[index] = outcome(told, self.spent, step)
                on_done(index, finished[index])
        except BaseException:
            with self._lock:
                job.is_stopped = True
                for process in self._busy:
                    process.kill()
            raise
        finally:
            for thread in threads:
                thread.join()
        return finished

    def _serve(self, job: "_Job") -> None:
        """Give tasks to one process after the other answers, until none waits or the job is stopped."""
        process: subprocess.Popen[bytes] | None = None
        try:
            while not job.is_stopped and (index := job.next_index()) is not None:
                cause = ""
                for _ in range(ATTEMPTS):
                    process = process or self._take(job)
                    if process is None:
                        return
                    told = _ask(process, job.step, job.tasks[index])
                    if told is not None:
                        job.answers.put((index, told))
                        break
                    cause = self._lose(process)
                    process = None
                    if job.is_stopped:
                        return
                else:
                    job.answers.put((index, died(job.step, job.tasks[index], cause)))
        except Exception as error:
            job.answers.put((-1, error))
        finally:
            if process is not None and job.is_stopped:
                self._lose(process)
            elif process is not None:
                with self._lock:
                    self._busy.discard(process)
                    self._idle.append(process)

    def _take(self, job: "_Job") -> subprocess.Popen[bytes] | None:
        """An idle or new process; None once the job is stopped: none starts after the last is ended."""
        with self._lock:
            if job.is_stopped:
                return None
            process = self._idle.pop() if self._idle else None
            if process is not None and process.poll() is not None:
                _end(process)
                process = None
            if process is None:
                process = subprocess.Popen(
                    [sys.executable, "-c", _COMMAND],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **ENVIRONMENT},
                )
            self._busy.add(process)
            return process

    def _lose(self, process: subprocess.Popen[bytes]) -> str:
        """Forget a process that did not answer; how it ended."""
        with self._lock:
            self._busy.discard(process)
        _end(process)
        code = process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _Job:
    def __init__(self, step: str, tasks: Sequence[Mapping[str, Any]]) -> None:
        self.step, self.tasks = step, tasks
        self.answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.is_stopped = False
        self._waiting = iter(range(len(tasks)))
        self._lock = threading.Lock()

    def next_index(self) -> int | None:
        """The next task that nobody has taken."""
        with self._lock:
            return next(self._waiting, None)


def _ask(process: subprocess.Popen[bytes], step: str, task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer to a task, or None when the process died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"step": step, "task": task}).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        return None
    return json.loads(line) if line.endswith(b"\n") else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a process and wait until it is gone."""
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    try:
        process.wait(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answer(step: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task; JSON values: its result, the user's error or the traceback of our own, and what it cost."""
    started = time.process_time()
    told: dict[str, Any]
    try:
        told = {"result": run_step(step, task)}
    except StepladderError as error:
        names = ("wrong", "got", "allowed", "next_command")
        told = {"error": type(error).__name__, **{name: getattr(error, name) for name in names}}
    except Exception:
        told = {"bug": traceback.format_exc()}
    told["cpu_seconds"] = time.process_time() - started
    told["peak_bytes"] = _peak_bytes()
    return told


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _add(spent: dict[str, Spent], step: str, cpu_seconds: float, peak_bytes: int) -> None:
    entry = spent.setdefault(step, Spent())
    entry.tasks += 1
    entry.cpu_seconds += cpu_seconds
    entry.peak_bytes = max(entry.peak_bytes, peak_bytes)


def outcome(told: Mapping[str, Any], spent: dict[str, Spent], step: str) -> Any:
    """The result in an answer; what it cost is added to `spent`.

    Raises:
        StepladderError: what the task raised, of the same type.
        RuntimeError: with the traceback of any other error of the task.
    """
    _add(spent, step, told.get("cpu_seconds", 0.0), told.get("peak_bytes", 0))
    if "bug" in told:
        raise RuntimeError(told["bug"])
    if "error" in told:
        kind = getattr(errors, told["error"], StepladderError)
        error: StepladderError = kind.__new__(kind)
        fields = {name: told[name] for name in ("got", "allowed", "next_command")}
        StepladderError.__init__(error, told["wrong"], **fields)
        raise error
    return told["result"]


def died(step: str, task: Mapping[str, Any], cause: str) -> DataError:
    """The error for a task that ended every process which had it."""
    files = ", ".join(file["name"] for file in task.get("files", []))
    name = files[:300] or task.get("part") or task.get("chunk") or f"task {task.get('index', '')}"
    return DataError(
        f"a process of the step {step} died {ATTEMPTS} times at the same task",
        got=f"{name} ({cause})" if cause else str(name),
        allowed="enough memory (see dmesg for killed processes)",
        next_command="the same command with fewer workers goes on from here",
    )


def serve() -> None:
    """Answer tasks until the input ends; what libraries print goes to standard error."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(answers, "w", encoding="utf-8") as stream, contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            request = json.loads(line)
            stream.write(json.dumps(answer(request["step"], request["task"])) + "\n")
            stream.flush()
