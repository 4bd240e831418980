"""The profile of a corpus: the same for every order of merging, and close to counts made one by one."""

import codecs
import json
import math
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepladder.data.card import sketches
from stepladder.data.card.mentions import GROUPS, group_names
from stepladder.data.card.profile import describe, merge_profiles, one_in, profile_batch

_COLUMNS = ("text", "file", "source", "domain", "licence", "language", "date")
# A listed word, not in clear here either.
_RUDE = codecs.decode("fuvg", "rot13")


def _frame(*texts: str, **columns: str) -> pl.DataFrame:
    base = dict.fromkeys(_COLUMNS, "x") | {"date": ""} | columns
    return pl.DataFrame([{**base, "text": text, "file": f"{n}.txt"} for n, text in enumerate(texts)])


def _corpus(count: int = 120, seed: int = 0) -> pl.DataFrame:
    """Documents of a Zipf-like vocabulary from three sources and two domains, with years and mentions."""
    rng = random.Random(seed)
    vocabulary = [f"w{chr(97 + n % 26)}{n}x" for n in range(3000)]
    weights = [1 / (n + 1) for n in range(3000)]
    rows = []
    for number in range(count):
        chosen = rng.choices(vocabulary, weights, k=rng.randint(20, 1500))
        chosen[5], chosen[11] = str(1950 + number % 60), rng.choice(["women", "muslim", "nurse"])
        lines = [" ".join(chosen[at : at + 12]) for at in range(0, len(chosen), 12)]
        rows.append(
            {
                "text": "\n".join(lines) + "\n",
                "file": f"{number}.txt",
                "source": f"s{number % 3}",
                "domain": "prose" if number % 4 else "reference",
                "licence": "MIT",
                "language": "en" if number % 5 else "de",
                "date": f"20{number % 20:02d}-03-01" if number % 6 else "",
            }
        )
    return pl.DataFrame(rows)


def _without_lines(profile: dict[str, Any]) -> dict[str, Any]:
    return {**profile, "totals": {k: v for k, v in profile["totals"].items() if k != "repeated_lines"}}


@pytest.mark.parametrize("share", [1, 3])
def test_any_order_and_grouping_of_merges_gives_the_profile_of_the_whole(share: int) -> None:
    frame = _corpus()
    whole = profile_batch(frame, share)
    rng = random.Random(1)
    for _ in range(4):
        rows = list(range(frame.height))
        rng.shuffle(rows)
        cuts = sorted(rng.sample(range(1, frame.height), 7))
        parts = [
            profile_batch(frame[rows[a:b]], share)
            for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)
        ]
        while len(parts) > 1:
            a = parts.pop(rng.randrange(len(parts)))
            b = parts.pop(rng.randrange(len(parts)))
            parts.append(json.loads(json.dumps(merge_profiles([a, b]))))
        assert _without_lines(parts[0]) == _without_lines(merge_profiles([whole]))


def test_figures_equal_counts_made_one_by_one() -> None:
    frame = _corpus()
    figures = describe(profile_batch(frame))
    texts = frame["text"].to_list()
    counts = Counter(word for text in texts for word in re.findall("[a-z0-9]+", text.lower()))
    total = sum(counts.values())
    assert figures["words"]["count"] == total
    assert figures["words"]["distinct"] == pytest.approx(len(counts), rel=3 * 1.04 / 64)
    expected = [word for word, _ in counts.most_common(10)]
    assert [entry["word"] for entry in figures["words"]["most_frequent"][:10]] == expected
    for entry in figures["words"]["most_frequent"]:
        exact = counts[entry["word"]] / total
        assert exact - 1e-5 <= entry["share"] <= exact + figures["words"]["frequent_error"]
    sizes = [len(text.encode()) for text in texts]
    assert figures["totals"]["num_bytes"] == sum(sizes)
    by_source = Counter()
    for source, size in zip(frame["source"], sizes, strict=True):
        by_source[source] += size
    listed = figures["sources"]["listed"]
    assert {name: entry["num_bytes"] for name, entry in listed.items()} == dict(by_source)
    assert (
        figures["languages_by_domain"]["listed"]["prose / de"]["documents"]
        == frame.filter(domain="prose", language="de").height
    )
    prose = [size for size, domain in zip(sizes, frame["domain"], strict=True) if domain == "prose"]
    lengths = figures["lengths"]["prose"]
    assert (lengths["smallest"], lengths["largest"]) == (min(prose), max(prose))
    assert lengths["median"] == pytest.approx(np.median(prose), rel=0.09)
    years = Counter(str(1950 + number % 60) for number in range(frame.height))
    assert figures["years"] == dict(sorted(years.items()))


