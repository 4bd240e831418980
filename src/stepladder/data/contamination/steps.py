"""Parts and ranges in; which training documents hold evaluation examples, and the n-grams of the others, out.

Only training documents are compared: one that is held out teaches a model nothing.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.contamination.decontaminate import EvaluationIndex, contaminated, hits, tally
from stepladder.data.contamination.ngrams import merge_range, write_part
from stepladder.data.files import part_names, read_arrays, read_frame, write_arrays
from stepladder.data.finish import TRAIN
from stepladder.data.labels import base_of
from stepladder.data.wordkeys import Words, words_of
from stepladder.store import write_compact_json

EVALUATION_FILE = "evaluation.npz"


def contamination_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part and its split → its training documents that go, a tally, and the n-grams of the others."""
    work, name = Path(arguments["folder"]), arguments["part"]
    place = np.flatnonzero(np.load(work / "split" / f"{name}.npy") == TRAIN)
    text = read_frame(work / "trim" / f"{name}.text")["text"].gather(place)
    words: list[tuple[int, Words]] = []
    goes, share = np.zeros(len(place), dtype=bool), np.zeros(len(place))
    if arguments["compare"]:
        path = work / EVALUATION_FILE
        index = _index(str(path), path.stat().st_mtime_ns)
        words = list(words_of(text))
        found = hits(text, index, words)
        goes, _, share = contaminated(found, index)
        trimmed = read_arrays(work / "trim" / f"{name}.npz")["place"][place]
        ids = np.uint64(base_of(name)) + np.load(work / "read" / f"{name}.rows.npy")[trimmed]
        write_compact_json(work / "contamination" / f"{name}.tally", tally(found, index, ids))
    stem = work / "contamination" / name
    write_arrays(Path(f"{stem}.npz"), {"place": place[goes], "share": share[goes].astype(np.float32)})
    keys = write_part(stem, text, words, goes)["keys"]
    return {"documents": int((~goes).sum()), "removed": int(goes.sum()), "keys": keys}


def ngrams_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A range of n-grams of all parts → a file of the corpus' index."""
    work = Path(arguments["folder"])
    parts = [work / "contamination" / name for name in part_names(work)]
    keys = merge_range(parts, Path(arguments["out"]), arguments["index"], arguments["partitions"])
    return {"keys": keys}


@functools.lru_cache(maxsize=1)
def _index(path: str, _changed: int) -> EvaluationIndex:
    return EvaluationIndex.load(Path(path))
