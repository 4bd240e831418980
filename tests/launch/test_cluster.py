"""The tasks on a Ray cluster of two nodes: same bytes as local processes, also when one of them is lost."""

import dataclasses
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stepladder.data.options import Cleaning, Reading
from stepladder.data.sources.listing import list_files
from stepladder.data.worker import LocalPool
from stepladder.errors import DataError, MissingExtraError, StoreError
from stepladder.launch.cluster import RayPool, executor, installed, on_node

READ = {
    "piece_bytes": 1 << 20,
    "reading": asdict(Reading()),
    "cleaning": asdict(Cleaning(quality=False, pii="keep")),
}
TASKS = 12
DRIVER = {"packages": installed(), "directory": os.getcwd(), "marker": ".cluster-0"}

with_ray = [
    pytest.mark.slow,
    # Ray leaves its own sockets and processes to the collector, and announces coming changes of itself.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def run_tasks(
    step: str, tasks: Sequence[Mapping[str, Any]], workers: int, on_done: Callable[[int, Any], None]
) -> list[Any]:
    """Results of one step."""
    with LocalPool(workers) as pool:
        return pool.run(step, tasks, on_done)


def run_tasks_on_ray(
    step: str,
    tasks: Sequence[Mapping[str, Any]],
    on_done: Callable[[int, Any], None],
    address: str = "auto",
) -> list[Any]:
    """Results of one step on a cluster."""
    with RayPool(address) as pool:
        return pool.run(step, tasks, on_done)


