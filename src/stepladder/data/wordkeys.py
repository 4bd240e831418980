"""Texts in; their words, and 64-bit keys of runs of words, out, with no Python object per word.

A word is a run of letters, digits and underscores, lower-cased; each character of a script that is written
without blanks is a word of its own. A key depends on the words alone: not on punctuation, not on line ends,
not on the version of polars, so that keys can be kept.
"""

import functools
import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.data.labels import mixed

# Documents are hashed together up to this size: arrays of eight bytes for each then stay in the cache.
# 128 KiB was 10 % slower on prose, 512 KiB no faster (bench/data/decontaminate.py).
_TOGETHER_BYTES = 1 << 18
_BLANK, _POINT, _ZERO = (ord(letter) for letter in " .0")
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


def words_of(text: Any, *, numbers_alike: bool = False) -> Iterator[tuple[int, Words]]:
    """(number of the first document, its words and those of the next ones) over a polars column of texts.

    `numbers_alike`: every run of digits, with points inside it, is the digit 0, and underscores part words.
    """
    size = text.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
    group = np.cumsum(size) // _TOGETHER_BYTES
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(size)]
    for low, high in itertools.pairwise(edges):
        if high > low:
            yield low, _words(text[low:high], numbers_alike)


def _words(text: Any, numbers_alike: bool) -> Words:
    import polars as pl

    text = text.fill_null("")
    wide = text.str.len_bytes() != text.str.len_chars()
    if wide.any():
        some = text.filter(wide)
        if some.str.contains(_WITHOUT_BLANKS).any():
            text = text.scatter(wide.arg_true(), some.str.replace_all(_WITHOUT_BLANKS, " $1 "))
    raw = np.frombuffer((text.str.join("\n").item() + "\n").encode(), dtype=np.uint8)
    edges = np.cumsum(text.str.len_bytes().cast(pl.Int64).to_numpy() + 1)
    plain = _letters(numbers_alike)[raw]
    if wide.any():
        beyond = raw >= 128
        plain[beyond] = _beyond_ascii(raw[beyond])
    goes = _numbers(raw, plain) if numbers_alike else None
    is_word = plain != _BLANK
    after = np.empty_like(is_word)
    after[0], after[1:] = False, is_word[:-1]
    stays = is_word | after
    if goes is not None:
        stays &= ~goes
    plain = plain[stays]  # one blank behind each word is left, and none before the first
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


def _numbers(raw: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Which bytes go so that each number is one 0; points inside numbers become digits of `plain`."""
    is_digit = plain == _ZERO
    inside = np.flatnonzero(raw[1:-1] == _POINT) + 1
    inside = inside[is_digit[inside - 1] & is_digit[inside + 1]]
    plain[inside], is_digit[inside] = _ZERO, True
    is_digit[1:] &= is_digit[:-1].copy()
    is_digit[0] = False
    return is_digit


@functools.cache
def _letters(numbers_alike: bool) -> np.ndarray:
    """Byte → the byte of its lower-case letter, digit or underscore, or a blank; others stay."""
    table = np.arange(256, dtype=np.uint8)
    for byte in range(128):
        letter = chr(byte)
        table[byte] = ord(letter.lower()) if letter.isalnum() or letter == "_" else _BLANK
    if numbers_alike:
        table[ord("0") : ord("9") + 1], table[ord("_")] = _ZERO, _BLANK
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
