"""Skipped steps, going back, hangs and slow ranks: the decisions, and the real loop that acts on them."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepladder.records import Layout, Recipe, Run
from stepladder.train.faults import (
    EXIT_HUNG,
    HANG_FILE,
    HANG_VARIABLE,
    MOST_ROLL_BACKS,
    PACE_STEPS,
    STUCK_STEPS,
    FaultPolicy,
    Guard,
    Pace,
)
from stepladder.train.loop import Job, Stopped, train
from stepladder.train.metrics import read_metrics
from stepladder.train.parallel import Ranks

SPIKES = FaultPolicy(skips_spikes=True)


def level(guard: Guard, steps: int = 100) -> None:
    draw = np.random.default_rng(1)
    for loss, norm in draw.normal((3.0, 1.0), 0.05, (steps, 2)):
        assert guard.judge(float(loss), float(norm)) == ""


def test_a_spike_is_a_loss_and_a_norm_that_stand_out() -> None:
    guard = Guard(SPIKES, {})
    assert guard.judge(90.0, 90.0) == ""  # too few steps to tell
    level(guard)
    assert guard.judge(9.0, 1.0) == ""
    assert guard.judge(3.0, 9.0) == ""
    assert guard.judge(9.0, 9.0) == "spike: loss 9 and gradient norm 9 are outliers"
    assert (guard.skipped, guard.in_a_row, guard.is_stuck) == (1, 1, False)
    assert Guard(FaultPolicy(), guard.state()).judge(9.0, 9.0) == ""  # fine-tuning meets hard batches


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)]
)
def test_what_is_not_finite_is_skipped(loss: float, norm: float) -> None:
    guard = Guard(FaultPolicy(), {})
    for _ in range(STUCK_STEPS):
        assert not guard.is_stuck
        assert guard.judge(loss, norm)
    assert guard.is_stuck
    json.dumps(guard.state(), allow_nan=False)


def test_a_resumed_guard_decides_as_one_that_went_on() -> None:
    guard = Guard(SPIKES, {})
    level(guard)
    resumed = Guard(SPIKES, json.loads(json.dumps(guard.state())))
    draw = np.random.default_rng(2)
    for loss, norm in draw.normal((3.2, 1.2), 0.4, (300, 2)):
        assert guard.judge(float(loss), float(norm)) == resumed.judge(float(loss), float(norm))
    assert guard.skipped > 0
    assert guard.state() == resumed.state()


def test_the_same_checkpoint_is_tried_twice() -> None:
    guard = Guard(SPIKES, {})
    assert not guard.may_roll_back(0)
    assert [guard.may_roll_back(7) for _ in range(3)] == [True] * MOST_ROLL_BACKS + [False]
    assert guard.may_roll_back(9)


def test_the_slowest_rank_is_named_and_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    others = [1.0, 1.0, 1.8]

    def add(values: list[float]) -> list[float]:
        return [values[0] or others[0], *others[1:]]

    pace = Pace(0, 3, add, wall=True)
    for step in range(1, 4 * PACE_STEPS + 1):
        pace.start()
        pace.stop()
        pace._seconds = 1.0 * pace._steps
        told = pace.report(step)
        assert told == ({} if step % PACE_STEPS else {"slowest_rank": 2, "slowest_ratio": 1.8})
    assert capsys.readouterr().err.count("rank 2 takes 1.8 times as long") == 1


class Numbers:
    """Batches of a line to fit; those numbered `bad` hold NaN, those of `wild` are 100 times too large."""

    def __init__(self, bad: Collection[int] = (), wild: Collection[int] = ()) -> None:
        self.consumed, self._bad, self._wild = 0, bad, wild

    def next(self) -> list[tuple[Tensor, Tensor]]:
        self.consumed += 1
        draw = torch.Generator().manual_seed(self.consumed)
        x = torch.randn(16, 4, generator=draw)
        y = x.sum(1, keepdim=True) + torch.randn(16, 1, generator=draw)
        if self.consumed in self._bad:
            x = x * math.nan
        return [(x, y * 100 if self.consumed in self._wild else y)]


class Squares:
    def count(self, batch: Any) -> int:
        return len(batch[0])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().sum()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"heldout_loss": 1.0, "heldout_bits_per_byte": 1.0}


def fit(
    out: Path,
    batches: Numbers,
    steps: int = 30,
    checkpoint_seconds: float = 0.0,
    stop_at: int = 0,
    policy: FaultPolicy = SPIKES,
) -> tuple[Run, nn.Module]:
    """The real loop on a small model, until `stop_at` (0: the end)."""
    stop = threading.Event()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1))
    job = Job(
        name="line",
        recipe=Recipe(batch_tokens=16, embed_lr=0.05, head_lr=0.05, hidden_lr=0.05),
        layout=Layout(),
        ranks=Ranks(rank=0, world=1, device=torch.device("cpu")),
        steps=steps,
        folder=out,
        stop=stop,
        on_step=lambda step, *_: stop.set() if step == stop_at else None,
        checkpoint_seconds=checkpoint_seconds,
        faults=policy,
    )
    return train(model, Squares(), batches, job), model


def lines(out: Path) -> list[dict[str, Any]]:
    return list(read_metrics(out / "metrics.jsonl"))


def test_a_bad_batch_is_skipped_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = fit(tmp_path, Numbers(bad={12}))
    assert (run.status, run.steps, len(lines(tmp_path))) == ("ok", 30, 30)
    assert all(p.isfinite().all() for p in model.parameters())
    told = [line for line in lines(tmp_path) if "skipped" in line]
    assert [(line["step"], line["loss"], line["skipped"], line["skipped_steps"]) for line in told] == [
        (12, None, "the loss is nan", 1)
    ]
    assert capsys.readouterr().err == "warning: line skipped step 12: the loss is nan\n"


def test_a_skipped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    _, whole = fit(tmp_path / "whole", Numbers(bad={12, 15}, wild={90}), steps=100)
    for stop_at in (13, 89):
        with pytest.raises(Stopped):
            fit(tmp_path / "parts", Numbers(bad={12, 15}, wild={90}), steps=100, stop_at=stop_at)
    _, parts = fit(tmp_path / "parts", Numbers(bad={12, 15}, wild={90}), steps=100)
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [
        line["loss"] for line in lines(tmp_path / "parts")
    ]
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters(), strict=True))
    assert "spike" in lines(tmp_path / "parts")[89]["skipped"]


def test_many_bad_batches_lead_back_and_past_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped):  # leaves one checkpoint, of step 10 or 11
        fit(tmp_path, Numbers(), checkpoint_seconds=1e9, stop_at=10)
    batches = Numbers(bad=range(15, 20))
    run, _ = fit(tmp_path, batches, checkpoint_seconds=1e9)
    assert (run.status, [line["step"] for line in lines(tmp_path)]) == ("ok", list(range(1, 31)))
    (told,) = [line for line in lines(tmp_path) if "rolled_back_to" in line]
    assert (told["rolled_back_to"], told["rolled_back_from"], told["step"]) == (11, 19, 12)
    assert batches.consumed == 30 + 19 - 11
    assert "line went back from step 19 to 11" in capsys.readouterr().err


def test_after_two_tries_the_run_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path, Numbers(), checkpoint_seconds=1e9, stop_at=10)
    batches = Numbers(bad=range(15, 1000))
    run, _ = fit(tmp_path, batches, checkpoint_seconds=1e9)
    assert run.status == "diverged: the loss is nan at step 16"
    assert batches.consumed == 19 + 2 * STUCK_STEPS


def test_without_a_checkpoint_there_is_no_way_back(tmp_path: Path) -> None:
    run, _ = fit(tmp_path, Numbers(bad=range(4, 1000)), checkpoint_seconds=1e9)
    assert run.status == "diverged: the loss is nan at step 8"


def test_a_lasting_rise_is_accepted(tmp_path: Path) -> None:
    run, _ = fit(tmp_path, Numbers(wild=range(80, 200)), steps=90, checkpoint_seconds=1e9)
    skipped = [line["step"] for line in lines(tmp_path) if "skipped" in line]
    assert skipped == [80, 81, 82, 83, 84]
    assert run.status.startswith("diverged: the loss stands")  # a hundredfold rise is more than a new level


def test_a_hang_ends_the_process_with_stacks_and_a_code_of_its_own(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from stepladder.train.faults import Watchdog, hang_seconds\n"
        "with Watchdog(Path(sys.argv[1]), 3, hang_seconds()) as watch:\n"
        "    watch.beat(1)\n    with watch.slow():\n        time.sleep(0.8)\n"
        "    watch.beat(2)\n    time.sleep(600)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {HANG_VARIABLE: "0.4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == EXIT_HUNG, ended.stderr
    assert "rank 3 hangs" in ended.stderr
    assert "most recent call first" in ended.stderr
    told = json.loads((tmp_path / HANG_FILE).read_text())
    assert (told["rank"], told["step"]) == (3, 2)
