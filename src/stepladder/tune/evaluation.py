"""Task files of a brief in; the texts that judge a model on them, as evaluation sets, out (no torch)."""

import json
from collections.abc import Sequence
from pathlib import Path

from stepladder.data.contamination.decontaminate import SHORTEST_WORDS
from stepladder.data.wordkeys import words_of
from stepladder.store import write_text
from stepladder.tune.tasks import read_task


def evaluation_files(names: Sequence[str], folder: Path, *, examples: int = 0) -> tuple[str, ...]:
    """Write dev and test texts of each task as FOLDER/TASK.jsonl; the paths.

    Texts that a task trains on may stand in the corpus. A task whose texts are all too short to be looked for
    gets no file. `examples` is that of `read_task`: the same texts must be drawn here and there.
    """
    import polars as pl

    paths = []
    for name in names:
        task = read_task(Path(name), examples=examples)
        texts = [example.text for part in (task.dev, task.test) for example in part]
        if any((words.counts() >= SHORTEST_WORDS).any() for _, words in words_of(pl.Series(texts))):
            path = folder / f"{task.name}.jsonl"
            lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
            write_text(path, "".join(lines))
            paths.append(str(path))
    return tuple(paths)
