"""Records of a run in; the same records in trackio, Weights & Biases, TensorBoard or MLflow out.

metrics.jsonl is the truth; a tracker is a copy for looking. The environment variable STEPLADDER_TRACKERS
names the trackers, separated by commas. Each is fed from a thread of its own: one that is slow, or whose
network is down, is warned of once and never stops or slows a run. The horizontal axis is tokens.
"""

import importlib.util
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stepladder.errors import TrainError, did_you_mean
from stepladder.records import to_json
from stepladder.store import read_json, write_json

TRACKERS_VARIABLE, PROJECT_VARIABLE = "STEPLADDER_TRACKERS", "STEPLADDER_PROJECT"
IDS_FILE = "trackers.json"
# Steps of small models last milliseconds: records between evaluations are thinned to two a second.
_SECONDS_BETWEEN = 0.5
# What trackers get at the end of a run to send what they still have.
_FINISH_SECONDS = 30.0
_MOST_WAITING = 10_000

Record = Mapping[str, Any]


class Tracker(Protocol):
    """Where records of one run go."""

    def start(self, run_name: str, config: Mapping[str, Any]) -> str:
        """Open the run, or go on in it; the id by which it is found again."""
        ...

    def log(self, step: int, record: Record) -> None:
        """Numbers at `step` of the axis (tokens)."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """No more records; `summary` is empty when the run was stopped half-way."""


class TensorBoard:
    """Event files in the run's folder; no torch and no TensorFlow are needed."""

    def __init__(self, folder: Path, kept_id: str) -> None:
        self._folder, self._goes_on = folder / "tensorboard", bool(kept_id)

    def start(self, run_name: str, config: Mapping[str, Any]) -> str:
        """The config is not kept: TensorBoard has scalars only here."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._session, self._summary = Event, SessionLog, Summary
        self._writer = EventFileWriter(str(self._folder))
        return str(self._folder.name)

    def log(self, step: int, record: Record) -> None:
        """One scalar for each number."""
        if self._goes_on:
            # Tells TensorBoard to forget what an attempt that was killed wrote from here on.
            begun = self._session(status=self._session.START)
            self._writer.add_event(self._event(wall_time=time.time(), step=step, session_log=begun))
            self._goes_on = False
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in record.items()]
        self._writer.add_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        )
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """WANDB_MODE=offline works without a network; `wandb sync` sends such a run later."""

    def __init__(self, folder: Path, kept_id: str) -> None:
        self._folder, self._id = folder, kept_id

    def start(self, run_name: str, config: Mapping[str, Any]) -> str:
        """A new run, or the one with the kept id."""
        import wandb

        self._run = wandb.init(
            project=_project(),
            name=run_name,
            id=self._id or None,
            resume="allow" if self._id else None,
            config=dict(config),
            dir=str(self._folder),
            settings=wandb.Settings(silent=True, console="off"),
        )
        return self._run.id

    def log(self, step: int, record: Record) -> None:
        """Steps that the run has already are dropped there: a resumed run repeats them bit by bit."""
        self._run.log(dict(record), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Send the rest."""
        self._run.summary.update(dict(summary))
        self._run.finish()


