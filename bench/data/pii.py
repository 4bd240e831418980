"""Installed text in; MB per CPU second of the search for personal data, and findings of each kind, out.

    python bench/data/pii.py --source python:installed

Documents come in the batches that the reader makes for the other steps; reading is not timed. polars runs on
one thread, as in a worker process.
"""

import argparse
import os
import time

os.environ.setdefault("POLARS_MAX_THREADS", "1")

from stepladder.data.privacy.pii import drop_mask, merge_counts, pii_counts, replace_pii
from stepladder.data.sources.listing import list_files
from stepladder.data.sources.read import Reader


def main() -> None:
    """Print the speed and the findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="python:installed")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    reader = Reader(text_column="text", piece_bytes=8_000_000)
    texts = [batch["text"] for batch in reader.batches(list_files([options.source]))]
    num_bytes = sum(int(text.str.len_bytes().sum()) for text in texts)
    documents = sum(map(len, texts))
    speeds, parts, dropped = [], [], 0
    for repeat in range(options.repeats):
        start = time.process_time()
        frames = [replace_pii(text)[1] for text in texts]
        speeds.append(num_bytes / 1e6 / (time.process_time() - start))
        if not repeat:
            parts = [pii_counts(frame) for frame in frames]
            dropped = sum(int(drop_mask(frame).sum()) for frame in frames)
    shown = ", ".join(f"{speed:.0f}" for speed in speeds)
    print(f"{options.source}: {documents} documents, {num_bytes / 1e6:.0f} MB; {shown} MB per CPU second")
    for kind, numbers in merge_counts(parts).items():
        print(f"{kind:8}{numbers['documents']:8} documents{numbers['findings']:8} findings")
    print(f'mode "drop" removes {dropped} documents')


if __name__ == "__main__":
    main()
