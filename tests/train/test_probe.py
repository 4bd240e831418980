import json
import subprocess
import sys

import pytest


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
