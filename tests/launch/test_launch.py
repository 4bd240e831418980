"""Plans to processes: side by side, resumed, crashed, stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder.errors import TrainError
from stepladder.launch.environment import cores_for, train_command, worker_environment
from stepladder.launch.local import Interrupted, run_plan
from stepladder.launch.pool import JobFailure, run_many
from stepladder.records import Layout, Run

MakePlan = Callable[..., Path]


def test_threads_and_allocator_are_set_and_the_users_wish_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    found = worker_environment(Layout(threads=3))
    names = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    assert [found[name] for name in names] == ["3", str(32 * 2**20), "7"]


def test_several_processes_go_through_torchrun(tmp_path: Path) -> None:
    command = train_command(tmp_path / "p.json", tmp_path / "out", Layout(processes=4, shard="fsdp"))
    assert command[1:8] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--max-restarts",
        "0",
        "--nproc-per-node",
        "4",
    ]


def test_workers_get_a_core_each_only_where_there_are_enough() -> None:
    assert cores_for(10_000, 1) is None
    assert cores_for(1, 2) is None


def test_many_plans_run_side_by_side_and_failures_are_reported(make_plan: MakePlan, tmp_path: Path) -> None:
    plans = [make_plan(f"p{n}", steps=8 + n) for n in range(3)] + [make_plan("bad", batch_tokens=100)]
    jobs = [(plan, tmp_path / f"run-{plan.stem}") for plan in plans]
    heard: dict[str, tuple[int, int]] = {}

    def hear(name: str, done: int, total: int, loss: float) -> None:
        heard[name] = (done, total)
        assert loss > 0

    results = run_many(jobs, workers=2, on_progress=hear)
    assert [type(result) for result in results] == [Run, Run, Run, JobFailure]
    assert [result.name for result in results] == ["p0", "p1", "p2", "bad"]
    assert isinstance(results[3], JobFailure)
    assert "not a multiple of context_tokens" in results[3].reason
    assert heard == {f"p{n}": ((8 + n) * 256, (8 + n) * 256) for n in range(3)}
    # A second call starts nothing: it answers even where no process could be started.
    environment = dict(os.environ)
    try:
        os.environ["PYTHONPATH"] = "/nowhere"
        assert run_many(jobs[:3], workers=2) == results[:3]
    finally:
        os.environ.clear()
        os.environ.update(environment)


def test_a_crashing_job_is_tried_twice_and_the_others_go_on(make_plan: MakePlan, tmp_path: Path) -> None:
    """A job whose folder kills its worker: a watcher kills whoever trains it."""
    victim, other = make_plan("victim", steps=100_000), make_plan("other")
    jobs = [(victim, tmp_path / "victim"), (other, tmp_path / "other")]
    killed: list[int] = []

    def hear(name: str, *_: object) -> None:
        if name == "victim":
            pid = _trainer_of(tmp_path / "victim" / "metrics.jsonl")
            if pid and pid not in killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    first, second = run_many(jobs, workers=1, on_progress=hear)
    assert isinstance(first, JobFailure)
    assert (first.reason, len(killed)) == ("its worker ended with exit code -9, 2 times", 2)
    assert isinstance(second, Run)


def _trainer_of(path: Path) -> int | None:
    """The process that holds a file open."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(Path(os.readlink(link)) == path for link in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:
            continue
    return None


def test_an_interrupt_stops_the_pool_with_checkpoints_and_the_next_call_goes_on(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, out = make_plan("long", steps=300), tmp_path / "run"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_many([(plan, out)], workers=1, on_progress=interrupt)
    (saved,) = (out / "checkpoints").glob("step-*")
    assert 0 < int(saved.name[5:]) < 300
    (run,) = run_many([(plan, out)], workers=1)
    assert isinstance(run, Run)
    assert run.steps == 300


def test_one_plan_survives_a_kill_of_its_process(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = make_plan(steps=200), tmp_path / "run"
    killed: list[int] = []

    def kill(*_: object) -> None:
        pid = _trainer_of(out / "metrics.jsonl")
        if pid and not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    run = run_plan(plan, out, quiet=True, on_progress=kill)
    assert (run.status, run.steps, len(killed)) == ("ok", 200, 1)


def test_a_bad_plan_is_not_tried_again(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="not a multiple of context_tokens"):
        run_plan(make_plan(batch_tokens=100), tmp_path / "run", quiet=True)


def test_a_folder_of_another_plan_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    run_plan(make_plan("one", steps=2), tmp_path / "run", quiet=True)
    with pytest.raises(TrainError, match="these differ: name, tokens"):
        run_plan(make_plan("two", steps=3), tmp_path / "run", quiet=True)


def test_sigterm_to_the_trainer_is_an_interrupt(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = make_plan(steps=20_000), tmp_path / "run"

    def stop(*_: object) -> None:
        if pid := _trainer_of(out / "metrics.jsonl"):
            os.kill(pid, signal.SIGTERM)

    with pytest.raises(Interrupted):
        run_plan(plan, out, quiet=True, on_progress=stop)
    assert len(list((out / "checkpoints").glob("step-*"))) == 1


def test_a_trainer_ends_when_its_owner_is_killed(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = make_plan(steps=100_000), tmp_path / "run"
    script = (
        f"from pathlib import Path\nfrom stepladder.launch.local import run_plan\n"
        f"run_plan(Path({str(plan)!r}), Path({str(out)!r}), quiet=True)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script])
    while not (pid := _trainer_of(out / "metrics.jsonl")):
        assert owner.poll() is None
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    gone = threading.Event()
    while not gone.is_set():
        try:
            os.kill(pid, 0)
            time.sleep(0.1)
        except ProcessLookupError:
            gone.set()
    assert len(list((out / "checkpoints").glob("step-*"))) == 1


@pytest.mark.dist
def test_two_processes_through_the_launcher(make_plan: MakePlan, tmp_path: Path) -> None:
    layout = Layout(processes=2, shard="fsdp")
    run = run_plan(make_plan(layout=layout), tmp_path / "run", quiet=True)
    assert (run.status, run.steps) == ("ok", 12)
    shape = json.loads((tmp_path / "run" / "model" / "shape.json").read_text())
    assert shape["width"] == 32
