"""A list of tasks in; their results in the same order out, computed by the nodes of a Ray cluster.

The tasks are those of `worker.py`. They pass names of files: the folder that they write to and the files that
they read lie on a file system that every node mounts under the same path, with the same packages installed.
What a node does not see, or has in another version, is an error that names the node. A process or node that
is lost costs its unfinished tasks, which Ray gives to another; finished ones lie in the folder.
"""

import contextlib
import functools
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from stepladder.data.worker import (
    ATTEMPTS,
    ENVIRONMENT,
    Executor,
    LocalPool,
    OnDone,
    Spent,
    answer,
    died,
    outcome,
)
from stepladder.errors import DataError, MissingExtraError, did_you_mean
from stepladder.store import write_text

# Another version of these may give other bytes for the same text: hashes, rules, token ids.
_PACKAGES = ("stepladder", "numpy", "polars", "rensa", "py3langid", "tiktoken", "tokenizers")
# Enough that a node finds its next task waiting; every further one is only memory of the driver.
_TASKS_PER_CPU = 2
_CANCEL_SECONDS = 10


def executor(name: str, workers: int) -> Executor:
    """Where tasks run, as a context manager: "local", or Ray by one of these names.

    "local": at most `workers` processes of this machine. "ray": the cluster that this machine belongs to (or
    RAY_ADDRESS names). "ray:HOST:PORT": that cluster; this machine must be one of its nodes.
    "ray://HOST:PORT": the same from any machine that mounts the folder, through Ray's client server.
    "ray:local": a cluster of this machine alone with `workers` CPUs, ended with the context.

    Raises:
        DataError: the name is none of these.
    """
    if name == "local":
        return LocalPool(workers)
    if name == "ray" or name.startswith("ray:"):
        address = name if name.startswith("ray://") else name.partition(":")[2] or "auto"
        return RayPool(address, num_cpus=workers)
    raise DataError(
        "the executor is not known",
        got=f"{name}{did_you_mean(name, ('local', 'ray'))}",
        allowed="local, ray, ray:local, ray:HOST:PORT, ray://HOST:PORT",
    )


