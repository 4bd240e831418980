"""A folder that all nodes of a run share and a node's place in; attempts that begin and end together out.

Node 0 decides: it numbers the attempts in `nodes/attempt.json` and beats there as long as it lives. The
others join each attempt, leave it when node 0 has gone on, and say in `nodes/ended-R.json` that their
processes have failed, so that no node waits for one that is gone. Clocks of nodes are never compared.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from stepladder.errors import StepladderError, StoreError, TrainError
from stepladder.launch.environment import Node, train_command, worker_environment
from stepladder.launch.process import RUN_FILE, Interrupted, read_plan, stop_process
from stepladder.records import Plan, Run, from_json
from stepladder.store import read_json, write_json

_FOLDER, _ATTEMPT_FILE = "nodes", "attempt.json"
_DONE, _STOPPED = "done", "stopped"
_BEAT_SECONDS = 2.0
# Nodes of a cluster start within minutes of each other; a shared file system shows a change within one.
_START_SECONDS, _SILENT_SECONDS = 900.0, 120.0
# A process group that has lost a member mostly fails by itself; after this long it is ended.
_GRACE_SECONDS = 20.0


def place(plan: Plan, rank: int | None, master: str) -> Node | None:
    """The node that `--node-rank` and `--master` name; None for a plan of one node.

    Raises:
        TrainError: the words do not fit the plan.
    """
    layout = plan.layout
    if layout.nodes == 1 and rank is None and not master:
        return None
    host, _, port = master.rpartition(":")
    fits = layout.nodes > 1 and rank is not None and 0 <= rank < layout.nodes
    if rank is None or not fits or not host or not port.isdigit():
        raise TrainError(
            f"the plan is for {layout.nodes} node{'s' if layout.nodes > 1 else ''}",
            got=f"--node-rank {'not given' if rank is None else rank}, --master {master or 'not given'}",
            allowed="neither for one node; for several --node-rank from 0, --master HOST:PORT of node 0",
            next_command="stepladder train plan.json --out DIR --emit torchrun (or slurm)",
        )
    if layout.processes % layout.nodes:
        raise TrainError(
            "the processes cannot be shared equally between the nodes",
            got=f"{layout.processes} processes, {layout.nodes} nodes",
        )
    return Node(rank=rank, master=master)


class Leader:
    """Node 0's part, a context around its attempts. A run on one node has none: everything is left out."""

    def __init__(self, out: Path, node: Node | None) -> None:
        self._folder, self._is_needed = out / _FOLDER, node is not None
        self._number, self._beat = 0, 0
        self._process: subprocess.Popen[Any] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._is_needed:
            found = _read(self._folder / _ATTEMPT_FILE)
            self._number, self._beat = found.get("number", 0), found.get("beat", 0)
            self._say("waiting")
            self._thread.start()
        return self

    def begin(self, process: subprocess.Popen[Any]) -> None:
        """`process` is this node's part of a new attempt, which the others may join."""
        if self._is_needed:
            self._number, self._process = self._number + 1, process
            self._say("open")

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._is_needed:
            self._over.set()
            self._thread.join()
            ending = _STOPPED if isinstance(error, KeyboardInterrupt) else str(error) if error else _DONE
            self._say("over", ending)

    def _say(self, state: Literal["waiting", "open", "over"], ending: str = "") -> None:
        self._beat += 1
        said = {"number": self._number, "beat": self._beat, "state": state, "ending": ending}
        with contextlib.suppress(StoreError):  # a full disk ends the run elsewhere, with its reason
            write_json(self._folder / _ATTEMPT_FILE, said)

    def _watch(self) -> None:
        """Beat, and end this node's processes some time after another node's have failed."""
        failed_at, number = 0.0, 0
        while not self._over.wait(_BEAT_SECONDS):
            process = self._process
            if process is None:
                self._say("waiting")
                continue
            self._say("open")
            if number != self._number:
                failed_at, number = 0.0, self._number
            if any(_read(path).get("attempt") == number for path in self._folder.glob("ended-*.json")):
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > _GRACE_SECONDS and process.poll() is None:
                    process.terminate()


def follow(plan_path: Path, out: Path, node: Node) -> Run:
    """Take part in every attempt of node 0 until it says that the run is over.

    Raises:
        Interrupted: the run was stopped with a checkpoint.
        TrainError: node 0 gave the run up, or does not beat in `out`.
    """
    plan = read_plan(plan_path)
    listener, joined = _Listener(out / _FOLDER), 0
    process: subprocess.Popen[Any] | None = None
    try:
        while True:
            said = listener.listen()
            if process and process.poll():
                write_json(out / _FOLDER / f"ended-{node.rank}.json", {"attempt": joined})
                process = None
            if said.get("state") == "over":
                return _ended(said["ending"], process, out)
            if said.get("state") == "open" and said["number"] > joined:
                if process:
                    stop_process(process)
                joined = said["number"]
                process = subprocess.Popen(
                    train_command(plan_path, out, plan.layout, node=node),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=worker_environment(plan.layout),
                    start_new_session=True,
                )
            time.sleep(_BEAT_SECONDS / 2)
    finally:
        if process:
            stop_process(process)


class _Listener:
    """What node 0 says; a file that has not changed since we came may be of an earlier start."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _ATTEMPT_FILE
        self._heard, self._at, self._limit = _read(self._path), time.monotonic(), _START_SECONDS

    def listen(self) -> Mapping[str, Any]:
        found = _read(self._path)
        if found and found != self._heard:
            self._heard, self._at, self._limit = found, time.monotonic(), _SILENT_SECONDS
        elif time.monotonic() - self._at > self._limit:
            raise TrainError(
                "node 0 does not answer",
                got=f"no change of {self._path} for {self._limit:.0f} s",
                allowed="one folder that all nodes see, and the same command on node 0 with --node-rank 0",
            )
        return self._heard if self._limit == _SILENT_SECONDS else {}


def _ended(ending: str, process: subprocess.Popen[Any] | None, out: Path) -> Run:
    """What node 0's last word means here."""
    if ending == _DONE:
        if process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
        return from_json(Run, read_json(out / RUN_FILE))
    if ending == _STOPPED:
        raise Interrupted(f"{out} was stopped half-way")
    raise TrainError("node 0 gave the run up", got=ending.splitlines()[0] if ending else "")


def _read(path: Path) -> dict[str, Any]:
    """A small file of another node; {} while it is not there."""
    with contextlib.suppress(StepladderError, OSError):
        value = read_json(path)
        return value if isinstance(value, dict) else {}
    return {}
