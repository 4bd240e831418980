"""The tasks by name: each reads files, writes its output under its own name, and renames.

A task is a function of JSON values, so that a process or another machine can run it; a task whose result is
on disk is not run again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stepladder.data import finish, reading
from stepladder.data.card import steps as portraits
from stepladder.data.contamination import steps as contamination
from stepladder.data.copies import clusters, lines
from stepladder.data.tokens import training
from stepladder.store import read_json, write_compact_json

Step = Callable[[Mapping[str, Any]], dict[str, Any]]

# In the order of `chain.py`. Some work on one part of the documents, some on one range of keys.
STEPS: dict[str, Step] = {
    "read": reading.read_step,
    "exact": clusters.exact_step,
    "bands": clusters.bands_step,
    "near": clusters.near_step,
    "star": clusters.star_step,
    "leaders": clusters.leaders_step,
    "lines": lines.lines_step,
    "boilerplate": lines.boilerplate_step,
    "trim": finish.trim_step,
    "groups": finish.groups_step,
    "split": finish.split_step,
    "overlap": lines.overlap_step,
    "contamination": contamination.contamination_step,
    "ngrams": contamination.ngrams_step,
    "sample": finish.sample_step,
    "vocabulary": training.vocabulary_step,
    "portray": portraits.portray_step,
    "fold": portraits.fold_step,
    "encode": finish.encode_step,
}


def run_step(name: str, arguments: Mapping[str, Any]) -> Any:
    """Run the task `name`, or give back the result that it left on disk.

    `arguments` may name another folder for its results (`step`) and another task (`do`).
    """
    folder = Path(arguments["folder"]) / arguments.get("step", name)
    done = folder / f"{arguments['index']:05d}.json"
    if done.exists():
        return read_json(done)
    result = STEPS[arguments.get("do", name)](arguments)
    write_compact_json(done, result)
    return result
