"""Sketches, verified clusters, boilerplate lines."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data import chain
from stepladder.data.chain import Job, cut_boilerplate, find_copies, read_files
from stepladder.data.copies import lines
from stepladder.data.copies.clusters import star
from stepladder.data.copies.dedup import BOILERPLATE_REPEATS, Lines, long_lines, sketches, without_lines
from stepladder.data.copies.lines import boilerplate
from stepladder.data.files import read_arrays, read_frame
from stepladder.data.options import Cleaning, CorpusOptions
from stepladder.data.sources.listing import SourceFile
from stepladder.data.worker import LocalPool

MakeText = Callable[[int, int], str]


@dataclass(frozen=True)
class Found:
    """For each text the one that stands for it (itself: it stays), and how alike the two are."""

    keeper: np.ndarray
    is_exact: np.ndarray
    similarity: np.ndarray

    @property
    def stays(self) -> np.ndarray:
        return self.keeper == np.arange(len(self.keeper))


def duplicates(texts: list[str], held_out: list[int] | None = None, ranges: int = 1) -> Found:
    """What the real steps find, over several parts and ranges of keys, in the order of `texts`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = []
        for number, text in enumerate(texts):
            path = work / f"{number:05d}.txt"
            path.write_text(text, encoding="utf-8", newline="")
            is_held = number in (held_out or [])
            files.append(SourceFile(name=path.name, path=str(path), num_bytes=len(text), held_out=is_held))
        options = CorpusOptions(cleaning=Cleaning(quality=False, pii="keep"))
        job = Job(work=work / "work", options=options, executor=LocalPool(1), quiet=True)
        common = {"piece_bytes": 1 << 20, "reading": asdict(options.reading)}
        common["cleaning"] = asdict(options.cleaning)
        groups = [files[at : at + 7] for at in range(0, len(files), 7)]
        read_files(job, groups, common)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chain, "_ranges", lambda rows: ranges)
            find_copies(job)
            cut_boilerplate(job)
        return _gather(job, len(texts))


def _gather(job: Job, count: int) -> Found:
    keeper, exact, similarity = np.arange(count), np.zeros(count, dtype=bool), np.ones(count)
    for part in job.parts:
        own = read_arrays(job.work / "lines" / f"{part['name']}.npz")
        files = read_frame(job.work / "read" / f"{part['name']}.meta").filter(pl.col("rule").is_null())[
            "file"
        ]
        for row, verdict in enumerate(own["verdict"]):
            place = int(files[row][:5])
            if verdict in (lines.EXACT, lines.NEAR):
                keeper[place] = int(lines.heads(job.work, int(own["like"][row]))[0][:5])
                exact[place], similarity[place] = verdict == lines.EXACT, own["similarity"][row]
    return Found(keeper, exact, similarity)


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def planted(make_text: MakeText, seed: int, share: float) -> tuple[str, str, float]:
    """Two texts that share their head, and the true Jaccard similarity of their word 5-grams."""
    head = make_text(seed, round(1000 * share))
    left, right = head + make_text(seed + 10_000, 1000), head + make_text(seed + 20_000, 1000)
    a = " ".join(left.split()[:1000])
    b = " ".join(right.split()[:1000])
    return a, b, len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def test_sketches_estimate_the_jaccard_similarity(make_text: MakeText) -> None:
    errors = []
    for seed in range(60):
        a, b, true = planted(make_text, seed, 0.8)
        values, _ = sketches(pl.Series("text", [a, b]))
        errors.append((values[0] == values[1]).mean() - true)
    # The standard error of 112 values at .66 is .045, of the mean of 60 pairs .006.
    assert abs(float(np.mean(errors))) < 0.025


def test_recall_follows_the_bands_and_joined_pairs_are_alike(make_text: MakeText) -> None:
    """Planted pairs at .9: found; at .6 none is joined, though the bands propose one in five."""
    for share, low, high in ((0.97, 0.95, 1.0), (0.75, 0.0, 0.03)):
        texts = [text for seed in range(100) for text in planted(make_text, seed, share)[:2]]
        found = duplicates(texts)
        pairs = found.keeper.reshape(-1, 2)
        assert low <= (pairs[:, 0] == pairs[:, 1]).mean() <= high


def test_exact_copies_go_to_the_first_and_near_ones_to_the_longest(make_text: MakeText) -> None:
    base = make_text(1, 400)
    longer = base + "and six more words of text\n"
    found = duplicates([base, make_text(2, 400), longer, base, make_text(3, 400)])
    # The exact copy is said to be like its first, which is itself like the longest.
    assert found.keeper.tolist() == [2, 1, 2, 0, 4]
    assert found.is_exact.tolist() == [False, False, False, True, False]
    assert found.similarity[0] >= 0.8
    assert found.stays.tolist() == [False, True, True, False, True]


