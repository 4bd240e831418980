"""The real process: what it writes, what a kill, a full disk and a bad plan do to it."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepladder.errors import DataError, TrainError
from stepladder.models.transformer import Transformer
from stepladder.records import Degrees, Layout, Run, Shape, from_json
from stepladder.train import worker
from stepladder.train.loop import Stopped, divergence
from stepladder.train.metrics import read_metrics
from stepladder.train.settle import use_fast_fp32

MakePlan = Callable[..., Path]
COMMAND = [sys.executable, "-m", "stepladder.train.worker"]


def nothing(*_: object) -> None:
    pass


def train_here(plan: Path, out: Path) -> Run:
    return worker.run_plan(plan, out, threading.Event(), nothing)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def start(plan: Path, out: Path, code: str = "") -> subprocess.Popen[str]:
    """The worker in a process of its own; `code` runs first (a short checkpoint interval, a limit)."""
    words = ["--plan", str(plan), "--out", str(out)]
    script = f"{code}\nimport sys\nfrom stepladder.train import worker\nsys.exit(worker.main({words!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


# The loop reads the interval from its Job; a test wants a checkpoint after nearly every step.
OFTEN = "from stepladder.train import loop\nloop.Job.__init__.__kwdefaults__['checkpoint_seconds'] = 0.0\n"


def test_a_run_leaves_what_the_contract_says(make_plan: MakePlan, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = train_here(make_plan(steps=30), out)
    lines = list(read_metrics(out / "metrics.jsonl"))
    keys = {"step", "tokens", "loss", "lr", "grad_norm", "seconds"}
    assert all(keys <= set(line) for line in lines)
    assert {"heldout_loss", "heldout_bits_per_byte", "in_context_score"} <= set(lines[-1])
    assert run == from_json(Run, json.loads((out / "run.json").read_text()))
    assert (run.status, run.steps, run.tokens) == ("ok", 30, 30 * 256)
    assert run.heldout_loss < 2.5 < losses(out)[0]
    shape = from_json(Shape, json.loads((out / "model" / "shape.json").read_text()))
    assert run.params == sum(p.numel() for p in Transformer(shape).parameters())


def test_same_seed_same_bits(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    first, second = tmp_path / "a", tmp_path / "b"
    train_here(plan, first)
    train_here(plan, second)
    assert (losses(first), weights(first)) == (losses(second), weights(second))


def test_micro_batches_change_nothing_but_rounding(make_plan: MakePlan, tmp_path: Path) -> None:
    train_here(make_plan("whole"), tmp_path / "whole")
    train_here(make_plan("parts", layout=Layout(micro_batch_sequences=3)), tmp_path / "parts")
    assert pytest.approx(losses(tmp_path / "whole"), rel=1e-5) == losses(tmp_path / "parts")


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recompute_changes_nothing(make_plan: MakePlan, tmp_path: Path, recompute: str) -> None:
    train_here(make_plan("kept"), tmp_path / "kept")
    train_here(make_plan("again", layout=Layout(recompute=recompute)), tmp_path / "again")  # type: ignore
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")


@pytest.mark.parametrize("optimiser", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_kill_and_resume_ends_with_the_same_bits(make_plan: MakePlan, tmp_path: Path, optimiser: str) -> None:
    plan = make_plan(steps=40, optimiser=optimiser)
    train_here(plan, tmp_path / "whole")
    out, draw = tmp_path / "killed", random.Random(5)
    kills = 0
    while not (out / "run.json").exists():
        process = start(plan, out, OFTEN)
        # A moment after the first step that is new: in a step, a checkpoint, a rename, wherever it falls.
        seen = _size(out)
        while _size(out) == seen and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.15)
        if kills < 2:
            process.send_signal(signal.SIGKILL)
        kills += 1
        process.communicate()
    assert kills >= 2
    assert (losses(tmp_path / "whole"), weights(tmp_path / "whole")) == (losses(out), weights(out))


def _size(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def test_sigterm_writes_a_checkpoint_and_says_resume(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = make_plan(steps=4000), tmp_path / "run"
    process = start(plan, out)
    while _size(out) == 0:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == worker.EXIT_RESUME, told
    (saved,) = (out / "checkpoints").glob("step-*")
    assert len(losses(out)) == int(saved.name[5:])


def stopped_run(make_plan: MakePlan, out: Path, at: tuple[int, ...]) -> Path:
    """A run of 12 steps with checkpoints at the steps `at`, stopped at the last."""
    plan = make_plan()
    for step in at:
        stop = threading.Event()
        with pytest.raises(Stopped):
            worker.run_plan(
                plan, out, stop, lambda done, *_, s=step, e=stop: e.set() if done == s - 1 else None
            )
    return plan


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "missing"])
def test_a_damaged_checkpoint_falls_back_and_says_so(
    make_plan: MakePlan, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    plan = stopped_run(make_plan, out, (4, 8))
    newest = out / "checkpoints" / "step-0000008"
    tensors = newest / "state.safetensors"
    content = bytearray(tensors.read_bytes())
    if damage == "truncate":
        tensors.write_bytes(content[:1000])
    elif damage == "flip":
        content[-5] ^= 1
        tensors.write_bytes(content)
    elif damage == "manifest":
        (newest / "manifest.json").write_text("{")
    else:
        tensors.unlink()
    train_here(plan, out)
    assert "step-0000008 is damaged" in capsys.readouterr().err
    train_here(make_plan("plan"), tmp_path / "whole")
    assert losses(tmp_path / "whole") == losses(out)


def test_two_checkpoints_are_kept(make_plan: MakePlan, tmp_path: Path) -> None:
    stopped_run(make_plan, tmp_path / "run", (3, 6, 9))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-0000006", "step-0000009"]


def test_a_checkpoint_of_another_model_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = stopped_run(make_plan, out, (4,))
    value = json.loads(plan.read_text())
    value["shape"]["ffn_width"] = 64
    plan.write_text(json.dumps(value))
    with pytest.raises(TrainError, match="another plan\n  got:     these differ: shape"):
        train_here(plan, out)
    (out / "plan.json").unlink()
    with pytest.raises(TrainError, match="belongs to another model"):
        train_here(plan, out)


def test_a_full_disk_during_a_checkpoint_is_told_and_survived(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = make_plan(steps=12), tmp_path / "run"
    limit = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (60_000, {resource.RLIM_INFINITY}))\n"
    )
    process = start(plan, out, limit + OFTEN)
    _, told = process.communicate()
    # Checkpoints (150 kB) fail one by one, metrics go on; the model at the end does not fit either.
    assert "warning: no checkpoint at step 1" in told
    assert (process.returncode, len(losses(out))) == (worker.EXIT_USER_ERROR, 12)
    assert "cannot write" in told
    assert "Traceback" not in told
    assert list((out / "checkpoints").iterdir()) == []
    process = start(plan, out)
    _, told = process.communicate()
    assert (process.returncode, (out / "run.json").exists()) == (0, True), told


def test_a_full_disk_for_metrics_is_one_clear_error(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = make_plan(steps=200), tmp_path / "run"
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (3_000, {resource.RLIM_INFINITY}))\n"
    process = start(plan, out, limit)
    _, told = process.communicate()
    assert process.returncode == worker.EXIT_USER_ERROR
    assert "metrics.jsonl: the run stopped at its last checkpoint" in told


def test_a_diverging_run_is_flagged(make_plan: MakePlan, tmp_path: Path) -> None:
    run = train_here(make_plan(steps=60, hidden_lr=1e30, embed_lr=1e30, grad_clip=0.0), tmp_path / "run")
    assert run.status.startswith("diverged: ")
    assert not (tmp_path / "run" / "model").exists()
    last = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))[-1]
    assert (last["heldout_loss"], last["status"]) == (None, run.status)


def test_divergence_says_why() -> None:
    assert divergence(2.0, 1.0, 0.5, 7) == "ok"
    assert divergence(float("nan"), 1.0, 0.0, 7) == "diverged: the loss is nan at step 7"
    assert divergence(2.0, float("inf"), 0.0, 7) == "diverged: the gradient's norm is inf at step 7"
    assert divergence(9.0, 1.0, 1.5, 7) == "diverged: the loss stands 1.50 nats above its start at step 7"


def test_bad_plans_are_refused_with_all_reasons(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"not a multiple of context_tokens = 32; hidden_lr = 0"):
        train_here(make_plan(batch_tokens=100, hidden_lr=0.0), tmp_path / "run")
    with pytest.raises(TrainError, match="less than one batch"):
        train_here(make_plan(steps=0), tmp_path / "run")
    with pytest.raises(TrainError, match="say ddp, fsdp or hsdp"):
        train_here(make_plan(layout=Layout(processes=2)), tmp_path / "run2")
    with pytest.raises(TrainError, match="num_kv_heads = 1 is not a multiple of tensor 2"):
        train_here(make_plan(layout=Layout(processes=2, degrees=Degrees(tensor=2))), tmp_path / "run3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_clear_error(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="stepladder doctor"):
        train_here(make_plan(layout=Layout(device="cuda")), tmp_path / "run")


def test_a_truncated_shard_is_refused(make_plan: MakePlan, tmp_path: Path, corpus: Path) -> None:
    plan = make_plan()
    value = json.loads(plan.read_text())
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    value["corpus"] = "corpus"  # relative to the plan
    plan.write_text(json.dumps(value))
    shard = copy / "train" / "00000.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="is not whole"):
        train_here(plan, tmp_path / "run")


def test_serve_answers_job_by_job(make_plan: MakePlan, tmp_path: Path) -> None:
    jobs = [
        {"plan": str(make_plan("good")), "out": str(tmp_path / "good")},
        {"plan": str(tmp_path / "none.json"), "out": str(tmp_path / "none")},
        {"plan": str(make_plan("also")), "out": str(tmp_path / "also")},
    ]
    process = subprocess.Popen(
        [*COMMAND, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    events = []
    for job in jobs:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        while not events or events[-1]["event"] not in ("done", "failed") or events[-1]["out"] != job["out"]:
            events.append(json.loads(process.stdout.readline()))
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()
    ends = [event["event"] for event in events if event["event"] != "progress"]
    assert ends == ["ready", "done", "failed", "done"]


def test_fast_fp32_keeps_fp32_accuracy() -> None:
    use_fast_fp32()
    left, right = torch.randn(64, 512), torch.randn(512, 64)
    exact = left.double() @ right.double()
    assert ((left @ right - exact).norm() / exact.norm()).item() < 1e-6
