"""Test examples and a prepared corpus in; how many stand in its training text, and which do not, out.

Words are compared in runs of eight, as PaLM's (Chowdhery et al. 2022, section 8) and by the n-grams that the
corpus kept (`stepladder.data.contamination.ngrams`): its text is not read, and one range of its n-grams is in
memory at a time. What was put in other words is not found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepladder.errors import DataError
from stepladder.progress import Progress
from stepladder.records import TaskResult

# Of an example's words. It is the share at which preparing a corpus removes a document
# (`stepladder.data.contamination.decontaminate`, which has the measurement); Llama 2 calls an example dirty
# from 80 % of its tokens on, not dirty below 20 % (Touvron et al. 2023, appendix A.6).
THRESHOLD = 0.5
UNKNOWN = "Overlap with training text was not counted: no record names the corpus (--corpus FOLDER)."


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """How many examples stand in training text by their prompt, and by prompt and answer; `seen` by either.

    An example stands there when `threshold` of its words or more lie in runs of `ngram` words that occur in
    it; `any_run` counts those with a single such run. A run of `certain_words` is always met, a shorter one
    by chance. Examples below `ngram` words are `too_short`, and not seen. `rows` and `verdict` are of the
    others alone; empty where none was seen, or all.
    """

    corpus: str
    threshold: float
    ngram: int
    certain_words: int
    examples: int
    too_short: int
    any_run: int
    by_prompt: int
    by_whole: int
    seen: int
    rows: tuple[TaskResult, ...] = ()
    verdict: str = ""

    @property
    def sentence(self) -> str:
        """What was counted, in words."""
        if self.too_short == self.examples:
            return (
                f"Overlap with training text cannot be told: all {self.examples:,} test examples are "
                f"below {self.ngram} words."
            )
        short = f" {self.too_short:,} below {self.ngram} words were not looked for." if self.too_short else ""
        left = "No example is left without them." if self.seen == self.examples else ""
        return " ".join(
            f"{self.seen:,} of {self.examples:,} test examples ({self.seen / self.examples:.1%}) stand in "
            f"training text: {self.threshold:.0%} of their words or more lie in runs of {self.ngram} words "
            f"that occur there ({self.by_prompt:,} by the prompt alone, {self.by_whole:,} with its answer; "
            f"{self.any_run:,} share any run).{short} {left}".split()
        )


def look_for(
    corpus: Path,
    examples: Sequence[tuple[str, str]],
    *,
    threshold: float = THRESHOLD,
    quiet: bool = True,
) -> tuple[Overlap, tuple[int, ...]]:
    """Ask for each example, (prompt, answer), whether it stands in training text; the numbers of the others.

    Raises:
        DataError: no prepared corpus, no examples, or a threshold that is no share.
        StoreError: the corpus has no n-grams, or damaged ones.
    """
    from stepladder.data.contamination.coverage import coverage
    from stepladder.data.prepare import load_corpus

    if not 0 < threshold <= 1:
        raise DataError(
            "the threshold of overlap is out of range", got=str(threshold), allowed="above 0, at most 1"
        )
    if not examples:
        raise DataError("there is no test example to look for in training text")
    load_corpus(corpus)
    prompts = [prompt for prompt, _ in examples]
    wholes = [f"{prompt}\n{answer}" for prompt, answer in examples]
    with Progress("overlap", 0, "ranges of n-grams", quiet=quiet) as progress:

        def hear(done: int, of: int) -> None:
            progress.total = of
            progress.update(done)

        words, covered, (ngram, step) = coverage(corpus, [*prompts, *wholes], hear)
    words, covered = words.reshape(2, -1), covered.reshape(2, -1)
    is_long = words >= ngram
    is_seen = is_long & (covered >= threshold * words)
    either = is_seen.any(axis=0)
    found = Overlap(
        corpus=str(corpus),
        threshold=threshold,
        ngram=ngram,
        certain_words=ngram + step - 1,
        examples=len(examples),
        too_short=int((~is_long).all(axis=0).sum()),
        any_run=int((covered > 0).any(axis=0).sum()),
        by_prompt=int(is_seen[0].sum()),
        by_whole=int(is_seen[1].sum()),
        seen=int(either.sum()),
    )
    return found, tuple(np.flatnonzero(~either).tolist())


def as_text(value: object) -> str:
    """A gold answer as text: several one below the other."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    return "\n".join(str(one) for one in value)