def test_given_held_out_text_is_the_copy_that_stays(make_text: MakeText) -> None:
    base = make_text(1, 400)
    found = duplicates([base + "and six more words of text\n", base, base], held_out=[2])
    assert found.keeper.tolist() == [2, 2, 2]


def test_any_number_of_key_ranges_finds_the_same(make_text: MakeText) -> None:
    base = [make_text(seed, 300) for seed in range(12)]
    texts = [text + f"{'and more ' * copy}\n" for copy in range(4) for text in base] + base
    first = duplicates(texts)
    assert int(first.stays.sum()) == 12
    for ranges in (2, 7):
        again = duplicates(texts, ranges=ranges)
        assert first.keeper.tolist() == again.keeper.tolist()


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_star_steps_end_in_the_components(pairs: list[tuple[int, int]]) -> None:
    edges = np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.uint64).reshape(-1, 2)
    parent = list(range(31))

    def root(node: int) -> int:
        return node if parent[node] == node else root(parent[node])

    for left, right in edges.tolist():
        a, b = root(left), root(right)
        parent[max(a, b)] = min(a, b)
    known = None
    while known is None or known.tolist() != edges.tolist():
        known = edges
        for large in (True, False):
            both = np.concatenate([edges, edges[:, ::-1]])
            edges = star(both[:, 0], both[:, 1], large=large)
    expected = [[node, root(node)] for node in range(31) if root(node) != node]
    assert expected == edges.tolist()


def test_texts_of_fewer_than_five_words_are_never_near_duplicates() -> None:
    assert duplicates(["a b c", "a b d", "a b c", "z"]).keeper.tolist() == [0, 1, 0, 3]


def test_a_bucket_of_many_copies_is_joined_whole(make_text: MakeText) -> None:
    """A licence that stands in hundreds of packages, each time with another name in it."""
    licence = make_text(5, 500)
    texts = [f"owner{number} {licence}" for number in range(300)] + [make_text(n, 300) for n in range(9, 30)]
    found = duplicates(texts)
    assert len(set(found.keeper[:300].tolist())) == 1
    assert int(found.stays[300:].sum()) == 21


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_documents_does_not_change_the_clusters(make_text: MakeText, order: int) -> None:
    base = make_text(1, 400)
    texts = [base, base + "one two three four five\n", make_text(2, 400)][::order]
    assert int(duplicates(texts).stays.sum()) == 2


HEADER = "# Licensed to everybody under the terms that are written in the file LICENCE here\n"
STATEMENT = "    return compute_the_value_of_something(argument_one, argument_two, argument_three)\n"


def sorted_goes(found: Lines) -> tuple[np.ndarray, np.ndarray]:
    """(documents, keys) of the boilerplate lines."""
    order = np.lexsort((found.document, found.key))
    goes = order[boilerplate(found.key[order], found.removable[order])]
    return found.document[goes], found.key[goes]


def test_boilerplate_goes_after_a_few_documents_and_statements_stay() -> None:
    texts = pl.Series("text", [HEADER + STATEMENT + f"x{number} = {number}\n" for number in range(6)])
    domain = pl.Series("domain", ["code"] * 6)
    document, key = sorted_goes(long_lines(texts, domain))
    assert list(range(BOILERPLATE_REPEATS, 6)) == document.tolist()
    out, gone = without_lines(texts, domain, document, key)
    assert texts[2] == out[2]
    assert f"{STATEMENT}x5 = 5\n" == out[5]
    assert [HEADER.strip()] * 3 == gone["line"].to_list()

    prose = long_lines(texts, pl.Series("domain", ["prose"] * 6))
    assert len(sorted_goes(prose)[0]) == 6


def test_a_line_that_repeats_in_one_document_counts_once() -> None:
    lines = long_lines(pl.Series("text", [HEADER * 10]), pl.Series("domain", ["prose"]))
    assert len(lines.key) == 1


def test_lines_that_differ_in_blanks_and_case_are_the_same() -> None:
    lines = long_lines(
        pl.Series("text", [HEADER, "  " + HEADER.upper().replace(" ", "  ")]), pl.Series("d", ["prose"] * 2)
    )
    assert lines.key[0] == lines.key[1]


def test_numbers_are_all_alike_and_underscores_part_words() -> None:
    one = "on 2024 the version 1.25.3 of some_name took v2 4.5 seconds and 17% more"
    other = "on 7 the version 30.4 of some name took v19 8 seconds and 0.5% more"
    values, has_sketch = sketches(pl.Series([one, other, one + " words that are more", "too few words here"]))
    assert (values[0] == values[1]).all()
    assert (values[0] != values[2]).any()
    assert has_sketch.tolist() == [True, True, True, False]
