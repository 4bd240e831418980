"""What a run survives without a person: kills, hangs, full disks, damaged checkpoints, at random moments."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder.launch.local import RESTARTS_FILE
from stepladder.records import Layout
from stepladder.train import worker
from stepladder.train.faults import HANG_VARIABLE
from stepladder.train.metrics import read_metrics

MakePlan = Callable[..., Path]
LAYOUTS = {
    "one": Layout(),
    "ddp2": Layout(processes=2, shard="ddp"),
    "fsdp2": Layout(processes=2, shard="fsdp"),
}
# A checkpoint after nearly every step, in workers that torchrun starts as well.
OFTEN = "from stepladder.train import loop\nloop.Job.__init__.__kwdefaults__['checkpoint_seconds'] = {}\n"


class Supervised:
    """`run_plan` of launch/local.py in a process of its own."""

    def __init__(self, plan: Path, out: Path, site: Path, every: float = 0.0, hang: float = 60.0) -> None:
        site.mkdir(exist_ok=True)
        # Read by every Python process that has the folder in its path; only the worker imports the loop.
        (site / "sitecustomize.py").write_text(
            "import sys\nif 'stepladder.train.worker' in sys.orig_argv:\n"
            + "".join(f"    {line}\n" for line in OFTEN.format(every).splitlines())
        )
        script = (
            f"from pathlib import Path\nfrom stepladder.launch.local import run_plan\n"
            f"run_plan(Path({str(plan)!r}), Path({str(out)!r}), quiet=True)"
        )
        path = os.pathsep.join([str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        self.out, self._told = out, site / "stderr.txt"
        # A file: a pipe that nobody reads is full after some tracebacks, and torchrun waits for it.
        with self._told.open("w") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script],
                env=os.environ | {"PYTHONPATH": path, HANG_VARIABLE: str(hang), "OMP_NUM_THREADS": "1"},
                stderr=told,
            )

    def workers(self) -> list[int]:
        """Processes that train, by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                names = dict(
                    word.split(b"=", 1)
                    for word in (folder / "environ").read_bytes().split(b"\0")
                    if b"=" in word
                )
            except OSError:
                continue
            trains = {b"stepladder.train.worker", str(self.out).encode()} <= set(words)
            if trains and b"torch.distributed.run" not in words:
                found[int(names.get(b"RANK", b"0"))] = int(folder.name)
        return [found[rank] for rank in sorted(found)]

    def wait_for_steps(self, more: int) -> None:
        """Until the run has written `more` new lines or is over."""
        wanted = steps(self.out) + more
        while steps(self.out) < wanted and self.process.poll() is None:
            time.sleep(0.02)

    def signal_rank(self, rank: int, number: int) -> bool:
        workers = self.workers()
        if rank >= len(workers):
            return False
        os.kill(workers[rank], number)
        return True

    def end(self) -> tuple[int, str]:
        return self.process.wait(), self._told.read_text()


def steps(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome(out: Path) -> tuple[list[float], bytes]:
    """Losses and final weights."""
    losses = [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
    return losses, (out / "model" / "model.safetensors").read_bytes()


def restarts(out: Path) -> list[dict[str, object]]:
    path = out / RESTARTS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_at_random(plan: Path, tmp_path: Path, kills: int, seed: int, layout: str) -> list[dict[str, object]]:
    """Kill a random rank `kills` times, wherever it is; the restarts that were noted."""
    whole, out, draw = tmp_path / "whole", tmp_path / "killed", random.Random(seed)
    if layout == "one":
        worker.run_plan(plan, whole, threading.Event(), lambda *_: None)
    else:
        assert Supervised(plan, whole, tmp_path / "site").end()[0] == 0
    run = Supervised(plan, out, tmp_path / "site", 0.0)
    for _ in range(kills):
        run.wait_for_steps(draw.randint(1, 6))
        time.sleep(draw.random() * 0.2)
        assert run.signal_rank(draw.randrange(LAYOUTS[layout].processes), signal.SIGKILL)
        gone = len(restarts(out))
        while len(restarts(out)) == gone and run.process.poll() is None:
            time.sleep(0.05)
    code, told = run.end()
    assert code == 0, told
    assert outcome(whole) == outcome(out)
    return restarts(out)


def test_three_kills_end_with_the_same_bits(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(steps=200)
    found = kill_at_random(plan, tmp_path, 3, 1, "one")
    assert [(line["exit_code"], line["reason"]) for line in found] == [(-9, "killed by signal 9")] * 3


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("layout", ["one", pytest.param("fsdp2", marks=pytest.mark.dist)])
def test_twenty_five_kills_end_with_the_same_bits(make_plan: MakePlan, tmp_path: Path, layout: str) -> None:
    plan = make_plan(steps=2000, layout=LAYOUTS[layout])
    assert len(kill_at_random(plan, tmp_path, 25, 2, layout)) == 25


FAULTS = ("killed", "killed main", "hung", "terminated", "full disk", "corrupt")
CASES = [(fault, layout) for fault in FAULTS for layout in LAYOUTS] + [
    ("hung main", "ddp2"),
    ("hung main", "fsdp2"),
]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("fault", "layout"), CASES)
def test_a_run_recovers_without_a_person(
    make_plan: MakePlan, tmp_path: Path, fault: str, layout: str
) -> None:
    """Twenty cases. What is lost is less than the interval: checkpoints are nearly continuous here."""
    plan = make_plan(steps=300, layout=LAYOUTS[layout])
    out, last = tmp_path / "run", LAYOUTS[layout].processes - 1
    run = Supervised(plan, out, tmp_path / "site", 0.0, hang=6.0 if fault.startswith("hung") else 60.0)
    run.wait_for_steps(20)
    rank = 0 if fault.endswith("main") else last
    if fault.startswith("killed"):
        assert run.signal_rank(rank, signal.SIGKILL)
    elif fault.startswith("hung"):
        assert run.signal_rank(rank, signal.SIGSTOP)
    elif fault == "terminated":
        assert run.signal_rank(rank, signal.SIGTERM)
    elif fault == "full disk":
        # No file can be made where checkpoints are, whoever runs this.
        shutil.move(out / "checkpoints", tmp_path / "aside")
        (out / "checkpoints").write_text("in the way")
        run.wait_for_steps(10)
        (out / "checkpoints").unlink()
        shutil.move(tmp_path / "aside", out / "checkpoints")
    else:
        assert run.signal_rank(rank, signal.SIGKILL)
        newest = max((out / "checkpoints").glob("step-*"))
        tensors = max(newest.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
        tensors.write_bytes(tensors.read_bytes()[:-100])
    code, told = run.end()
    if fault == "terminated":
        # One word of ours, and the same command goes on.
        assert "Interrupted" in told
        assert not (out / "run.json").exists()
        code, told = Supervised(plan, out, tmp_path / "site").end()
    assert (code, (out / "run.json").exists()) == (0, True), told
    assert len(restarts(out)) == (0 if fault in ("terminated", "full disk") else 1)
    # A finished job is not started again: nothing is written.
    before = (out / "run.json").stat().st_mtime_ns, steps(out)
    assert Supervised(plan, out, tmp_path / "site").end()[0] == 0
    assert ((out / "run.json").stat().st_mtime_ns, steps(out)) == before
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == list(range(1, 301))
