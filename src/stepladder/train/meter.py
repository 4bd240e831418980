"""A stretch of time in; joules, their source and the peak of memory out."""

import contextlib
import ctypes
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from stepladder.records import Energy

# Package power of server parts divided by their cores at full load: EPYC 9654 360 W / 96, Xeon 8480+
# 350 W / 56, laptop parts 28 W / 8: 3.5 to 6 W. Used only where no counter can be read.
WATTS_PER_CORE = 5.0
# A RAPL counter of 32 bits in units of 61 µJ wraps after 262 kJ: 6 minutes at 700 W. It updates each
# millisecond, so that 30 s are also long enough for its steps not to matter.
READ_SECONDS = 30.0
_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Energy of this process' share of the machine: call `tick` at every step, `state` for the sum.

    CPU package counters count the whole machine, so that only one process of a node reads them (local rank
    0); a GPU's counter is read by the process that has the GPU. Without a readable counter each process
    estimates its own.
    """

    def __init__(self, before: Mapping[str, float] = {}, *, gpu: int | None = None) -> None:
        """`before` is the `state` to go on from; `gpu` the number of this process' CUDA device."""
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        packages = _readable_packages()
        self._has_packages = bool(packages)
        self._packages = {path: _read(path / "energy_uj") for path in packages} if local_rank == 0 else {}
        self._wants_gpu, self._gpu = gpu is not None, None if gpu is None else _open_gpu(gpu)
        self._gpu_joules = _gpu_joules(self._gpu) if self._gpu else 0.0
        self._cpu_seconds = time.process_time()
        joules = before.get("joules", 0.0)
        # Checkpoints of before sources were recorded: never let what may be an estimate look measured.
        self._estimated = before.get("estimated_joules", joules)
        self._measured = joules - self._estimated
        self._read_at = time.monotonic()

    def tick(self) -> None:
        """Read the counters if they have not been read for READ_SECONDS."""
        if time.monotonic() - self._read_at >= READ_SECONDS:
            self._add()

    def state(self) -> dict[str, float]:
        """`joules` so far and, of these, `estimated_joules`."""
        self._add()
        return {"joules": self._measured + self._estimated, "estimated_joules": self._estimated}

    def energy(self, joules: float, estimated_joules: float) -> Energy:
        """The Energy of sums over all ranks, with its source: that of this rank stands for all."""
        counters = ["RAPL package counters, whole machine"] if self._has_packages else []
        counters += ["NVML"] if self._gpu else []
        told = " + ".join(counters)
        if estimated_joules > 0:
            guess = f"estimate: CPU seconds x {WATTS_PER_CORE:g} W a core"
            measured = joules - estimated_joules
            told = (
                f"{guess} + {measured / joules:.0%} measured ({told or 'before'})" if measured > 0 else guess
            )
        if self._wants_gpu and not self._gpu:
            told += "; the GPU is not counted (pip install 'stepladder[energy]')"
        return Energy(joules=joules, source=told)

    def _add(self) -> None:
        """Add what the counters say since they were last read."""
        self._read_at = time.monotonic()
        for path, before in self._packages.items():
            now = self._packages[path] = _read(path / "energy_uj")
            wrapped = _read(path / "max_energy_range_uj") if now < before else 0
            self._measured += (now - before + wrapped) / 1e6
        now_seconds = time.process_time()
        if not self._has_packages:
            self._estimated += (now_seconds - self._cpu_seconds) * WATTS_PER_CORE
        self._cpu_seconds = now_seconds
        if self._gpu:
            now_joules = _gpu_joules(self._gpu)
            self._measured += now_joules - self._gpu_joules
            self._gpu_joules = now_joules


def reset_peak() -> None:
    """Start the peak of resident memory anew, where Linux lets us (a worker trains many models)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def give_back() -> None:
    """Return what is free inside the heap to the system, where the C library can (glibc).

    What comes next has tensors of other sizes, which would be put beside the holes instead of into them.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_rss_bytes() -> int:
    """Largest resident memory of this process since it started or `reset_peak`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _readable_packages() -> list[Path]:
    packages = []
    for path in sorted(_POWERCAP.glob("*-rapl:[0-9]*")):
        if path.name.count(":") == 1:
            try:
                _read(path / "energy_uj")
            except OSError:
                continue
            packages.append(path)
    return packages


def _read(path: Path) -> int:
    return int(path.read_text())


def _open_gpu(index: int) -> object | None:
    """NVML's handle of CUDA device `index` of this process; None without NVML or an energy counter."""
    try:
        import pynvml
    except ImportError:
        return None
    # CUDA numbers only the devices that it may see, NVML all.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    name = visible[index] if index < len(visible) else str(index)
    try:
        pynvml.nvmlInit()
        by_number = name.isdigit()
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if by_number
            else pynvml.nvmlDeviceGetHandleByUUID(name)
        )
        _gpu_joules(handle)
    except pynvml.NVMLError:
        return None
    return handle


def _gpu_joules(handle: object) -> float:
    import pynvml

    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
