"""A disk of 3 MB that really fills up: what a run loses, what it says, and the bits that it ends with."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepladder.errors import StoreError, TrainError
from stepladder.records import Run
from stepladder.train import checkpoint, loop, worker
from stepladder.train.checkpoint import _damage
from stepladder.train.choices import CHOICES_FILE
from stepladder.train.metrics import read_metrics

MakePlan = Callable[..., Path]
STEPS, FULL_AT, FREE_AT, END = 60, 12, 30, 61
# Less than a checkpoint (160 kB), more than the lines of the steps in between.
LEFT = 40_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a tmpfs")
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Take all space but `left` bytes."""
    ballast = disk / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        while shutil.disk_usage(disk).free > left:
            try:
                file.write(bytes(min(shutil.disk_usage(disk).free - left, 4096)))
            except OSError:
                return


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def train_here(plan: Path, out: Path, acts: dict[int, Callable[[], object]] | None = None) -> Run:
    """The run, here; `acts` happen after the steps that they are numbered by."""

    def on_step(step: int, *_: object) -> None:
        (acts or {}).get(step, lambda: None)()

    return worker.run_plan(plan, out, threading.Event(), on_step)


@pytest.fixture
def checkpoints_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One checkpoint after the other, instead of every 20 seconds."""
    monkeypatch.setitem(loop.Job.__init__.__kwdefaults__, "checkpoint_seconds", 0.0)


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"))


def wait_for_checkpoint(out: Path) -> None:
    while not checkpoints(out):
        pass


@pytest.mark.usefixtures("checkpoints_at_once")
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen before", "met while writing"])
def test_a_full_disk_costs_checkpoints_and_nothing_else(
    make_plan: MakePlan,
    tmp_path: Path,
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_seen: bool,
) -> None:
    if not is_seen:  # as under a quota, which free space does not show
        monkeypatch.setattr(checkpoint, "free_bytes", lambda _: None)
    plan, out, copy = make_plan(steps=STEPS), small_disk / "run", tmp_path / "copy"
    train_here(plan, tmp_path / "straight")
    capsys.readouterr()
    kept: list[list[str]] = []

    def fill_up() -> None:
        wait_for_checkpoint(out)
        fill(small_disk, LEFT)

    def look() -> None:
        kept.append([path.name for path in checkpoints(out)])
        assert kept[-1]
        assert [_damage(path) for path in checkpoints(out)] == [""] * len(kept[-1])
        shutil.copytree(out, copy, ignore=shutil.ignore_patterns(".step-*"))
        free(small_disk)

    train_here(plan, out, {FULL_AT: fill_up, FREE_AT: look})
    told = capsys.readouterr().err
    assert "warning: no checkpoint at step" in told
    assert ("No space left" in told) == (not is_seen)
    assert ("bytes are free" in told) == is_seen
    # After there was space again, checkpoints were made again; the run has every line and the same bits.
    assert checkpoints(out)[-1].name > kept[0][-1]
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert weights(out) == weights(tmp_path / "straight")
    # So has a run that goes on from what was there while the disk was full.
    train_here(plan, copy)
    assert weights(copy) == weights(tmp_path / "straight")
    assert [line["step"] for line in read_metrics(copy / "metrics.jsonl")] == list(range(1, STEPS + 1))


@pytest.mark.usefixtures("checkpoints_at_once")
def test_metrics_that_cannot_be_written_are_one_error_and_the_same_bits_later(
    make_plan: MakePlan, tmp_path: Path, small_disk: Path
) -> None:
    plan, out = make_plan(steps=STEPS), small_disk / "run"
    train_here(plan, tmp_path / "straight")

    def fill_up() -> None:
        wait_for_checkpoint(out)
        fill(small_disk)

    with pytest.raises(TrainError, match="the run stopped at its last checkpoint\n  got:     No space left"):
        train_here(plan, out, {FULL_AT: fill_up})
    assert not (out / "run.json").exists()
    # What cannot be written is told, not traced.
    failed = subprocess.run(
        [sys.executable, "-m", "stepladder.train.worker", "--plan", str(plan), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert (failed.returncode, "Traceback" in failed.stderr) == (worker.EXIT_USER_ERROR, False)
    assert "No space left" in failed.stderr
    free(small_disk)
    train_here(plan, out)
    assert weights(out) == weights(tmp_path / "straight")
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("name", ["plan.json", CHOICES_FILE, "metrics.jsonl", "model", "run.json"])
def test_whatever_meets_the_full_disk_is_whole_or_not_there(
    make_plan: MakePlan, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The disk fills just before `name` is written; later the same call goes on."""
    plan, out = make_plan(steps=12), small_disk / "run"
    train_here(plan, tmp_path / "straight")
    places = {"plan.json": "adopt_plan", CHOICES_FILE: "settle_choices", "metrics.jsonl": "train"}
    places |= {"model": "write_model", "run.json": "to_json"}
    place = places[name]
    before, told = getattr(worker, place), []

    def filled(*values: object, **named: object) -> object:
        # `to_json` is also called for the plan and, with the run, for the trackers.
        told.extend(value for value in values if isinstance(value, Run))
        if name != "run.json" or len(told) == 2:
            fill(small_disk)
        return before(*values, **named)

    monkeypatch.setattr(worker, place, filled)
    with pytest.raises((StoreError, TrainError), match=r"cannot write [\s\S]*No space left") as caught:
        train_here(plan, out)
    assert name in str(caught.value)
    monkeypatch.undo()
    left = {path.name for path in out.rglob("*") if path.is_file()} if out.exists() else set()
    whole = {"plan.json", CHOICES_FILE, "metrics.jsonl", "model.safetensors", "shape.json"}
    assert left <= whole, left
    free(small_disk)
    run = train_here(plan, out)
    assert run.steps == 12
    assert weights(out) == weights(tmp_path / "straight")


