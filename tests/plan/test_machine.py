"""What this machine has; measured rates come from the probe or its cache."""

import json
import os
import sys
from dataclasses import replace

import pytest

from stepladder.plan import machine as plan_machine
from stepladder.plan.examine import examination
from stepladder.plan.machine import Machine, cache_folder, machine_from_json, machine_to_json, measure_machine


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_this_machine_is_seen():
    machine = measure_machine(rates="none")
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert 2**28 < machine.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.disk_bytes > 0
    assert machine.cpu
    assert machine.versions["python"] == sys.version.split()[0]
    assert machine.gemm_gflops == {}


def test_json_round_trip():
    machine = measure_machine(rates="none")
    assert machine_from_json(json.loads(json.dumps(machine_to_json(machine)))) == machine


def test_cached_rates_are_used_and_their_absence_is_said():
    without = measure_machine(rates="cached")
    assert any("matrix rates: not measured yet" in line for line in without.missing)
    facts = {
        "cpu": without.cpu,
        "cores": without.cores,
        "gpus": [gpu.name for gpu in without.gpus],
        "versions": dict(without.versions),
    }
    from stepladder.store import fingerprint, write_json

    kept = cache_folder() / f"machine-{fingerprint(facts)}.json"
    write_json(kept, {"gemm_gflops": {"1": {"fp32": 105.0, "bf16": 470.0}}, "allreduce_gbps": 12.5})
    machine = measure_machine(rates="cached")
    assert machine.gemm_gflops == {"fp32": {"1": 105.0}, "bf16": {"1": 470.0}}
    assert machine.allreduce_gbps == 12.5
    kept.write_text("{ truncated")
    assert measure_machine(rates="cached").gemm_gflops == {}


@pytest.mark.parametrize(
    "answer",
    [
        {"fp32": {"1": 100, "2": 190}},
        {"1": {"fp32": 100}, "2": {"fp32": 190}},
    ],
)
def test_rates_may_be_nested_either_way(answer):
    from stepladder.plan.machine import _rates

    assert _rates(answer) == {"fp32": {"1": 100.0, "2": 190.0}}
    assert _rates({"fp32": 100, "bf16": None, "fp16": 0}) == {"fp32": {"1": 100.0}}


def test_the_block_for_an_issue():
    from stepladder.plan.machine import Gpu

    machine = Machine(
        cpu="Test CPU",
        cores=2,
        memory_bytes=2 * 2**30,
        disk_bytes=2**30,
        has_bf16=True,
        gpus=(Gpu(name="NVIDIA H100 80GB HBM3", memory_bytes=85_520_809_984, driver="550.1"),),
        system="Linux 6 x86_64",
        versions={"stepladder": "0.1.0", "python": "3.11.7"},
        gemm_gflops={"fp32": {"2": 190.4, "1": 105.2}},
        allreduce_gbps=12.34,
        missing=("torch: pip install 'stepladder[train]'", "matrix rates: they are measured through torch"),
    )
    assert examination(machine) == [
        "stepladder doctor",
        "  system    Linux 6 x86_64",
        "  cpu       Test CPU, 2 cores to use, bf16 instructions",
        "  memory    2 GiB",
        "  disk      1 GiB free here",
        "  gpu       NVIDIA H100 80GB HBM3, 79.6 GiB, driver 550.1 (catalogue: h100-sxm)",
        "  versions  stepladder 0.1.0, python 3.11.7",
        "  matrices  fp32: GFLOP/s 105 on 1 thread, 190 on 2 threads",
        "  links     all-reduce between two processes: 12.3 GB/s",
        "  missing   torch: pip install 'stepladder[train]'",
        "  missing   matrix rates: they are measured through torch",
        "  warning   little disk: 1 GiB free",
        "  warning   little memory: 2 GiB",
        "  next      pip install 'stepladder[train]'",
    ]


@pytest.mark.parametrize(
    ("flags", "is_intel", "is_fast"),
    [
        ({"avx512_bf16"}, False, True),
        ({"avx512_bf16"}, True, False),
        ({"avx512_bf16", "amx_bf16"}, True, True),
        ({"avx2"}, False, False),
    ],
)
def test_bf16_counts_where_it_is_fast(monkeypatch, flags, is_intel, is_fast):
    monkeypatch.setattr(plan_machine, "is_intel_cpu", lambda: is_intel)
    monkeypatch.setattr(plan_machine, "_cpu", lambda: ("a CPU", flags))
    assert plan_machine.measure_machine(rates="none").has_bf16 == is_fast


def test_what_was_measured_decides_the_precision_of_every_stage():
    machine = replace(plan_machine.measure_machine(rates="none"), gpus=(), has_bf16=True)
    slow = {"fp32": {"1": 161.0}, "fp32_medium": {"1": 154.0}, "bf16": {"1": 84.0}}
    assert plan_machine.usual_precision(machine) == "bf16"
    assert plan_machine.usual_precision(replace(machine, gemm_gflops=slow)) == "fp32"
    assert plan_machine.usual_precision(replace(machine, gemm_gflops=slow | {"bf16": {"1": 400.0}})) == "bf16"
    gpu = plan_machine.Gpu(name="a GPU", memory_bytes=1, driver="1")
    assert plan_machine.usual_precision(replace(machine, gemm_gflops=slow, gpus=(gpu,))) == "bf16"
