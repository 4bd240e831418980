"""A stretch of time in; joules, their source and the peak of memory out."""

import contextlib
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Package power of server parts divided by their cores at full load: EPYC 9654 360 W / 96, Xeon 8480+
# 350 W / 56, laptop parts 28 W / 8: 3.5 to 6 W. Used only where no counter can be read.
WATTS_PER_CORE = 5.0
_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Joules since the meter started, and where the figure comes from."""

    joules: float
    source: str


class EnergyMeter:
    """Sum of CPU package and GPU energy. Counters that any process can read count the whole machine."""

    def __init__(self, gpus: int = 0) -> None:
        self._packages = _readable_packages()
        self._start = {path: _read(path / "energy_uj") for path in self._packages}
        self._gpus = _open_gpus(gpus)
        self._gpu_start = [_gpu_joules(gpu) for gpu in self._gpus]
        self._cpu_start = time.process_time()

    def read(self) -> Energy:
        """Energy so far: call at least every ten minutes on RAPL, whose counter wraps."""
        gpu = sum(_gpu_joules(gpu) - start for gpu, start in zip(self._gpus, self._gpu_start, strict=True))
        if self._packages:
            cpu = sum(_package_joules(path, self._start[path]) for path in self._packages)
            source = "RAPL package counters, whole machine"
        else:
            cpu = (time.process_time() - self._cpu_start) * WATTS_PER_CORE
            source = f"estimate: CPU seconds x {WATTS_PER_CORE:g} W a core"
        return Energy(joules=cpu + gpu, source=source + (" + NVML" if self._gpus else ""))


def reset_peak() -> None:
    """Start the peak of resident memory anew, where Linux lets us (a worker trains many models)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


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


def _package_joules(path: Path, start: int) -> float:
    used = _read(path / "energy_uj") - start
    if used < 0:
        used += _read(path / "max_energy_range_uj")
    return used / 1e6


def _read(path: Path) -> int:
    return int(path.read_text())


def _open_gpus(count: int) -> list[object]:
    if not count:
        return []
    try:
        import pynvml
    except ImportError:
        return []
    pynvml.nvmlInit()
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]


def _gpu_joules(handle: object) -> float:
    import pynvml

    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
