"""A list of tasks in; their results in the same order out, computed by this process or by several.

`python -m stepladder.data.worker` reads tasks as JSON lines from its input and answers one line each. Own
processes, because a forked one inherits the locks of polars' threads and a spawned one needs the caller's
main module to be importable. A process that dies is replaced and its task is given out again.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepladder.data.steps import run_step
from stepladder.errors import DataError, StepladderError

_ATTEMPTS = 3
# One thread each: the processes are the parallelism, and CPU seconds stay what they say.
_ENVIRONMENT = {
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}


def run_tasks(
    step: str,
    tasks: Sequence[Mapping[str, Any]],
    workers: int,
    on_done: Callable[[int, Any], None],
) -> list[Any]:
    """Results of `step` for each of `tasks`; `on_done` is called with (index, result) as they come.

    Raises:
        StepladderError: the first error of a task; a task that kills its process three times is a DataError.
    """
    if workers <= 1 or len(tasks) <= 1:
        results = []
        for index, task in enumerate(tasks):
            results.append(run_step(step, task))
            on_done(index, results[-1])
        return results
    return _Pool(step, tasks, min(workers, len(tasks))).run(on_done)


class _Pool:
    def __init__(self, step: str, tasks: Sequence[Mapping[str, Any]], workers: int) -> None:
        self._step, self._tasks, self._workers = step, tasks, workers
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()
        for index in range(len(tasks)):
            self._waiting.put(index)

    def run(self, on_done: Callable[[int, Any], None]) -> list[Any]:
        results: list[Any] = [None] * len(self._tasks)
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            for _ in self._tasks:
                index, answer = self._answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                results[index] = answer
                on_done(index, answer)
        finally:
            self._stopped.set()
            for process in list(self._processes):
                with contextlib.suppress(OSError):
                    process.kill()
            for thread in threads:
                thread.join()
        return results

    def _serve(self) -> None:
        process = None
        try:
            while not self._stopped.is_set():
                try:
                    index = self._waiting.get_nowait()
                except queue.Empty:
                    break
                answer = None
                for attempt in range(_ATTEMPTS):
                    process = process or self._start()
                    answer = self._ask(process, self._tasks[index])
                    if answer is not None or self._stopped.is_set():
                        break
                    self._end(process)
                    process = None
                    if attempt == _ATTEMPTS - 1:
                        answer = DataError(
                            f"a process of the step {self._step} died {_ATTEMPTS} times at the same task",
                            got=", ".join(f["name"] for f in self._tasks[index].get("files", []))[:300]
                            or self._tasks[index].get("chunk", ""),
                            allowed="enough memory (see dmesg for killed processes)",
                            next_command="the same command with fewer workers goes on from here",
                        )
                self._answers.put((index, answer))
        except Exception as error:
            self._answers.put((-1, error))
        finally:
            if process is not None:
                self._end(process)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "stepladder.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
        )
        self._processes.append(process)
        return process

    def _ask(self, process: subprocess.Popen[bytes], task: Mapping[str, Any]) -> Any:
        """The task's result, an exception to raise, or None when the process died."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"step": self._step, "task": task}).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        answer = json.loads(line)
        if "wrong" in answer:
            return DataError(answer.pop("wrong"), **answer)
        if "bug" in answer:
            return RuntimeError(answer["bug"])
        return answer["result"]

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve() -> None:
    """Answer tasks until the input ends; standard output carries answers only."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"result": run_step(request["step"], request["task"])}
        except StepladderError as error:
            names = ("wrong", "got", "allowed", "next_command")
            answer = {name: getattr(error, name) for name in names}
        except Exception:
            answer = {"bug": traceback.format_exc()}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:
            break  # whoever asked is gone


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
