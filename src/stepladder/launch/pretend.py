"""A plan in; what its layout would hold and send on devices that are not here (`train/dryrun.py`) out."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepladder.errors import TrainError
from stepladder.units import format_bytes

_DRY_RUN = "stepladder.train.dryrun"


def pretend(plan_path: Path) -> dict[str, Any]:
    """The dry run of a plan: processes, mesh, stages (memory by term, collectives), seconds.

    Raises:
        TrainError: the layout cannot be built; the text says why.
    """
    ended = subprocess.run(
        [sys.executable, "-m", _DRY_RUN, str(plan_path)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TrainError("the dry run of the layout failed", got=last)
    found = json.loads(ended.stdout)
    if "failed" in found:
        raise TrainError(found["failed"])
    return found


def pretend_lines(found: Mapping[str, Any]) -> list[str]:
    """A table for each stage of the pipeline that differs."""
    mesh = " x ".join(f"{name} {size}" for name, size in found["mesh"].items() if size > 1)
    lines = [f"layout: {found['processes']} processes, {mesh}; built in {found['seconds']:.0f} s"]
    for stage in found["stages"]:
        memory = stage["memory_bytes"]
        terms = ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.items())
        lines.append(f"rank {stage['rank']}: {format_bytes(sum(memory.values()))} ({terms})")
        lines += [
            f"  {name}: {item['calls']} calls, {format_bytes(item['bytes'])} a step"
            for name, item in stage["collectives"].items()
        ]
    return lines
