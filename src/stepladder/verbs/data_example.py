"""`stepladder data example`: the name of a labelled set in; its splits, licence and source out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def example(
    name: Annotated[str, Parameter(help="Which set; without a name all are listed.")] = "",
    *,
    out: Annotated[Path | None, Parameter(help="Folder to write; by default examples/NAME.")] = None,
    list_: Annotated[bool, Parameter(name="--list", negative="", help="List all sets.")] = False,
    examples: Annotated[int, Parameter(help="Use at most this many examples (0: all).")] = 0,
    seed: Annotated[int, Parameter(help="Chooses the sample and the split.")] = 0,
    offline: Annotated[bool, Parameter(negative="", help="Fetch nothing.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> int:
    """Write train, dev and test of a labelled set as JSON lines, with task.json that says where it is from.

    `stepladder tune --task FOLDER` reads the folder. Listing fetches nothing: sizes are of what is here.
    """
    from stepladder.tune.examples import EXAMPLE_TASKS, example_task
    from stepladder.tune.tasks import write_task

    if list_ or not name:
        for each in EXAMPLE_TASKS:
            row = _listed(each)
            text = f"{each:18} {row['kind']:15} {row['examples'] or 'not here':>8}  {row['about']}"
            print(json.dumps(row) if json_ else f"{text}\n{'':43}  {row['source']}, {row['licence']}")
        return 0
    task = example_task(name, seed=seed, examples=examples, offline=offline)
    folder = out or Path("examples") / task.name
    write_task(task, folder)
    sizes = {split: len(part) for split, part in task.splits().items()}
    if json_:
        told = {"name": task.name, "kind": task.kind, **sizes, "notes": task.notes, "folder": str(folder)}
        print(json.dumps(told))
        return 0
    print(f"{task.name}: {task.kind}, " + ", ".join(f"{size:,} {split}" for split, size in sizes.items()))
    for note in task.notes:
        print(f"  {note}")
    print(folder)
    return 0


def _listed(name: str) -> dict[str, str | int]:
    """What the list says of one set; 0 examples where its source is not on this machine."""
    from stepladder.errors import TaskError
    from stepladder.tune.examples import EXAMPLE_TASKS, example_source, example_task

    kind, about = EXAMPLE_TASKS[name]
    source = example_source(name)
    try:
        task = example_task(name, offline=True)
        size = sum(map(len, task.splits().values())) if task.name == name else 0
    except TaskError:
        size = 0
    return {
        "name": name,
        "kind": kind,
        "examples": size,
        "about": about,
        "source": source.name,
        "licence": source.licence,
    }
