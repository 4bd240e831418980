"""A layout in; command line and environment of the process that trains it out."""

import functools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepladder.plan.machine import measure_machine
from stepladder.records import Layout
from stepladder.train.clock import RATES_VARIABLE
from stepladder.train.trackers import wanted_trackers

WORKER = "stepladder.train.worker"
# Freed activations of a step go back to the kernel and fault in again at the next one unless the allocator
# keeps them (docs/log.md: tuned allocator). 32 MiB is the largest threshold that glibc takes.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


# torchrun kills its processes so long after it was told to stop. At 30 s, its default, a checkpoint may be
# half written; a scheduler gives 120 s (launch/slurm.py). A signal that it does not know would end it alone.
_TORCHRUN = {
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "80",
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Which node of a run this is, from 0, and the HOST:PORT on which node 0 listens."""

    rank: int
    master: str


def worker_environment(layout: Layout) -> dict[str, str]:
    """The caller's environment with threads and allocator set; what the user has set stays.

    Raises:
        TrainError: it names a tracker that is not installed.
    """
    wanted_trackers()
    threads = str(layout.threads)
    wanted = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    environment = _TORCHRUN | dict(os.environ) | wanted
    if layout.device == "cpu":
        environment = _MALLOC | {RATES_VARIABLE: _matrix_rates()} | environment
    return environment


@functools.cache
def _matrix_rates() -> str:
    """What `stepladder doctor` measured here, as JSON: asked once, before processes are pinned to a core."""
    return json.dumps(measure_machine(rates="cached").gemm_gflops)


def serve_command() -> list[str]:
    """A worker that takes jobs from its stdin."""
    return [sys.executable, "-m", WORKER, "--serve", "--owner", str(os.getpid())]


def train_command(
    plan_path: Path, out: Path, layout: Layout, *, node: Node | None = None, has_owner: bool = True
) -> list[str]:
    """One node's part of a run: the worker itself, or torchrun around it.

    With `has_owner` the processes end when this one does.
    """
    words = ["--plan", str(plan_path), "--out", str(out)]
    words += ["--owner", str(os.getpid())] if has_owner else []
    if layout.processes == 1:
        return [sys.executable, "-m", WORKER, *words]
    # A fresh torchrun for each attempt and no restarts inside it: in-place restarts recovered 3 of 7 times
    # on gloo (docs/log.md). --standalone picks a free port.
    meeting = ["--standalone"]
    if node:
        host, _, port = node.master.rpartition(":")
        meeting = ["--nnodes", str(layout.nodes), "--node-rank", str(node.rank)]
        meeting += ["--master-addr", host, "--master-port", port]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting, "--max-restarts", "0"]
    here = layout.processes // (layout.nodes if node else 1)
    return [*torchrun, "--nproc-per-node", str(here), "-m", WORKER, *words]


def pin(pid: int, cores: Mapping[int, int] | None, slot: int) -> None:
    """Keep process `pid` on the core of its slot, where the system lets us."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {cores[slot]})


def cores_for(workers: int, threads: int) -> dict[int, int] | None:
    """A core of its own for each one-thread worker; None where there are too few or cores cannot be set."""
    if threads != 1 or not hasattr(os, "sched_getaffinity"):
        return None
    free = sorted(os.sched_getaffinity(0))
    return dict(enumerate(free[:workers])) if workers <= len(free) else None
