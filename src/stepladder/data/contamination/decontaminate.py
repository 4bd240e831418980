"""Evaluation sets and training text in; documents that hold their examples, and how much of each, out.

One shared n-gram says little: it would flag 64 % of the documents in text about software. A document goes
when it holds a share of an example's n-grams, or when a share of its own n-grams stands in one example. What
was put in other words is not found.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.contamination.evaluation_sets import EvaluationSet
from stepladder.data.contamination.ngrams import NGRAM, distinct
from stepladder.data.files import read_arrays, write_arrays
from stepladder.data.quality.clean import normalise
from stepladder.data.wordkeys import Words, words_of
from stepladder.errors import DataError, StoreError

# PaLM calls an example contaminated from 70 % of its 8-grams on (Chowdhery et al. 2022, section 8), GPT-3
# from one n-gram on, of 8 to 13 words by the lengths of the set (Brown et al. 2020, appendix C), Llama 2
# dirty when 80 % of its tokens lie in shared runs of more than 10 tokens (Touvron et al. 2023, appendix A.6).
# Of copies of 40 words with one word in twenty changed, 0.5 finds 80 %, 0.7 only 50 %
# (bench/data/decontaminate.py, python:docstrings).
SHARE = 0.5
# Fewer shared n-grams than this (10 words in a row) do not make a document go, unless they are all that an
# example of 8 or 9 words has.
SHARED_LEAST = 3
# An example of 5 to 7 words must stand word for word in a document of at most 16, so that it is about a third
# of it. In longer ones such runs stand by chance: 2,000 lines of docstrings, looked for everywhere, took away
# 15 % of the other documents (41 MB of python:docstrings). GPT-3 takes 8 words or more, but for
# synthetic tasks. Examples below 5 words are counted as unchecked.
SHORTEST_WORDS, SHORT_DOCUMENT_WORDS = 5, 2 * NGRAM
# An n-gram of more examples than this is of the wording that a set gives to all of its examples. SQuAD has
# 4.6 questions a paragraph (107,785 on 23,215, Rajpurkar et al. 2016), so its paragraphs stay far below.
TEMPLATE_EXAMPLES = 100
WORST, HEAD_CHARS = 3, 160
INDEX_FOLDER = "ngrams"
# One bit in this many, or fewer, are set in the table that is asked before the search among the keys.
_TABLE_SPARSITY = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationIndex:
    """All word n-grams of the examples of some sets; examples are numbered through the sets in order.

    `key` (sorted, distinct) are 64-bit n-grams; `example[edge[i]:edge[i+1]]` are the examples with key i.
    `grams` is the number of distinct n-grams of each example (1 where it is matched whole; 0: not checked).
    `is_short` are those below `NGRAM` words that are matched whole, `lengths` the lengths in words that occur
    among them. `heads` are first characters, `table` answers most questions for keys that are not there.
    """

    names: tuple[str, ...]
    starts: np.ndarray
    key: np.ndarray
    edge: np.ndarray
    example: np.ndarray
    grams: np.ndarray
    lengths: tuple[int, ...]
    is_short: np.ndarray
    heads: tuple[str, ...]
    table: np.ndarray

    @classmethod
    def build(cls, sets: Sequence[EvaluationSet]) -> "EvaluationIndex":
        """The index of some sets.

        Raises:
            DataError: two sets have one name, or none has an example that is long enough.
        """
        names = tuple(one.name for one in sets)
        if len(set(names)) < len(names):
            raise DataError("two evaluation sets have the same name", got=", ".join(names))
        texts = [text for one in sets for text in one.texts]
        key, example, count = _example_keys(texts)
        is_short = (count >= SHORTEST_WORDS) & (count < NGRAM)
        unique, edge = np.unique(key, return_index=True)
        edge = np.append(edge, len(key))
        kept = np.diff(edge) <= TEMPLATE_EXAMPLES
        example = example[np.repeat(kept, np.diff(edge))]
        edge = np.concatenate([[0], np.cumsum(np.diff(edge)[kept])])
        if not len(example):
            raise DataError(
                "no example of the evaluation sets can be looked for",
                got=f"{len(texts)} example(s), all below {SHORTEST_WORDS} words",
                allowed=f"examples of {SHORTEST_WORDS} words or more",
            )
        return cls(
            names=names,
            starts=np.cumsum([0, *(len(one.texts) for one in sets)]),
            key=unique[kept],
            edge=edge,
            example=example,
            grams=np.bincount(example, minlength=len(texts)).astype(np.int32),
            lengths=tuple(np.unique(count[is_short]).tolist()),
            is_short=is_short,
            heads=tuple(" ".join(text[: 2 * HEAD_CHARS].split())[:HEAD_CHARS] for text in texts),
            table=_bit_table(unique[kept]),
        )

    def save(self, path: Path) -> None:
        """Write the index as .npz, whole or not at all."""
        words = json.dumps({"names": self.names, "heads": self.heads, "lengths": self.lengths})
        arrays = {
            name: getattr(self, name) for name in ("starts", "key", "edge", "example", "grams", "is_short")
        }
        write_arrays(path, {**arrays, "words": np.frombuffer(words.encode(), dtype=np.uint8)})

    @classmethod
    def load(cls, path: Path) -> "EvaluationIndex":
        """What `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        try:
            arrays: dict[str, Any] = read_arrays(path)
            words = json.loads(arrays.pop("words").tobytes())
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{path} is not an index of evaluation sets", got=str(error)) from error
        arrays.update((name, tuple(value)) for name, value in words.items())
        return cls(**arrays, table=_bit_table(arrays["key"]))

    def set_of(self, example: np.ndarray) -> np.ndarray:
        """The number of the set of each example."""
        return np.searchsorted(self.starts, example, side="right") - 1

    def find(self, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of the keys the index holds, where in `self.key` they stand)."""
        shift = np.uint64(64 - (len(self.table).bit_length() - 1) - 3)
        bit = key >> shift
        byte = self.table[bit >> np.uint64(3)]
        maybe = np.flatnonzero((byte >> (bit & np.uint64(7)).astype(np.uint8)) & 1)
        asked = key[maybe]
        place = np.minimum(np.searchsorted(self.key, asked), len(self.key) - 1)
        found = self.key[place] == asked
        return maybe[found], place[found]


def _example_keys(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(keys, examples: distinct pairs in their order, words of each example)."""
    import polars as pl

    keys, examples, counts = [], [], []
    column = normalise(pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)}))["text"]
    for base, words in words_of(column):
        first, count = words.first_words(NGRAM), words.counts()
        short = np.flatnonzero((count >= SHORTEST_WORDS) & (count < NGRAM))
        begin = (np.cumsum(count) - count)[short]
        keys += [words.keys(first, NGRAM), words.keys(begin, count[short])]
        examples += [base + words.document[first], base + short]
        counts.append(count)
    key, example = np.concatenate(keys), np.concatenate(examples).astype(np.int32)
    order = np.lexsort((example, key))
    key, example = key[order], example[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = (key[1:] != key[:-1]) | (example[1:] != example[:-1])
    return key[new], example[new], np.concatenate(counts)


def _bit_table(key: np.ndarray) -> np.ndarray:
    """Bits: whether some key begins with this number; so many that few other keys find theirs set."""
    bits = max(10, (_TABLE_SPARSITY * len(key)).bit_length())
    table = np.zeros(1 << bits, dtype=bool)
    table[key >> np.uint64(64 - bits)] = True
    return np.packbits(table, bitorder="little")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Pairs of a document and an example with the distinct n-grams that they share, in order of both.

    `grams` is the number of n-grams of each document, repeats included.
    """

    document: np.ndarray
    example: np.ndarray
    shared: np.ndarray
    grams: np.ndarray

    def shares(self, index: EvaluationIndex) -> tuple[np.ndarray, np.ndarray]:
        """(share of the example's n-grams, share of the document's) of each pair."""
        own = self.shared / np.maximum(self.grams[self.document], 1)
        return self.shared / index.grams[self.example], np.where(self.grams[self.document] > 0, own, 0.0)

    def goes(self, index: EvaluationIndex, share: float) -> np.ndarray:
        """Boolean per pair: the document holds so much of the example, or the example of the document."""
        of_example, of_document = self.shares(index)
        enough = self.shared >= np.minimum(SHARED_LEAST, index.grams[self.example])
        inside = (of_document >= share) & (self.shared >= SHARED_LEAST)
        return ((of_example >= share) & enough) | inside


def hits(text: Any, index: EvaluationIndex, known: Sequence[tuple[int, Words]] = ()) -> Hits:
    """Which examples share n-grams with the texts of a polars column (as `clean` leaves them).

    `known` is `words_of` the column where somebody needs it as well: nine tenths of the time go into it.
    """
    grams = np.zeros(len(text), dtype=np.int64)
    documents, places = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for base, words in known or words_of(text):
        counts = words.counts()
        grams[base : base + words.documents] = np.maximum(counts - NGRAM + 1, 0)
        is_short = counts <= SHORT_DOCUMENT_WORDS
        for length in (NGRAM, *(index.lengths if is_short.any() else ())):
            first = words.first_words(length)
            if length < NGRAM:
                first = first[is_short[words.document[first]]]
            which, place = index.find(words.keys(first, length))
            documents.append(base + words.document[first[which]].astype(np.int64))
            places.append(place)
    pairs = distinct(np.concatenate(documents) * len(index.key) + np.concatenate(places))
    document, place = np.divmod(pairs, len(index.key))
    count = np.diff(index.edge)[place]
    # Each key stands for all examples that hold it.
    inner = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    example = index.example[np.repeat(index.edge[place], count) + inner]
    both, shared = np.unique(
        np.repeat(document, count) * len(index.grams) + example.astype(np.int64), return_counts=True
    )
    document, example = np.divmod(both, len(index.grams))
    return Hits(document=document, example=example, shared=shared, grams=grams)


def contaminated(
    found: Hits, index: EvaluationIndex, share: float = SHARE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per document: (goes, the example that it shares most with or -1, the larger of the pair's two shares).

    Raises:
        DataError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise DataError("the share of n-grams is out of range", got=str(share), allowed="above 0, at most 1")
    goes = found.goes(index, share)
    largest = np.maximum(*found.shares(index))
    out = np.zeros(len(found.grams), dtype=bool)
    out[found.document[goes]] = True
    example, best = np.full(len(out), -1, dtype=np.int64), np.zeros(len(out))
    # Pairs that make it go come first, then the larger share, then the earlier example.
    order = np.lexsort((found.example, -largest, ~goes, found.document))
    chosen = order[np.unique(found.document[order], return_index=True)[1]]
    example[found.document[chosen]] = found.example[chosen]
    best[found.document[chosen]] = largest[chosen]
    return out, example, best


def tally(found: Hits, index: EvaluationIndex, ids: np.ndarray, share: float = SHARE) -> dict[str, Any]:
    """JSON values of one batch, to be added up by `merge`. `ids` name its documents across all batches."""
    of_example, _ = found.shares(index)
    goes = found.goes(index, share)
    sets = index.set_of(found.example[goes])
    pairs = np.unique(found.document[goes] * len(index.names) + sets)
    order = np.lexsort((ids[found.document], -of_example, found.example))
    example, first = np.unique(found.example[order], return_index=True)
    best = order[first]
    return {
        "share": share,
        "documents": len(found.grams),
        "removed": len(np.unique(found.document[goes])),
        "removed_by_set": np.bincount(pairs % len(index.names), minlength=len(index.names)).tolist(),
        "best": {
            str(number): [float(of_example[place]), int(ids[found.document[place]])]
            for number, place in zip(example.tolist(), best.tolist(), strict=True)
        },
    }


def merge(tallies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The tally of all batches together, in any order. It holds one entry an example, none a document."""
    total: dict[str, Any] = {}
    for one in tallies:
        if not total:
            total = {**one, "removed_by_set": list(one["removed_by_set"]), "best": dict(one["best"])}
            continue
        if one["share"] != total["share"]:
            raise AssertionError("tallies of one corpus are taken with one share")
        total["documents"] += one["documents"]
        total["removed"] += one["removed"]
        both = zip(total["removed_by_set"], one["removed_by_set"], strict=True)
        total["removed_by_set"] = [mine + other for mine, other in both]
        for example, entry in one["best"].items():
            known = total["best"].get(example)
            if known is None or (-entry[0], entry[1]) < (-known[0], known[1]):
                total["best"][example] = entry
    total["best"] = dict(sorted(total.get("best", {}).items(), key=lambda item: int(item[0])))
    return total


def summary(total: Mapping[str, Any], index: EvaluationIndex) -> dict[str, dict[str, Any]]:
    """Set → examples, unchecked, short, with_overlap, contaminated, removed (documents) and its worst three.

    An example counts by the one document that holds the largest share of it; `document` is that one's id.
    """
    out = {}
    best = {int(number): entry for number, entry in total["best"].items()}
    for place, name in enumerate(index.names):
        low, high = int(index.starts[place]), int(index.starts[place + 1])
        own = sorted((-best[number][0], number) for number in range(low, high) if number in best)
        out[name] = {
            "examples": high - low,
            "unchecked": int((index.grams[low:high] == 0).sum()),
            "short": int(index.is_short[low:high].sum()),
            "with_overlap": len(own),
            "contaminated": sum(-share >= total["share"] for share, _ in own),
            "removed": total["removed_by_set"][place],
            "worst": [
                {
                    "example": number - low,
                    "share": round(-share, 3),
                    "document": best[number][1],
                    "head": index.heads[number],
                }
                for share, number in own[:WORST]
            ],
        }
    return out
