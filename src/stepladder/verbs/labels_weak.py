"""`stepladder data labels weak`: texts and rules or a tuned model in; a set with weak labels in train out."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from stepladder.tune.pool import PoolRow
    from stepladder.tune.tasks import Task
    from stepladder.tune.weak import Agreement


def weak(
    pool: Annotated[Path, Parameter(name="POOL", help='Rows with "text": JSONL, CSV, TSV or Parquet.')],
    /,
    *,
    labelled: Annotated[str, Parameter(name="--set", help="The labelled set that they are added to.")],
    out: Annotated[Path, Parameter(help="Folder of the new set.")],
    rules: Annotated[
        Path | None, Parameter(help='JSON or TOML of {"label": ["pattern"]}, or CSV with label,pattern.')
    ] = None,
    model: Annotated[Path | None, Parameter(name="--from", help="A tuned run that labels.")] = None,
    above: Annotated[float, Parameter(help="Least calibrated probability of the model's label.")] = 0.9,
    columns: Annotated[str, Parameter(help="Names of columns of the set: text=body,label=stars.")] = "",
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Label texts by rules, which vote, or by a model where it is sure; rows are flagged weak.

    Weak labels are trained on and never judge: they are kept out of dev and test. How often they agree with
    gold ones is printed.
    """
    from stepladder.errors import TaskError
    from stepladder.tune.pool import check_labelled, read_pool, unlabelled
    from stepladder.tune.tasks import write_task
    from stepladder.tune.weak import with_weak
    from stepladder.verbs.data_labels import labelled_set, print_set, refuse_existing

    if (rules is None) == (model is None):
        raise TaskError(
            "weak labels come from rules or from a model",
            got="both" if rules else "neither",
            allowed="--rules FILE, or --from FOLDER with --above .9",
        )
    if not 0 < above <= 1:
        raise TaskError("--above is no probability", got=f"{above:g}", allowed="above 0, at most 1")
    refuse_existing(out)
    task = labelled_set(labelled, columns)
    check_labelled(task)
    rows, notes = read_pool(pool)
    rows, more = unlabelled(rows, task)
    said, agreed = _by_rules(task, rows, rules) if rules else _by_model(task, rows, model, above)
    source = f"rules {rules.name}" if rules else f"model {model} above {above:g}"
    made = with_weak(task, rows, said, source, out.name)
    write_task(made, out)
    if json_:
        told = {"pool": len(rows), "labelled": sum(map(bool, said)), "agreement": asdict(agreed)}
        print(json.dumps({**told, "notes": made.notes, "folder": str(out)}))
        return 0
    for note in (*notes, *more):
        print(note)
    print(agreed.text)
    print_set(made, out)
    return 0


def _by_rules(task: "Task", pool: "Sequence[PoolRow]", file: Path) -> "tuple[list[str], Agreement]":
    """Labels of the pool (empty: abstained), and the agreement with gold ones of train, dev and the pool."""
    from stepladder.tune.weak import agreement_of, read_rules, vote

    rules = read_rules(file, task.labels)
    gold = [one for part in (task.train, task.dev) for one in part if not one.weak]
    said = [vote(rules, row.text) for row in pool]
    beside = [*(vote(rules, one.text) for one in gold), *said]
    return said, agreement_of(beside, [*(one.label for one in gold), *(row.label for row in pool)])


def _by_model(
    task: "Task", pool: "Sequence[PoolRow]", folder: Path | None, above: float
) -> "tuple[list[str], Agreement]":
    """As `_by_rules`; gold labels are those of dev and the pool, since the model has learned from train."""
    from stepladder.tune.pool import PoolRow
    from stepladder.tune.weak import agreement_of
    from stepladder.verbs.labels_next import tuned_pool

    assert folder is not None
    dev = [PoolRow(id="", text=one.text, group=one.group, label=one.label) for one in task.dev]
    view = tuned_pool(task, [*dev, *pool], folder)
    best = view.probabilities.argmax(axis=1)
    sure = view.probabilities.max(axis=1) >= above
    said = [view.labels[at] if is_sure else "" for at, is_sure in zip(best, sure, strict=True)]
    return said[len(dev) :], agreement_of(said, [row.label for row in (*dev, *pool)])
