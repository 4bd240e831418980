"""A checkpoint and a corpus with canaries in; the exposure of every canary, in bits, out (torch).

    python -m stepladder.eval.canaries --corpus CORPUS RUN...

prints a JSON list: for each run the bits of its canaries by copies.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stepladder.data.canaries import draw_candidates, read_canaries
from stepladder.data.tokens.tokenizer import Tokenizer, load_own_tokenizer
from stepladder.laws.exposure import CHANCE_BITS, exposures
from stepladder.models.hf import load_folder
from stepladder.models.score import score_continuations

# 11 bits of exposure before the tail has to be extrapolated.
CANDIDATES = 2_047


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """Bits of each canary, by its copies in the training text."""

    bits: dict[int, tuple[float, ...]]
    candidates: int

    def mean(self, copies: int) -> float:
        """Mean bits of the canaries with so many copies."""
        return float(np.mean(self.bits[copies]))

    @property
    def verdict(self) -> str:
        """In words."""
        most = max(self.bits)
        alone, often = self.mean(min(self.bits)), self.mean(most)
        return (
            f"{often:.1f} bits of exposure at {most} copies, {alone:.1f} at {min(self.bits)}; "
            f"{CHANCE_BITS:.1f} is chance, among {self.candidates:,} candidates"
        )


def measure_exposure(folder: Path, corpus: Path, *, candidates: int = CANDIDATES) -> Exposure:
    """Rank each planted secret among `candidates` secrets that were drawn alike and never planted.

    Both are scored after their own prefix; ranks are exact as all were drawn at random.

    Raises:
        DataError: no canaries were planted in the corpus.
        ExportError: the folder holds no weights.
    """
    planted, seed = read_canaries(corpus)
    network, words = load_folder(folder), load_own_tokenizer(corpus)
    others = draw_candidates(candidates, seed)
    lines = [*((one["prefix"], one["secret"]) for one in planted), *others]
    coded = [_ids(words, *line) for line in lines]
    scores = np.array([nats for nats, _ in score_continuations(network, coded)])
    entropy = len(planted[0]["secret"]) * math.log2(10)
    bits = exposures(-scores[: len(planted)], -scores[len(planted) :], entropy)
    copies = sorted({one["copies"] for one in planted})
    of = {count: [i for i, one in enumerate(planted) if one["copies"] == count] for count in copies}
    return Exposure(
        bits={count: tuple(bits[rows].tolist()) for count, rows in of.items()}, candidates=candidates
    )


def main(words: list[str] | None = None) -> int:
    """Rank the canaries by each run, on one thread."""
    parser = argparse.ArgumentParser(prog="python -m stepladder.eval.canaries", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    print(json.dumps([measure_exposure(run, options.corpus).bits for run in options.runs]))
    return 0


def _ids(words: Tokenizer, prefix: str, secret: str) -> tuple[list[int], list[int]]:
    """A blank belongs to the word behind it in byte-level BPE, so the cut is before the blank."""
    return [words.end_id, *words.encode(prefix.rstrip())], words.encode(f" {secret}")


if __name__ == "__main__":
    sys.exit(main())
