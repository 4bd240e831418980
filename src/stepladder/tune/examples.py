"""The name of a labelled set in; its Task out, fetched once and kept in the user's cache (no torch, no hub).

text-kind and sentiment come from the source distribution of vaderSentiment 3.3.2 (MIT licence; C.J. Hutto
and E. Gilbert, ICWSM 2014): snippets of film reviews, newspaper editorials, tweets and product reviews, each
rated by about twenty people from -4 to 4. docstring-topic needs no network: docstrings of the standard
library, labelled by the chapter of Python's library reference that documents their module.
"""

import hashlib
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stepladder.errors import TaskError, did_you_mean
from stepladder.store import write_bytes
from stepladder.tune.docstrings import docstring_examples
from stepladder.tune.tasks import Example, Task, split_task

EXAMPLE_TASKS = {
    "text-kind": "film review, editorial, tweet or product review? (vaderSentiment sources, four classes)",
    "sentiment": "positive, negative or neutral? (film reviews and tweets of the same sources)",
    "docstring-topic": "which part of the standard library is this docstring from? (no network)",
}
_PACKAGE = "vaderSentiment==3.3.2"
_ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
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
    """The named Task; `examples` caps its size, in equal parts per class (0: all).

    Where the archive is neither cached nor reachable, text-kind falls back on docstring-topic and the Task's
    notes say so.

    Raises:
        TaskError: the name is unknown, or sentiment is asked for and cannot be fetched.
    """
    if name not in EXAMPLE_TASKS:
        raise TaskError(
            f"no example task {name!r}{did_you_mean(name, EXAMPLE_TASKS)}", allowed=", ".join(EXAMPLE_TASKS)
        )
    if name == "docstring-topic":
        return _capped(name, docstring_examples(), seed, examples)
    try:
        archive = fetch_archive(offline=offline)
    except TaskError as error:
        if name != "text-kind":
            raise
        fallback = _capped("docstring-topic", docstring_examples(), seed, examples)
        return _with_note(fallback, f"text-kind could not be fetched ({error.got}); docstring-topic instead")
    rows = vader_rows(archive)
    build = _text_kind if name == "text-kind" else _sentiment
    return _capped(name, build(rows), seed, examples)


def cache_folder() -> Path:
    """Where fetched archives stay: $XDG_CACHE_HOME/stepladder, else ~/.cache/stepladder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepladder"


def fetch_archive(*, offline: bool = False) -> Path:
    """The archive of the labelled texts, from the cache or through pip, checked by SHA-256."""
    target = cache_folder() / _ARCHIVE
    if target.exists() and _digest(target.read_bytes()) == _SHA256:
        return target
    if offline:
        raise TaskError("the example texts are not in the cache", got="offline", next_command=_pip_words())
    with tempfile.TemporaryDirectory() as folder:
        words = [*_pip(), "--disable-pip-version-check", "--quiet", "--retries", "1", "--timeout", "15"]
        try:
            done = subprocess.run(
                [*words, "--dest", folder], capture_output=True, text=True, timeout=120, check=False
            )
            failure = (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = type(error).__name__
        fetched = Path(folder) / _ARCHIVE
        if failure or not fetched.exists():
            raise TaskError(
                "the example texts cannot be fetched", got=failure or "no archive", next_command=_pip_words()
            )
        content = fetched.read_bytes()
    if _digest(content) != _SHA256:
        raise TaskError("the fetched archive is not the expected one", got=_digest(content), allowed=_SHA256)
    write_bytes(target, content)
    return target


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


def _capped(name: str, examples: Sequence[Example], seed: int, limit: int) -> Task:
    """At most `limit` examples, equal parts per class as far as they reach."""
    if not limit or len(examples) <= limit:
        return split_task(name, examples, seed=seed)
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    chooser = random.Random(seed)
    kept: list[Example] = []
    for label in sorted(by_label):
        members = by_label[label]
        kept += chooser.sample(members, min(limit // len(by_label), len(members)))
    return split_task(name, kept, seed=seed)


def _with_note(task: Task, note: str) -> Task:
    return replace(task, notes=(*task.notes, note))


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", _PACKAGE]


def _pip_words() -> str:
    return f"pip download --no-deps --no-binary :all: {_PACKAGE} --dest {cache_folder()}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
