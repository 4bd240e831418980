"""A machine in; lines for people out: what is there, what was measured, what is missing, what to type."""

from stepladder.plan.hardware import device_of_name
from stepladder.plan.machine import Machine
from stepladder.units import format_bytes

# A run keeps a checkpoint of 12 bytes a parameter or more, twice while one replaces the other; corpora of a
# few gigabytes need as much again for their shards.
_LITTLE_DISK, _LITTLE_MEMORY = 5e9, 4e9


def examination(machine: Machine) -> list[str]:
    """The block that `stepladder doctor` prints."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        "stepladder doctor",
        f"  system    {machine.system}",
        f"  cpu       {machine.cpu}, {machine.cores} cores to use"
        + (", bf16 instructions" if machine.has_bf16 else ", no fast bf16 instructions"),
        f"  memory    {format_bytes(machine.memory_bytes)}",
        f"  disk      {format_bytes(machine.disk_bytes)} free here",
        *_gpu_lines(machine),
        f"  versions  {versions}",
        *_rate_lines(machine),
        *(f"  missing   {line}" for line in machine.missing),
        *_warnings(machine),
    ]
    return [*lines, f"  next      {_next(machine)}"]


def _gpu_lines(machine: Machine) -> list[str]:
    if not machine.gpus:
        return ["  gpu       none that nvidia-smi shows"]
    lines = []
    for gpu in machine.gpus:
        device = device_of_name(gpu.name, gpu.memory_bytes)
        known = (
            f"catalogue: {device.id}" if device else "not in the catalogue: set mfu and prices in [override]"
        )
        lines.append(
            f"  gpu       {gpu.name}, {format_bytes(gpu.memory_bytes)}, driver {gpu.driver} ({known})"
        )
    return lines


def _rate_lines(machine: Machine) -> list[str]:
    lines = []
    for precision, rates in machine.gemm_gflops.items():
        each = ", ".join(
            f"{rate:,.0f} on {threads} thread{'s' if threads != '1' else ''}"
            for threads, rate in sorted(rates.items(), key=lambda item: int(item[0]))
        )
        lines.append(f"  matrices  {precision}: GFLOP/s {each}")
    if machine.allreduce_gbps > 0:
        lines.append(f"  links     all-reduce between two processes: {machine.allreduce_gbps:.3g} GB/s")
    return lines


def _warnings(machine: Machine) -> list[str]:
    lines = []
    if machine.disk_bytes < _LITTLE_DISK:
        lines.append(f"  warning   little disk: {format_bytes(machine.disk_bytes)} free")
    if machine.memory_bytes < _LITTLE_MEMORY:
        lines.append(f"  warning   little memory: {format_bytes(machine.memory_bytes)}")
    return lines


def _next(machine: Machine) -> str:
    if machine.missing:
        command = machine.missing[0].partition(": ")[2]
        if command.startswith("pip "):
            return command
    return "stepladder init, then stepladder plan"
