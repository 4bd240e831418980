"""Near-duplicates: our CPU seconds and kept documents beside datatrove's, same parameters, same documents.

    python bench/data/minhash.py [SOURCE...] [--bytes N] [--peer PYTHON]

PYTHON is an interpreter with datatrove, spacy and xxhash < 3.6; without it only our
side is measured. Both get the documents of at least five words, join all candidates unverified, and use one
thread. Planted pairs show recall beside theory 1-(1-J^8)^14 and how alike the joined pairs are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for _name in ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
import polars as pl

from stepladder.data import files as disk
from stepladder.data.chain import Job, find_copies
from stepladder.data.copies.clusters import band_keys, joined_pairs, of_part
from stepladder.data.copies.dedup import exact_keys, sketches
from stepladder.data.labels import base_of, labels, part_base
from stepladder.data.options import CorpusOptions, Dedup
from stepladder.data.sources.listing import list_files, sample_files
from stepladder.data.sources.read import Reader
from stepladder.data.worker import LocalPool

PEER = r"""
import json, sys, time, resource
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature, MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.dedup import MinhashDedupFilter
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig
folder = sys.argv[1]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
def run(pipeline, tasks=1):
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, skip_completed=False).run()

start = time.process_time()
children = resource.getrusage(resource.RUSAGE_CHILDREN)
reader = JsonlReader(f"{folder}/in", glob_pattern="*.jsonl")
run([reader, MinhashDedupSignature(output_folder=f"{folder}/sigs", config=config)])
buckets = MinhashDedupBuckets(input_folder=f"{folder}/sigs", output_folder=f"{folder}/buckets", config=config)
run([buckets], 14)
run([MinhashDedupCluster(input_folder=f"{folder}/buckets", output_folder=f"{folder}/ids", config=config)])
run([reader, MinhashDedupFilter(input_folder=f"{folder}/ids"),
     JsonlWriter(f"{folder}/out", output_filename="${rank}.jsonl", compression=None)])
after = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = time.process_time() - start + after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
kept = sum(1 for _ in open(f"{folder}/out/00000.jsonl"))
print(json.dumps({"cpu_seconds": spent, "kept": kept}))
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", default=["python:installed"])
    parser.add_argument("--bytes", type=int, default=40_000_000)
    parser.add_argument("--peer", default="", help="python with datatrove")
    arguments = parser.parse_args()
    frames = documents(arguments.sources, arguments.bytes)
    size = sum(int(frame["text"].str.len_bytes().sum()) for frame in frames)
    count = sum(len(frame) for frame in frames)
    print(f"{count:,} documents, {size / 1e6:.1f} MB")
    spent, kept = ours(frames, 0.0)
    print(f"ours, unverified   {sum(spent):7.2f} CPU s {size / 1e6 / sum(spent):8.1f} MB/s  kept {kept:,}")
    print(f"  sketches {spent[0]:.2f}, bands, verification and clusters {spent[1]:.2f}")
    spent, verified = ours(frames, 0.8)
    print(
        f"ours, verified .8  {sum(spent):7.2f} CPU s {size / 1e6 / sum(spent):8.1f} MB/s  kept {verified:,}"
    )
    if arguments.peer:
        found = peer(frames, arguments.peer)
        rate = size / 1e6 / found["cpu_seconds"]
        print(
            f"datatrove          {found['cpu_seconds']:7.2f} CPU s {rate:8.1f} MB/s  kept {found['kept']:,}"
        )
        print(f"kept, ours against datatrove: {kept / found['kept'] - 1:+.3%}")
    planted()


def documents(sources: list[str], num_bytes: int) -> list[pl.DataFrame]:
    """Batches of documents of at least five words."""
    reader = Reader(text_column="text", piece_bytes=1 << 20)
    batches = reader.batches(sample_files(list_files(sources), num_bytes, 0))
    return [batch.filter(pl.col("text").str.count_matches(r"\w+") >= 5) for batch in batches]


