"""A tuned folder and JSON lines in; the same lines with what the model predicts out (torch)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepladder.errors import TaskError
from stepladder.tune.encode import Coder
from stepladder.tune.heads import load_tuned, tuned_folder
from stepladder.tune.kinds import adapter_of
from stepladder.tune.rows import Kind, parse_rows


def predict_lines(
    folder: Path, lines: Sequence[bytes], name: str = "standard input", *, kind: Kind | None = None
) -> Iterator[str]:
    """One JSON line out for each line in that is not empty; its own keys are kept.

    All lines are read and checked before the first is answered.

    Raises:
        TaskError: bad rows, listed up to ten; the folder holds no tuned model, or not one of that `kind`.
    """
    model, card = load_tuned(folder)
    adapter = adapter_of(card)
    if kind not in (None, adapter.kind):
        raise TaskError(
            f"{folder} was not tuned for {kind}", got=f"--task {kind}", allowed=f"--task {adapter.kind}"
        )
    examples = parse_rows(lines, name, kind=adapter.kind, labelled=False)
    coder = Coder(tuned_folder(folder), model.network.shape)
    answers = adapter.predict(model, adapter.encode(coder, examples))
    rows = (json.loads(line.decode("utf-8-sig")) for line in lines if line.strip())
    for row, answer in zip(rows, answers, strict=True):
        yield json.dumps({**row, **answer}, ensure_ascii=False)
