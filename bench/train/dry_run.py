"""Nothing in; how long the dry run of a 1 B decoder on 64 GPUs takes here, and what it says, out.

    python bench/train/dry_run.py --rounds 3

Pipeline 2 x shard 8 x tensor 4 in bf16, the command that `stepladder train --dry-run` starts.
"""

import argparse
import tempfile
import time
from pathlib import Path

from cases import Case, plan_of, write_plan

from stepladder.launch.pretend import pretend, pretend_lines
from stepladder.records import Degrees, Layout

CASE = Case(width=2048, layers=16, vocabulary=32_768, context=2048, sequences=256)
LAYOUT = Layout(
    processes=64,
    nodes=8,
    shard="fsdp",
    degrees=Degrees(tensor=4, pipeline=2),
    precision="bf16",
    device="cuda",
)


def main() -> int:
    """Print seconds of each round and the last answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_plan(plan_of(CASE, folder, 100, LAYOUT), folder / "plan.json")
        for _ in range(options.rounds):
            started = time.perf_counter()
            found = pretend(path)
            print(f"{time.perf_counter() - started:.1f} s", flush=True)
    print("\n".join(pretend_lines(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
