"""A plan and a folder in; its run and the CPU seconds that it took, trained here unless that is done, out."""

import threading
import time
from pathlib import Path

from stepladder.records import Plan, Run, from_json, to_json
from stepladder.store import read_json, write_json
from stepladder.train import worker


def train_once(plan: Plan, out: Path, end: float) -> tuple[Run, float] | None:
    """None when it is not there and the clock (`time.monotonic`) is past `end`."""
    if not (out / "cpu.json").exists():
        if time.monotonic() > end:
            return None
        write_json(out / "plan.json", to_json(plan))
        started = time.process_time()
        run = worker.run_plan(out / "plan.json", out, threading.Event(), lambda *_: None)
        write_json(out / "cpu.json", {"seconds": time.process_time() - started})
        told = f"{run.heldout_loss:.4f} nats, {run.heldout_bits_per_byte:.4f} bits per byte"
        print(f"{out}: {told}", flush=True)
    return from_json(Run, read_json(out / "run.json")), read_json(out / "cpu.json")["seconds"]
