"""A prepared corpus and texts in; how much of each stands in its training text, out.

The n-grams that the corpus left behind are asked (`stepladder.data.contamination.ngrams`), not its text. What
was put in other words is not found.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.contamination.decontaminate import HEAD_CHARS, INDEX_FOLDER
from stepladder.data.contamination.evaluation_sets import EvaluationSet
from stepladder.data.contamination.ngrams import LARGEST_FALSE_SHARE, open_corpus_index
from stepladder.data.quality.clean import normalise
from stepladder.data.wordkeys import words_of
from stepladder.errors import DataError

_WORST, _HALF, _MOST = 10, 0.5, 0.8


def coverage(
    folder: Path, texts: Sequence[str], on_range: Callable[[int, int], None] = lambda *_: None
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """(words, words in runs that stand in training text) of each text, and (n, step) of the stored n-grams.

    A met n-gram covers its n words; the step is not above n, so a copied run is covered without gaps. Up to
    `step - 1` words at either end of a run are not covered: no stored n-gram need reach them. One range of
    the stored n-grams is in memory at a time; `on_range` hears (ranges asked, ranges in all).

    Raises:
        StoreError: the corpus has no n-gram index, or a damaged one.
    """
    import polars as pl

    index = open_corpus_index(folder / INDEX_FOLDER)
    column = normalise(pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)}))["text"]
    counts, firsts, keys = np.zeros(len(texts), dtype=np.int64), [], []
    passed = 0
    for base, words in words_of(column):
        counts[base : base + words.documents] = words.counts()
        first = words.first_words(index.ngram)
        keys.append(words.keys(first, index.ngram))
        firsts.append(first + passed)
        passed += len(words.document)
    met = np.concatenate(firsts)[index.contains(np.concatenate(keys), on_range)]
    edges = np.zeros(passed + 1, dtype=np.int64)
    np.add.at(edges, met, 1)
    np.add.at(edges, met + index.ngram, -1)
    covered = np.concatenate([[0], np.cumsum(np.cumsum(edges)[:-1] > 0)])
    ends = np.cumsum(counts)
    return counts, covered[ends] - covered[ends - counts], (index.ngram, index.step)


def check(folder: Path, evaluation: EvaluationSet) -> dict[str, Any]:
    """How much of each example stands in the training text of the corpus in `folder`, which is not read.

    Shares are of the checked examples, those of n words or more; runs of `certain_words` words are always
    found, shorter ones by chance. `histogram` has ten bins of equal width over coverage 0 to 1.

    Raises:
        StoreError: the corpus has no n-gram index.
        DataError: all examples are too short.
    """
    words, covered, (ngram, step) = coverage(folder, evaluation.texts)
    checked = np.flatnonzero(words >= ngram)
    if not len(checked):
        raise DataError(
            f"no example of {evaluation.name} can be looked for",
            got=f"{len(words)} example(s), all below {ngram} words",
            allowed=f"examples of {ngram} words or more",
        )
    share = covered[checked] / words[checked]
    worst = np.lexsort((checked, -share))[:_WORST]
    return {
        "set": evaluation.name,
        "examples": len(words),
        "too_short": len(words) - len(checked),
        "words": int(words[checked].sum()),
        "covered_words": int(covered[checked].sum()),
        "with_overlap": int((share > 0).sum()),
        "share_half": float((share >= _HALF).mean()),
        "share_most": float((share >= _MOST).mean()),
        "histogram": np.bincount(np.minimum((share * 10).astype(int), 9), minlength=10).tolist(),
        "worst": [
            {
                "example": int(checked[place]),
                "coverage": round(float(share[place]), 3),
                "words": int(words[checked[place]]),
                "head": " ".join(evaluation.texts[checked[place]].split())[:HEAD_CHARS],
            }
            for place in worst[share[worst] > 0]
        ],
        "certain_words": ngram + step - 1,
        "false_share": LARGEST_FALSE_SHARE,
    }
