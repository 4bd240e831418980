"""Texts in; 64-bit keys of their word n-grams out, and the keys of a corpus as a folder that can be asked.

A word is a run of letters, digits and underscores, lower-cased; each character of a script that is written
without blanks is a word of its own. A key depends on the words alone: not on punctuation, not on line ends,
not on the version of polars, so that a folder can be asked for as long as its corpus is kept.

The folder holds every `STEP`-th n-gram of each document. Whoever asks with all n-grams of a text meets one of
them in every run of `NGRAM + STEP - 1` words that the text shares with the corpus.
"""

import functools
import itertools
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.files import key_range, read_arrays, read_range, write_array, write_arrays
from stepladder.data.labels import mixed
from stepladder.errors import StoreError
from stepladder.store import read_json, write_json

# PaLM (Chowdhery et al. 2022, section 8) compares 8-grams of words; GPT-3 (Brown et al. 2020, appendix C)
# takes 8 to 13 by the length of a set's examples.
NGRAM = 8
# With every 6th n-gram stored, a shared run of 13 words (GPT-3's longest n-gram) is certain to be met.
STEP = 6
# Documents are hashed together up to this size: arrays of eight bytes for each then stay in the cache.
# 128 KiB was 10 % slower on prose, 512 KiB no faster (bench/data/decontaminate.py).
_TOGETHER_BYTES = 1 << 18
# Rows of keys that one range holds while parts are merged: 32 MB and their sort.
_RANGE_KEYS = 4_000_000
# A stored key is its bucket and 16 bits more. With fewer than 16 keys a bucket on average, another key is
# taken for a stored one with probability below 16/65,536. With the count of its bucket a key takes 2.06 to
# 2.13 bytes.
_REST_BITS, _BUCKET_KEYS = 16, 16
LARGEST_FALSE_SHARE = _BUCKET_KEYS / (1 << _REST_BITS)
_INDEX_FILE = "index.json"
_FORMAT = 1
_BLANK = 32
BASE = 0xD1342543DE82EF95  # odd, so that it has an inverse modulo 2^64
# Han, kana, Thai, Lao, Khmer, Burmese: their words are not told apart by blanks.
_WITHOUT_BLANKS = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
# Characters from here on (rare ideographs, private use) are letters that have no case.
_TABLE_SIZE = 0x20000


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Words of some documents. `document` and `place` (in its document) have an entry a word.

    `start`, `end` and `sums` serve `keys`: where a word stands in the joined text, and prefix sums over that.
    """

    documents: int
    document: np.ndarray
    place: np.ndarray
    start: np.ndarray
    end: np.ndarray
    sums: np.ndarray

    def counts(self) -> np.ndarray:
        """Words of each document."""
        return np.bincount(self.document, minlength=self.documents)

    def first_words(self, n: int) -> np.ndarray:
        """Which words begin a run of n words within their document."""
        last = len(self.document) - n + 1
        if last < 1:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self.document[:last] == self.document[n - 1 :])

    def keys(self, first: np.ndarray, n: int | np.ndarray) -> np.ndarray:
        """uint64 keys of the runs of n words that begin at the words `first`."""
        begin = self.start[first]
        total = self.sums[self.end[first + (n - 1)]]
        total -= self.sums[begin]
        total *= powers(len(self.sums))[1][begin]
        return mixed(total)


def words_of(text: Any) -> Iterator[tuple[int, Words]]:
    """(number of the first document, its words and those of the next ones) over a polars column of texts."""
    size = text.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
    group = np.cumsum(size) // _TOGETHER_BYTES
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(size)]
    for low, high in itertools.pairwise(edges):
        if high > low:
            yield low, _words(text[low:high])


def _words(text: Any) -> Words:
    import polars as pl

    text = text.fill_null("")
    wide = text.str.len_bytes() != text.str.len_chars()
    if wide.any():
        some = text.filter(wide)
        if some.str.contains(_WITHOUT_BLANKS).any():
            text = text.scatter(wide.arg_true(), some.str.replace_all(_WITHOUT_BLANKS, " $1 "))
    raw = np.frombuffer((text.str.join("\n").item() + "\n").encode(), dtype=np.uint8)
    edges = np.cumsum(text.str.len_bytes().cast(pl.Int64).to_numpy() + 1)
    plain = _letters()[raw]
    if wide.any():
        beyond = raw >= 128
        plain[beyond] = _beyond_ascii(raw[beyond])
    is_word = plain != _BLANK
    after = np.empty_like(is_word)
    after[0], after[1:] = False, is_word[:-1]
    plain = plain[is_word | after]  # one blank behind each word is left, and none before the first
    end = np.flatnonzero(plain == _BLANK)
    start = np.empty_like(end)
    start[:1], start[1:] = 0, end[:-1] + 1
    ends_in_raw = np.flatnonzero(after & ~is_word)
    first = np.concatenate([[0], np.searchsorted(ends_in_raw, edges)])
    count = np.diff(first)
    document = np.repeat(np.arange(len(text), dtype=np.int32), count)
    sums = np.zeros(len(plain) + 1, dtype=np.uint64)
    values = _points()[plain]
    values *= powers(len(plain))[0][: len(plain)]
    np.cumsum(values, out=sums[1:])
    place = np.arange(len(document)) - np.repeat(first[:-1], count)
    return Words(documents=len(text), document=document, place=place, start=start, end=end, sums=sums)


@functools.cache
def _letters() -> np.ndarray:
    """Byte → the byte of its lower-case letter, digit or underscore, or a blank; others stay."""
    table = np.arange(256, dtype=np.uint8)
    for byte in range(128):
        letter = chr(byte)
        table[byte] = ord(letter.lower()) if letter.isalnum() or letter == "_" else _BLANK
    return table


def _beyond_ascii(raw: np.ndarray) -> np.ndarray:
    """Bytes of characters beyond ASCII → as many bytes: lower-case letters and digits, the others blank."""
    point = np.frombuffer(raw.tobytes().decode().encode("utf-32-le"), dtype=np.uint32)
    lower, is_word = _characters()
    known = np.minimum(point, _TABLE_SIZE - 1)
    changed = np.where(point < _TABLE_SIZE, lower[known], point)
    out = np.frombuffer(changed.tobytes().decode("utf-32-le").encode(), dtype=np.uint8)
    width = 2 + (point > 0x7FF).astype(np.int8) + (point > 0xFFFF)
    return np.where(np.repeat(is_word[known] | (point >= _TABLE_SIZE), width), out, _BLANK)


@functools.cache
def _characters() -> tuple[np.ndarray, np.ndarray]:
    """Code point → (that of its lower case where this takes as many bytes, is a letter, mark or digit)."""
    lower, is_word = np.arange(_TABLE_SIZE, dtype=np.uint32), np.zeros(_TABLE_SIZE, dtype=bool)
    for point in range(128, _TABLE_SIZE):
        letter = chr(point)
        is_word[point] = unicodedata.category(letter)[0] in "LMN"
        small = letter.lower()
        if small != letter and len(small) == 1 and len(small.encode()) == len(letter.encode()):
            lower[point] = ord(small)
    return lower, is_word


@functools.cache
def _points() -> np.ndarray:
    """Byte → 64 bits that stand for it."""
    return mixed(np.arange(1, 257, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """`BASE` to the power of each place, and its inverse modulo 2^64; at least `size + 1` of both."""
    return _power_tables(max(size, _TOGETHER_BYTES).bit_length())


@functools.lru_cache(maxsize=8)
def _power_tables(bits: int) -> tuple[np.ndarray, np.ndarray]:
    def table(base: int) -> np.ndarray:
        steps = np.full(1 << bits, base, dtype=np.uint64)
        steps[0] = 1
        return np.multiply.accumulate(steps)

    return table(BASE), table(pow(BASE, -1, 1 << 64))


def write_part(path: Path, text: Any) -> dict[str, int]:
    """Write the sorted keys of every `STEP`-th n-gram of each text of a polars column as PATH.key.npy.

    The result counts the keys and the bytes of text. A part takes 8 bytes a key, and may go after the merge.
    """
    found = []
    for _, words in words_of(text):
        first = words.first_words(NGRAM)
        first = first[words.place[first] % STEP == 0]
        found.append(words.keys(first, NGRAM))
    key = distinct(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)
    write_array(Path(f"{path}.key.npy"), key)
    return {"keys": len(key), "num_bytes": int(text.str.len_bytes().sum())}


def merge_parts(parts: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Parts that `write_part` wrote → the index in `folder`; the same bytes for any order of the parts.

    One range of keys is in memory at a time. The parts may go afterwards.
    """
    rows, partitions = 0, 1
    for part in parts:
        rows += len(np.load(f"{part}.key.npy", mmap_mode="r"))
    while rows > partitions * _RANGE_KEYS:
        partitions *= 2
    shutil.rmtree(folder, ignore_errors=True)
    keys = sum(merge_range(parts, folder, number, partitions) for number in range(partitions))
    return finish_index(folder, partitions, keys)


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

    def contains(self, key: np.ndarray) -> np.ndarray:
        """Boolean per key: stored, or (with probability below `LARGEST_FALSE_SHARE`) taken for a stored one.

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
