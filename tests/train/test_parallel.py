"""Two real gloo processes against one: the same losses, and checkpoints that either layout reads."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from stepladder.launch.environment import train_command
from stepladder.records import Layout, Plan, from_json, to_json
from stepladder.train.metrics import read_metrics

pytestmark = pytest.mark.dist
MakePlan = Callable[..., Path]


def run(plan: Path, out: Path, layout: Layout) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        train_command(plan, out, layout),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("shard", "optimiser"),
    [
        ("fsdp", "adamw"),
        pytest.param("ddp", "adamw", marks=pytest.mark.slow),  # in test_layouts.py each time
        pytest.param("fsdp", "muon", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(make_plan: MakePlan, tmp_path: Path, shard: str, optimiser: str) -> None:
    two = Layout(processes=2, shard=shard)  # type: ignore[arg-type]
    one = Layout()
    for name, layout in (("one", one), ("two", two)):
        plan = make_plan(name, steps=20, layout=layout, optimiser=optimiser)
        ended = run(plan, tmp_path / f"run-{name}", layout)
        assert ended.returncode == 0, ended.stderr
    expected, actual = (losses(tmp_path / f"run-{name}") for name in ("one", "two"))
    assert pytest.approx(expected, rel=1e-5) == actual
    last = [list(read_metrics(tmp_path / f"run-{name}" / "metrics.jsonl"))[-1] for name in ("one", "two")]
    assert pytest.approx(last[0]["heldout_loss"], rel=1e-5) == last[1]["heldout_loss"]
    assert pytest.approx(last[0]["in_context_score"], abs=1e-4) == last[1]["in_context_score"]
    one_model, two_model = (
        load_file(tmp_path / f"run-{name}" / "model" / "model.safetensors") for name in ("one", "two")
    )
    assert one_model.keys() == two_model.keys()
    assert all(abs(one_model[name] - two_model[name]).max() < 1e-3 for name in one_model)


@pytest.mark.slow
@pytest.mark.parametrize("layouts", ["one then two", "two then one", "two then two"])
def test_a_checkpoint_goes_on_in_another_layout(make_plan: MakePlan, tmp_path: Path, layouts: str) -> None:
    """Stopped at step 10 under one layout, finished under the other: losses as if never stopped."""
    known = {"one": Layout(), "two": Layout(processes=2, shard="fsdp")}
    first, second = (known[word] for word in layouts.split(" then "))
    plan, out = make_plan(steps=20, layout=first), tmp_path / "run"
    assert run(plan, tmp_path / "whole", first).returncode == 0
    stopper = (
        "import os, signal, sys\n"
        "from stepladder.train import worker\n"
        "def reporter(*_):\n"
        "    return lambda step, *_: step == 9 and os.kill(os.getpid(), signal.SIGTERM)\n"
        "worker._reporter = reporter\n"
        "sys.exit(worker.main())\n"
    )
    script = tmp_path / "stopper.py"
    script.write_text(stopper)
    command = train_command(plan, out, first)
    at = command.index("stepladder.train.worker")
    command[at - 1 : at + 1] = [str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    stopped = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (out / "stopped.json").exists(), stopped.stderr
    changed = replace(from_json(Plan, json.loads(plan.read_text())), layout=second)
    plan.write_text(json.dumps(to_json(changed)))
    (out / "plan.json").unlink()
    ended = run(plan, out, second)
    assert ended.returncode == 0, ended.stderr
    expected, actual = losses(tmp_path / "whole"), losses(out)
    assert expected == actual if first == second else pytest.approx(expected, rel=1e-5) == actual


def test_a_batch_that_cannot_be_shared_is_one_clear_error(make_plan: MakePlan, tmp_path: Path) -> None:
    layout = Layout(processes=2, shard="fsdp")
    ended = run(make_plan(batch_tokens=3 * 32, layout=layout), tmp_path / "run", layout)
    events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert [event["got"] for event in events if event["event"] == "failed"] == [
        "a batch of 3 sequences cannot be shared by 2 data replicas"
    ]
    assert sys.platform == "win32" or ended.returncode != 0