def test_variety_counts_runs_of_five_words_that_differ() -> None:
    fresh = " ".join(f"a{n}" for n in range(2000))
    again = "one two three four five six seven eight nine ten " * 200
    figures = describe(
        merge_profiles(
            [profile_batch(_frame(fresh, source="fresh")), profile_batch(_frame(again, source="again"))]
        )
    )
    fresh_figures, again_figures = figures["variety"]["fresh"], figures["variety"]["again"]
    assert fresh_figures["distinct_5_grams"] == pytest.approx(1, abs=3 * figures["variety_error"])
    assert again_figures["distinct_5_grams"] == pytest.approx(10 / 1996, abs=0.001)
    assert fresh_figures["distinct_in_1000_words"] == 1000
    assert again_figures["distinct_in_1000_words"] == 10


def test_runs_of_words_do_not_cross_documents() -> None:
    apart = profile_batch(_frame("a b c", "d e f"))
    assert apart["variety"]["x"]["grams"] == 0
    assert profile_batch(_frame("a b c d e f"))["variety"]["x"]["grams"] == 2


@pytest.mark.parametrize("count", [0, 1, 50, 3000, 20_000, 1_000_000])
def test_distinct_is_within_four_errors(count: int) -> None:
    keys = np.random.default_rng(count).integers(0, 1 << 64, count, dtype=np.uint64)
    text = sketches.write_registers(sketches.registers(keys, 0, 1, 12)[0])
    assert sketches.distinct(text) == pytest.approx(count, rel=4 * 1.04 / math.sqrt(1 << 12))


def test_words_are_parted_as_in_a_dictionary() -> None:
    text = "Don’t — “Größe”\u00a0Straße: naïve\u3000x1 d'Art…end"
    ((_, words),) = sketches.slices(pl.Series([text]))
    found = words.texts(np.arange(len(words.keys)))
    assert found == ["don", "t", "größe", "straße", "naïve", "x1", "d", "art", "end"]
    assert [sketches.key_of(word) for word in found] == words.keys.tolist()


def test_words_of_more_than_eight_bytes_have_keys_of_their_own() -> None:
    made = [f"{'abcdefgh' * n}{letter}" for n in range(3) for letter in "xyz"]
    assert len({sketches.key_of(word) for word in made}) == len(made)


def test_years_are_whole_numbers_in_range() -> None:
    text = "In 1999, 2024. v2023.1 3.1999 1,950 19995 2036 1899 (c) 2001-2003 1900"
    found = profile_batch(_frame(text))["years"]
    assert found == {"1900": 1, "1999": 1, "2001": 1, "2003": 1, "2024": 1}


def test_dates_are_read_as_iso_and_the_rest_is_counted() -> None:
    dates = ["2019-05-06T10:00:00Z", "2021", "2020-01-02 03:04", "12/05/2019", "", None, "soon"]
    frame = _frame(*["text"] * len(dates)).with_columns(pl.Series("date", dates))
    found = profile_batch(frame)["dates"]
    assert found == {
        "without": 2,
        "unreadable": 2,
        "years": {"2019": 1, "2020": 1, "2021": 1},
        "earliest": "2019-05-06",
        "latest": "2021",
    }


def test_rude_words_are_counted_by_domain_and_stand_nowhere_in_the_output() -> None:
    frame = pl.concat(
        [
            _frame(f"what {_RUDE} is {_RUDE.upper()}!", "a clean text", domain="forum"),
            _frame(f"{_RUDE}ake mushrooms", domain="prose"),
        ]
    )
    profile = profile_batch(frame)
    forum = profile["rude"]["forum"]
    assert (forum["profanities"], forum["documents_with_profanities"]) == (2, 1)
    assert (forum["documents"], forum["words"], forum["slurs"]) == (2, 7, 0)
    assert profile["rude"]["prose"]["profanities"] == 0


