"""Texts in; keys of their word n-grams as a folder out that can be asked for as long as the corpus is kept.

The folder holds every `STEP`-th n-gram of each document. Whoever asks with all n-grams of a text meets one of
them in every run of `NGRAM + STEP - 1` words that the text shares with the corpus.
"""

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.files import key_range, read_arrays, read_range, write_array, write_arrays
from stepladder.data.wordkeys import Words, words_of
from stepladder.errors import StoreError
from stepladder.store import read_json, write_json

# PaLM (Chowdhery et al. 2022, section 8) compares 8-grams of words; GPT-3 (Brown et al. 2020, appendix C)
# takes 8 to 13 by the length of a set's examples.
NGRAM = 8
# With every 6th n-gram stored, a shared run of 13 words (GPT-3's longest n-gram) is certain to be met.
STEP = 6
# Rows of keys that one range holds while parts are merged: 32 MB and their sort.
_RANGE_KEYS = 4_000_000
# A stored key is its bucket and 16 bits more. With fewer than 16 keys a bucket on average, another key is
# taken for a stored one with probability below 16/65,536. With the count of its bucket a key takes 2.06 to
# 2.13 bytes.
_REST_BITS, _BUCKET_KEYS = 16, 16
LARGEST_FALSE_SHARE = _BUCKET_KEYS / (1 << _REST_BITS)
_INDEX_FILE = "index.json"
_FORMAT = 1


def write_part(
    path: Path, text: Any, known: Sequence[tuple[int, Words]] = (), gone: np.ndarray | None = None
) -> dict[str, int]:
    """Write the sorted keys of every `STEP`-th n-gram of each text of a polars column as PATH.key.npy.

    `known` is `words_of` the column where somebody needs it as well, `gone` marks texts to leave out. The
    result counts the keys and the bytes of text. A part takes 8 bytes a key, and may go after the merge.
    """
    found = []
    for base, words in known or words_of(text):
        first = words.first_words(NGRAM)
        first = first[words.place[first] % STEP == 0]
        if gone is not None:
            first = first[~gone[base + words.document[first]]]
        found.append(words.keys(first, NGRAM))
    key = distinct(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)
    write_array(Path(f"{path}.key.npy"), key)
    return {"keys": len(key), "num_bytes": int(text.str.len_bytes().sum())}


