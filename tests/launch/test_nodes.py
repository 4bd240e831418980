"""Runs on several nodes: agents on this machine's loopback, and hosts of their own as network namespaces."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.errors import TrainError
from stepladder.launch.environment import Node, train_command
from stepladder.launch.nodes import place
from stepladder.records import Layout, Plan, from_json
from stepladder.train.metrics import last_line, read_metrics

MakePlan = Callable[..., Path]
TWO = Layout(processes=2, nodes=2, shard="fsdp")


def free_port() -> int:
    with socket.socket() as place_holder:
        place_holder.bind(("127.0.0.1", 0))
        return place_holder.getsockname()[1]


def start(plan: Path, out: Path, rank: int, master: str, inside: Sequence[str] = ()) -> subprocess.Popen[str]:
    words = ["-m", "stepladder", "train", str(plan), "--out", str(out)]
    words += ["--node-rank", str(rank), "--master", master]
    return subprocess.Popen(
        [*inside, sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def train_here(plan: Path, out: Path) -> None:
    from stepladder.train.worker import run_plan

    run_plan(plan, out, threading.Event(), lambda *_: None)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


def ended(nodes: Sequence[subprocess.Popen[str]]) -> list[int]:
    """Exit codes of all nodes; what they said is shown when the test fails."""
    for node in nodes:
        print(*node.communicate(), sep="\n")
    return [node.returncode for node in nodes]


def wait_for_steps(out: Path, steps: int, nodes: Sequence[subprocess.Popen[str]]) -> None:
    while last_line(out / "metrics.jsonl").get("step", 0) < steps:
        assert all(node.poll() is None for node in nodes), ended(nodes)
        time.sleep(0.05)


def test_each_node_gets_its_own_words(tmp_path: Path) -> None:
    layout = Layout(processes=16, nodes=2, shard="fsdp", device="cuda")
    command = train_command(
        tmp_path / "p.json", tmp_path, layout, node=Node(rank=1, master="host0:29500"), has_owner=False
    )
    assert command[1:] == [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", "1"),
        *("--master-addr", "host0", "--master-port", "29500", "--max-restarts", "0"),
        *("--nproc-per-node", "8", "-m", "stepladder.train.worker"),
        *("--plan", str(tmp_path / "p.json"), "--out", str(tmp_path)),
    ]


@pytest.mark.parametrize(
    ("nodes", "rank", "master"),
    [(2, None, ""), (2, 2, "host:1"), (2, 0, "host"), (2, 1, ""), (1, 0, "host:1"), (2, -1, "host:1")],
)
def test_words_that_do_not_fit_the_plan_are_refused(
    make_plan: MakePlan, nodes: int, rank: int | None, master: str
) -> None:
    plan = from_json(Plan, json.loads(make_plan().read_text()))
    plan = replace(plan, layout=Layout(processes=2, nodes=nodes, shard="ddp"))
    with pytest.raises(TrainError, match=f"the plan is for {nodes} node"):
        place(plan, rank, master)


def test_one_node_needs_no_words(make_plan: MakePlan) -> None:
    plan = from_json(Plan, json.loads(make_plan().read_text()))
    assert place(plan, None, "") is None
    odd = replace(plan, layout=Layout(processes=3, nodes=2, shard="ddp"))
    with pytest.raises(TrainError, match="cannot be shared equally"):
        place(odd, 1, "host:1")


@pytest.mark.dist
def test_two_nodes_train_as_one_process(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, master = make_plan("two", layout=TWO), f"127.0.0.1:{free_port()}"
    nodes = [start(plan, tmp_path / "two", rank, master) for rank in (1, 0)]
    assert ended(nodes) == [0, 0]
    train_here(make_plan("one"), tmp_path / "one")
    assert pytest.approx(losses(tmp_path / "one"), rel=1e-5) == losses(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "nodes" / "attempt.json").read_text())["state"] == "over"


def trainers(out: Path) -> list[int]:
    """Trainers of a run, whichever node they belong to."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"stepladder.train.worker" in words and b"torch.distributed.run" not in words:
            found += [int(path.parent.name)] if str(out).encode() in words else []
    return found


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("rank", [0, 1])
def test_a_trainer_killed_on_one_node_starts_all_anew(make_plan: MakePlan, tmp_path: Path, rank: int) -> None:
    plan, master, out = make_plan(steps=600, layout=TWO), f"127.0.0.1:{free_port()}", tmp_path / "run"
    nodes = [start(plan, out, number, master) for number in (0, 1)]
    wait_for_steps(out, 5, nodes)
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in trainers(out)}
    (victim,) = (pid for pid, words in environments.items() if f"RANK={rank}".encode() in words)
    os.kill(victim, signal.SIGKILL)
    assert ended(nodes) == [0, 0]
    assert json.loads((out / "nodes" / "attempt.json").read_text())["number"] == 2
    assert last_line(out / "metrics.jsonl")["step"] == 600


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_node_stops_all_with_a_checkpoint(
    make_plan: MakePlan, tmp_path: Path, rank: int
) -> None:
    plan, master, out = make_plan(steps=600, layout=TWO), f"127.0.0.1:{free_port()}", tmp_path / "run"
    nodes = [start(plan, out, number, master) for number in (0, 1)]
    wait_for_steps(out, 5, nodes)
    nodes[rank].send_signal(signal.SIGUSR1)
    assert ended(nodes) == [75, 75]
    assert len(list((out / "checkpoints").glob("step-*"))) == 1
    again = [start(plan, out, number, master) for number in (1, 0)]
    assert ended(again) == [0, 0]
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == list(range(1, 601))


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces joined by a pair of virtual devices, 10.77.0.1 and 10.77.0.2."""
    names, ip = ["stepladder0", "stepladder1"], shutil.which("ip")
    if ip is None or os.geteuid():
        pytest.skip("network namespaces need root and iproute2")

    def do(words: str) -> bool:
        return subprocess.run([ip, *words.split()], capture_output=True).returncode == 0

    try:
        made = all(do(f"netns add {name}") for name in names)
        made = made and do(f"link add veth0 netns {names[0]} type veth peer name veth0 netns {names[1]}")
        for number, name in enumerate(names, start=1):
            made = made and do(f"-n {name} addr add 10.77.0.{number}/24 dev veth0")
            made = made and do(f"-n {name} link set veth0 up") and do(f"-n {name} link set lo up")
        if not made:
            pytest.skip("this system lets us make no network namespaces")
        yield names
    finally:
        for name in names:
            do(f"netns del {name}")


@pytest.mark.slow
@pytest.mark.dist
def test_two_hosts_train_as_one_process(make_plan: MakePlan, tmp_path: Path, two_hosts: list[str]) -> None:
    plan, out = make_plan("two", layout=TWO), tmp_path / "two"
    # The name of this machine is the same in both: gloo is told which device to listen on.
    inside = ["env", "GLOO_SOCKET_IFNAME=veth0"]
    nodes = [
        start(plan, out, rank, "10.77.0.1:29500", ["ip", "netns", "exec", two_hosts[rank], *inside])
        for rank in (0, 1)
    ]
    assert ended(nodes) == [0, 0]
    train_here(make_plan("one"), tmp_path / "one")
    assert pytest.approx(losses(tmp_path / "one"), rel=1e-5) == losses(out)
