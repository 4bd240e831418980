"""Trackers get what metrics.jsonl has, go on in the same run, and cannot stop one."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder.cli import main
from stepladder.errors import TrainError
from stepladder.records import Plan, from_json
from stepladder.train import trackers as module
from stepladder.train.trackers import TRACKERS_VARIABLE, Trackers, wanted_trackers

MakePlan = Callable[..., Path]


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return from_json(Plan, json.loads(make_plan().read_text()))


def record(step: int) -> dict[str, float | str]:
    # An evaluation is never thinned out.
    return {"step": step, "tokens": 256 * step, "loss": 5.0 - step, "heldout_loss": 4.0, "mfu_peak": "text"}


def log_steps(names: list[str], folder: Path, plan: Plan, steps: range, *, done: bool) -> None:
    with Trackers(names, folder, plan.name, plan) as trackers:
        for step in steps:
            trackers.log(record(step))
        if done:
            trackers.finish({"heldout_loss": 4.0})


class Kept:
    """A tracker that keeps what it is told, on disk as a server would."""

    def __init__(self, folder: Path, kept_id: str) -> None:
        self.path, self.kept_id = folder / "kept.jsonl", kept_id

    def tell(self, *words: object) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(words) + "\n")

    def start(self, run_name: str, config: dict[str, object]) -> str:
        self.tell("start", run_name, config["shape.width"], config["params"], self.kept_id)
        return "the-id"

    def log(self, step: int, record: dict[str, object]) -> None:
        self.tell("log", step, sorted(record))

    def finish(self, summary: dict[str, object]) -> None:
        self.tell("finish", summary)


class Unplugged(Kept):
    def log(self, step: int, record: dict[str, object]) -> None:
        raise ConnectionError("no route to host")


class Stuck(Kept):
    def log(self, step: int, record: dict[str, object]) -> None:
        threading.Event().wait()


@pytest.fixture
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"kept": Kept, "unplugged": Unplugged, "stuck": Stuck}
    monkeypatch.setattr(module, "_KINDS", {name: (kind, "json", name) for name, kind in kinds.items()})


@pytest.mark.usefixtures("own_kinds")
def test_the_order_of_calls_and_the_id_that_is_kept(tmp_path: Path, plan: Plan) -> None:
    log_steps(["kept"], tmp_path, plan, range(1, 3), done=False)
    log_steps(["kept"], tmp_path, plan, range(3, 4), done=True)
    told = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    numbers = ["heldout_loss", "loss", "step", "tokens"]
    assert told == [
        ["start", "plan", 32, 1.0, ""],
        ["log", 256, numbers],
        ["log", 512, numbers],
        ["finish", {}],
        ["start", "plan", 32, 1.0, "the-id"],
        ["log", 768, numbers],
        ["finish", {"heldout_loss": 4.0}],
    ]


@pytest.mark.usefixtures("own_kinds")
def test_fast_steps_are_thinned_and_evaluations_are_not(tmp_path: Path, plan: Plan) -> None:
    with Trackers(["kept"], tmp_path, plan.name, plan) as trackers:
        for step in range(1, 1000):
            trackers.log({"step": step, "tokens": step, "loss": 1.0})
        trackers.log({"step": 1000, "tokens": 1000, "loss": 1.0, "heldout_loss": 1.0})
    told = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    logged = [words[1] for words in told if words[0] == "log"]
    assert logged[0] == 1
    assert logged[-1] == 1000
    assert len(logged) < 500


@pytest.mark.usefixtures("own_kinds")
def test_a_tracker_that_fails_warns_once_and_the_others_go_on(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    log_steps(["unplugged", "kept"], tmp_path, plan, range(1, 4), done=True)
    warning = "warning: no more records for unplugged (ConnectionError: no route to host); training goes on\n"
    assert capsys.readouterr().err == warning
    logged = [line for line in (tmp_path / "kept.jsonl").read_text().splitlines() if '"log"' in line]
    assert len(logged) == 3


@pytest.mark.usefixtures("own_kinds")
def test_a_tracker_that_hangs_is_left_behind(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FINISH_SECONDS", 0.2)
    log_steps(["stuck"], tmp_path, plan, range(1, 4), done=True)
    assert "no more records for stuck (it did not take all records within" in capsys.readouterr().err


def test_names_are_checked_before_anything_starts(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", str(make_plan()), "--out", str(tmp_path / "run"), "--tracker"]
    assert main([*words, "tensorbord"]) == 2
    assert 'tensorbord (did you mean "tensorboard"?)' in capsys.readouterr().err
    monkeypatch.setattr(module, "_KINDS", {"other": (Kept, "not_installed_here", "its-package")})
    assert main([*words, "other"]) == 2
    assert "pip install its-package" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb and MLflow leave folders with their names where they ran."""
    (tmp_path / "not_installed_here").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "_KINDS", {"other": (Kept, "not_installed_here", "its-package")})
    with pytest.raises(TrainError, match="the tracker other is not installed"):
        wanted_trackers(["other"])


