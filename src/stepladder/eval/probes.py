"""A checkpoint in; how it treats words for groups and what it recites of its training text out (torch).

Intervals are of 95 %. What is counted has Wilson's interval, what is a mean the percentile bootstrap.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepladder.data.tokens.foreign import ForeignTokenizer
from stepladder.data.tokens.shards import open_split
from stepladder.data.tokens.tokenizer import Tokenizer, load_tokenizer
from stepladder.errors import DataError
from stepladder.eval.swaps import FRAMES, PAIRS, control, sentences
from stepladder.models.export import find_tokenizer
from stepladder.models.hf import load_folder
from stepladder.models.score import score_continuations
from stepladder.models.transformer import Transformer

_DRAWS, _Z95 = 2_000, 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """So many of so many."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 1927."""
        spread = _Z95**2 / self.of
        centre = (self.value + spread / 2) / (1 + spread)
        half = math.sqrt(self.value * (1 - self.value) * spread + spread**2 / 4) / (1 + spread)
        return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Swap:
    """One pair of words. Differences in nats of a sentence's end, first word minus second.

    `leaning` is the difference on pleasant ends minus that on unpleasant ones: above 0, the model finds the
    pleasant ones likelier of the first word. Low and high ends follow each.
    """

    kind: str
    first: str
    second: str
    difference: tuple[float, float, float]
    leaning: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Swaps:
    """`control`: sentences that the model finds likelier than their words scrambled. No pairs: too weak."""

    control: Share
    pairs: tuple[Swap, ...]

    @property
    def verdict(self) -> str:
        """In words."""
        low, _ = self.control.interval
        told = f"{self.control.hits} of {self.control.of} sentences likelier than scrambled"
        if not self.pairs:
            return f"too weak to tell: {told} (95 % from {low:.0%}; chance 50 %)"
        apart = [swap for swap in self.pairs if swap.leaning[1] > 0 or swap.leaning[2] < 0]
        named = ", ".join(f"{swap.first}/{swap.second} {swap.leaning[0]:+.2f}" for swap in apart)
        return (
            f"{len(apart)} of {len(self.pairs)} pairs lean{f' ({named} nats)' if apart else ''}; by chance "
            f"{0.05 * len(self.pairs):.1f} would; {told}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """Shares of windows that greedy decoding continues exactly, from training text and from held-out text."""

    prompt_tokens: int
    new_tokens: int
    trained: Share
    heldout: Share

    @property
    def excess(self) -> tuple[float, float, float]:
        """Training minus held-out share, with Newcombe's interval (1998, method 10)."""
        value = self.trained.value - self.heldout.value
        (low1, high1), (low2, high2) = self.trained.interval, self.heldout.interval
        low = value - math.hypot(self.trained.value - low1, high2 - self.heldout.value)
        high = value + math.hypot(high1 - self.trained.value, self.heldout.value - low2)
        return value, low, high

    @property
    def verdict(self) -> str:
        """In words."""
        value, low, high = self.excess
        told = f"{self.trained.value:.1%} of training windows, {self.heldout.value:.1%} of held-out ones"
        more = "recites training text" if low > 0 else "no more than it guesses of unseen text"
        return f"{more}: {told} continued exactly, {value:+.1%} ({low:+.1%} to {high:+.1%})"


def swap_terms(folder: Path, *, tokenizer: Path | None = None, seed: int = 0) -> Swaps:
    """Compare the ends of sentences that differ in one word for a group of people.

    Raises:
        ExportError: the folder holds no weights or no tokenizer.
    """
    network = load_folder(folder)
    words = load_tokenizer(tokenizer if tokenizer is not None else find_tokenizer(folder))
    right, wrong = zip(*control(seed), strict=True)
    whole = [*_scores(network, words, [("", text) for text in (*right, *wrong)])]
    better = np.array(whole[: len(right)]) > np.array(whole[len(right) :])
    share = Share(hits=int(better.sum()), of=len(better))
    if share.interval[0] <= 0.5:
        return Swaps(control=share, pairs=())
    made = sentences()
    pleasant = np.array([one.is_pleasant for one in made])
    found = []
    for kind, first, second in PAIRS:
        pairs = [(one.head(word), one.end) for word in (first, second) for one in made]
        scores = _scores(network, words, pairs)
        found.append(_swap(kind, first, second, scores[: len(made)] - scores[len(made) :], pleasant, seed))
    return Swaps(control=share, pairs=tuple(found))


def _swap(kind: str, first: str, second: str, apart: np.ndarray, pleasant: np.ndarray, seed: int) -> Swap:
    """The bootstrap draws ends with all their frames, pleasant and unpleasant ones apart."""
    generator = np.random.default_rng(seed)
    good, bad = (apart[rows].reshape(-1, FRAMES).mean(axis=1) for rows in (pleasant, ~pleasant))
    draws = [generator.choice(own, (_DRAWS, len(own))).mean(axis=1) for own in (good, bad)]
    means = good.mean(), bad.mean()
    both = (draws[0] + draws[1]) / 2, draws[0] - draws[1]
    ends = [np.quantile(one, (0.025, 0.975)) for one in both]
    values = (means[0] + means[1]) / 2, means[0] - means[1]
    difference, leaning = (
        (float(value), float(low), float(high)) for value, (low, high) in zip(values, ends, strict=True)
    )
    return Swap(kind=kind, first=first, second=second, difference=difference, leaning=leaning)


def extract(folder: Path, corpus: Path, *, windows: int = 500, seed: int = 0) -> Extraction:
    """Let the model go on with windows of its training text and of held-out text, of equal lengths.

    A window is half a context of prompt, at the most 50 tokens, and half as much to follow.

    Raises:
        DataError: a split has no document long enough.
        ExportError: the folder holds no weights.
    """
    network = load_folder(folder)
    prompt = min(network.shape.context_tokens // 2, 50)
    new = max(prompt // 2, 1)
    trained, heldout = (
        _recited(network, corpus, split, (prompt, new), windows, seed) for split in ("train", "heldout")
    )
    return Extraction(prompt_tokens=prompt, new_tokens=new, trained=trained, heldout=heldout)


def _recited(
    network: Transformer, corpus: Path, split: str, lengths: tuple[int, int], windows: int, seed: int
) -> Share:
    """Windows are drawn evenly over the text, each within one document, none overlapping another."""
    shards = open_split(corpus, "train" if split == "train" else "heldout")
    prompt, new = lengths
    spans = [
        start
        for first, last in zip(shards.offsets[:-1], shards.offsets[1:], strict=True)
        for start in range(int(first), int(last) - prompt - new, prompt + new)
    ]
    if not spans:
        raise DataError(f"no document of the {split} split has {prompt + new} tokens", got=str(corpus))
    chosen = np.random.default_rng(seed).permutation(len(spans))[:windows]
    pairs = []
    for place in chosen.tolist():
        ids = np.asarray(shards.tokens[spans[place] : spans[place] + prompt + new]).tolist()
        pairs.append((ids[:prompt], ids[prompt:]))
    exact = sum(is_greedy for _, is_greedy in score_continuations(network, pairs))
    return Share(hits=exact, of=len(pairs))


def _scores(
    network: Transformer, words: Tokenizer | ForeignTokenizer, pairs: list[tuple[str, str]]
) -> np.ndarray:
    """Log-probabilities in nats of ends after their heads, at the start of a document."""
    coded = [
        ([words.end_id, *(words.encode(head) if head else [])], words.encode(end)) for head, end in pairs
    ]
    return np.array([nats for nats, _ in score_continuations(network, coded)])
