"""A model, a task and some of its training rows in; what the model tuned on these says out (no torch here).

Every number of rows is a tuned folder of its own: what is done is kept, what was interrupted goes on.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.tune.run import TuneOptions, tune_task
from stepladder.tune.tasks import Task

# Few rows are read so often that there are as many steps.
_LEAST_STEPS = 60


def tuned_learner(
    model: Path, task: Task, out: Path, options: TuneOptions, *, tokenizer: Path | None = None
) -> Callable[[np.ndarray, str], Sequence[Any]]:
    """A function of row numbers and a name to the predictions of the test rows, by `options.methods[0]`."""

    def learn(rows: np.ndarray, name: str) -> Sequence[Any]:
        part = replace(task, name=f"{task.name}-{name}", train=tuple(task.train[row] for row in rows))
        epochs = max(options.epochs, math.ceil(_LEAST_STEPS * options.batch_examples / len(rows)))
        how = replace(options, methods=options.methods[:1], seeds=1, epochs=epochs)
        (folder,) = tune_task(model, part, out / name, tokenizer=tokenizer, options=how, quiet=True)
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["predicted"] for line in lines]

    return learn
