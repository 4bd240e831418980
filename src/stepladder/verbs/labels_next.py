"""`stepladder data labels next`: texts and a labelled set in; a queue of those to label next out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from stepladder.tune.pool import PoolRow
    from stepladder.tune.queue import PoolView
    from stepladder.tune.tasks import Task


def choose_next(
    pool: Annotated[Path, Parameter(name="POOL", help='Rows with "text" and perhaps "id": JSONL, CSV, ...')],
    /,
    *,
    labelled: Annotated[str, Parameter(name="--set", help="The labelled set so far.")],
    count: Annotated[int, Parameter(help="How many texts people are to label.")],
    out: Annotated[Path, Parameter(help="File of the queue.")] = Path("queue.jsonl"),
    model: Annotated[
        Path | None, Parameter(name="--from", help="A tuned run in place of the linear model.")
    ] = None,
    random_share: Annotated[float, Parameter(name="--random", help="Share drawn by chance.")] = 0.1,
    columns: Annotated[str, Parameter(help="Names of columns of the set: text=body,label=stars.")] = "",
    seed: Annotated[int, Parameter(help="Draws the random rows.")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Write a queue of the texts that a model is least sure of and that are least like each other.

    People fill "label" (and "annotator", a row each, where there are several); `stepladder data labels read`
    reads the file back. Rows flagged random tell how good the model is on all of the pool.
    """
    from stepladder.errors import StoreError
    from stepladder.store import write_text
    from stepladder.tune.pool import check_labelled, read_pool, unlabelled
    from stepladder.tune.queue import choose, queue_rows
    from stepladder.verbs.data_labels import labelled_set

    if out.exists():
        raise StoreError(f"{out} exists: it may hold answers", allowed="a new file", next_command="--out NEW")
    task = labelled_set(labelled, columns)
    check_labelled(task)
    rows, notes = read_pool(pool)
    rows, more = unlabelled(rows, task)
    view = tuned_pool(task, rows, model) if model else linear_pool(task, rows)
    chosen = choose(view, count, random_share=random_share, seed=seed)
    lines = [json.dumps(row, ensure_ascii=False) for row in queue_rows(rows, task.train, view, chosen)]
    write_text(out, "\n".join(lines) + "\n")
    drawn = sum(one.is_random for one in chosen)
    if json_:
        told = {"pool": len(rows), "queue": len(chosen), "random": drawn, "notes": [*notes, *more]}
        print(json.dumps({**told, "file": str(out)}))
        return 0
    for note in (*notes, *more):
        print(note)
    print(f"{len(chosen):,} of {len(rows):,} texts, {drawn:,} of them drawn by chance: {out}")
    return 0


def linear_pool(task: "Task", pool: "Sequence[PoolRow]") -> "PoolView":
    """The pool as the linear model of the set sees it; probabilities are calibrated on dev."""
    from stepladder.eval.linear import WordCounts, fit_logistic, linear_logits, sklearn_alone

    gold = {split: [one.label for one in part] for split, part in task.splits().items()}
    with sklearn_alone():
        texts = ([one.text for one in part] for part in (task.train, task.dev, pool))
        train, dev, others = WordCounts(*texts).tfidf()
        model = fit_logistic(train, gold["train"], dev, gold["dev"])
        logits = linear_logits(model, dev), linear_logits(model, others)
    return _view(tuple(map(str, model.classes_)), logits, gold["dev"], (others, train))


def tuned_pool(task: "Task", pool: "Sequence[PoolRow]", folder: Path) -> "PoolView":
    """The pool as a tuned network sees it; features are centred, so that cosines tell texts apart."""
    import numpy as np

    from stepladder.errors import TaskError
    from stepladder.tune.view import tuned_view

    texts = [one.text for part in (task.train, task.dev, pool) for one in part]
    labels, logits, features = tuned_view(folder, texts)
    if set(labels) != set(task.labels):
        raise TaskError(
            f"{folder} was tuned for other labels", got=", ".join(labels), allowed=", ".join(task.labels)
        )
    features = features - features.mean(axis=0)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    ends = len(task.train), len(task.train) + len(task.dev)
    gold = [one.label for one in task.dev]
    parts = logits[ends[0] : ends[1]], logits[ends[1] :]
    return _view(labels, parts, gold, (features[ends[1] :], features[: ends[0]]))


def _view(
    labels: tuple[str, ...], logits: tuple[Any, Any], dev_gold: Sequence[str], features: tuple[Any, Any]
) -> "PoolView":
    """Probabilities at dev's temperature; `logits` are of dev and pool, `features` of pool and train."""
    from stepladder.tune.queue import PoolView, softmax, temperature

    numbers = {label: at for at, label in enumerate(labels)}
    divisor = temperature(logits[0], [numbers.get(label, -1) for label in dev_gold])
    return PoolView(
        labels=labels,
        probabilities=softmax(logits[1], divisor),
        features=features[0],
        labelled=features[1],
    )
