"""Nothing in; what this machine has and how fast it computes out, without loading torch.

Matrix rates and links are measured by `python -m stepladder.train.probe --json` in a process of its own
and kept in the user's cache folder for as long as machine and versions stay the same.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stepladder import __version__
from stepladder.errors import StoreError
from stepladder.records import from_json, to_json
from stepladder.store import fingerprint, read_json, write_json

Rates = Literal["measure", "cached", "refresh", "none"]
_PROBE_SECONDS, _SMI_SECONDS = 300, 20
_BF16_GAIN = 1.3
_PACKAGES = ("torch", "numpy", "scipy", "polars", "tokenizers", "transformers", "pynvml")
# Package to install for a module that is missing, by the extra that brings it.
_EXTRAS = {"torch": "train", "polars": "data", "tokenizers": "data"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU as its driver names it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """This machine. `has_bf16`: instructions that should make bf16 faster than fp32. `gemm_gflops[precision]
    [threads]` and `allreduce_gbps` (GB/s) are empty if unmeasured."""

    cpu: str
    cores: int
    memory_bytes: int
    disk_bytes: int
    has_bf16: bool
    gpus: tuple[Gpu, ...]
    system: str
    versions: Mapping[str, str]
    gemm_gflops: Mapping[str, Mapping[str, float]]
    allreduce_gbps: float
    missing: tuple[str, ...]


def measure_machine(*, rates: Rates = "measure", folder: Path = Path()) -> Machine:
    """What is there.

    Args:
        rates: matrix rates: "measure" them unless the cache has them (half a minute), take them only from
            the cache ("cached"), "refresh" them, or leave them out ("none").
        folder: whose disk is looked at.
    """
    missing: list[str] = []
    cpu, flags = _cpu()
    gpus = _gpus(missing)
    versions = {"stepladder": __version__, "python": platform.python_version(), **_versions(missing)}
    facts = {"cpu": cpu, "cores": _cores(), "gpus": [gpu.name for gpu in gpus], "versions": versions}
    measured = {} if rates == "none" else _probed(facts, missing, rates)
    return Machine(
        cpu=cpu,
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        disk_bytes=shutil.disk_usage(folder.resolve()).free,
        has_bf16=_has_fast_bf16(flags),
        gpus=gpus,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=versions,
        gemm_gflops=_rates(measured.get("gemm_gflops")),
        allreduce_gbps=_link(measured.get("allreduce_gbps")),
        missing=tuple(missing),
    )


def kept_probe(cores: int = 0) -> dict[str, Any]:
    """All that the last probe of this machine measured, from the cache alone; empty where there is none.

    `cores` counts those of the machine where this process is held to fewer (a pinned worker).
    """
    cpu, _ = _cpu()
    versions = {"stepladder": __version__, "python": platform.python_version(), **_versions([])}
    gpus = [gpu.name for gpu in _gpus([])]
    for count in dict.fromkeys((_cores(), cores or os.cpu_count() or 1)):
        facts = {"cpu": cpu, "cores": count, "gpus": gpus, "versions": versions}
        if found := _probed(facts, [], "cached"):
            return found
    return {}


def usual_precision(machine: Machine, threads: int = 1) -> Literal["fp32", "bf16"]:
    """What runs are trained in unless the user says: bf16 on a GPU, and on a CPU where its products are
    clearly faster, since casts and norms stay at fp32 speed."""
    if machine.gpus:
        return "bf16"
    if not machine.gemm_gflops:
        return "bf16" if machine.has_bf16 else "fp32"
    rates = machine.gemm_gflops
    fp32 = max(product_rate(rates, name, threads) for name in ("fp32_medium", "fp32"))
    return "bf16" if product_rate(rates, "bf16", threads) > _BF16_GAIN * fp32 else "fp32"


def product_rate(rates: Mapping[str, Mapping[str, float]], name: str, threads: int) -> float:
    """GFLOP/s at the measured thread count nearest to `threads`; 0 when none was measured."""
    found = rates.get(name)
    return found[min(found, key=lambda count: abs(int(count) - threads))] if found else 0.0


def machine_from_json(value: Any) -> Machine:
    """The Machine that `to_json` wrote."""
    return from_json(Machine, value)


def machine_to_json(machine: Machine) -> Any:
    """JSON values of a machine."""
    return to_json(machine)


def _cores() -> int:
    """Cores this process may use: its affinity, and the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def _memory_bytes() -> int:
    amount = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            amount = min(amount, int((Path("/sys/fs/cgroup") / name).read_text()))
    return amount


def _cpu() -> tuple[str, set[str]]:
    name, flags = platform.processor() or platform.machine(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                return name, set(value.split())
    return name, flags


def _has_fast_bf16(flags: set[str]) -> bool:
    """A Xeon with avx512_bf16 and no AMX gave 84 GFLOP/s in bf16 and 161 in fp32 (`stepladder doctor`)."""
    return bool(flags & {"amx_bf16", "bf16"}) or ("avx512_bf16" in flags and not is_intel_cpu())


def is_intel_cpu() -> bool:
    """Whether Intel made this CPU; False where the system does not say."""
    with contextlib.suppress(OSError):
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(errors="replace")
    return False


def _gpus(missing: list[str]) -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
        rows = [line.split(", ") for line in answer.stdout.strip().splitlines()]
        return tuple(
            Gpu(name=name, memory_bytes=int(float(mebibytes)) * 2**20, driver=driver)
            for name, mebibytes, driver in rows
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        missing.append(f"GPU: nvidia-smi is there but does not answer ({error})")
        return ()


def _versions(missing: list[str]) -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
        if name in _EXTRAS and importlib.util.find_spec(name) is None:
            missing.append(f"{name}: pip install 'stepladder[{_EXTRAS[name]}]'")
    return found


def _probed(facts: Mapping[str, Any], missing: list[str], rates: Rates) -> dict[str, Any]:
    if "torch" not in facts["versions"]:
        missing.append("matrix rates: they are measured through torch")
        return {}
    kept = cache_folder() / f"machine-{fingerprint(facts)}.json"
    if rates != "refresh" and kept.exists():
        with contextlib.suppress(StoreError):
            value = read_json(kept)
            if isinstance(value, dict):
                return value
    if rates == "cached":
        missing.append("matrix rates: not measured yet; type: stepladder doctor")
        return {}
    command = [sys.executable, "-m", "stepladder.train.probe", "--json"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True)
        value = json.loads(answer.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        missing.append(f"matrix rates: the probe failed ({last})")
        return {}
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        missing.append(f"matrix rates: the probe gave no answer ({error})")
        return {}
    # A home that cannot be written costs half a minute the next time, nothing else.
    with contextlib.suppress(StoreError, OSError):
        write_json(kept, value)
    return value


def cache_folder() -> Path:
    """Where measurements of the machine and fetched archives are kept (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepladder"


def _rates(value: Any) -> dict[str, dict[str, float]]:
    """GFLOP/s by precision and thread count, whichever of the two the probe nests outermost."""
    rates: dict[str, dict[str, float]] = {}
    for outer, inner in (value or {}).items():
        pairs = inner.items() if isinstance(inner, dict) else [("1", inner)]
        for key, rate in pairs:
            precision, threads = (str(key), str(outer)) if str(outer).isdigit() else (str(outer), str(key))
            if isinstance(rate, (int, float)) and rate > 0:
                rates.setdefault(precision, {})[threads] = float(rate)
    return rates


def _link(value: Any) -> float:
    if isinstance(value, dict):
        value = max((rate for rate in value.values() if isinstance(rate, (int, float))), default=0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0
