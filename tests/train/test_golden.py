"""The losses of one fixed small run. A change that is not numerical leaves every bit of them as it is.

Bits depend on the CPU's instructions and on torch: they are kept by both. Where neither is known the losses
are compared to 1e-6. STEPLADDER_RECORD_GOLDEN=1 writes those of this machine, after a numerical change.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepladder.train.metrics import read_metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
STEPS = 20


def machine() -> str:
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def losses_of(plan: Path, out: Path) -> list[str]:
    """Losses and gradient norms as text without rounding, from a process with one thread."""
    words = [sys.executable, "-m", "stepladder.train.worker", "--plan", str(plan), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    return [f"{line['loss']!r} {line['grad_norm']!r}" for line in read_metrics(out / "metrics.jsonl")]


def test_the_golden_run_has_the_same_bits(make_plan: Callable[..., Path], tmp_path: Path) -> None:
    found = losses_of(make_plan(steps=STEPS), tmp_path / "run")
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("STEPLADDER_RECORD_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, machine(): found}, indent=1) + "\n")
        pytest.skip("recorded")
    if machine() in golden:
        assert golden[machine()] == found
        return
    any_machine = next(iter(golden.values()))
    for wanted, line in zip(any_machine, found, strict=True):
        assert float(wanted.split()[0]) == pytest.approx(float(line.split()[0]), rel=1e-6)
