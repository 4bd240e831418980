"""`stepladder data labels read`: an answered queue in; agreement, accuracy, and a larger labelled set out."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

_LISTED = 10


def read(
    queue: Annotated[Path, Parameter(name="QUEUE", help="The queue with labels filled in.")],
    /,
    *,
    labelled: Annotated[str, Parameter(name="--set", help="The set that the queue was made for.")],
    out: Annotated[Path, Parameter(help="Folder of the new set.")],
    columns: Annotated[str, Parameter(help="Names of columns of the set: text=body,label=stars.")] = "",
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Check answers, say how people agree and how good the model is, and write the set with the new labels.

    Chosen texts go to train, random ones to test. Nothing is written where a row is wrong.
    """
    from stepladder.tune.annotations import (
        agreement,
        disagreements,
        random_accuracy,
        read_answers,
        with_answers,
    )
    from stepladder.tune.pool import check_labelled
    from stepladder.tune.tasks import write_task
    from stepladder.verbs.data_labels import labelled_set, print_set, refuse_existing

    refuse_existing(out)
    task = labelled_set(labelled, columns)
    check_labelled(task)
    asked = read_answers(queue, task.labels)
    made = with_answers(task, asked, out.name)
    write_task(made, out)
    split, share = disagreements(asked), random_accuracy(asked)
    if json_:
        told = {
            "texts": len(asked),
            "agreement": agreement(asked),
            "disagreements": [one.id for one in split],
        }
        accuracy = asdict(share) if share else None
        print(json.dumps({**told, "random_accuracy": accuracy, "notes": made.notes, "folder": str(out)}))
        return 0
    print(f"{len(asked):,} texts answered")
    for line in agreement(asked):
        print(line)
    if split:
        print(f"{len(split):,} texts with different answers:")
    for one in split[:_LISTED]:
        print(f"  {one.id}: " + ", ".join(f"{who} {label}" for who, label in one.said.items()))
    if share:
        print(
            f"accuracy of the model on the pool: {share.value:.3f}, 95 % from {share.low:.3f} to "
            f"{share.high:.3f} ({share.count} texts drawn by chance)"
        )
    print_set(made, out)
    return 0
