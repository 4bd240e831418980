"""A column of normalised texts in; its characters as arrays, cut into words, out.

A table gives the class of each code point, and words are segments of the array: there is no Python object per
word.
"""

import functools
import itertools
import string
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# Characters that are handled together: arrays of this size stay in the cache (88 ns a byte; 112 at 2^20).
SLICE_CHARS = 1 << 18
_SPACE, BREAK, LETTER, SYMBOL, TERMINAL, _LEFT, _RIGHT, _DIGIT = (1 << bit for bit in range(8))
_LOWER, _UPPER, _QUOTE, PUNCTUATION, _HYPHEN, _LINK = (1 << bit for bit in range(8, 14))
# Code points from here on are looked up as this one: planes 2 and 3 are letters of Chinese.
_TABLE_POINTS = 0x20000
# Marks that cc_net and datatrove count as symbols, beside those of ASCII and the control characters.
_WIDE_SYMBOLS = "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
# Unicode's property Sentence_Terminal in its later versions differs from the list of datatrove in these.
_NOT_TERMINAL = (
    *(0x1B4E, 0x1B4F, 0x1B7F, 0x2024, 0x2CF9, 0x2CFA, 0x2CFB),
    *(0xFE12, 0xFE15, 0xFE16, 0x113D4, 0x113D5, 0x16D6E, 0x16D6F),
)
_ALSO_TERMINAL = (0x17D6, 0x17D9, 0x17DA)
# Marks that spaCy's English rules cut off at either end of a word, and between letters.
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_EDGES = "….,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪—–" + _QUOTES
_LEFT_ONLY, _HYPHENS, _LINKS = "§%=+$£€¥₹₽₩₿", "-–—~", ":<>=/"
_LONGEST_SCHEME = 8
DOT, _APOSTROPHES = ord("."), (ord("'"), ord("’"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Words of some documents. Offsets count what is no blank; a word ends where the next starts.

    `start` has one more entry than there are words; `document` and `length` have one a word.
    """

    points: np.ndarray
    flags: np.ndarray
    start: np.ndarray
    document: np.ndarray

    @property
    def length(self) -> np.ndarray:
        """Characters of each word."""
        return np.diff(self.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSlice:
    points: np.ndarray
    flags: np.ndarray
    bounds: np.ndarray  # documents + 1
    solid: np.ndarray  # positions of what is no blank

    @property
    def documents(self) -> int:
        return len(self.bounds) - 1

    def document_of(self, positions: np.ndarray) -> np.ndarray:
        """The document of each position; positions rise."""
        counts = np.diff(np.searchsorted(positions, self.bounds))
        return np.repeat(np.arange(self.documents), counts)


def split_words(text: str) -> list[str]:
    """The words of a normalised text as the rules see them: close to spaCy's for English."""
    import polars as pl

    out = []
    for piece in slices(pl.Series([text if text.endswith("\n") else text + "\n"])):
        words = cut_words(piece)
        joined = words.points.tobytes().decode("utf-32-le")
        out += [joined[a:b] for a, b in itertools.pairwise(words.start.tolist())]
    return out


def slices(texts: Any) -> Iterator[TextSlice]:
    """Consecutive documents of about `SLICE_CHARS` together; texts without a character stand as they are."""
    sizes = texts.str.len_chars().to_numpy().astype(np.int64)
    group = np.cumsum(sizes) // SLICE_CHARS
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(sizes)]
    for low, high in itertools.pairwise(edges):
        if low == high:
            continue
        joined = "".join(texts[low:high].to_list()).encode("utf-32-le")
        points = np.frombuffer(joined, dtype=np.uint32)
        flags = _classes().take(points, mode="clip")
        bounds = np.concatenate([[0], np.cumsum(sizes[low:high])])
        yield TextSlice(points=points, flags=flags, bounds=bounds, solid=np.flatnonzero(flags & _SPACE == 0))


def cut_words(piece: TextSlice) -> Words:
    points, flags = piece.points[piece.solid], piece.flags[piece.solid]
    if not len(points):
        empty = np.zeros(0, dtype=np.int64)
        return Words(points=points, flags=flags, start=np.zeros(1, dtype=np.int64), document=empty)
    starts = np.flatnonzero(_starts(points, flags, piece.solid))
    return Words(
        points=points,
        flags=flags,
        start=np.append(starts, len(points)),
        document=piece.document_of(piece.solid[starts]),
    )


def _starts(points: np.ndarray, flags: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Boolean for each character that is no blank: a word starts here.

    A word ends at blanks. Marks at its ends are words of their own, dots that touch are one word, and letters
    are parted at hyphens and links between them (spaCy's rules for English, read from
    spacy/lang/punctuation.py 3.8; its lists of contractions, units and addresses are not followed).
    """
    head = np.ones(len(points), dtype=bool)
    head[1:] = np.diff(solid) != 1
    tail = np.append(head[1:], True)
    before = np.where(head, 0, _shifted(flags))
    dot = points == DOT
    touches = dot & _shifted(dot) & ~head
    dots = touches | np.append(touches[1:], False)
    # A single dot is cut off after a small letter, a digit, a mark or two capitals, but not in e.g. and i.e.
    two = before & _shifted(before) & _UPPER > 0
    initials = _shifted(dot, 2) & ~head & ~_shifted(head)
    closes = dots | ((before & (_LOWER | _DIGIT | _RIGHT | _QUOTE) > 0) & ~initials) | two
    left = (flags & _LEFT > 0) & (~dot | dots)
    right = (flags & _RIGHT > 0) & (~dot | closes)
    right |= (points == ord("%")) & (before & _DIGIT > 0)
    place = np.arange(len(points), dtype=np.int32)
    first = np.maximum.accumulate(np.where(head, place, 0))
    lead = np.maximum.accumulate(np.where(left, -1, place)) < first
    last = np.minimum.accumulate(np.where(tail, place, len(points))[::-1])[::-1]
    trail = np.minimum.accumulate(np.where(right, len(points), place)[::-1])[::-1] > last
    starts = head | lead | trail | _shifted(lead)
    _part_inside(points, flags, starts, lead | trail)
    starts[touches] = False
    # Two marks that make a face are one word.
    colon = np.flatnonzero(starts[1:] & starts[:-1] & (points[1:] == ord(":")) & ~head[1:])
    starts[colon[np.isin(points[colon], [ord(c) for c in ")(["])] + 1] = False
    return starts


def _shifted(values: np.ndarray, by: int = 1) -> np.ndarray:
    """The value `by` places before each place, 0 at the first."""
    out = np.zeros_like(values)
    out[by:] = values[: max(len(values) - by, 0)]
    return out


def _part_inside(points: np.ndarray, flags: np.ndarray, starts: np.ndarray, edge: np.ndarray) -> None:
    """Mark in `starts` where words are parted inside: at hyphens, links, commas, dots and before 's."""
    size = len(points)
    inner = np.flatnonzero((flags & (_HYPHEN | _LINK) > 0) & ~edge)
    inner = inner[(inner > 0) & (inner < size - 1)]
    inner = inner[~starts[inner] & ~starts[inner + 1]]
    left, right = flags[inner - 1], flags[inner + 1]
    mark = points[inner]
    links = (mark != ord(",")) & (mark != DOT)
    parts = (left & np.where(links, LETTER | _DIGIT, LETTER) > 0) & (right & LETTER > 0)
    parts &= (mark != DOT) | ((left & _LOWER > 0) & (right & _UPPER > 0))
    parts |= (mark == ord("-")) & (left & right & _DIGIT > 0)
    inner = inner[parts & ~_in_address(points, flags, starts, inner)]
    starts[inner] = True
    starts[inner + 1] = True
    mark = np.flatnonzero(np.isin(points, _APOSTROPHES) & ~edge)
    mark = mark[(mark > 0) & (mark < size - 1)]
    mark = mark[(flags[mark - 1] & LETTER > 0) & ~starts[mark] & ~starts[mark + 1]]
    after = np.append(starts, [True, True])
    one = np.isin(points[mark + 1], [ord(c) for c in "sSmd"]) & after[mark + 2]
    two = (
        np.isin(points[mark + 1], [ord(c) for c in "lrv"])
        & ~after[mark + 2]
        & after[np.minimum(mark + 3, size)]
    )
    starts[mark[one | two]] = True
    negated = mark[(points[mark + 1] == ord("t")) & after[mark + 2] & (points[mark - 1] == ord("n"))]
    starts[negated - 1] = True


def _in_address(points: np.ndarray, flags: np.ndarray, starts: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Boolean for each of the places `inner`: its word begins with a scheme, as in https://."""
    colon = np.flatnonzero(points[:-2] == ord(":"))
    colon = colon[(points[colon + 1] == ord("/")) & (points[colon + 2] == ord("/"))]
    begins = np.flatnonzero(starts)
    word = np.searchsorted(begins, colon, "right")
    length = colon - begins[word - 1]
    is_scheme = length <= _LONGEST_SCHEME
    for offset in range(1, _LONGEST_SCHEME + 1):
        is_scheme &= (offset > length) | (flags[np.maximum(colon - offset, 0)] & LETTER > 0)
    return np.isin(np.searchsorted(begins, inner, "right"), word[is_scheme])


@functools.cache
def _classes() -> np.ndarray:
    """uint16 flags of each code point below `_TABLE_POINTS`, and one entry for those above."""
    import polars as pl

    points = np.arange(_TABLE_POINTS + 1, dtype=np.uint32)
    letters = points.view("<U1")
    out = np.zeros(len(points), dtype=np.uint16)
    category = np.array([unicodedata.category(chr(point)) for point in points.tolist()])
    valid = np.flatnonzero(category != "Cs")
    column = pl.Series([chr(point) for point in valid.tolist()])
    terminal = np.zeros(len(points), dtype=bool)
    terminal[valid] = column.str.contains(r"\p{Sentence_Terminal}").to_numpy()
    terminal[list(_NOT_TERMINAL)] = False
    terminal[list(_ALSO_TERMINAL)] = True
    icon = category == "So"
    control = (points < 32) & (points != 10) & (points != 9) | (points >= 127) & (points < 160)
    for flag, members in (
        (_SPACE, np.char.isspace(letters)),
        (BREAK, _members("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", points)),
        (LETTER, np.char.isalpha(letters)),
        (SYMBOL, _members(string.punctuation + _WIDE_SYMBOLS, points) | control | terminal),
        (TERMINAL, terminal),
        (_LEFT, _members(_EDGES + _LEFT_ONLY, points) | icon),
        (_RIGHT, _members(_EDGES, points) | icon),
        (_DIGIT, _members(string.digits, points)),
        (_LOWER, np.char.islower(letters)),
        (_UPPER, np.char.isupper(letters)),
        (_QUOTE, _members(_QUOTES, points)),
        (PUNCTUATION, np.char.startswith(category, "P")),
        (_HYPHEN, _members(_HYPHENS, points)),
        (_LINK, _members(_LINKS + ",.", points)),
    ):
        out[members] |= flag
    return out


def _members(chars: str, points: np.ndarray) -> np.ndarray:
    return np.isin(points, [ord(char) for char in chars])
