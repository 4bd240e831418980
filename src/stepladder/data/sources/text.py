"""A text file in; its pieces as documents and faults out, or the part of it that is asked for."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from stepladder.data.sources.columns import Document, Fault, Items
from stepladder.data.sources.streams import READ_ERRORS, open_packed, read_whole, reason_of, skip_line

# Strings at the start of a line: parsing the code finds the same and is ten times as slow.
_DOCSTRING = re.compile(r"^[ \t]*[rRuU]?(\"{3}|'{3})(.*?)\1[ \t]*$", re.DOTALL | re.MULTILINE)
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
# A file of which one part is wanted is a module or the METADATA of a package.
_LONGEST_PART = 64 << 20


def read_text(path: str, piece_bytes: int, first: int = 0, end: int = 0) -> Items:
    """Pieces of about `piece_bytes`; places are byte offsets in the unpacked file.

    Of a file that is not packed, only what lies between the line ends behind `first` and `end` (0: all). One
    in UTF-16 is read as a whole where `first` is 0.
    """
    place = first
    try:
        with open_packed(path) as stream:
            head = stream.read(2)
            encoding = _UTF16.get(head, "utf-8")
            if (first or end) and encoding == "utf-8":
                place, stop = _line_end(stream, first), _line_end(stream, end) if end else 0
                stream.seek(place)
                head = b""
                stream = _Until(stream, stop - place) if stop else stream
            elif first:
                return
            for raw in _pieces(stream, head, piece_bytes, encoding):
                if first and not raw:
                    return  # a line that began earlier fills the range
                text, reason = decode(raw, encoding, first=place == 0)
                yield Fault(place, reason, len(raw), raw) if reason else Document(place, text, len(raw))
                place += len(raw)
    except READ_ERRORS as error:
        yield Fault(place, reason_of(error))


def read_metadata(path: str) -> Items:
    """The long description of a package: what stands below the headers."""
    return _read_part(path, lambda text: text.partition("\n\n")[2])


def read_docstrings(path: str) -> Items:
    """The docstrings of a file as one document; it counts with their bytes."""
    return _read_part(path, docstrings)


def _read_part(path: str, part: Callable[[str], str]) -> Items:
    try:
        raw = read_whole(path, _LONGEST_PART)
    except READ_ERRORS as error:
        yield Fault(0, reason_of(error))
        return
    text, reason = decode(raw, _UTF16.get(raw[:2], "utf-8"), first=True)
    if reason:
        yield Fault(0, reason, len(raw), raw)
        return
    chosen = part(text.replace("\r\n", "\n"))
    yield Document(0, chosen, len(chosen.encode()))


def docstrings(code: str) -> str:
    """Triple-quoted strings that stand on lines of their own, unindented, a blank line between them."""
    return "\n\n".join(inspect.cleandoc(text) for _, text in _DOCSTRING.findall(code))


def decode(raw: bytes, encoding: str, *, first: bool) -> tuple[str, str]:
    """(text, "") or ("", reason). The byte-order mark at a file's start is taken off."""
    wide = encoding.startswith("utf-16")
    if not wide and b"\0" in raw:
        return "", f"NUL byte at offset {raw.index(0)}: not text"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        name = "utf-16" if wide else encoding
        return "", f"not {name}: byte {raw[error.start]:#04x} at offset {error.start}"
    text = text.removeprefix("\ufeff") if first else text
    return ("", "NUL character: not text") if "\0" in text else (text, "")


def _pieces(stream: Any, head: bytes, piece_bytes: int, encoding: str) -> Iterator[bytes]:
    """A file in pieces that end at a blank line, else at a line's end, else at a character's end."""
    rest, is_first = bytearray(head), True
    try:
        # read would lose what came before a break in the file; read1 gives it first.
        while block := stream.read1(piece_bytes):
            rest += block
            while len(rest) >= 2 * piece_bytes:
                cut = _cut(rest, piece_bytes, encoding)
                yield bytes(rest[:cut])
                del rest[:cut]
                is_first = False
    except READ_ERRORS:
        whole = rest.rfind(b"\n") + 1
        if encoding == "utf-8" and whole:
            yield bytes(rest[:whole])
        raise
    if rest or is_first:
        yield bytes(rest)


def _line_end(stream: IO[bytes], place: int) -> int:
    """The place behind the first line end at `place` or later: the same for who ends there and who begins."""
    if not place:
        return 0
    stream.seek(place)
    return place + skip_line(stream)


class _Until:
    """The next `left` bytes of a stream."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream, self._left = stream, left

    def read1(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        block = self._stream.read(min(size, self._left))
        self._left -= len(block)
        return block


def _cut(raw: bytearray, near: int, encoding: str) -> int:
    width = 1 if encoding == "utf-8" else 2
    for end in ("\n\n".encode(encoding), "\n".encode(encoding)):
        found = raw.rfind(end, near // 2, near)
        while found % width and found > 0:  # in UTF-16 only at a whole character
            found = raw.rfind(end, near // 2, found + len(end) - 1)
        if found >= 0:
            return found + len(end)
    if width == 2:
        cut = near - near % 2
        # The second half of a surrogate pair is DC00 to DFFF: step back to its first.
        high = raw[cut + 1] if encoding == "utf-16-le" else raw[cut]
        return cut - 2 if 0xDC <= high <= 0xDF and cut > 2 else cut
    # Continuation bytes of UTF-8 are 10xxxxxx: step back to the start of the character, at most 3 bytes.
    cut = near
    while cut > near - 3 and raw[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut
