import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder.cli import EXIT_RESUME, main
from stepladder.train.metrics import last_line

MakePlan = Callable[..., Path]


def test_dry_run_says_the_cost_and_does_nothing(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(make_plan()), "--out", str(tmp_path / "run"), "--dry-run", "--explain"]) == 0
    said = capsys.readouterr().out
    assert "3.07k tokens in 12 steps of 256" in said
    assert "expected: 1.0 s (1.0 s to 1.0 s), 1 kWh" in said
    assert "precision = fp32" in said
    assert not (tmp_path / "run").exists()


def test_json_is_one_object_and_a_finished_run_is_not_trained_again(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(make_plan()), "--out", str(tmp_path / "run"), "--json"]
    assert main(words) == 0
    (first,) = capsys.readouterr().out.splitlines()
    assert json.loads(first)["steps"] == 12
    last = last_line(tmp_path / "run" / "metrics.jsonl")
    assert {"step", "tokens", "loss", "heldout_loss", "heldout_bits_per_byte", "seconds"} <= set(last)
    changed = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [first]
    assert changed == (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns


def test_the_last_lines_say_cost_speed_and_who_measured(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(make_plan()), "--out", str(tmp_path / "run")]) == 0
    *_, cost, speed = capsys.readouterr().out.splitlines()
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["energy_source"]
    assert f"kWh ({run['energy_source']})" in cost
    assert "tokens a second at the end" in speed


def test_a_missing_plan_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.json"), "--out", str(tmp_path / "run")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_ctrl_c_stops_with_a_checkpoint_and_the_same_command_goes_on(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, out = make_plan(steps=600), tmp_path / "run"
    command = [sys.executable, "-m", "stepladder", "train", str(plan), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not last_line(out / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode in (EXIT_RESUME, 130), told
    assert "Traceback" not in told
    assert len(list((out / "checkpoints").glob("step-*"))) == 1
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "held-out loss" in ended.stdout
    assert last_line(out / "metrics.jsonl")["step"] == 600
