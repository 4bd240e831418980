"""What the user may choose about a corpus, checked in one place."""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from stepladder.data.copies.dedup import BAND_ROWS, BANDS, SKETCH_VALUES
from stepladder.errors import DataError, did_you_mean

# 256 bytes and end-of-text must fit, with room for some merges.
SMALLEST_VOCAB, LARGEST_VOCAB = 300, 1_000_000
MOST_CANARIES = 10_000
PII_MODES = ("replace", "drop", "keep")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dedup:
    """When texts are near-duplicates: `jaccard` of their word 5-grams, seen by `bands` of `band_rows` values.

    A pair of similarity J is proposed with probability 1-(1-J^band_rows)^bands, and joined from `jaccard` on
    (0: always, as tools that do not verify do).
    """

    jaccard: float = 0.8
    bands: int = BANDS
    band_rows: int = BAND_ROWS

    def collision(self, similarity: float) -> float:
        """Probability that a pair of this Jaccard similarity is proposed."""
        return 1 - (1 - similarity**self.band_rows) ** self.bands

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
class Cleaning:
    """What is removed or replaced for what it says.

    `languages` keeps only those (empty: all). `rules_on` and `rules_off` change which quality rules apply,
    by the name of a rule or of a set. `pii` says what happens to personal data and secrets: "replace" them,
    "drop" documents with card numbers or secrets and replace the rest, or "keep" all. `evaluation_sets` are
    files of tasks whose text must not stand in training documents. `spared` names rules or sets: what they
    alone would remove stays as a source of its own, for training only (`stepladder.ladder.ablate`).
    """

    languages: tuple[str, ...] = ()
    quality: bool = True
    rules_on: tuple[str, ...] = ()
    rules_off: tuple[str, ...] = ()
    pii: str = "replace"
    evaluation_sets: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is out of range, in words."""
        if self.pii in PII_MODES:
            return []
        return [f"pii {self.pii}{did_you_mean(self.pii, PII_MODES)} (allowed: {', '.join(PII_MODES)})"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Which columns of records hold what: `columns` pairs a standard name with a column's own name."""

    text_column: str = "text"
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusOptions:
    """Options of `prepare_corpus`.

    `held_out` is a share of the bytes, or a path (or source name) whose text is held out. `max_bytes` caps
    the input by a seeded sample of whole files (0: no cap). `workers` is the number of processes (0: one a
    core), which does not change the result. `canaries` plants so many random lines for each number of copies
    (`stepladder.data.canaries`). `vocab_size` 0 leaves the size to a measurement, for a model of
    `for_params` parameters.
    """

    vocab_size: int = 4096
    for_params: int = 0
    held_out: float | str = 0.05
    seed: int = 0
    max_bytes: int = 0
    workers: int = 0
    reading: Reading = field(default_factory=Reading)
    cleaning: Cleaning = field(default_factory=Cleaning)
    dedup: Dedup = field(default_factory=Dedup)
    tokenizer_sample_bytes: int = 5_000_000
    shard_tokens: int = 100_000_000
    canaries: int = 0

    def __post_init__(self) -> None:
        wrong = []
        if not self.vocab_size and self.for_params < 1:
            wrong.append("vocab_size auto without for_params (allowed: with the parameters of the model)")
        if self.vocab_size and not SMALLEST_VOCAB <= self.vocab_size <= LARGEST_VOCAB:
            wrong.append(f"vocab_size {self.vocab_size} (allowed: {SMALLEST_VOCAB} to {LARGEST_VOCAB:,})")
        if isinstance(self.held_out, (int, float)) and not 0 < self.held_out <= 0.5:
            wrong.append(f"held_out {self.held_out} (allowed: a share in (0, 0.5], or a path)")
        wrong += self.dedup.problems() + self.cleaning.problems()
        if self.max_bytes < 0:
            wrong.append(f"max_bytes {self.max_bytes} (allowed: 0 for no cap, or more)")
        if self.workers < 0:
            wrong.append(f"workers {self.workers} (allowed: 0 for one a core, or more)")
        if not 0 <= self.canaries <= MOST_CANARIES:
            wrong.append(f"canaries {self.canaries} (allowed: 0 for none, to {MOST_CANARIES:,})")
        if self.tokenizer_sample_bytes < 1 or self.shard_tokens < 1:
            wrong.append("tokenizer_sample_bytes and shard_tokens must be positive")
        if wrong:
            raise DataError("options of the corpus are out of range", got="; ".join(wrong))

    def identity(self) -> dict[str, Any]:
        """The options that change the result: all but the number of workers and the path of the held-out."""
        fields = asdict(self)
        del fields["workers"]
        if not self.canaries:
            del fields["canaries"]  # corpora of before there were any stay the same
        # What evaluation files say counts, not where they lie: see `prepare.py`.
        del fields["cleaning"]["evaluation_sets"]
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