def ours(frames: list[pl.DataFrame], jaccard: float) -> tuple[tuple[float, float], int]:
    """((CPU seconds of sketches, of the rest), documents kept), by the steps that `stepladder data` runs."""
    with tempfile.TemporaryDirectory() as folder:
        options = CorpusOptions(dedup=Dedup(jaccard=jaccard))
        job = Job(work=Path(folder), options=options, executor=LocalPool(1), quiet=True)
        start = time.process_time()
        for number, frame in enumerate(frames):
            name, base, rows = f"{number:05d}-0000", part_base(number, 0), np.arange(len(frame))
            values, has_sketch = sketches(frame["text"])
            exact = exact_keys(frame["text"])
            length = frame["text"].str.len_bytes().to_numpy()
            label = labels(base, rows, length, np.zeros(len(rows), dtype=bool))
            read = job.work / "read"
            disk.write_array(read / f"{name}.rows.npy", rows.astype(np.uint16))
            disk.write_array(read / f"{name}.values.npy", values)
            columns = {"key": exact[:, 0], "second": exact[:, 1], "label": label}
            disk.write_sorted(read / f"{name}.exact", "key", columns)
            disk.write_arrays(read / f"{name}.npz", {"rows": rows, "label": label, "has_sketch": has_sketch})
            job.parts.append({"name": name, "kept": len(rows), "documents": len(rows)})
        disk.write_parts(job.work, job.parts)
        middle = time.process_time()
        find_copies(job)
        end = time.process_time()
        gone: set[int] = set()
        for part in job.parts:
            for step, ranges in (("exact", job.ranges["exact"]), ("leaders", job.ranges["bands"])):
                base = base_of(part["name"])
                gone |= set(of_part(job.work, step, ranges, base, ("document",))[0].tolist())
        return (middle - start, end - middle), sum(map(len, frames)) - len(gone)


def peer(frames: list[pl.DataFrame], python: str) -> dict[str, Any]:
    """The same of datatrove's four stages."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "in" / "part.jsonl"
        target.parent.mkdir()
        with target.open("w", encoding="utf-8") as stream:
            for number, text in enumerate(text for frame in frames for text in frame["text"]):
                stream.write(json.dumps({"id": str(number), "text": text}) + "\n")
        words = [python, "-c", PEER, folder]
        out = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
        if out.returncode:
            sys.exit(out.stderr[-2000:])
        return json.loads(out.stdout.splitlines()[-1])


def planted(pairs: int = 3000, words: int = 600) -> None:
    """Recall of the bands at known similarity, and how alike the pairs are that verification joins."""
    draw = np.random.default_rng(0)
    vocabulary = np.array(["".join(chr(97 + (n >> 4 * k & 15)) for k in range(4)) for n in range(50_000)])
    print("planted pairs: Jaccard wanted, true mean, proposed (theory), joined at .8")
    true_all, joined_all = [], []
    for wanted in (0.7, 0.8, 0.9):
        texts, true = [], []
        for _ in range(pairs):
            left = draw.integers(0, len(vocabulary), words)
            # A changed word breaks five 5-grams: shared / union = J gives the share of grams that must go.
            grams = words - 4
            broken = round(grams * (1 - 2 * wanted / (1 + wanted)))
            right = left.copy()
            places = np.arange(2, words - 2, 5)[: max(broken // 5, 1)]
            right[places] = draw.integers(0, len(vocabulary), len(places))
            texts += [" ".join(vocabulary[left]), " ".join(vocabulary[right])]
            a, b = (_grams(side) for side in (left, right))
            true.append(len(a & b) / len(a | b))
        values, _ = sketches(pl.Series("text", texts))
        keys = band_keys(values)
        proposed = (keys[::2] == keys[1::2]).any(axis=1)
        label = np.repeat(np.arange(len(texts), dtype=np.uint64), keys.shape[1])
        order = np.lexsort((label, keys.reshape(-1)))
        at = lambda chosen, values=values: values[chosen.astype(np.int64)]  # noqa: E731
        found, _ = joined_pairs(keys.reshape(-1)[order], label[order], at, 0.8)
        joined = np.isin(np.arange(pairs), found[:, 0] // 2)
        theory = np.mean([1 - (1 - j**8) ** 14 for j in true])
        print(
            f"  {wanted:.2f} {np.mean(true):.3f}  {proposed.mean():.3f} ({theory:.3f})  {joined.mean():.3f}"
        )
        true_all += true
        joined_all += joined.tolist()
    alike = np.array(true_all)[np.array(joined_all)]
    print(f"joined pairs with true Jaccard >= .7: {(alike >= 0.7).mean():.1%} of {len(alike)}")


def _grams(words: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(words[at : at + 5].tolist()) for at in range(len(words) - 4)}


if __name__ == "__main__":
    main()
