"""The script for Slurm, run by a real bash with real trainers; only srun and scontrol are stand-ins."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.cli import main
from stepladder.errors import PlanError
from stepladder.launch.slurm import slurm_script
from stepladder.records import Derived, Layout, Plan, from_json
from stepladder.train.metrics import last_line, read_metrics

MakePlan = Callable[..., Path]

# Starts its command once a node, as a child with its number; hands USR1 on; ends with the largest code.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
nodes = range(int(os.environ["SLURM_NNODES"]))
tasks = [subprocess.Popen(words, env=os.environ | {{"SLURM_NODEID": str(n)}}) for n in nodes]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
# Names of this machine for both nodes; a job that is to be queued again is written down.
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf '%s\\n' localhost localhost; else echo "$@" >> "$REQUEUED"; fi
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on a machine with the stand-ins on its path."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": "1"}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return os.environ | job | {"PATH": path, "REQUEUED": str(tmp_path / "requeued")}


def emitted(plan: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["train", str(plan), "--out", str(out), "--emit", "slurm"]) == 0
    script = out.with_suffix(".sh")
    script.write_text(capsys.readouterr().out)
    return script


def options(script: str) -> dict[str, str]:
    lines = [line[8:] for line in script.splitlines() if line.startswith("#SBATCH --")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_options_follow_the_plan(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = from_json(Plan, json.loads(make_plan("a name; $(x)").read_text()))
    layout = Layout(device="cuda", processes=16, nodes=2, threads=3, shard="fsdp")
    seconds = Derived(value=80_000, low=70_000, high=100_000, how="a test")
    plan = replace(plan, layout=layout, numbers={**plan.numbers, "seconds": seconds})
    script = slurm_script(plan, Path("/shared/plan.json"), Path("/shared/run"))
    assert options(script) == {
        "--job-name": "a-name----x-",
        "--nodes": "2",
        "--ntasks-per-node": "1",
        "--cpus-per-task": "24",
        "--gpus-per-node": "8",
        "--time": "1-10:44:00",
        "--requeue": "",
        "--signal": "B:USR1@120",
        "--open-mode": "append",
        "--output": "/shared/run.slurm-%j.log",
    }
    endless = {**plan.numbers, "seconds": replace(seconds, high=float("inf"))}
    with pytest.raises(PlanError, match="does not say how long"):
        slurm_script(replace(plan, numbers=endless), Path("/p"), Path("/o"))


def test_a_cpu_job_asks_for_no_gpus_and_short_ones_get_half_an_hour(make_plan: MakePlan) -> None:
    plan = from_json(Plan, json.loads(make_plan().read_text()))
    found = options(slurm_script(plan, Path("/p"), Path("/o")))
    assert "--gpus-per-node" not in found
    assert found["--time"] == "0-00:30:00"


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_script_is_sound_bash(make_plan: MakePlan, nodes: int) -> None:
    layout = Layout(processes=2, nodes=nodes, shard="ddp")
    plan = from_json(Plan, json.loads(make_plan("it's a $name", layout=layout).read_text()))
    script = slurm_script(plan, Path("/a place/with 'quotes'/plan.json"), Path("/a place/out"))
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    if tool := shutil.which("shellcheck"):
        told = subprocess.run([tool, "--severity=warning", "-"], input=script, capture_output=True, text=True)
        assert told.stdout == ""


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        pytest.param(
            Layout(processes=2, nodes=2, shard="fsdp"), marks=[pytest.mark.slow, pytest.mark.dist], id="nodes"
        ),
    ],
)
def test_out_of_time_it_writes_a_checkpoint_and_queues_itself_again(
    make_plan: MakePlan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cluster: dict[str, str],
    layout: Layout,
) -> None:
    out, requeued = tmp_path / "run", tmp_path / "requeued"
    script = emitted(make_plan(steps=250, layout=layout), out, capsys)
    environment = cluster | {"SLURM_NNODES": str(layout.nodes)}
    job = subprocess.Popen(["bash", script], env=environment, stderr=subprocess.PIPE, text=True)
    while not last_line(out / "metrics.jsonl"):
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGUSR1)  # to the shell alone, as --signal=B: does
    _, told = job.communicate()
    assert job.returncode == 75, told
    assert requeued.read_text() == f"requeue {os.getpid()}\n"
    (saved,) = (out / "checkpoints").glob("step-*")
    again = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert requeued.read_text() == f"requeue {os.getpid()}\n"
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == list(range(1, 251))
    assert int(saved.name[5:]) < 250


@pytest.mark.slow
def test_a_plan_that_fails_is_not_queued_again(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster: dict[str, str]
) -> None:
    script = emitted(make_plan(batch_tokens=100), tmp_path / "run", capsys)
    done = subprocess.run(
        ["bash", script], env=cluster | {"SLURM_NNODES": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert not (tmp_path / "requeued").exists()


def test_torchrun_is_told_for_each_node(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(layout=Layout(processes=4, nodes=2, shard="fsdp"))
    assert main(["train", str(plan), "--out", str(tmp_path / "run"), "--emit", "torchrun"]) == 0
    first, command, second, other = capsys.readouterr().out.splitlines()
    assert (first, second) == ("# node 0 of 2", "# node 1 of 2")
    assert command.replace("--node-rank 0", "--node-rank 1") == other
    assert "--master-addr HOST_OF_NODE_0 --master-port 29500" in command
    assert "--owner" not in command


@pytest.mark.slow
def test_what_torchrun_is_told_trains(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = make_plan(), tmp_path / "run"
    main(["train", str(plan), "--out", str(out), "--emit", "torchrun"])
    subprocess.run(["bash", "-e"], input=capsys.readouterr().out, text=True, check=True)
    assert json.loads((out / "run.json").read_text())["status"] == "ok"
