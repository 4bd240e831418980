"""Gold and predicted texts in; the counts of each example from which BLEU, chrF and ROUGE follow, out.

Corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015) are formulas of summed counts. They equal
sacrebleu's defaults, whose signatures are nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp and
nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no; ROUGE (Lin 2004) equals rouge-score without stemming.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stepladder.eval.counts import check_lengths
from stepladder.eval.resample import Array

_BLEU_ORDER, _CHRF_ORDER, _CHRF_BETA = 4, 6, 2
# The tokenizer of mteval-v13a.pl: entities, then marks apart from words, points and commas but in numbers.
_ENTITIES = (("<skipped>", ""), ("-\n", ""), ("\n", " "))
_ESCAPES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ROUGE_WORDS = re.compile(r"[a-z0-9]+")


def bleu_counts(gold: Sequence[str], predicted: Sequence[str]) -> Array:
    """(examples, 10): words predicted, words of gold, four n-gram matches, four n-grams predicted."""
    check_lengths(gold, predicted)
    rows = np.zeros((len(gold), 2 + 2 * _BLEU_ORDER))
    for row, truth, said in zip(rows, gold, predicted, strict=True):
        words, wanted = _words_13a(said), _words_13a(truth)
        row[:2] = len(words), len(wanted)
        for order in range(1, _BLEU_ORDER + 1):
            own, other = _ngrams(words, order), _ngrams(wanted, order)
            row[1 + order] = (own & other).total()
            row[1 + _BLEU_ORDER + order] = own.total()
    return rows


def bleu(sums: Array) -> Array:
    """BLEU in 0 to 100; the k-th order without a match counts 1 / (2^k · n-grams)."""
    said, wanted = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + _BLEU_ORDER], sums[..., 2 + _BLEU_ORDER :]
    missed = (right == 0) & (total > 0)
    smooth = 2.0 ** np.cumsum(missed, axis=-1)
    precision = np.where(missed, 1 / smooth, right) / np.maximum(total, 1)
    known = (right.sum(axis=-1) > 0) & (total > 0).all(axis=-1)
    logs = np.log(np.where(known[..., None], precision, 1.0)).mean(axis=-1)
    short = np.minimum(1 - wanted / np.maximum(said, 1e-300), 0.0)
    return np.where(known, 100 * np.exp(np.maximum(short, -700.0)) * np.exp(logs), 0.0)


def chrf_counts(gold: Sequence[str], predicted: Sequence[str]) -> Array:
    """(examples, 6, 3): n-grams of characters predicted (0 where gold has none), of gold, matched."""
    check_lengths(gold, predicted)
    rows = np.zeros((len(gold), _CHRF_ORDER, 3))
    for row, truth, said in zip(rows, gold, predicted, strict=True):
        letters, wanted = "".join(said.split()), "".join(truth.split())
        for order in range(1, _CHRF_ORDER + 1):
            own, other = _ngrams(letters, order), _ngrams(wanted, order)
            row[order - 1] = own.total() if other else 0, other.total(), (own & other).total()
    return rows


def chrf(sums: Array) -> Array:
    """chrF2 in 0 to 100: mean precision and recall over the orders that both sides have."""
    said, wanted, right = (sums[..., at] for at in range(3))
    known = (said > 0) & (wanted > 0)
    orders = np.maximum(known.sum(axis=-1), 1)
    precision = (known * right / np.maximum(said, 1)).sum(axis=-1) / orders
    recall = (known * right / np.maximum(wanted, 1)).sum(axis=-1) / orders
    weight = _CHRF_BETA**2
    below = weight * precision + recall
    return 100 * (1 + weight) * precision * recall / np.where(below > 0, below, 1.0)


def rouge_scores(gold: Sequence[str], predicted: Sequence[str], order: int) -> Array:
    """(examples,) F1 of n-grams of words; of the longest common subsequence where `order` is 0.

    Words are runs of a-z and 0-9: texts in other scripts have none and score 0.
    """
    check_lengths(gold, predicted)
    scores = np.zeros(len(gold))
    for at, (truth, said) in enumerate(zip(gold, predicted, strict=True)):
        words, wanted = (_ROUGE_WORDS.findall(text.lower()) for text in (said, truth))
        if order:
            own, other = _ngrams(words, order), _ngrams(wanted, order)
            same, sizes = (own & other).total(), (own.total(), other.total())
        else:
            same, sizes = _common_subsequence(words, wanted), (len(words), len(wanted))
        if same:
            precision, recall = same / sizes[0], same / sizes[1]
            scores[at] = 2 * precision * recall / (precision + recall)
    return scores


def _words_13a(text: str) -> list[str]:
    text = text.rstrip()
    for old, new in _ENTITIES + (_ESCAPES if "&" in text else ()):
        text = text.replace(old, new)
    text = f" {text} "
    for pattern, apart in _MARKS:
        text = pattern.sub(apart, text)
    return text.split()


def _ngrams(items: str | list[str], order: int) -> Counter:
    if isinstance(items, str):
        return Counter(items[at : at + order] for at in range(len(items) - order + 1))
    return Counter(zip(*(items[at:] for at in range(order)), strict=False))


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table at once as bits of a whole number
    (Hyyrö 2004, Bit-parallel LCS-length computation revisited)."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    every = (1 << len(first)) - 1
    row = every
    for word in second:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & every
    return len(first) - row.bit_count()