def test_a_stop_on_a_full_disk_is_still_a_stop(make_plan: MakePlan, small_disk: Path) -> None:
    """No checkpoint and no stopped.json can be written: exit code and last words say so all the same."""
    plan, out = make_plan(steps=100_000), small_disk / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "stepladder.train.worker", "--plan", str(plan), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"progress"' in line:
            break
    fill(small_disk, LEFT)
    # A page or two are left for lines of metrics.jsonl, none for a checkpoint.
    process.send_signal(signal.SIGTERM)
    said, told = process.communicate()
    assert process.returncode == worker.EXIT_RESUME, told
    assert "Traceback" not in told
    assert "no checkpoint at step" in told
    assert '"stopped"' in said
    assert "without a checkpoint of it (there is none)" in said


@pytest.mark.usefixtures("checkpoints_at_once")
def test_a_line_that_meets_the_last_bytes_of_a_checkpoint_is_written_after_it(
    make_plan: MakePlan,
    tmp_path: Path,
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large checkpoint takes all there is, under a quota, and fails only later; steps do not end there."""
    plan, out = make_plan(steps=STEPS), small_disk / "run"
    train_here(plan, tmp_path / "straight")
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _: None)
    is_waited_for, write, wait = threading.Event(), checkpoint.write_tensors, checkpoint.Checkpointer.wait
    failed: list[str] = []

    def greedy(path: Path, *tensors: Any) -> None:
        if not failed and checkpoints(out):
            failed.append(path.parent.name)
            is_waited_for.clear()
            with open(path, "wb", buffering=0) as file:
                with contextlib.suppress(OSError):
                    while file.write(bytes(4096)):
                        pass
                assert is_waited_for.wait(60)
                file.write(bytes(4096))
        write(path, *tensors)

    def waited(self: checkpoint.Checkpointer) -> None:
        is_waited_for.set()
        wait(self)

    monkeypatch.setattr(checkpoint, "write_tensors", greedy)
    monkeypatch.setattr(checkpoint.Checkpointer, "wait", waited)
    train_here(plan, out)
    assert f"warning: no checkpoint at step {int(failed[0][6:])} (OSError: [Errno 28] No space" in (
        capsys.readouterr().err
    )
    assert weights(out) == weights(tmp_path / "straight")
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == list(range(1, STEPS + 1))


def test_a_stop_is_heard_where_it_cannot_be_written(
    make_plan: MakePlan, small_disk: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = make_plan(steps=STEPS), small_disk / "run"
    write, stop = worker.write_json, threading.Event()

    def full(path: Path, value: object) -> None:
        if path.name == worker.STOPPED_FILE:
            fill(small_disk)
        write(path, value)

    monkeypatch.setattr(worker, "write_json", full)
    stop.set()
    answers = io.StringIO()
    assert worker._train_once(plan, out, stop, answers) == worker.EXIT_RESUME
    assert not (out / worker.STOPPED_FILE).exists()
    assert '"reason": "plan stopped at step 1 of 60"' in answers.getvalue()
