import json
import subprocess
import sys
import time

import pytest
import torch

from stepladder.train.probe import seconds_of


def test_what_other_programs_take_is_not_in_the_seconds_of_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    # Waiting stands for another program on the core: wall time without CPU time.
    assert seconds_of(lambda: time.sleep(0.02), 0.05) < 0.02
    assert seconds_of(lambda: time.sleep(0.02), 0.05, "cuda") >= 0.02
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert seconds_of(lambda: time.sleep(0.02), 0.05) >= 0.02


@pytest.mark.slow
def test_probe_measures_every_precision_and_the_link() -> None:
    command = [sys.executable, "-m", "stepladder.train.probe", "--json", "--quick"]
    (line,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    figures = json.loads(line)
    assert set(figures["gemm_gflops"]) == {"fp32", "fp32_medium", "bf16"}
    assert all(rate > 0 for rates in figures["gemm_gflops"].values() for rate in rates.values())
    assert figures["allreduce_gbps"] > 0
    errors = {name: row["relative_error"] for name, row in figures["threads"]["1"]["products"].items()}
    # fp32 keeps 24 bits and bf16 keeps 8.
    assert errors["fp32"] < 1e-6 < 1e-3 < errors["bf16"] < 1e-2
    assert {row["context_tokens"] for row in figures["threads"]["1"]["attention"]} == {128, 256, 512, 1024}
