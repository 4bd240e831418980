"""`stepladder data labels`: labelled sets and other texts in; what labels are worth, and more, out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

if TYPE_CHECKING:
    from stepladder.eval.baselines import TaskRows
    from stepladder.tune.tasks import Task

app = App(name="labels", help="What labels are worth, and how to get more.", result_action="return_value")
for _name, _function, _help in (
    ("curve", "curve", "Forecast what 2, 4 and 8 times the labels would bring, with intervals and cost."),
    ("next", "choose_next", "Choose which texts people should label next, as a queue."),
    ("read", "read", "Read the answered queue back into a labelled set."),
    ("weak", "weak", "Label texts by rules or a model, flagged as weak."),
):
    app.command(f"stepladder.verbs.labels_{_name}:{_function}", name=_name, help=_help)


def labelled_set(name: str, columns: str = "") -> "Task":
    """A prepared set by name, or a file or folder of examples."""
    from stepladder.tune.examples import EXAMPLE_TASKS, example_task
    from stepladder.tune.readers import parse_columns
    from stepladder.tune.tasks import read_task

    return (
        example_task(name) if name in EXAMPLE_TASKS else read_task(Path(name), columns=parse_columns(columns))
    )


def rows_of(task: "Task") -> "TaskRows":
    """The task as the baselines read it."""
    from stepladder.eval.baselines import TaskRows
    from stepladder.tune.rows import row_of

    rows: dict[str, list[Mapping[str, Any]]] = {}
    for split, part in task.splits().items():
        rows[split] = [*(row_of(one, task.kind) for one in part)]
    return TaskRows(name=task.name, kind=task.kind, rows=rows)


def refuse_existing(folder: Path) -> None:
    """TaskError where a set stands already: labels are not overwritten."""
    from stepladder.errors import TaskError
    from stepladder.tune.tasks import TASK_FILE

    if (folder / TASK_FILE).exists():
        raise TaskError(
            f"{folder} holds a labelled set already", allowed="a new folder", next_command=f"--out {folder}-2"
        )


def print_set(task: "Task", folder: Path) -> None:
    """Sizes and notes of a set that was written."""
    print(f"{task.name}: " + ", ".join(f"{len(part):,} {split}" for split, part in task.splits().items()))
    for note in task.notes:
        print(f"  {note}")
    print(folder)
