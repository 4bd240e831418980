"""Real files on disk for the tests of data: made of words, so that the quality rules let them pass."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.records import Corpus

_SYLLABLES = (
    "ba",
    "den",
    "fi",
    "gor",
    "hul",
    "ki",
    "lo",
    "mer",
    "na",
    "pos",
    "ra",
    "sil",
    "tu",
    "ver",
    "zon",
)


def words(seed: int, count: int) -> str:
    """`count` words of a made-up language in lines of ten; other seeds give other texts."""
    rng = random.Random(seed)
    made = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(count)]
    lines = [" ".join(made[at : at + 10]) for at in range(0, count, 10)]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def make_text() -> Callable[[int, int], str]:
    """`make_text(seed, count)`: a text of its own."""
    return words


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty texts with two exact copies, a near-duplicate, and files that cannot be read."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "deep").mkdir()
    for number in range(60):
        (folder / "deep" / f"{number:03d}.txt").write_text(words(number, 300))
    (folder / "copy.md").write_text(words(7, 300))
    (folder / "copy-crlf.md").write_bytes(words(8, 300).replace("\n", "\r\n").encode())
    (folder / "near.rst").write_text(words(9, 300) + "one more line of six words\n")
    (folder / "latin.txt").write_bytes("über Straßen".encode("latin-1") * 40)
    (folder / "nul.txt").write_bytes(b"text\0text" * 50)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="session")
def prepared(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """The corpus of `sources`, prepared by one process."""
    out = tmp_path_factory.mktemp("prepared") / "corpus"
    return out, prepare_corpus([str(sources)], out, CorpusOptions(vocab_size=512, workers=1), quiet=True)
