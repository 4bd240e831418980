"""What one run and a pool of runs share: is it done already, what does its process say, how is it stopped."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from stepladder.errors import TrainError
from stepladder.records import Plan, Run, from_json, to_json
from stepladder.store import read_json
from stepladder.train.faults import SLOW

# (name of the run, tokens done, tokens in all, last training loss)
OnProgress = Callable[[str, int, int, float], None]
RUN_FILE, PLAN_FILE = "run.json", "plan.json"
# What a stopped process gets to write its checkpoint before it is killed.
STOP_SECONDS = 100.0


class Interrupted(KeyboardInterrupt):
    """A run was stopped half-way with a checkpoint; the same call goes on."""


def finished_run(plan_path: Path, out: Path) -> Run | None:
    """The Run in `out` if the same plan was already trained there.

    Raises:
        TrainError: `out` holds a run of another plan.
    """
    if not (out / PLAN_FILE).exists():
        return None
    ours, theirs = (to_json(read_plan(path)) for path in (plan_path, out / PLAN_FILE))
    changed = sorted(key for key in {*ours, *theirs} - {"corpus"} if ours.get(key) != theirs.get(key))
    if changed:
        raise TrainError(
            f"{out} holds a run of another plan",
            got=f"these differ: {', '.join(changed)}",
            next_command=f"stepladder train {plan_path} --out ANOTHER_DIR",
        )
    return from_json(Run, read_json(out / RUN_FILE)) if (out / RUN_FILE).exists() else None


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    return from_json(Plan, read_json(path))


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1, which schedulers send before the time is up, raise Interrupted."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_process(process: subprocess.Popen[Any]) -> None:
    """Ask a trainer to write its checkpoint and end; kill it when it does not in time."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(0.2)
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(OSError):
                stream.close()


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that came from it: workers of torchrun have sessions of their own."""
    family = [process.pid]
    for pid in family:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                family += [int(child) for child in children.read_text().split()]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Listener:
    """Kills a trainer that says nothing, not even that it is alive, for `limit_seconds`.

    It has SLOW times as long for its first word. A context around one process; `hear` at every event.
    """

    def __init__(self, process: subprocess.Popen[Any], limit_seconds: float) -> None:
        self._process, self._limit = process, limit_seconds
        self._idle, self._factor = 0.0, SLOW
        self._over = threading.Event()
        self.has_killed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def hear(self) -> None:
        """It is alive."""
        self._idle, self._factor = 0.0, 1.0

    def _watch(self) -> None:
        tick = min(1.0, self._limit / 5)
        before = time.monotonic()
        while not self._over.wait(tick):
            now = time.monotonic()
            self._idle += min(now - before, 2 * tick)  # we may have been stopped ourselves
            before = now
            if self._idle > self._limit * self._factor:
                self.has_killed = True
                kill_tree(self._process)
                return


def read_events(stream: Iterable[str]) -> Iterator[dict[str, Any]]:
    """JSON lines of a worker; anything else that reaches its stdout (torchrun's own words) is passed by."""
    for line in stream:
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                yield json.loads(line)
