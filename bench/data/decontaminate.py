"""Installed text in; MB per CPU second of the search for examples and of the index of n-grams, out.

    python bench/data/decontaminate.py --source python:docstrings --megabytes 60

Evaluation sets are made of the text itself: whole documents held out, and single lines of them. Then copies
of runs of 40 words with some words changed are put into training text, to show which share finds them.
Documents come in the batches that the reader makes; reading is not timed. polars runs on one thread, as in a
worker process.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import polars as pl

from stepladder.data.contamination import ngrams
from stepladder.data.contamination.coverage import check
from stepladder.data.contamination.decontaminate import INDEX_FOLDER, EvaluationIndex, contaminated, hits
from stepladder.data.contamination.evaluation_sets import EvaluationSet
from stepladder.data.quality.clean import normalise
from stepladder.data.sources.listing import list_files
from stepladder.data.sources.read import Reader

SHARES = (0.3, 0.5, 0.7, 0.8)
CHANGED = (0.0, 0.05, 0.1, 0.2)


def read(source: str, limit: int) -> tuple[list[Any], list[str]]:
    """(batches of training texts, held-out documents): every fiftieth document is held out."""
    reader = Reader(text_column="text", piece_bytes=8_000_000)
    texts, held, size = [], [], 0
    for batch in reader.batches(list_files([source])):
        frame = normalise(batch).unique("text", maintain_order=True).with_row_index("row")
        held += frame.filter(pl.col("row") % 50 == 7)["text"].to_list()
        texts.append(frame.filter(pl.col("row") % 50 != 7)["text"])
        size += int(texts[-1].str.len_bytes().sum())
        if size > limit:
            break
    return texts, held


def show_speed(texts: list[Any], sets: list[EvaluationSet], repeats: int) -> None:
    """hits() against each set, then by any hit and by share the documents that would go."""
    num_bytes = sum(int(text.str.len_bytes().sum()) for text in texts)
    for one in sets:
        index = EvaluationIndex.build([one])
        speeds, found = [], []
        for _ in range(repeats):
            start = time.process_time()
            found = [hits(text, index) for text in texts]
            speeds.append(num_bytes / 1e6 / (time.process_time() - start))
        documents = sum(map(len, texts))
        touched = sum(len(set(hit.document.tolist())) for hit in found)
        shown = ", ".join(f"{speed:.0f}" for speed in speeds)
        print(f"hits, {one.name}: {len(one.texts)} examples, {len(index.key)} n-grams; ", end="")
        print(f"{shown} MB per CPU second")
        print(f"  any hit {touched / documents:.2%} of {documents} documents", end="")
        for share in SHARES:
            goes = sum(int(contaminated(hit, index, share)[0].sum()) for hit in found)
            print(f"; share {share} {goes / documents:.2%}", end="")
        print()


def runs(texts: list[str]) -> Iterator[str]:
    """Runs of 40 words that stand one behind the other."""
    for text in texts:
        words = text.split()
        for at in range(0, len(words) - 39, 40):
            yield " ".join(words[at : at + 40])


def show_recall(lines: list[str], texts: list[Any]) -> None:
    """Share of copies that are found, by how many of their words were changed and by the share asked for."""
    rng = random.Random(0)
    index = EvaluationIndex.build([EvaluationSet(name="lines", texts=tuple(lines))])
    around = [text for batch in texts[:3] for text in batch.to_list() if len(text) < 20_000][: len(lines)]
    for changed in CHANGED:
        copies = []
        for place, line in enumerate(lines):
            words = ["otherword" if rng.random() < changed else word for word in line.split()]
            copies.append(around[place % len(around)] + "\n" + " ".join(words) + "\n")
        found = hits(pl.Series(copies), index)
        shares = found.shared / index.grams[found.example]
        own = found.example == found.document
        rates = [int((own & (shares >= share) & found.goes(index, share)).sum()) for share in SHARES]
        shown = "; ".join(
            f"share {share} {rate / len(lines):.1%}" for share, rate in zip(SHARES, rates, strict=True)
        )
        print(f"copies with {changed:.0%} of words changed, found: {shown}")


def show_index(texts: list[Any], one: EvaluationSet) -> None:
    """Writing the n-grams of the corpus, their size, and a check against them."""
    num_bytes = sum(int(text.str.len_bytes().sum()) for text in texts)
    with tempfile.TemporaryDirectory() as name:
        parts = [Path(name) / "parts" / str(number) for number in range(len(texts))]
        start = time.process_time()
        for part, text in zip(parts, texts, strict=True):
            ngrams.write_part(part, text)
        writing = time.process_time() - start
        start = time.process_time()
        meta = ngrams.merge_parts(parts, Path(name) / INDEX_FOLDER)
        merging = time.process_time() - start
        size = sum(path.stat().st_size for path in (Path(name) / INDEX_FOLDER).iterdir())
        temporary = sum(path.stat().st_size for path in (Path(name) / "parts").iterdir())
        start = time.process_time()
        report = check(Path(name), one)
        checking = time.process_time() - start
    print(f"index: {num_bytes / 1e6 / writing:.0f} MB per CPU second to write, {merging:.2f} s to merge")
    print(f"  {meta['keys']} n-grams, {size / num_bytes:.4f} bytes a byte of text", end="")
    print(f" ({temporary / num_bytes:.3f} until the merge)")
    print(
        f"check: {len(one.texts)} examples in {checking:.2f} CPU s; half covered {report['share_half']:.2%}"
    )


def main() -> None:
    """Print speeds, shares and sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="python:docstrings")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    texts, held = read(options.source, options.megabytes * 1_000_000)
    num_bytes = sum(int(text.str.len_bytes().sum()) for text in texts)
    print(f"{options.source}: {sum(map(len, texts))} documents, {num_bytes / 1e6:.0f} MB")
    lines = list(dict.fromkeys(line for text in held for line in text.splitlines()))
    short = [line for line in lines if 5 <= len(line.split()) < ngrams.NGRAM][:2000]
    lines = [line for line in lines if ngrams.NGRAM <= len(line.split()) <= 60][:2000]
    sets = [
        EvaluationSet(name="held-out documents", texts=tuple(held)),
        EvaluationSet(name="lines of 8 words or more", texts=tuple(lines)),
        EvaluationSet(name="lines of 5 to 7 words", texts=tuple(short)),
    ]
    show_speed(texts, [one for one in sets if one.texts], options.repeats)
    show_recall(list(runs(held))[:1000], texts)
    show_index(texts, sets[0])


if __name__ == "__main__":
    main()
