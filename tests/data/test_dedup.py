"""Sketches, verified clusters, boilerplate lines."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from stepladder.data.dedup import (
    BOILERPLATE_REPEATS,
    Duplicates,
    boilerplate,
    exact_keys,
    find_duplicates,
    long_lines,
    sketches,
    without_lines,
)

MakeText = Callable[[int, int], str]


def duplicates(texts: list[str], jaccard: float = 0.8, bonus: list[int] | None = None) -> Duplicates:
    column = pl.Series("text", texts, dtype=pl.String)
    values, has_sketch = sketches(column)
    length = np.array([len(text) for text in texts]) + np.array(bonus or [0] * len(texts))
    return find_duplicates(exact_keys(column), values, has_sketch, length, jaccard)


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
    assert found.keeper.tolist() == [2, 1, 2, 2, 4]
    assert found.is_exact.tolist() == [False, False, False, True, False]
    assert found.similarity[0] >= 0.8
    assert found.stays.tolist() == [False, True, True, False, True]


def test_more_length_makes_a_document_the_one_that_stays(make_text: MakeText) -> None:
    base = make_text(1, 400)
    found = duplicates([base + "and six more words of text\n", base, base], bonus=[0, 0, 1 << 50])
    assert found.keeper.tolist() == [2, 2, 2]


def test_texts_of_fewer_than_five_words_are_never_near_duplicates() -> None:
    assert duplicates(["a b c", "a b d", "a b c", ""]).keeper.tolist() == [0, 1, 0, 3]
    assert duplicates(["", "x"]).keeper.tolist() == [0, 1]


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


def test_boilerplate_goes_after_a_few_documents_and_statements_stay() -> None:
    texts = pl.Series("text", [HEADER + STATEMENT + f"x{number} = {number}\n" for number in range(6)])
    domain = pl.Series("domain", ["code"] * 6)
    lines = long_lines(texts, domain)
    goes = boilerplate(lines, np.ones(6, dtype=bool))
    assert list(range(BOILERPLATE_REPEATS, 6)) == lines.document[goes].tolist()
    out, gone = without_lines(texts, domain, lines.document[goes], lines.key[goes])
    assert texts[2] == out[2]
    assert f"{STATEMENT}x5 = 5\n" == out[5]
    assert [HEADER.strip()] * 3 == gone["line"].to_list()

    prose = long_lines(texts, pl.Series("domain", ["prose"] * 6))
    assert int(boilerplate(prose, np.ones(6, dtype=bool)).sum()) == 6


def test_removed_documents_do_not_count_towards_boilerplate() -> None:
    texts = pl.Series("text", [HEADER + f"x{number}\n" for number in range(6)])
    lines = long_lines(texts, pl.Series("domain", ["prose"] * 6))
    kept = np.array([True, False, False, False, True, True])
    assert not boilerplate(lines, kept).any()


def test_a_line_that_repeats_in_one_document_counts_once() -> None:
    lines = long_lines(pl.Series("text", [HEADER * 10]), pl.Series("domain", ["prose"]))
    assert len(lines.key) == 1


def test_lines_that_differ_in_blanks_and_case_are_the_same() -> None:
    lines = long_lines(
        pl.Series("text", [HEADER, "  " + HEADER.upper().replace(" ", "  ")]), pl.Series("d", ["prose"] * 2)
    )
    assert lines.key[0] == lines.key[1]