def test_the_environment_names_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, "")
    assert wanted_trackers() == []


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"pip install {package}")


def killed_and_finished(plan: Plan, folder: Path, name: str, environment: dict[str, str]) -> None:
    """Steps 1 to 5 in a process that is killed, 4 to 8 in one that ends, as after a resume from step 3."""
    code = (
        "import json, os, sys, time\nfrom pathlib import Path\n"
        "from stepladder.records import Plan, from_json\nfrom stepladder.train.trackers import Trackers\n"
        "folder, name, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])\n"
        "plan = from_json(Plan, json.loads((folder / 'p.json').read_text()))\n"
        "with Trackers([name], folder, plan.name, plan) as trackers:\n"
        "    for step in range(first, last + 1):\n"
        "        record = {'step': step, 'tokens': 256 * step, 'loss': 5.0 - step, 'heldout_loss': 1.0}\n"
        "        trackers.log(record)\n"
        "    if last == 5:\n"
        "        while trackers._feeds[0]._waiting.qsize():\n            time.sleep(0.01)\n"
        "        time.sleep(2)\n        os._exit(9)\n"
        "    trackers.finish({'heldout_loss': 1.0})\n"
    )
    from stepladder.records import to_json

    folder.mkdir(exist_ok=True)
    (folder / "p.json").write_text(json.dumps(to_json(plan)))
    for first, last, expected in ((1, 5, 9), (4, 8, 0)):
        words = [sys.executable, "-c", code, str(folder), name, str(first), str(last)]
        ended = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
        assert (ended.returncode, "warning: no more" in ended.stderr) == (expected, False), ended.stderr


def test_tensorboard_reads_one_curve_of_a_resumed_run(plan: Plan, tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_finished(plan, tmp_path, "tensorboard", {})
    read = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True).Reload()
    losses = [(event.step, event.value) for event in read.Scalars("loss")]
    assert losses == [(256 * step, 5.0 - step) for step in range(1, 9)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_goes_on_in_the_same_run(plan: Plan, tmp_path: Path) -> None:
    needs("mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    killed_and_finished(plan, tmp_path, "mlflow", {"MLFLOW_TRACKING_URI": uri})
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("stepladder")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name, run.data.params["shape.width"]) == ("FINISHED", "plan", "32")
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(set(steps)) == [256 * step for step in range(1, 9)]


def test_trackio_goes_on_in_the_same_run(plan: Plan, tmp_path: Path) -> None:
    needs("trackio")
    killed_and_finished(plan, tmp_path, "trackio", {"TRACKIO_DIR": str(tmp_path / "tio")})
    with sqlite3.connect(tmp_path / "tio" / "stepladder.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({row[0] for row in rows}) == 1
    losses = {step: json.loads(metrics)["loss"] for _, step, metrics in rows}
    assert losses == {256 * step: 5.0 - step for step in range(1, 9)}


def test_wandb_writes_a_run_without_a_network(plan: Plan, tmp_path: Path) -> None:
    needs("wandb")
    killed_and_finished(plan, tmp_path, "wandb", {"WANDB_MODE": "offline"})
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    run_id = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    assert folders
    assert all(folder.name.endswith(run_id) for folder in folders)


def test_a_run_feeds_its_trackers(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepladder.train import worker

    monkeypatch.setattr(module, "_KINDS", {"kept": (Kept, "json", "kept")})
    monkeypatch.setenv(TRACKERS_VARIABLE, "kept")
    out = tmp_path / "run"
    run = worker.run_plan(make_plan(), out, threading.Event(), lambda *_: None)
    told = [json.loads(line) for line in (out / "kept.jsonl").read_text().splitlines()]
    assert [words[0] for words in told][0 :: len(told) - 1] == ["start", "finish"]
    assert told[-2][1] == run.tokens
    assert told[-1][1]["heldout_loss"] == run.heldout_loss