class Trackio:
    """A local database (TRACKIO_DIR), or a Space (TRACKIO_SPACE_ID). Runs are found again by name."""

    def __init__(self, folder: Path, kept_id: str) -> None:
        self._id = kept_id

    def start(self, run_name: str, config: Mapping[str, Any]) -> str:
        """A new run, its name made unique, or the one with the kept name."""
        import trackio

        name = self._id or f"{run_name}-{os.urandom(3).hex()}"
        self._run = trackio.init(
            project=_project(), name=name, resume="allow", config=dict(config), embed=False
        )
        return name

    def log(self, step: int, record: Record) -> None:
        """Queued there, sent by a thread of trackio."""
        self._run.log(dict(record), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Send the rest; trackio has no summary of its own."""
        self._run.finish()


class MLflow:
    """The server of MLFLOW_TRACKING_URI, or MLflow's local default."""

    def __init__(self, folder: Path, kept_id: str) -> None:
        self._id = kept_id

    def start(self, run_name: str, config: Mapping[str, Any]) -> str:
        """A new run with the config as parameters, or the one with the kept id."""
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        found = self._client.get_experiment_by_name(_project())
        experiment = found.experiment_id if found else self._client.create_experiment(_project())
        self._id = self._client.create_run(experiment, run_name=run_name).info.run_id
        parameters = [Param(key, str(value)) for key, value in config.items()]
        for at in range(0, len(parameters), 100):  # the most that one request may hold
            self._client.log_batch(self._id, params=parameters[at : at + 100])
        return self._id

    def log(self, step: int, record: Record) -> None:
        """One request for all numbers."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[self._metric(key, value, now, step) for key, value in record.items()]
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Finished, or killed when the run was stopped half-way."""
        for key, value in summary.items():
            self._client.set_tag(self._id, f"summary.{key}", str(value))
        self._client.set_terminated(self._id, "FINISHED" if summary else "KILLED")


# Name: (what makes it, the package that it imports, what pip installs).
_KINDS: dict[str, tuple[Callable[[Path, str], Tracker], str, str]] = {
    "trackio": (Trackio, "trackio", "trackio"),
    "wandb": (WeightsAndBiases, "wandb", "wandb"),
    "tensorboard": (TensorBoard, "tensorboard", "tensorboard"),
    "mlflow": (MLflow, "mlflow", "mlflow"),
}


def wanted_trackers(names: Sequence[str] | None = None) -> list[str]:
    """The trackers in `names`, or of the environment, each known and installed.

    Raises:
        TrainError: one is neither; said before anything is trained.
    """
    if names is None:
        names = os.environ.get(TRACKERS_VARIABLE, "").split(",")
    wanted = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in wanted:
        if name not in _KINDS:
            hint = did_you_mean(name, _KINDS)
            raise TrainError("the tracker is not known", got=f"{name}{hint}", allowed=", ".join(_KINDS))
        _, module, package = _KINDS[name]
        spec = importlib.util.find_spec(module)
        # A folder of that name in the working directory is found, too; it has no origin.
        if spec is None or spec.origin is None:
            raise TrainError(f"the tracker {name} is not installed", next_command=f"pip install {package}")
    return wanted


def name_trackers(names: Sequence[str] | None) -> None:
    """Name the trackers of the processes that this one starts, where the user named any.

    Raises:
        TrainError: one is not known or not installed.
    """
    if names:
        os.environ[TRACKERS_VARIABLE] = ",".join(wanted_trackers(names))


class Trackers:
    """All trackers of one run, from the start of a context to its end. Ranks other than 0 name none."""

    def __init__(self, names: Sequence[str], folder: Path, run_name: str, config: Any) -> None:
        """`config` is the noun that says how the run is made: a plan, or a tuning job."""
        path = folder / IDS_FILE
        ids = read_json(path) if names and path.exists() else {}
        self._feeds = [_Feed(name, folder, ids) for name in names]
        self._run_name, self._config, self._logged_at = run_name, dict(_flat("", to_json(config))), 0.0
        self._summary: Mapping[str, Any] = {}

    def log(self, record: Record) -> None:
        """A line of metrics.jsonl."""
        now = time.monotonic()
        if not self._feeds or ("heldout_loss" not in record and now - self._logged_at < _SECONDS_BETWEEN):
            return
        self._logged_at = now
        # What is not finite is null in metrics.jsonl: no number there, none here.
        numbers = {key: value for key, value in record.items() if _is_number(value)}
        for feed in self._feeds:
            feed.put((int(record["tokens"]), numbers))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """What the run came to; sent when the context ends."""
        self._summary = summary

    def __enter__(self) -> "Trackers":
        for feed in self._feeds:
            feed.start(self._run_name, self._config)
        return self

    def __exit__(self, *_: object) -> None:
        numbers = {key: value for key, value in self._summary.items() if value is not None}
        for feed in self._feeds:
            feed.put(numbers)
        deadline = time.monotonic() + _FINISH_SECONDS
        for feed in self._feeds:
            feed.join(max(deadline - time.monotonic(), 0.0))


class _Feed:
    """One tracker and the thread that talks to it."""

    def __init__(self, name: str, folder: Path, ids: dict[str, str]) -> None:
        self._name, self._folder, self._ids = name, folder, ids
        self._tracker = _KINDS[name][0](folder, ids.get(name, ""))
        self._waiting: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._is_told = False

    def start(self, run_name: str, config: Mapping[str, Any]) -> None:
        self._thread = threading.Thread(target=self._feed, args=(run_name, config), daemon=True)
        self._thread.start()

    def put(self, item: Any) -> None:
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._warn("it is too slow; records are left out")

    def join(self, seconds: float) -> None:
        if self._thread:
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._warn(f"it did not take all records within {_FINISH_SECONDS:.0f} s")

    def _feed(self, run_name: str, config: Mapping[str, Any]) -> None:
        try:
            self._ids[self._name] = self._tracker.start(run_name, config)
            write_json(self._folder / IDS_FILE, self._ids)
            while isinstance(item := self._waiting.get(), tuple):
                self._tracker.log(*item)
            self._tracker.finish(item)
        except Exception as error:  # a copy for looking must not end a run, whatever a library raises
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._warn(f"{type(error).__name__}: {first}")

    def _warn(self, reason: str) -> None:
        if not self._is_told:
            self._is_told = True
            print(f"warning: no more records for {self._name} ({reason}); training goes on", file=sys.stderr)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Nested values under names with dots; of a derived number the value alone."""
    for key, value in values.items():
        if isinstance(value, Mapping) and "how" in value:
            yield f"{prefix}{key}", value["value"]
        elif isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        elif isinstance(value, (str, int, float, bool)):
            yield f"{prefix}{key}", value


def _project() -> str:
    return os.environ.get(PROJECT_VARIABLE) or "stepladder"
