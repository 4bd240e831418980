"""Translations in PO, TMX or two files of equal lines in; rows of source and target out (no torch)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from stepladder.errors import TaskError
from stepladder.tune.rows import Placed

# Elements of TMX 1.4 whose content is markup of the original document, not words (section 3.2).
_TMX_CODES = ("bpt", "ept", "it", "ph", "ut")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"\s*$')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_KEYWORD = re.compile(r"(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])?\s+(.*)")


def parallel_rows(source: Path, target: Path) -> Iterator[Placed]:
    """Line n of one file beside line n of the other; pairs of two empty lines are left out.

    Raises:
        TaskError: unequal numbers of lines.
    """
    lines = [_lines(path) for path in (source, target)]
    counts = [len(of) for of in lines]
    if counts[0] != counts[1]:
        raise TaskError(
            f"{source} and {target} are not parallel",
            got=f"{counts[0]:,} and {counts[1]:,} lines",
            allowed="as many lines in both, the same number of line the same sentence",
        )
    for number, pair in enumerate(zip(*lines, strict=True), start=1):
        if any(line.strip() for line in pair):
            yield f"line {number}", _pair(*pair)


def _lines(path: Path) -> list[bytes]:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    return content.removesuffix(b"\n").split(b"\n")


def _pair(source: bytes, target: bytes) -> Mapping[str, Any] | str:
    try:
        return {"source": source.decode().strip("\r"), "target": target.decode().strip("\r")}
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"


@dataclass(slots=True)
class _Entry:
    """One message of a catalogue while it is read."""

    line: int = 0
    is_fuzzy: bool = False
    texts: dict[str, str] = field(default_factory=dict)


def po_rows(path: Path) -> Iterator[Placed]:
    """Translated messages of a gettext catalogue; fuzzy, obsolete and untranslated ones are left out.

    A plural gives two rows, its first and its last form, where the language has several forms; one, the
    plural, where it has one.
    """
    for entry in _entries(path):
        texts = entry.texts
        forms = [texts[key] for key in sorted(key for key in texts if key.startswith("msgstr"))]
        if entry.is_fuzzy or not texts.get("msgid") or not all(forms) or not forms:
            continue
        place = f"line {entry.line}"
        if plural := texts.get("msgid_plural"):
            if len(forms) > 1:
                yield place, {"source": texts["msgid"], "target": forms[0]}
            yield place, {"source": plural, "target": forms[-1]}
        else:
            yield place, {"source": texts["msgid"], "target": forms[0]}


def _entries(path: Path) -> Iterator[_Entry]:
    entry, key = _Entry(), ""
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise _unreadable(path, number, "not UTF-8") from error
        if line.startswith("#") or not line:
            # Comments stand before a message, never within one.
            if "msgstr" in key:
                yield entry
                entry, key = _Entry(), ""
            entry.is_fuzzy |= line.startswith("#,") and "fuzzy" in line
            continue
        found = _KEYWORD.match(line)
        word, form, rest = found.groups() if found else ("", None, line)
        if word in ("msgctxt", "msgid") and "msgstr" in key:
            yield entry
            entry = _Entry()
        if word == "msgid":
            entry.line = number
        # Forms sort by number: there are at most six in any language.
        key = word + (f"[{form}]" if form else "") if word else key
        string = _STRING.match(rest)
        if not key or not string:
            raise _unreadable(path, number, line[:60])
        entry.texts[key] = entry.texts.get(key, "") + _unescaped(string[1])
    if "msgstr" in key:
        yield entry


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), text)


def _unreadable(path: Path, line: int, got: str) -> TaskError:
    return TaskError(
        f"{path} is not a gettext catalogue", got=f"line {line}: {got}", allowed="msgid and msgstr, UTF-8"
    )


def tmx_rows(path: Path, columns: Mapping[str, str]) -> Iterator[Placed]:
    """Units of a translation memory that have both languages: `columns` {"source": "en", "target": "fr"}.

    Without them the header's srclang and the only other language; a language may go without its country.
    A file that declares anything of its own (entities, elements) is refused: a few lines of those can stand
    for gigabytes; a document type that only names tmx14.dtd is not fetched.

    Raises:
        TaskError: not XML, declarations, or languages that are not there.
    """
    memory = _Memory()
    try:
        memory.parser().Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise TaskError(f"{path} is not TMX", got=str(error)) from error
    except _DeclarationError as error:
        raise TaskError(
            f"{path} declares {error} of its own", allowed="TMX without declarations in its DOCTYPE"
        ) from error
    known = sorted({language for unit in memory.units for language in unit})
    source = columns.get("source") or memory.source
    others = [language for language in known if language not in _of(source, known)]
    target = columns.get("target") or (others[0] if len(others) == 1 else "")
    if not _of(source, known) or not _of(target, known):
        raise TaskError(
            f"{path}: between which languages?",
            got=f"source {source or 'unknown'}, target {target or 'unknown'}",
            allowed=", ".join(known) or "units with two languages",
            next_command="the same with --columns source=LANGUAGE,target=LANGUAGE",
        )
    for number, unit in enumerate(memory.units, start=1):
        texts = [next((unit[name] for name in _of(wanted, unit)), "") for wanted in (source, target)]
        if all(text.strip() for text in texts):
            yield f"unit {number}", {"source": texts[0], "target": texts[1]}


def _of(language: str, known: Any) -> list[str]:
    """Those of the known languages that are this one, its countries included."""
    wanted = language.lower()
    return [name for name in known if wanted and (name == wanted or name.startswith(wanted + "-"))]


class _DeclarationError(Exception):
    """What a file declares."""


class _Memory:
    """Collects units as expat reads them."""

    def __init__(self) -> None:
        self.units: list[dict[str, str]] = []
        self.source = ""
        self._language, self._inside, self._codes = "", False, 0
        self._parts: list[str] = []

    def parser(self) -> Any:
        """A parser that fills this memory."""
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._entity
        return parser

    def _doctype(self, name: str, system: str | None, public: str | None, has_subset: int) -> None:
        if has_subset:
            raise _DeclarationError("a document type")

    def _entity(self, *_: Any) -> None:
        raise _DeclarationError("an entity")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "header":
            self.source = attributes.get("srclang", "").lower()
        elif name == "tu":
            self.units.append({})
        elif name == "tuv":
            self._language = (attributes.get("xml:lang") or attributes.get("lang") or "").lower()
        elif name == "seg":
            self._inside, self._parts = True, []
        elif name in _TMX_CODES:
            self._codes += 1

    def _end(self, name: str) -> None:
        if name in _TMX_CODES:
            self._codes -= 1
        elif name == "seg":
            self._inside = False
            if self.units and self._language:
                self.units[-1][self._language] = " ".join("".join(self._parts).split())

    def _text(self, text: str) -> None:
        if self._inside and not self._codes:
            self._parts.append(text)
