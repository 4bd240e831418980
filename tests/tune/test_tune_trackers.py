"""Tuned runs tell the same trackers what pretraining runs tell them, and the same meters."""

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepladder.cli import main  # noqa: E402
from stepladder.records import to_json  # noqa: E402
from stepladder.store import read_json, write_json  # noqa: E402
from stepladder.train import trackers as module  # noqa: E402
from stepladder.train.metrics import read_metrics  # noqa: E402
from stepladder.train.trackers import TRACKERS_VARIABLE  # noqa: E402
from stepladder.tune.run import TuneJob, TuneOptions  # noqa: E402
from stepladder.tune.tasks import write_task  # noqa: E402
from stepladder.tune.worker import encode_task, run_job  # noqa: E402

torch.set_num_threads(1)
OPTIONS = TuneOptions(epochs=3, batch_examples=16)
ENERGY = ("joules", "energy_source", "peak_bytes")


class Kept:
    """A tracker that keeps what it is told, on disk as a server would."""

    def __init__(self, folder: Path, kept_id: str) -> None:
        self.path, self.kept_id = folder / "kept.jsonl", kept_id

    def tell(self, *words: object) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(words, allow_nan=False) + "\n")

    def start(self, run_name: str, config: dict[str, object]) -> str:
        self.tell("start", run_name, config["method"], config["options.epochs"], self.kept_id)
        return "the-id"

    def log(self, step: int, record: dict[str, object]) -> None:
        self.tell("log", step, sorted(record))

    def finish(self, summary: dict[str, object]) -> None:
        self.tell("finish", summary)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KINDS", {"kept": (Kept, "json", "kept")})
    monkeypatch.setenv(TRACKERS_VARIABLE, "kept")


def make_job(folder, network_folder, corpus, options=OPTIONS, method="full"):
    places = {"model": str(network_folder), "tokenizer": str(corpus), "task": str(folder)}
    return TuneJob(**places, out=str(folder / f"{method}-0"), method=method, seed=0, options=options)


def told_by(job, stop_at=0):
    """Run the job until `stop_at` (0: the end); what the tracker was told, and what the job ended with."""
    stop = threading.Event()
    hear = lambda step, *_: stop.set() if step == stop_at else None  # noqa: E731
    if stop_at:
        with pytest.raises(Exception, match="stopped at step"):
            run_job(job, encode_task(job), stop, hear)
    else:
        run_job(job, encode_task(job), stop, hear)
    done = Path(job.out) / "done.json"
    lines = (Path(job.out) / "kept.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], read_json(done) if done.exists() else {}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("method", ["full", "frozen"])
def test_a_tuned_run_feeds_its_trackers(tmp_path, word_task, network_folder, corpus, method):
    write_task(word_task, tmp_path)
    job = make_job(tmp_path, network_folder, corpus, method=method)
    told, done = told_by(job)
    assert told[0] == ["start", f"{tmp_path.name}-{method}-0", method, OPTIONS.epochs, ""]
    records = list(read_metrics(tmp_path / f"{method}-0" / "metrics.jsonl"))
    scored = [record["tokens"] for record in records if "heldout_score" in record]
    assert scored == [words[1] for words in told if words[0] == "log" and "heldout_score" in words[2]]
    # A number that is not finite (bits per byte of labels) is told to nobody.
    assert all("heldout_bits_per_byte" not in words[2] for words in told if words[0] == "log")
    assert told[-1] == ["finish", done]


@pytest.mark.usefixtures("kept")
def test_a_tuned_run_that_is_stopped_goes_on_under_its_id(tmp_path, word_task, network_folder, corpus):
    write_task(word_task, tmp_path)
    job = make_job(tmp_path, network_folder, corpus)
    told, done = told_by(job, stop_at=6)
    assert (told[-1], done) == (["finish", {}], {})
    again, done = told_by(job)
    assert "the-id" == again[len(told)][-1]
    assert again[-1] == ["finish", done]
    # Joules of both attempts, by the meter of the loop.
    assert done["joules"] > 0
    assert done["energy_source"]


@pytest.mark.usefixtures("kept")
def test_energy_is_told_also_where_patience_ended_the_run(tmp_path, word_task, network_folder, corpus):
    shuffled = [dataclasses.replace(e, targets=("ab"[at % 2],)) for at, e in enumerate(word_task.train)]
    parts = {"train": tuple(shuffled[:60]), "dev": tuple(shuffled[60:]), "labels": ("a", "b")}
    test = tuple(dataclasses.replace(e, targets=("a",)) for e in word_task.test)
    write_task(dataclasses.replace(word_task, **parts, test=test), tmp_path)
    options = dataclasses.replace(OPTIONS, epochs=40, patience=1)
    told, done = told_by(make_job(tmp_path, network_folder, corpus, options))
    assert sum("heldout_score" in words[2] for words in told if words[0] == "log") < 40
    assert told[-1] == ["finish", done]
    assert all(done[key] for key in ENERGY)
    assert ("estimate" in done["energy_source"]) == ("RAPL" not in done["energy_source"])


def test_a_tracker_is_checked_before_anything_is_read(tmp_path, capsys):
    words = ["tune", "--from", str(tmp_path / "none"), "--task", "none", "--tracker", "tensorbord"]
    assert main(words) == 2
    assert 'tensorbord (did you mean "tensorboard"?)' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_the_real_tracker_has_the_dev_scores(tmp_path, word_task, network_folder, corpus, name):
    pytest.importorskip(name, reason=f"pip install {name}")
    write_task(word_task, tmp_path)
    write_json(tmp_path / "jobs.json", [to_json(make_job(tmp_path, network_folder, corpus))])
    command = [sys.executable, "-m", "stepladder.tune.worker", "--jobs", str(tmp_path / "jobs.json")]
    environment = os.environ | {TRACKERS_VARIABLE: name, "TRACKIO_DIR": str(tmp_path / "tio")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, "warning: no more" in ended.stderr) == (0, False), ended.stderr
    records = list(read_metrics(tmp_path / "full-0" / "metrics.jsonl"))
    expected = {int(r["tokens"]): r["heldout_score"] for r in records if "heldout_score" in r}
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(tmp_path / "full-0" / "tensorboard")).Reload()
        found = {event.step: event.value for event in read.Scalars("heldout_score")}
    else:
        with sqlite3.connect(tmp_path / "tio" / "stepladder.db") as database:
            rows = database.execute("select step, metrics from metrics").fetchall()
        every = {step: json.loads(metrics) for step, metrics in rows}
        found = {step: row["heldout_score"] for step, row in every.items() if "heldout_score" in row}
    assert found == pytest.approx(expected)
