"""Two replica groups of torchft on gloo, one of them killed and started again; what it costs the other out.

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 torchft-nightly==2026.10.26
    python bench/torchft_kill.py --python ENV/bin/python

Each group is one process under torchrun with a manager of torchft, a small network and AdamW; a lighthouse
tells them who is there. One JSON line: seconds that the survivor waited at the kill, steps that it lost and
that it made alone, and at how many of the steps that both made their weights had one sum to ten digits.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

PAUSE, TIMEOUT = 0.1, 300.0


def train(group: int, steps: int) -> None:
    """One replica group of one process; a line a step."""
    from datetime import timedelta

    import torch
    from torch import nn
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    plain = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def load(state: dict) -> None:
        model.load_state_dict(state["model"])
        plain.load_state_dict(state["optimiser"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=5)),
        min_replica_size=1,
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimiser": plain.state_dict()},
        replica_id=f"group{group}_",
        timeout=timedelta(seconds=10),
    )
    network, optimiser = DistributedDataParallel(manager, model), Optimizer(manager, plain)
    while manager.current_step() < steps:
        draw = torch.Generator().manual_seed(2 * manager.current_step() + group)
        x = torch.randn(32, 64, generator=draw)
        optimiser.zero_grad()
        (network(x) - x).square().mean().backward()
        optimiser.step()
        total = sum(one.double().abs().sum().item() for one in model.parameters())
        row = {"step": manager.current_step(), "groups": manager.num_participants()}
        row["pid"] = os.getpid()
        print(json.dumps(row | {"sum": f"{total:.10g}", "at": time.monotonic()}), flush=True)
        time.sleep(PAUSE)
    manager.shutdown()
    os._exit(0)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(python: Path, group: int, steps: int, lighthouse: str, out: Path) -> subprocess.Popen[bytes]:
    """A replica group in a session of its own, so that it can be killed whole."""
    port = str(free_port())
    where = ["--nnodes", "1", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    words = [__file__, "--group", str(group), "--steps", str(steps)]
    return subprocess.Popen(
        [python, "-m", "torch.distributed.run", *where, *words],
        env=os.environ | {"TORCHFT_LIGHTHOUSE": lighthouse, "OMP_NUM_THREADS": "1"},
        stdout=out.open("ab"),
        stderr=out.with_suffix(".err").open("ab"),
        start_new_session=True,
    )


def rows(path: Path) -> list[dict]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def measure(python: Path, steps: int, kill_at: int, folder: Path) -> dict[str, float]:
    """Kill group 1 at a step, start it again after two seconds, wait for both."""
    port = free_port()
    bind = ["--bind", f"127.0.0.1:{port}", "--min_replicas", "1", "--join_timeout_ms", "5000"]
    lighthouse = subprocess.Popen(
        [python.parent / "torchft_lighthouse", *bind],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "lighthouse.err").open("wb"),
    )
    files = [folder / name for name in ("survivor", "killed", "again")]
    groups = []
    try:
        time.sleep(2)
        address = f"http://127.0.0.1:{port}"
        groups = [start(python, group, steps, address, files[group]) for group in (0, 1)]
        until = time.monotonic() + TIMEOUT
        while not any(row["step"] >= kill_at and row["groups"] == 2 for row in rows(files[1])):
            if time.monotonic() > until:
                raise SystemExit((folder / "killed.err").read_text()[-2000:])
            time.sleep(0.05)
        # torchrun gives its worker a session of its own.
        os.kill(rows(files[1])[-1]["pid"], signal.SIGKILL)
        os.killpg(groups[1].pid, signal.SIGKILL)
        groups[1].wait()
        time.sleep(2)
        groups.append(start(python, 1, steps, address, files[2]))
        codes = [group.wait(TIMEOUT) for group in (groups[0], groups[2])]
    finally:
        for group in groups:
            if group.poll() is None:
                os.killpg(group.pid, signal.SIGKILL)
        lighthouse.kill()
    first, killed, again = map(rows, files)
    sums = {row["step"]: row["sum"] for row in first}
    shared = [row for row in (*killed, *again) if row["groups"] == 2 and row["step"] in sums]
    done = [row["step"] for row in first]
    return {
        "exit_codes": codes,  # type: ignore[dict-item]
        "killed_at_step": killed[-1]["step"],
        "waited_seconds": round(max(b["at"] - a["at"] for a, b in pairwise(first)) - PAUSE, 2),
        "lost_steps": sum(b - a != 1 for a, b in pairwise(done)),
        "steps_alone": sum(row["groups"] == 1 and row["step"] > killed[-1]["step"] for row in first),
        "joined_again_at_step": next(row["step"] for row in again if row["groups"] == 2),
        "shared_steps": len(shared),
        "of_these_equal": sum(row["sum"] == sums[row["step"]] for row in shared),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--kill-at", type=int, default=25)
    parser.add_argument("--group", type=int)
    options = parser.parse_args()
    if options.group is not None:
        train(options.group, options.steps)
        return
    # Not resolved: a virtual environment's Python is a link.
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.python.absolute(), options.steps, options.kill_at, Path(folder))))


if __name__ == "__main__":
    main()
