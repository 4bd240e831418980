"""A synthetic split in; tokens a second of the packed and masked loader and of plain windows, paired, out.

    python bench/data/loader.py --tokens 100000000 --contexts 256 1024 4096

Random ids as a uint16 memory map in a temporary folder, document lengths lognormal (median 400, sigma 1.4).
CPU seconds of one process. Packed: tokens int64, piece numbers int32, and which positions are predicted.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.tokens.shards import JoinedTokens
from stepladder.train.batches import BatchSource
from stepladder.train.packing import PackedSource, cut_share_of_windows, mask_of, pack

MEDIAN, SIGMA, VOCABULARY = 400, 1.4, 50_000
ROUNDS, BATCH_TOKENS = 5, 1 << 19


@dataclass(frozen=True)
class Split:
    """What the loaders need of a split."""

    tokens: Any
    offsets: np.ndarray
    checksum: str = ""


def main() -> int:
    """Print a block for each context."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--shards", type=int, default=8, help="parts of the split of several shards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        split = synthetic(Path(folder), options.tokens)
        cuts = np.linspace(0, len(split.tokens), options.shards + 1).astype(int)
        parts = [split.tokens[a:b] for a, b in itertools.pairwise(cuts)]
        joined = Split(JoinedTokens(parts), split.offsets)
        print(f"{len(split.tokens):,} tokens, {len(split.offsets) - 1:,} documents")
        for context in options.contexts:
            measure(split, joined, context)
    offsets = synthetic_lengths(1_000_000)
    million = Split(np.empty(0), offsets)
    for context in (1024, 32_768):
        started = time.process_time()
        packing = pack(million, context, 0)
        print(
            f"plan of 1,000,000 documents, context {context}: {time.process_time() - started:.2f} CPU s, "
            f"padding {packing.waste_share:.4%}"
        )
    return 0


def measure(split: Split, joined: Split, context: int) -> None:
    """Print plan and rates of one context; `joined` is the split in several shards."""
    started = time.process_time()
    packing = pack(split, context, 0)
    print(
        f"context {context}: plan {time.process_time() - started:.2f} CPU s, {len(packing):,} samples, "
        f"padding {packing.waste_share:.4%}, predicted {packing.predicted_share:.2%}, documents cut "
        f"{packing.cut_share:.1%} (windows {cut_share_of_windows(split.offsets, context):.1%})"
    )
    batch = max(BATCH_TOKENS // context, 1)
    packed, shards, narrow = (PackedSource(part, packing, batch, 0) for part in (split, joined, split))
    narrow.dtype = split.tokens.dtype
    steps: dict[str, Callable[[], object]] = {
        "packed, masked": lambda: [part.predicted for part in packed.next()],
        "packed, masked, uint16": lambda: [part.predicted for part in narrow.next()],
        "packed, masked, several shards": lambda: [part.predicted for part in shards.next()],
        "windows (BatchSource)": BatchSource(split, context, batch, 0).next,
        "windows, several shards": BatchSource(joined, context, batch, 0).next,
    }
    compare(steps, batch * context)
    rows = max((1 << 16) // context, 1)
    document = packed.read(np.arange(rows) % len(packing)).document[:, :-1]
    compare({"mask_of, (T, T) for each": lambda: mask_of(document)}, rows * context)


def compare(steps: dict[str, Callable[[], object]], tokens: int) -> None:
    """Print tokens a second of each, least, median and most of ROUNDS taken in turns."""
    rates = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            took = seconds(step)
            if number:
                rates[name].append(tokens / took)
    for name, values in rates.items():
        least, median, most = np.quantile(values, [0, 0.5, 1])
        print(f"  {name:32s} {median:14,.0f} tokens/s ({least:,.0f} to {most:,.0f})")


def seconds(step: Callable[[], object], least: float = 0.3) -> float:
    """CPU seconds of one call, the mean over as many as fill `least`."""
    started, calls = time.process_time(), 0
    while (took := time.process_time() - started) < least or not calls:
        step()
        calls += 1
    return took / calls


def synthetic(folder: Path, num_tokens: int) -> Split:
    """Random ids and lognormal lengths; every document ends with id 0."""
    rng = np.random.default_rng(0)
    offsets = synthetic_lengths(int(num_tokens / MEDIAN))
    offsets = offsets[: np.searchsorted(offsets, num_tokens)]
    path = folder / "tokens.bin"
    with open(path, "wb") as stream:
        for at in range(0, int(offsets[-1]), 1 << 22):
            size = min(1 << 22, int(offsets[-1]) - at)
            stream.write(rng.integers(1, VOCABULARY, size, dtype=np.uint16).tobytes())
    tokens = np.memmap(path, dtype=np.uint16, mode="r+")
    tokens[offsets[1:] - 1] = 0
    tokens.flush()
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    return Split(tokens, offsets)


def synthetic_lengths(documents: int) -> np.ndarray:
    """Offsets of documents with lognormal lengths, at least 2."""
    lengths = np.random.default_rng(1).lognormal(np.log(MEDIAN), SIGMA, documents).astype(np.int64) + 2
    return np.concatenate([[0], np.cumsum(lengths)])


if __name__ == "__main__":
    sys.exit(main())