def test_mentions_and_the_words_near_them() -> None:
    far = " ".join(f"far{n}" for n in range(12))
    texts = [f"the women were brilliant engineers {far} brilliant" for _ in range(20)]
    texts += [f"some other thing {far} plain engineers" for _ in range(200)]
    figures = describe(profile_batch(_frame(*[f"{n} {text}" for n, text in enumerate(texts)])))
    women = figures["mentions"]["gender: women"]
    assert (women["mentions"], women["documents"]) == (20, 20)
    near = {entry["term"]: entry for entry in women["near"]}
    assert near["brilliant"]["documents"] == 20
    assert near["brilliant"]["times"] > 5 * near["engineers"]["times"]
    assert not {"the", "were", "women", "far9"} & set(near)


def test_mentions_beside_a_rude_word_are_counted() -> None:
    texts = [f"{_RUDE} and the women", f"women one two three four five {_RUDE}", "the women", f"{_RUDE} men"]
    found = describe(profile_batch(_frame(*texts)))["mentions"]
    assert {"gender: women": 1, "gender: men": 1} == {name: one["near_rude"] for name, one in found.items()}


def test_a_term_near_a_group_counts_once_a_document() -> None:
    often = "the women won medals and " * 50
    figures = describe(profile_batch(_frame(*[f"{n} {often}" for n in range(4)])))
    assert figures["mentions"]["gender: women"]["mentions"] == 200
    assert figures["mentions"]["gender: women"]["near"] == []


def test_windows_end_with_the_document() -> None:
    figures = profile_batch(_frame("alpha beta women", "gamma delta epsilon"))
    drawn = {word for _, word in figures["mentions"]["groups"]["gender: women"]["drawn"]}
    assert drawn == {"alpha", "beta"}


def test_no_word_is_listed_for_two_groups() -> None:
    listed = [word for groups in GROUPS.values() for words in groups.values() for word in words.split()]
    assert len(listed) == len(set(listed))
    assert len(group_names()) == len(set(group_names()))


def test_a_profile_stays_small_whatever_comes_in() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for part in range(6):
        texts = [" ".join(f"z{n}" for n in rng.integers(0, 1 << 40, 200)) for _ in range(300)]
        names = pl.Series([f"{part}-{n}" for n in range(300)])
        frame = _frame(*texts).with_columns(source=names, domain=names, licence=names, language=names)
        parts.append(profile_batch(frame))
    merged = merge_profiles(parts)
    assert len(json.dumps(merged)) < 600_000
    sources = describe(merged)["sources"]
    assert len(sources["listed"]) == 500
    assert sources["others"]["documents"] == 1800 - 500


def test_a_share_of_the_documents_is_the_same_in_every_batch() -> None:
    frame = _corpus(count=400)
    figures = describe(profile_batch(frame, 8))
    assert figures["sampled"]["one_in"] == 8
    assert 25 <= figures["sampled"]["documents"] <= 80
    assert figures["totals"]["documents"] == 400
    assert (one_in(1_000_000), one_in(1_000_000_000)) == (1, 8)


def test_profiles_of_other_shares_are_not_merged() -> None:
    frame = _frame("text")
    with pytest.raises(AssertionError, match="one share"):
        merge_profiles([profile_batch(frame, 1), profile_batch(frame, 8)])


def test_nothing_but_blanks_and_no_document_at_all() -> None:
    for frame in (_frame("", " \n"), _frame("x")[:0]):
        figures = describe(profile_batch(frame))
        assert figures["words"]["count"] == 0
        assert figures["repeated_lines"] == 0


def test_repeated_lines_are_those_that_stood_in_the_batch_before() -> None:
    figures = describe(profile_batch(_frame("one\ntwo\n\none\n", "two\nthree\n")))
    assert figures["repeated_lines"] == 0.4