def read_tasks(files: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """`TASKS` tasks of the step `read`."""
    parts = [files[number::TASKS] for number in range(TASKS)]
    return [
        {**READ, "folder": str(folder), "index": index, "files": part} for index, part in enumerate(parts)
    ]


def outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that tasks left in their folder, but for temporary names of the killed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def running_tasks(owner: int = 0) -> list[int]:
    """Process ids of Ray's workers below `owner` (0: this process) that run a task at this moment."""
    parents, named = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(process.name)
            parents[pid] = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if process.joinpath("cmdline").read_bytes().startswith(b"ray::on_node"):
                named.append(pid)
        except OSError:
            continue

    def is_below(pid: int) -> bool:
        while pid not in (0, owner or os.getpid()):
            pid = parents.get(pid, 0)
        return pid != 0

    return [pid for pid in named if is_below(pid)]


def endless(file: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file whose reading does not end within a test: a hole of 1 TiB."""
    path.touch()
    os.truncate(path, 1 << 40)
    return {**file, "name": path.name, "path": str(path)}


def ignore(_index: int, _result: object) -> None: ...


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """About 4 MB of the standard library as JSON values of source files."""
    folder = tmp_path_factory.mktemp("library")
    library, held = Path(sysconfig.get_path("stdlib")), 0
    for path in sorted(library.glob("*.py")):
        if held < 4_000_000:
            shutil.copy(path, folder / path.name)
            held += path.stat().st_size
    return [dataclasses.asdict(file) for file in list_files([str(folder)])]


@pytest.fixture(scope="module")
def expected(files: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the tasks leave when two local processes run them."""
    folder = tmp_path_factory.mktemp("local")
    run_tasks("read", read_tasks(files, folder), 2, ignore)
    return outputs(folder)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """A cluster of a head and one more node with one CPU each; yields it and the second node."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        yield nodes, second
    finally:
        nodes.shutdown()


class TestOnTwoNodes:
    pytestmark = with_ray

    @pytest.fixture(autouse=True)
    def leftovers(self) -> Iterator[None]:
        """What Ray leaves to the collector is collected here, not in another test."""
        yield
        gc.collect()

    def test_same_bytes_as_local_processes(
        self, tmp_path: Path, files: list[dict[str, Any]], expected: dict[str, str], two_nodes: Any
    ) -> None:
        told: dict[int, Any] = {}
        tasks = read_tasks(files, tmp_path)
        results = run_tasks_on_ray("read", tasks, told.__setitem__, address=two_nodes[0].address)
        assert dict(enumerate(results)) == told
        assert run_tasks("read", tasks, 1, ignore) == results
        assert expected == outputs(tmp_path)

    def test_a_killed_process_changes_nothing(
        self, tmp_path: Path, files: list[dict[str, Any]], expected: dict[str, str], two_nodes: Any
    ) -> None:
        killed = []

        def kill_one(_index: int, _result: object) -> None:
            for pid in running_tasks() if not killed else ():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        run_tasks_on_ray("read", read_tasks(files, tmp_path), kill_one, address=two_nodes[0].address)
        assert killed
        assert expected == outputs(tmp_path)

    def test_a_lost_node_changes_nothing(
        self, tmp_path: Path, files: list[dict[str, Any]], expected: dict[str, str], two_nodes: Any
    ) -> None:
        nodes, second = two_nodes
        raylet = second.all_processes["raylet"][0].process.pid
        lost = []

        def lose(_index: int, _result: object) -> None:
            if not lost and (busy := running_tasks(raylet)):
                lost.extend(busy)
                nodes.remove_node(second, allow_graceful=False)

        run_tasks_on_ray("read", read_tasks(files, tmp_path), lose, address=nodes.address)
        assert 1 == len(lost)
        assert expected == outputs(tmp_path)

    def test_errors_of_tasks_come_home_as_they_are(
        self, tmp_path: Path, files: list[dict[str, Any]], two_nodes: Any
    ) -> None:
        tasks = read_tasks(files, tmp_path / "out")
        (tmp_path / "out" / "read").mkdir(parents=True)
        (tmp_path / "out" / "read" / "00001.json").write_text("{")
        # A name that means a file in this process and none in another.
        own = {**files[0], "path": f"/proc/self/task/{os.getpid()}/comm"}
        with executor(f"ray:{two_nodes[0].address}", 2) as pool:
            with pytest.raises(StoreError, match="not readable JSON"):
                pool.run("read", tasks, ignore)
            with pytest.raises(DataError, match="does not see files that the driver sees"):
                pool.run("read", [{**tasks[2], "files": [own]}], ignore)
            with pytest.raises(RuntimeError, match="KeyError: 'reading'"):
                pool.run("read", [{"folder": str(tmp_path / "out"), "index": 99}], ignore)
            # Nothing runs on, no marker is left, and the pool still works.
            assert [] == running_tasks()
            assert [] == list((tmp_path / "out").glob(".cluster-*"))
            (tmp_path / "out" / "read" / "00001.json").unlink()
            assert TASKS == len(pool.run("read", tasks, ignore))
            assert pool.spent["read"].cpu_seconds > 0

    def test_a_task_that_always_dies_is_named(
        self, tmp_path: Path, files: list[dict[str, Any]], two_nodes: Any
    ) -> None:
        stuck = endless(files[0], tmp_path / "stuck.txt")
        task = {**READ, "folder": str(tmp_path / "out"), "index": 0, "files": [stuck]}
        ended, killed = threading.Event(), set()

        def kill() -> None:
            while not ended.wait(0.1):
                for pid in running_tasks():
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(DataError) as caught:
                run_tasks_on_ray("read", [task], ignore, address=two_nodes[0].address)
        finally:
            ended.set()
            killer.join()
        assert "a process of the step read died 3 times at the same task" == caught.value.wrong
        assert "stuck.txt (WorkerCrashedError)" == caught.value.got
        assert 3 == len(killed)

    def test_an_interrupt_ends_the_tasks(
        self, tmp_path: Path, files: list[dict[str, Any]], two_nodes: Any
    ) -> None:
        stuck = endless(files[0], tmp_path / "stuck.txt")
        tasks = read_tasks(files, tmp_path / "out")
        tasks[0]["files"] = [stuck]

        def interrupt(_index: int, _result: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        with executor(f"ray:{two_nodes[0].address}", 2) as pool:
            with pytest.raises(KeyboardInterrupt):
                pool.run("read", tasks, interrupt)
            for _ in range(100):
                if not running_tasks():
                    break
                time.sleep(0.1)
            assert [] == running_tasks()
        assert [] == list((tmp_path / "out").glob(".cluster-*"))

    def test_a_cluster_of_this_machine_alone_and_a_relative_folder(
        self,
        tmp_path: Path,
        files: list[dict[str, Any]],
        expected: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("ray", reason="needs the extra ray")
        with executor("ray:local", 2) as pool:
            monkeypatch.chdir(tmp_path)
            pool.run("read", read_tasks(files, Path("out")), ignore)
        assert expected == outputs(tmp_path / "out")

    def test_no_cluster_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("ray", reason="needs the extra ray")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(DataError, match="no Ray cluster answers"), executor("ray", 2):
            pass


def test_a_node_without_the_folder_refuses(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    task = read_tasks(files, tmp_path / "elsewhere")[0]
    told = on_node("read", task, DRIVER, [])
    assert told["wrong"].endswith("does not see the output folder of the driver")
    assert str(tmp_path / "elsewhere") == told["got"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_node_without_the_sources_refuses(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    gone = {**files[0], "path": str(tmp_path / "gone.txt")}
    task = {**READ, "folder": str(tmp_path), "index": 0, "files": [files[1], gone]}
    (tmp_path / ".cluster-0").write_text("")
    told = on_node("read", task, DRIVER, [])
    assert told["wrong"].endswith("does not see files that the driver sees")
    assert gone["path"] == told["got"]
    # What the driver does not see either is for the step to judge.
    assert on_node("read", task, DRIVER, [gone["path"]])["result"]["quarantined"]["documents"] == 1
    entries = (tmp_path / "read" / "00000.quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert ["No such file or directory"] == [json.loads(entry)["reason"] for entry in entries]


def test_a_node_with_other_packages_refuses(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    (tmp_path / ".cluster-0").write_text("")
    driver = {**DRIVER, "packages": {**installed(), "polars": "0.1"}}
    told = on_node("read", read_tasks(files, tmp_path)[0], driver, [])
    assert f"polars {installed()['polars']}, not 0.1" == told["got"]


def test_executors_by_name() -> None:
    with executor("local", 2) as pool:
        assert isinstance(pool, LocalPool)
    with pytest.raises(DataError, match='did you mean "local"'):
        executor("lokal", 2)


def test_a_missing_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError) as caught:
        run_tasks_on_ray("read", [], ignore)
    assert "the Ray executor needs packages that are not installed" == caught.value.wrong
    assert "pip install 'stepladder[ray]'" == caught.value.next_command
