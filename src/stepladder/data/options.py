"""What the user may choose about a corpus, checked in one place."""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from stepladder.data.dedup import BAND_ROWS, BANDS, SKETCH_VALUES
from stepladder.errors import DataError

# 256 bytes and end-of-text must fit, with room for some merges.
SMALLEST_VOCAB, LARGEST_VOCAB = 300, 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Dedup:
    """When texts are near-duplicates: `jaccard` of their word 5-grams, seen by `bands` of `band_rows` values.

    A pair of similarity J is proposed with probability 1-(1-J^band_rows)^bands, and joined from `jaccard` on
    (0: always, as tools that do not verify do).
    """

    jaccard: float = 0.8
    bands: int = BANDS
    band_rows: int = BAND_ROWS

    def problems(self) -> list[str]:
        """What is out of range, in words."""
        wrong = []
        if self.jaccard and not 0.5 <= self.jaccard <= 1:
            wrong.append(f"dedup_jaccard {self.jaccard} (allowed: 0.5 to 1, or 0 to join all candidates)")
        if self.bands < 1 or self.band_rows < 1 or self.bands * self.band_rows > SKETCH_VALUES:
            wrong.append(
                f"dedup.bands {self.bands} x band_rows {self.band_rows} "
                f"(allowed: at least 1 each, {SKETCH_VALUES} values in all)"
            )
        return wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusOptions:
    """Options of `prepare_corpus`.

    `held_out` is a share of the bytes, or a path (or source name) whose text is held out. `max_bytes` caps
    the input by a seeded sample of whole files (0: no cap). `languages` keeps only those (empty: all).
    `workers` is the number of processes (0: one a core); it never changes the result.
    """

    vocab_size: int = 4096
    held_out: float | str = 0.05
    seed: int = 0
    dedup: Dedup = field(default_factory=Dedup)
    max_bytes: int = 0
    workers: int = 0
    text_column: str = "text"
    languages: tuple[str, ...] = ()
    quality: bool = True
    tokenizer_sample_bytes: int = 5_000_000
    shard_tokens: int = 100_000_000

    def __post_init__(self) -> None:
        wrong = []
        if not SMALLEST_VOCAB <= self.vocab_size <= LARGEST_VOCAB:
            wrong.append(f"vocab_size {self.vocab_size} (allowed: {SMALLEST_VOCAB} to {LARGEST_VOCAB:,})")
        if isinstance(self.held_out, (int, float)) and not 0 < self.held_out <= 0.5:
            wrong.append(f"held_out {self.held_out} (allowed: a share in (0, 0.5], or a path)")
        wrong += self.dedup.problems()
        if self.max_bytes < 0:
            wrong.append(f"max_bytes {self.max_bytes} (allowed: 0 for no cap, or more)")
        if self.workers < 0:
            wrong.append(f"workers {self.workers} (allowed: 0 for one a core, or more)")
        if self.tokenizer_sample_bytes < 1 or self.shard_tokens < 1:
            wrong.append("tokenizer_sample_bytes and shard_tokens must be positive")
        if wrong:
            raise DataError("options of the corpus are out of range", got="; ".join(wrong))

    def identity(self) -> dict[str, Any]:
        """The options that change the result: all but the number of workers and the path of the held-out."""
        fields = asdict(self)
        del fields["workers"]
        if isinstance(self.held_out, str):
            fields["held_out"] = "path"
        return fields

    def processes(self, num_bytes: int) -> int:
        """Processes worth starting for this much text: each costs half a second before its first line."""
        if self.workers:
            return self.workers
        return max(
            1,
            min(
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
                num_bytes // 8_000_000,
            ),
        )
