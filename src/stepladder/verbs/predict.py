"""`stepladder predict`: JSON lines on stdin, the same lines with what a tuned model predicts on stdout."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepladder.verbs.tune import KindName


def predict(
    folder: Annotated[Path, Parameter(help="A tuned run, such as tune/TASK/full-0.")],
    *,
    task: Annotated[KindName | None, Parameter(help="Kind of task, to be sure; the folder knows it.")] = None,
) -> int:
    """Add "predicted" and "probability" to JSON lines: stepladder predict FOLDER < in.jsonl > out.jsonl.

    Rows need what is read, not what is to be said: "text", "context" and "question", or "source".
    """
    from stepladder.tune.predict import predict_lines

    for line in predict_lines(folder, sys.stdin.buffer.read().split(b"\n"), kind=task):
        print(line)
    return 0