class RayPool:
    """A connection to a Ray cluster, kept from step to step. A connection that exists already is used."""

    def __init__(self, address: str = "auto", *, num_cpus: int = 0, in_flight: int = 0) -> None:
        self._address, self._num_cpus, self._in_flight = address, num_cpus, in_flight
        self.spent: dict[str, Spent] = {}
        self._is_ours = False

    def __enter__(self) -> Self:
        ray = _ray()
        if ray.is_initialized():
            return self
        options: dict[str, Any] = {}
        if self._address == "local":
            # A cluster of our own tells nobody that it was started.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options = {"num_cpus": self._num_cpus or None, "include_dashboard": False}
        try:
            ray.init(self._address, log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise DataError(
                "no Ray cluster answers",
                got=f"address {self._address}: {str(error).strip().splitlines()[0]}",
                allowed="auto on a node of a running cluster, HOST:PORT, ray://HOST:PORT, or local",
                next_command="ray start --head    (on the other nodes: ray start --address HOST:PORT)",
            ) from error
        except ImportError as error:
            raise MissingExtraError("Ray's client", "ray") from error
        self._is_ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            _ray().shutdown()
            self._is_ours = False

    def run(self, step: str, tasks: Sequence[Mapping[str, Any]], on_done: OnDone) -> list[Any]:
        """Results of `step` for each of `tasks`; `on_done` is called with (index, result) as they come.

        Raises:
            StepladderError: the first error of a task; one whose process or node is lost thrice: DataError.
        """
        ray = _ray()
        remote = ray.remote(on_node).options(
            num_cpus=1,
            max_retries=ATTEMPTS - 1,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": ENVIRONMENT},
        )
        marker = f".cluster-{secrets.token_hex(8)}"
        driver = {"packages": installed(), "directory": os.getcwd(), "marker": marker}
        folders = {Path(task["folder"]) for task in tasks}
        results: list[Any] = [None] * len(tasks)
        waiting = iter(range(len(tasks)))
        pending: dict[Any, int] = {}
        try:
            for folder in folders:
                write_text(folder / marker, "A node that does not see this file cannot take part.\n")
            while True:
                # Asked each time: nodes come and go.
                room = self._in_flight or _TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while len(pending) < room and (index := next(waiting, None)) is not None:
                    task = tasks[index]
                    pending[remote.remote(step, task, driver, _unseen(task))] = index
                if not pending:
                    return results
                for ref in ray.wait(list(pending), num_returns=1)[0]:
                    index = pending[ref]
                    results[index] = outcome(_told(ray, ref, step, tasks[index]), self.spent, step)
                    del pending[ref]
                    on_done(index, results[index])
        finally:
            _cancel(ray, list(pending))
            for folder in folders:
                (folder / marker).unlink(missing_ok=True)


def on_node(
    step: str, task: Mapping[str, Any], driver: Mapping[str, Any], unseen: Sequence[str]
) -> dict[str, Any]:
    """Run a task on a node that has the driver's packages and sees its files: the answer of `worker.answer`.

    `driver` holds its packages, its working directory (relative paths are meant from there) and the name of
    its marker in the output folder. `unseen` names the files of the task that the driver does not see either:
    those are for the task to judge.
    """
    with contextlib.suppress(OSError):
        os.chdir(driver["directory"])
    here = installed()
    others = [
        f"{name} {here.get(name, 'missing')}, not {wanted}"
        for name, wanted in driver["packages"].items()
        if here.get(name) != wanted
    ]
    if others:
        return _refusal(
            "has other packages than the driver, and could give other bytes",
            "; ".join(others),
            "the same versions on every node",
        )
    shared = "one file system for sources and output, mounted under the same path on every node"
    if not (Path(task["folder"]) / driver["marker"]).exists():
        return _refusal("does not see the output folder of the driver", task["folder"], shared)
    hidden = [path for path in _unseen(task) if path not in unseen]
    if hidden:
        return _refusal("does not see files that the driver sees", ", ".join(hidden[:3]), shared)
    return answer(step, task)


@functools.cache
def installed() -> dict[str, str]:
    """Versions of the packages that the bytes of a corpus depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _unseen(task: Mapping[str, Any]) -> list[str]:
    """Local paths of the task's files that are not there on this machine."""
    paths = [file["path"] for file in task.get("files", [])]
    return [path for path in paths if "://" not in path and not os.path.exists(path)]


def _refusal(wrong: str, got: str, allowed: str) -> dict[str, Any]:
    return {
        "error": "DataError",
        "wrong": f"the node {socket.gethostname()} {wrong}",
        "got": got,
        "allowed": allowed,
        "next_command": "mount or install it there; the same command goes on from here",
    }


def _told(ray: Any, ref: Any, step: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a finished task."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # Tasks catch their own errors: this one came before, when the node looked for our code.
        raise DataError(
            "a node cannot run the tasks of stepladder",
            got=str(error).strip().splitlines()[-1],
            allowed="the same stepladder with its extras on every node",
            next_command="pip install 'stepladder[data,ray]'    (on every node)",
        ) from error
    except ray.exceptions.RayError as error:
        raise died(step, task, type(error).__name__) from error


def _cancel(ray: Any, pending: list[Any]) -> None:
    """End what still runs, and wait until it has ended: nothing writes into the folder afterwards."""
    for ref in pending:
        ray.cancel(ref, force=True)
    if pending:
        ray.wait(pending, num_returns=len(pending), timeout=_CANCEL_SECONDS)


def _ray() -> Any:
    try:
        import ray  # pyrefly: ignore
    except ImportError as error:
        raise MissingExtraError("the Ray executor", "ray") from error
    return ray
