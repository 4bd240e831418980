"""Local processes on real tasks: same bytes, killed processes, types of errors, nothing left behind."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stepladder.data.options import Cleaning, Reading
from stepladder.data.sources.listing import list_files
from stepladder.data.steps import run_step
from stepladder.data.worker import LocalPool, outcome
from stepladder.errors import DataError, FingerprintError, MissingExtraError, StepladderError, StoreError

READ = {
    "piece_bytes": 1 << 20,
    "reading": asdict(Reading()),
    "cleaning": asdict(Cleaning()),
}


def run_tasks(
    step: str, tasks: Sequence[Mapping[str, Any]], workers: int, on_done: Callable[[int, Any], None]
) -> list[Any]:
    """Results of one step."""
    with LocalPool(workers) as pool:
        return pool.run(step, tasks, on_done)


def read_tasks(files: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """A task of the step `read` for each of the files."""
    return [
        {**READ, "folder": str(folder), "index": index, "files": [file]} for index, file in enumerate(files)
    ]


def outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that tasks left in their folder, but for temporary names of the killed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def workers_of(owner: int) -> list[int]:
    """Process ids of the worker processes that `owner` started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == owner and b"worker import serve" in process.joinpath("cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true value of `what`."""
    for _ in range(3000):
        if value := what():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in 30 s")


def ignore(_index: int, _result: object) -> None: ...


@pytest.fixture
def files(tmp_path: Path, make_text: Callable[[int, int], str]) -> list[dict[str, Any]]:
    """Six texts as JSON values of source files."""
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(make_text(number, 3000))
    return [dataclasses.asdict(file) for file in list_files([str(tmp_path)])]


@pytest.fixture
def stuck(tmp_path: Path, files: list[dict[str, Any]]) -> dict[str, Any]:
    """A file whose reading does not end within a test: a hole of 1 TiB."""
    (tmp_path / "stuck.txt").touch()
    os.truncate(tmp_path / "stuck.txt", 1 << 40)
    return {**files[0], "name": "stuck.txt", "path": str(tmp_path / "stuck.txt")}


@pytest.fixture
def expected(tmp_path: Path, files: list[dict[str, Any]]) -> dict[str, str]:
    """What the tasks leave when this process runs them."""
    run_tasks("read", read_tasks(files, tmp_path / "one"), 1, ignore)
    return outputs(tmp_path / "one")


def test_results_come_in_order_and_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, files: list[dict[str, Any]], expected: dict[str, str]
) -> None:
    told: dict[int, Any] = {}
    results = run_tasks("read", read_tasks(files, tmp_path / "two"), 2, told.__setitem__)
    assert run_tasks("read", read_tasks(files, tmp_path / "one"), 1, ignore) == results
    assert 6 == len({json.dumps(result) for result in results})
    assert dict(enumerate(results)) == told
    assert expected == outputs(tmp_path / "two")


