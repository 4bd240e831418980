"""The name of a labelled set in; its Task out, without a hub (no torch).

Sources: the source distribution of vaderSentiment 3.3.2 (snippets of film reviews, newspaper editorials,
tweets and product reviews, each rated by about twenty people from -4 to 4), Django's release, docstrings of
the standard library, and what dpkg and apt know of packages. What is fetched is kept in the user's cache.
"""

import io
import random
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder.errors import TaskError, did_you_mean
from stepladder.tune.archives import fetch_archive
from stepladder.tune.docstrings import docstring_examples, summary_examples
from stepladder.tune.example_django import LANGUAGES, django_examples
from stepladder.tune.example_packages import PACKAGE_SETS, package_records
from stepladder.tune.rows import Example, Kind
from stepladder.tune.tasks import Task, split_task


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a set is from, under which licence, and what is one group of it."""

    name: str
    licence: str
    group: str

    def notes(self) -> list[str]:
        """Sentences for the notes of a task."""
        return [f"source: {self.name}", f"licence: {self.licence}", f"split by group: {self.group}"]


_VADER = Source(
    name="vaderSentiment 3.3.2 (C.J. Hutto and E. Gilbert, ICWSM 2014)",
    licence="MIT",
    group="an editorial or product page, else one text",
)
_DOCSTRINGS = Source(
    name="docstrings of the standard library on this machine", licence="PSF-2.0", group="a module"
)
_DJANGO = Source(
    name="message catalogues of Django 5.2.8",
    licence="BSD-3-Clause",
    group="a catalogue (admin, auth, ...); a message of several counts once, with the first",
)
_PACKAGES = Source(
    name="what dpkg and apt know of packages on this machine",
    licence="that of each package's own packaging",
    group="a source package",
)
_ABOUT: dict[str, tuple[Kind, str, Source]] = {
    "text-kind": (
        "classification",
        "film review, editorial, tweet or product review? (vaderSentiment sources, four classes)",
        _VADER,
    ),
    "sentiment": (
        "classification",
        "positive, negative or neutral? (film reviews and tweets of the same sources)",
        _VADER,
    ),
    "sentiment-rating": ("rating", "how positive, from -4 to 4? (mean of about twenty people)", _VADER),
    "docstring-topic": (
        "classification",
        "which part of the standard library is this docstring from? (no network)",
        _DOCSTRINGS,
    ),
    "docstring-summary": ("summarisation", "a docstring's body to its first line (no network)", _DOCSTRINGS),
    "package-section": ("classification", "which section is the package in? (Debian, Ubuntu)", _PACKAGES),
    "package-tags": ("multilabel", "which debtags apply to the package? (Debian, apt's lists)", _PACKAGES),
    "package-summary": ("summarisation", "a package's long description to its short one", _PACKAGES),
    "package-questions": (
        "span",
        "questions about a package's fields, constructed, a quarter without an answer",
        _PACKAGES,
    ),
}
for _language in LANGUAGES:
    _ABOUT[f"django-{_language}"] = ("translation", f"English to {_language}, Django's messages", _DJANGO)
EXAMPLE_TASKS: dict[str, tuple[Kind, str]] = {name: (kind, text) for name, (kind, text, _) in _ABOUT.items()}
_CONSTRUCTED = "constructed: contexts and questions are made by templates from fields, nobody asked them"
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILES = {
    "film review": "movieReviewSnippets",
    "editorial": "nytEditorialSnippets",
    "tweet": "tweets",
    "product review": "amazonReviewSnippets",
}
# The authors of the ratings call a mean beyond half a point positive or negative.
_NEUTRAL = 0.5


def example_task(name: str, *, seed: int = 0, examples: int = 0, offline: bool = False) -> Task:
    """The named Task; `examples` caps its size, in equal parts per class where it has classes (0: all).

    Where the archive is neither cached nor reachable, text-kind falls back on docstring-topic and the Task's
    notes say so.

    Raises:
        TaskError: the name is unknown, or its source is not on this machine and cannot be fetched.
    """
    if name not in _ABOUT:
        raise TaskError(f"no example task {name!r}{did_you_mean(name, _ABOUT)}", allowed=", ".join(_ABOUT))
    kind, _, source = _ABOUT[name]
    try:
        rows = _rows(name, offline)
    except TaskError as error:
        if name != "text-kind":
            raise
        fallback = example_task("docstring-topic", seed=seed, examples=examples)
        note = f"text-kind could not be fetched ({error.got}); docstring-topic instead"
        return replace(fallback, notes=(*fallback.notes, note))
    notes = source.notes()
    if source is _PACKAGES:
        notes[0] += f" ({len(package_records()):,} packages)"
    if name == "package-questions":
        notes.append(_CONSTRUCTED)
    return split_task(name, _capped(rows, kind, seed, examples), kind=kind, seed=seed, notes=notes)


def example_source(name: str) -> Source:
    """Where the named set is from."""
    return _ABOUT[name][2]


def _rows(name: str, offline: bool) -> list[Example]:
    if name.startswith("django-"):
        return django_examples(name.removeprefix("django-"), offline=offline)
    if name in _VADER_SETS:
        return _VADER_SETS[name](vader_rows(fetch_archive(offline=offline)))
    return {"docstring-topic": docstring_examples, "docstring-summary": summary_examples, **PACKAGE_SETS}[
        name
    ]()


def vader_rows(archive: Path) -> dict[str, list[tuple[str, float, str]]]:
    """(id, mean rating, text) of every row by kind of text."""
    with tarfile.open(archive) as outer:
        member = outer.extractfile(_INNER)
        inner = member.read() if member else b""
    rows: dict[str, list[tuple[str, float, str]]] = {}
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        for kind, stem in _FILES.items():
            member = tar.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
            text = member.read().decode("utf-8-sig") if member else ""
            cells = [line.split("\t") for line in text.splitlines() if line.strip()]
            rows[kind] = [(key, float(rating), body.strip()) for key, rating, body in cells]
    return rows


def _text_kind(rows: dict[str, list[tuple[str, float, str]]]) -> list[Example]:
    """Label: the kind. Group: the editorial or product page (ids are `document_sentence`), else the row."""
    return [
        Example(text=text, targets=(kind,), group=f"{kind} {key.split('_')[0]}")
        for kind, members in rows.items()
        for key, _, text in members
    ]


def _ratings(rows: dict[str, list[tuple[str, float, str]]]) -> list[Example]:
    """Target: the mean rating. Group: as of `_text_kind`."""
    return [
        Example(text=text, targets=(repr(rating),), group=f"{kind} {key.split('_')[0]}")
        for kind, members in rows.items()
        for key, rating, text in members
    ]


def _sentiment(rows: dict[str, list[tuple[str, float, str]]]) -> list[Example]:
    return [
        Example(
            text=text,
            targets=("neutral" if abs(rating) <= _NEUTRAL else "positive" if rating > 0 else "negative",),
            group=f"{kind} {key}",
        )
        for kind in ("film review", "tweet")
        for key, rating, text in rows[kind]
    ]


_VADER_SETS: dict[str, Callable[[dict[str, list[tuple[str, float, str]]]], list[Example]]] = {
    "text-kind": _text_kind,
    "sentiment": _sentiment,
    "sentiment-rating": _ratings,
}


def _capped(examples: Sequence[Example], kind: Kind, seed: int, limit: int) -> Sequence[Example]:
    """At most `limit` examples, of a classification equal parts per class as far as they reach."""
    if not limit or len(examples) <= limit:
        return examples
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_label[example.label if kind == "classification" else ""].append(example)
    chooser = random.Random(seed)
    kept: list[Example] = []
    for label in sorted(by_label):
        members = by_label[label]
        kept += chooser.sample(members, min(limit // len(by_label), len(members)))
    return kept
