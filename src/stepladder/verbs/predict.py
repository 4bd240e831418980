"""`stepladder predict`: JSON lines with texts on stdin, the same lines with predicted labels on stdout."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def predict(
    folder: Annotated[Path, Parameter(help="A tuned run, such as tune/TASK/full-0.")],
    *,
    task: Annotated[Literal["classification"], Parameter(help="Kind of task.")] = "classification",
) -> int:
    """Add "predicted" and "probability" to JSON lines: stepladder predict FOLDER < in.jsonl > out.jsonl."""
    from stepladder.tune.predict import predict_lines

    for line in predict_lines(folder, sys.stdin.buffer.read().split(b"\n")):
        print(line)
    return 0