def test_processes_are_kept_for_the_next_step(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    with LocalPool(2) as pool:
        pool.run("read", read_tasks(files, tmp_path / "first"), ignore)
        first = workers_of(os.getpid())
        pool.run("read", read_tasks(files, tmp_path / "second"), ignore)
        assert sorted(first) == sorted(workers_of(os.getpid()))
        assert 2 == len(first)
    assert [] == workers_of(os.getpid())
    assert outputs(tmp_path / "first") == outputs(tmp_path / "second")


def test_finished_tasks_are_not_run_again(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    tasks = read_tasks(files, tmp_path / "out")
    results = run_tasks("read", tasks, 2, ignore)
    for file in files:
        os.unlink(file["path"])
    assert results == run_tasks("read", tasks, 2, ignore)


def test_a_killed_process_is_replaced(
    tmp_path: Path, files: list[dict[str, Any]], expected: dict[str, str]
) -> None:
    killed = []

    def kill_all(index: int, _result: object) -> None:
        if not killed:
            killed.extend(workers_of(os.getpid()))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    run_tasks("read", read_tasks(files, tmp_path / "two"), 2, kill_all)
    assert 2 == len(killed)
    assert expected == outputs(tmp_path / "two")


def test_a_process_that_died_idle_costs_nothing(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    with LocalPool(2) as pool:
        pool.run("read", read_tasks(files[:2], tmp_path / "first"), ignore)
        for pid in workers_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        assert 6 == len(pool.run("read", read_tasks(files, tmp_path / "second"), ignore))


def test_a_task_that_always_dies_is_named(
    tmp_path: Path, files: list[dict[str, Any]], stuck: dict[str, Any]
) -> None:
    done: list[int] = []
    ended = threading.Event()

    def kill_the_stuck() -> None:
        while not ended.wait(0.02):
            for pid in workers_of(os.getpid()) if len(done) == 2 else ():
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_stuck)
    killer.start()
    try:
        with pytest.raises(DataError) as caught:
            run_tasks(
                "read",
                read_tasks([files[0], stuck, files[1]], tmp_path / "out"),
                2,
                lambda index, _: done.append(index),
            )
    finally:
        ended.set()
        killer.join()
    assert "a process of the step read died 3 times at the same task" == caught.value.wrong
    assert "stuck.txt (SIGKILL)" == caught.value.got
    assert [0, 2] == sorted(done)
    assert [] == workers_of(os.getpid())


def test_an_error_has_the_type_that_the_task_raised(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    tasks = read_tasks(files, tmp_path / "out")
    (tmp_path / "out" / "read").mkdir(parents=True)
    damaged = tmp_path / "out" / "read" / "00001.json"
    damaged.write_text("{")
    with pytest.raises(StoreError) as here:
        run_step("read", tasks[1])
    with pytest.raises(StoreError) as there:
        run_tasks("read", tasks, 2, ignore)
    assert (StoreError, str(here.value)) == (type(there.value), str(there.value))
    damaged.unlink()
    assert 6 == len(run_tasks("read", tasks, 2, ignore))


def test_a_fault_of_ours_is_no_user_error(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    tasks = read_tasks(files, tmp_path / "out")
    del tasks[3]["files"]
    with pytest.raises(RuntimeError, match="KeyError: 'files'"):
        run_tasks("read", tasks, 2, ignore)
    assert [] == workers_of(os.getpid())


@pytest.mark.parametrize(
    "error",
    [
        DataError("a", got="b", allowed="c", next_command="d"),
        FingerprintError("a"),
        MissingExtraError("reading HTML", "html"),
    ],
)
def test_every_error_survives_the_way_home(error: StepladderError) -> None:
    told = {name: getattr(error, name) for name in ("wrong", "got", "allowed", "next_command")}
    with pytest.raises(type(error)) as caught:
        outcome({"error": type(error).__name__, **told}, {}, "read")
    assert str(error) == str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_tasks_cost_is_known(tmp_path: Path, files: list[dict[str, Any]], workers: int) -> None:
    with LocalPool(workers) as pool:
        pool.run("read", read_tasks(files, tmp_path / "out"), ignore)
        first = pool.spent["read"].cpu_seconds
        pool.run("read", read_tasks(files, tmp_path / "out"), ignore)
    spent = pool.spent["read"]
    assert ["read"] == list(pool.spent)
    assert 12 == spent.tasks
    assert first <= spent.cpu_seconds < 2 * first
    assert 10_000_000 < spent.peak_bytes < 10_000_000_000


def test_what_the_caller_raises_ends_the_processes(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    def full(_index: int, _result: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_tasks("read", read_tasks(files, tmp_path / "out"), 2, full)
    assert [] == workers_of(os.getpid())


CALLER = """
import json, sys
from stepladder.data.worker import LocalPool
with LocalPool(2) as pool:
    pool.run("read", json.loads(sys.argv[1]), lambda index, result: print(index, flush=True))
"""


@pytest.mark.parametrize("everyone", [True, False])
def test_an_interrupt_leaves_no_process_and_no_torn_file(
    tmp_path: Path, files: list[dict[str, Any]], stuck: dict[str, Any], everyone: bool
) -> None:
    """As from the keyboard, which reaches the workers too, and by `kill -INT` of the caller alone."""
    tasks = read_tasks([files[0], stuck, files[1]], tmp_path / "out")
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, json.dumps(tasks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert caller.stdout is not None
    assert {b"0\n", b"2\n"} == {caller.stdout.readline(), caller.stdout.readline()}
    workers = wait_for(lambda: workers_of(caller.pid))
    (os.killpg if everyone else os.kill)(caller.pid, signal.SIGINT)
    _, told = caller.communicate(timeout=30)
    assert -signal.SIGINT == caller.returncode
    assert [1, 0] == [told.count(b"\nKeyboardInterrupt"), told.count(b"BrokenPipe")]
    assert [] == [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert {"read/00000.json", "read/00002.json"} <= set(outputs(tmp_path / "out"))
    assert "read/00001.json" not in outputs(tmp_path / "out")


def test_workers_end_when_their_owner_is_killed(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, json.dumps(read_tasks(files, tmp_path / "out"))],
        stdout=subprocess.PIPE,
    )
    assert caller.stdout is not None
    caller.stdout.readline()
    workers = wait_for(lambda: workers_of(caller.pid))
    caller.kill()
    caller.communicate(timeout=30)
    wait_for(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])
