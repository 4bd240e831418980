"""What dpkg and apt of this machine know of packages in; four labelled sets of it out (no torch, no network).

package-summary, package-section, package-tags and package-questions. Records come from /var/lib/dpkg/status
and, where apt has fetched them, from its package lists and their English long descriptions. A group is a
source package: what is built from one source has paragraphs in common.
"""

import random
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from stepladder.errors import TaskError
from stepladder.tune.rows import Example

_STATUS, _LISTS = Path("/var/lib/dpkg/status"), Path("/var/lib/apt/lists")
# Undoes whatever compression apt keeps its lists in.
_HELPER = "/usr/lib/apt/apt-helper"
Record = Mapping[str, str]
_MOST_PER_LABEL, _MOST = 150, 6_000
_COMMON_LABEL = 60
_TAGS = 30
_SHORTEST, _LONGEST = 120, 1_500


@cache
def package_records() -> tuple[Record, ...]:
    """Fields of each package, one record a name, sorted; "Long" is its long description, where known.

    Raises:
        TaskError: neither dpkg nor apt knows a package here.
    """
    records: dict[str, dict[str, str]] = {}
    long: dict[tuple[str, str], str] = {}
    for stanza in _stanzas():
        name = stanza.get("Package", "")
        if text := stanza.get("Description-en"):
            long[name, stanza.get("Description-md5", "")] = _paragraphs(text)
        elif name and "Description" in stanza:
            short, _, body = stanza["Description"].partition("\n")
            known = records.setdefault(name, {})
            known |= stanza | {"Description": short}
            if body:
                known["Long"] = _paragraphs(stanza["Description"])
    for record in records.values():
        if body := long.get((record["Package"], record.get("Description-md5", ""))):
            record["Long"] = body
    if not records:
        raise TaskError(
            "no package is known here",
            got=f"no {_STATUS} and nothing in {_LISTS}",
            allowed="Debian or Ubuntu",
        )
    return tuple(records[name] for name in sorted(records))


def _stanzas() -> Iterator[dict[str, str]]:
    for path in sorted(_LISTS.glob("*_Packages*")) + sorted(_LISTS.glob("*_Translation-en*")):
        try:
            done = subprocess.run([_HELPER, "cat-file", str(path)], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        yield from parse_stanzas(done.stdout.decode("utf-8", "replace"))
    if _STATUS.exists():
        yield from parse_stanzas(_STATUS.read_text(encoding="utf-8", errors="replace"))


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Fields by name of each paragraph of a control file (Debian policy 5.1); a field may span lines."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.split("\n"):
            if line.startswith((" ", "\t")):
                fields[name] = f"{fields.get(name, '')}\n{line[1:]}"
            elif line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def _paragraphs(description: str) -> str:
    """The long part: lines of a paragraph joined, "." lines between paragraphs."""
    body = description.split("\n")[1:]
    parts = " ".join("\n" if line.strip() == "." else line.strip() for line in body).split("\n")
    return "\n".join(part.strip() for part in parts if part.strip())


def summaries() -> list[Example]:
    """Long description → short one."""
    described = [record for record in package_records() if len(record.get("Long", "")) >= _SHORTEST]
    return [
        Example(text=record["Long"][:_LONGEST], targets=(record["Description"],), group=_source(record))
        for record in _drawn(described, _MOST)
    ]


def sections() -> list[Example]:
    """Description → section, those with sixty sources or more, at most 150 packages of each."""
    by_section: dict[str, list[Record]] = defaultdict(list)
    for record in package_records():
        if section := record.get("Section", "").rpartition("/")[2]:
            by_section[section].append(record)
    kept = {
        name: records
        for name, records in by_section.items()
        if len({_source(record) for record in records}) >= _COMMON_LABEL
    }
    return [
        Example(text=_description(record), targets=(name,), group=_source(record))
        for name in sorted(kept)
        for record in _drawn(kept[name], _MOST_PER_LABEL)
    ]


def tags() -> list[Example]:
    """Description → those of the thirty commonest debtags that apply.

    Raises:
        TaskError: apt's lists are not here, or name no tags.
    """
    tagged = [(record, _tags(record)) for record in package_records() if "Tag" in record]
    if not tagged:
        raise TaskError(
            "no package here has tags",
            allowed="Debian, with apt's package lists",
            next_command="apt-get update",
        )
    common = Counter(tag for _, found in tagged for tag in found).most_common(_TAGS)
    wanted = {tag for tag, _ in common}
    return [
        Example(text=_description(record), targets=tuple(sorted(wanted & found)), group=_source(record))
        for record, found in _drawn(tagged, _MOST)
    ]


def _tags(record: Record) -> set[str]:
    return {tag.strip() for tag in record["Tag"].replace("\n", " ").split(",")}


# (field, what is asked of it); the sentence of the context ends with the field's value.
_FIELDS = {
    "Section": ("Its section is", "Which section is {name} in?"),
    "Version": ("The version is", "Which version of {name} is this?"),
    "Priority": ("Its priority is", "What priority does {name} have?"),
    "Architecture": ("It is built for", "Which architecture is {name} built for?"),
    "Installed-Size": ("Kilobytes when installed:", "How many kilobytes does {name} take when installed?"),
    "Homepage": ("The home page is", "Where is the home page of {name}?"),
    "Source": ("It is built from the source", "Which source is {name} built from?"),
    "Description": ("In short:", "What is {name}?"),
}
_PACKAGES_ASKED, _QUESTIONS_EACH, _SHARE_UNANSWERED = 1_000, 3, 0.25


def questions() -> list[Example]:
    """Constructed: a package's fields as sentences in random order; questions about one of them.

    A quarter ask for a field whose sentence was left out, in the same words: the text does not answer.
    People's names and addresses are not among the fields.
    """
    found = []
    for record in _drawn([one for one in package_records() if "Version" in one], _PACKAGES_ASKED):
        chooser = random.Random(f"questions of {record['Package']}")
        found += list(_asked(record, chooser))
    return found


def _asked(record: Record, chooser: random.Random) -> Iterator[Example]:
    name = record["Package"]
    known = {key: record[key].split(" (")[0] for key in _FIELDS if record.get(key)}
    left_out = chooser.sample(sorted(known), 2)
    shown = [key for key in known if key not in left_out]
    chooser.shuffle(shown)
    context, starts = f"{name} is a package of this system.", {}
    for key in shown:
        starts[key] = len(f"{context} {_FIELDS[key][0]} ")
        context = f"{context} {_FIELDS[key][0]} {known[key]}."
    answered = chooser.sample(shown, min(_QUESTIONS_EACH, len(shown)))
    absent = [key for key in _FIELDS if key not in shown]
    for key in answered:
        is_answered = chooser.random() >= _SHARE_UNANSWERED
        asked = key if is_answered or not absent else absent.pop(chooser.randrange(len(absent)))
        yield Example(
            text=context,
            question=_FIELDS[asked][1].format(name=name),
            targets=(known[key],) if asked == key else (),
            starts=(starts[key],) if asked == key else (),
            group=_source(record),
        )


def _description(record: Record) -> str:
    return "\n".join(text for text in (record["Description"], record.get("Long", "")) if text)[:_LONGEST]


def _source(record: Record) -> str:
    return (record.get("Source") or record["Package"]).split(" ")[0]


def _drawn(items: Iterable[Any], most: int) -> list[Any]:
    members = list(items)
    return random.Random(0).sample(members, most) if len(members) > most else members


PACKAGE_SETS: dict[str, Callable[[], list[Example]]] = {
    "package-summary": summaries,
    "package-section": sections,
    "package-tags": tags,
    "package-questions": questions,
}
