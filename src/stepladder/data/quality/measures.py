"""A column of normalised texts in; per document the counts that the published quality rules compare, out.

Texts are arrays of code points, words and lines are segments of them (`words`), and equal segments are found
by polynomial hashes (`repeats`).
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from stepladder.data.quality.repeats import prefix_sums, repeated_characters, segment_hashes, top_characters
from stepladder.data.quality.words import (
    BREAK,
    DOT,
    LETTER,
    PUNCTUATION,
    SYMBOL,
    TERMINAL,
    TextSlice,
    Words,
    cut_words,
    slices,
)

# Gopher, section A.1.1: at least two of these English words.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
# Table A1 of Gopher (arXiv 2112.11446): n and the largest share of characters.
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
# FineWeb: a line of at most this many characters is short.
SHORT_LINE_CHARS = 30


def measure(texts: Any, ngrams: Collection[int]) -> dict[str, np.ndarray]:
    """Name → one number a document of a polars column of normalised texts (see `clean.py`).

    `ngrams` are the n to count n-grams for: all nine of them take half of the time.
    """
    parts = []
    for piece in slices(texts):
        words = cut_words(piece)
        found = {"q_chars": np.diff(piece.bounds), **_word_counts(piece, words), **_line_counts(piece)}
        found |= _ngram_counts(piece, words, found["q_chars"], ngrams)
        parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def count_sentences(texts: Any) -> np.ndarray:
    """For each text that ends with a line end: sentences, each ended by a word that is one terminal mark."""
    parts = []
    for piece in slices(texts):
        words = cut_words(piece)
        first = words.flags[words.start[:-1]]
        is_end = (words.length == 1) & (first & TERMINAL > 0)
        is_mark = np.logical_and.reduceat(words.flags & PUNCTUATION > 0, words.start[:-1])
        counts = np.flatnonzero(is_end | ~is_mark)
        document, ends = words.document[counts], is_end[counts]
        begins = ~ends[1:] & ends[:-1] & (document[1:] == document[:-1])
        has_words = np.bincount(words.document, minlength=piece.documents) > 0
        parts.append(np.bincount(document[1:][begins], minlength=piece.documents) + has_words)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _word_counts(piece: TextSlice, words: Words) -> dict[str, np.ndarray]:
    def count(chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        total = np.bincount(words.document[chosen], weights, minlength=piece.documents)
        return total.astype(np.int64)

    begins, length = words.start[:-1], words.length
    if not len(begins):
        names = ("words", "solid_words", "solid_chars", "letter_words", "stop_words")
        return {f"q_{name}": np.zeros(piece.documents, dtype=np.int64) for name in names}
    is_solid = np.logical_or.reduceat(words.flags & SYMBOL == 0, begins)
    has_letter = np.logical_or.reduceat(words.flags & LETTER > 0, begins)
    stop = np.zeros(piece.documents, dtype=np.int64)
    for word in STOP_WORDS:
        at = begins[(length == len(word)) & (words.points[begins] == ord(word[0]))]
        for offset, letter in enumerate(word[1:], 1):
            at = at[words.points[at + offset] == ord(letter)]
        stop[np.unique(words.document[np.searchsorted(begins, at)])] += 1
    return {
        "q_words": np.bincount(words.document, minlength=piece.documents),
        "q_solid_words": count(is_solid),
        "q_solid_chars": count(is_solid, length[is_solid]),
        "q_letter_words": count(has_letter),
        "q_stop_words": stop,
    }


def _ngram_counts(
    piece: TextSlice, words: Words, chars: np.ndarray, ngrams: Collection[int]
) -> dict[str, np.ndarray]:
    out = {}
    hashes = segment_hashes(words.points, words.start[:-1], words.start[1:])
    for n in TOP_NGRAMS.keys() & ngrams:
        out[f"q_top_{n}"] = top_characters(words, hashes, n, piece.documents)
    sums = prefix_sums(words.points)
    for n in REPEATED_NGRAMS.keys() & ngrams:
        out[f"q_repeated_{n}"] = repeated_characters(words, sums, n, REPEATED_NGRAMS[n] * chars)
    return out


def _line_counts(piece: TextSlice) -> dict[str, np.ndarray]:
    points, flags, solid = piece.points, piece.flags, piece.solid
    documents = piece.documents
    out = {}
    breaks = np.flatnonzero(flags & BREAK > 0)
    first, last, has_text, document = _ends(piece, breaks)
    begin = points[solid[first[has_text]]]
    end = points[solid[last[has_text]]]
    filled = document[has_text]
    is_bullet = (begin == ord("•")) | (begin == ord("-"))
    is_dots = end == ord("…")
    third = np.maximum(last[has_text] - 2, 0)
    middle = np.maximum(last[has_text] - 1, 0)
    touches = solid[last[has_text]] - solid[third] == 2
    is_dots |= touches & (end == DOT) & (points[solid[third]] == DOT) & (points[solid[middle]] == DOT)
    out["q_lines"] = np.bincount(document, minlength=documents)
    out["q_bullets"] = np.bincount(filled[is_bullet], minlength=documents)
    out["q_ellipses"] = np.bincount(filled[is_dots], minlength=documents)

    breaks = np.flatnonzero(points == ord("\n"))
    _, _, has_text, document = _ends(piece, breaks)
    begin = np.append([0], breaks[:-1] + 1)[: len(breaks)]
    size = breaks - begin
    filled = document[has_text]
    ends = flags[breaks[has_text] - 1] & TERMINAL > 0
    out["q_newlines"] = np.bincount(document, minlength=documents)
    out["q_filled_lines"] = np.bincount(filled, minlength=documents)
    out["q_ended_lines"] = np.bincount(filled[ends], minlength=documents)
    out["q_short_lines"] = np.bincount(filled[size[has_text] <= SHORT_LINE_CHARS], minlength=documents)
    # The end of the text is one more line, without characters, where datatrove splits it.
    some = size > 0
    out["q_repeat_lines"], out["q_repeat_line_chars"] = _repeats(
        piece, begin[some], breaks[some], document[some]
    )
    out["q_parts"] = np.bincount(document[some], minlength=documents) + 1
    blank = ~has_text & some
    if blank.any():
        _, chars = _repeats(piece, begin[has_text], breaks[has_text], filled)
        out["q_filled_repeat_chars"] = chars
    else:
        out["q_filled_repeat_chars"] = out["q_repeat_line_chars"]
    return out | _paragraph_counts(piece, begin[some], breaks[some], document[some])


def _paragraph_counts(
    piece: TextSlice, begin: np.ndarray, end: np.ndarray, document: np.ndarray
) -> dict[str, np.ndarray]:
    """Paragraphs are filled lines that follow each other; the first has no blanks before it."""
    documents = piece.documents
    opens = np.ones(len(begin), dtype=bool)
    opens[1:] = (begin[1:] != end[:-1] + 1) | (document[1:] != document[:-1])
    at = np.flatnonzero(opens)
    end = end[np.append(at[1:], len(begin)) - 1] if len(at) else end
    begin, document = begin[at], document[at]
    place = np.minimum(np.searchsorted(piece.solid, piece.bounds[:-1]), max(len(piece.solid) - 1, 0))
    text_begins = piece.solid[place] if len(piece.solid) else piece.bounds[:-1]
    begin = np.maximum(begin, text_begins[document])
    keep = end > begin
    begin, end, document = begin[keep], end[keep], document[keep]
    repeats, chars = _repeats(piece, begin, end, document)
    return {
        "q_paragraphs": np.bincount(document, minlength=documents),
        "q_repeat_paragraphs": repeats,
        "q_repeat_paragraph_chars": chars,
    }


def _ends(piece: TextSlice, breaks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of lines that end at `breaks`: first and last place in `solid`, whether there is one, the document."""
    edge = np.searchsorted(piece.solid, breaks)
    first = np.append([0], edge[:-1])[: len(edge)]
    return first, edge - 1, edge > first, piece.document_of(breaks)


def _repeats(
    piece: TextSlice, begin: np.ndarray, end: np.ndarray, document: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(segments that stood in the same document before, their characters), one a document each."""
    keys = segment_hashes(piece.points, begin, end, document)
    _, index = np.unique(keys, return_index=True)
    again = np.ones(len(keys), dtype=bool)
    again[index] = False
    chars = np.bincount(document[again], (end - begin)[again], minlength=piece.documents)
    return np.bincount(document[again], minlength=piece.documents), chars.astype(np.int64)
