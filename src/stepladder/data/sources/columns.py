"""One record (a mapping of names to values) in; a document, or what is wrong with it, out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepladder.errors import DataError, did_you_mean

# Where each standard column is looked for when the user does not say; the first that holds a value counts.
USUAL_NAMES: Mapping[str, Sequence[str]] = {
    "text": ("text",),
    "source": ("source",),
    "domain": ("domain",),
    "licence": ("licence", "license"),
    "group": ("group",),
    "date": ("date", "timestamp", "created"),
}
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it stands in its file. `own` holds the other standard columns of its record."""

    place: int
    text: str
    num_bytes: int
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """What could not be read: `place` is a byte offset or a row, `num_bytes` what is lost with it."""

    place: int
    reason: str
    num_bytes: int = 0
    raw: bytes = b""


Items = Iterator[Document | Fault]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a file holds which standard one. What `given` names must be there."""

    given: Mapping[str, str]
    _required: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        required = tuple(dict.fromkeys([self.text, *self.given.values()]))
        object.__setattr__(self, "_required", required)
        wrong = [name for name in self.given if name not in USUAL_NAMES]
        if wrong:
            raise DataError(
                f'"{wrong[0]}" is not a column of documents{did_you_mean(wrong[0], USUAL_NAMES)}',
                got=", ".join(f"{name} = {column}" for name, column in self.given.items()),
                allowed=", ".join(USUAL_NAMES),
            )

    @property
    def text(self) -> str:
        """Name of the column that holds the text."""
        return self.given.get("text", "text")

    def names(self, standard: str) -> Sequence[str]:
        """Names under which a standard column is looked for."""
        return (self.given[standard],) if standard in self.given else USUAL_NAMES[standard]

    def missing(self, found: Collection[Any]) -> str:
        """Why a file with these columns will not do, with their names; "" when it will."""
        missing = [f'"{name}"' for name in self._required if name not in found]
        if not missing:
            return ""
        found = list(map(str, found))
        word = "column" if len(missing) == 1 else "columns"
        more = ", ..." if len(found) > _LISTED else ""
        return f"no {word} {', '.join(missing)} among {', '.join(sorted(found)[:_LISTED]) or 'none'}{more}"

    def wanted(self, found: Sequence[str]) -> list[str]:
        """Those of the names found that are worth loading, in the order of the file."""
        known = {name for standard in USUAL_NAMES for name in self.names(standard)}
        return [name for name in dict.fromkeys(found) if name in known]

    def document(self, place: int, record: Any, num_bytes: int, raw: bytes) -> Document | Fault:
        """The document in a record; a fault with `raw` as its sample when there is none."""
        reason = self._problem(record)
        if reason:
            return Fault(place, reason, num_bytes, raw)
        own = {}
        for standard in USUAL_NAMES:
            names = self.names(standard)
            value = next((v for name in names if (v := record.get(name)) not in (None, "")), None)
            if value is not None and standard != "text":
                own[standard] = value
        return Document(place, record[self.text], num_bytes, own)

    def _problem(self, record: Any) -> str:
        if not isinstance(record, dict):
            return f"not a JSON object but {type(record).__name__}"
        if missing := self.missing(record):
            return missing
        text = record[self.text]
        if not isinstance(text, str):
            return f'column "{self.text}" holds {type(text).__name__}, not text'
        try:
            text.encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair in the text"
        return ""