def merge_parts(parts: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Parts that `write_part` wrote → the index in `folder`; the same bytes for any order of the parts.

    One range of keys is in memory at a time. The parts may go afterwards.
    """
    partitions = ranges_for(sum(len(np.load(f"{part}.key.npy", mmap_mode="r")) for part in parts))
    shutil.rmtree(folder, ignore_errors=True)
    keys = sum(merge_range(parts, folder, number, partitions) for number in range(partitions))
    return finish_index(folder, partitions, keys)


def ranges_for(rows: int) -> int:
    """Ranges into which so many keys of parts are merged: a power of two."""
    partitions = 1
    while rows > partitions * _RANGE_KEYS:
        partitions *= 2
    return partitions


def merge_range(parts: Sequence[Path], folder: Path, partition: int, partitions: int) -> int:
    """Write one of `partitions` ranges of keys (a power of two); keys in it. A task of its own."""
    found = read_range(parts, "key", ("key",), *key_range(partition, partitions))[0]
    key = distinct(found)
    bits = max(0, (len(key) // _BUCKET_KEYS).bit_length())
    bucket, rest = _split(key, partitions.bit_length() - 1, bits)
    count = np.bincount(bucket, minlength=1 << bits)
    if count.max(initial=0) > 255:
        raise AssertionError("keys are spread evenly: a bucket of 16 on average does not hold 256")
    arrays = {"count": count.astype(np.uint8), "rest": rest}
    write_arrays(folder / f"{partition:05d}.npz", arrays)
    return len(key)


def finish_index(folder: Path, partitions: int, keys: int) -> dict[str, Any]:
    """Write what makes the ranges in `folder` an index; returns it."""
    meta = {"format": _FORMAT, "ngram": NGRAM, "step": STEP, "partitions": partitions, "keys": keys}
    write_json(folder / _INDEX_FILE, meta)
    return meta


def distinct(key: np.ndarray) -> np.ndarray:
    """Sorted, each once. `unique` of numpy 2.4 goes through a hash table: 3.6 s for 4 M keys, this 0.03 s."""
    ranked = np.sort(key)
    new = np.ones(len(ranked), dtype=bool)
    new[1:] = ranked[1:] != ranked[:-1]
    return ranked[new]


def _split(key: np.ndarray, skipped: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(bucket: `bits` bits behind the first `skipped` ones, rest: the next 16 bits) of each key."""
    shift = np.uint64(64 - skipped - bits)
    mask = np.uint64((1 << bits) - 1)
    bucket = (key >> shift) & mask if bits else np.zeros(len(key), dtype=np.uint64)
    rest = (key >> (shift - np.uint64(_REST_BITS))) & np.uint64((1 << _REST_BITS) - 1)
    return bucket.astype(np.int64), rest.astype(np.uint16)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusIndex:
    """The n-grams of a corpus on disk: every `step`-th of each document."""

    folder: Path
    ngram: int
    step: int
    partitions: int
    keys: int

    def contains(self, key: np.ndarray, on_range: Callable[[int, int], None] = lambda *_: None) -> np.ndarray:
        """Boolean per key: stored, or (with probability below `LARGEST_FALSE_SHARE`) taken for a stored one.

        One range is in memory at a time; `on_range` hears (ranges asked, ranges in all).

        Raises:
            StoreError: a range of the index is missing or damaged.
        """
        order = np.argsort(key)
        ranked = key[order]
        out = np.zeros(len(key), dtype=bool)
        lows = [key_range(number, self.partitions)[0] for number in range(self.partitions)]
        edges = [*np.searchsorted(ranked, np.array(lows, dtype=np.uint64)).tolist(), len(key)]
        for number, (low, high) in enumerate(itertools.pairwise(edges)):
            if high > low:
                out[order[low:high]] = self._in_range(number, ranked[low:high])
            on_range(number + 1, self.partitions)
        return out

    def _in_range(self, number: int, key: np.ndarray) -> np.ndarray:
        path = self.folder / f"{number:05d}.npz"
        try:
            stored = read_arrays(path)
            count, rest = stored["count"], stored["rest"]
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{path} is not a range of an n-gram index", got=str(error)) from error
        bits = len(count).bit_length() - 1
        bucket, wanted = _split(key, self.partitions.bit_length() - 1, bits)
        # Bucket and rest in one number keep the order of the keys.
        full = (np.repeat(np.arange(len(count), dtype=np.int64), count) << _REST_BITS) | rest
        asked = (bucket << _REST_BITS) | wanted
        place = np.searchsorted(full, asked)
        found = place < len(full)
        found[found] = full[place[found]] == asked[found]
        return found


def open_corpus_index(folder: Path) -> CorpusIndex:
    """The index that `merge_parts` left in `folder`.

    Raises:
        StoreError: there is none, or this version cannot read it.
    """
    if not (folder / _INDEX_FILE).exists():
        raise StoreError(
            f"{folder} holds no n-gram index",
            allowed="the folder that preparing a corpus writes beside its shards",
            next_command="stepladder data SOURCE --out FOLDER",
        )
    meta = read_json(folder / _INDEX_FILE)
    if meta.get("format") != _FORMAT:
        raise StoreError(
            f"{folder} was written in another format",
            got=f"format {meta.get('format')}",
            allowed=f"format {_FORMAT}",
            next_command="stepladder data SOURCE --out FOLDER",
        )
    fields = {name: meta[name] for name in ("ngram", "step", "partitions", "keys")}
    return CorpusIndex(folder=folder, **fields)
