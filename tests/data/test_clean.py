"""Normalisation, rules and languages."""

from collections.abc import Callable

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.quality.clean import clean, normalise

ENGLISH = (
    "The committee met on a cold morning to discuss the plan for the bridge, and most of its members spoke "
    "at length about what it would cost and who would have to pay for it in the end.\n"
)


def batch(*texts: str, domain: str = "prose", licence: str = "") -> pl.DataFrame:
    return pl.DataFrame(
        {"text": list(texts), "domain": [domain] * len(texts), "licence": [licence] * len(texts)},
        schema={"text": pl.String, "domain": pl.String, "licence": pl.String},
    )


def rule_of(text: str, domain: str) -> str | None:
    return clean(batch(text, domain=domain), ())["rule"][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc\n"),
        ("\n\n  a  \t\nb \n\n\n\n\n\nc\n\n", "  a\nb\n\n\nc\n"),
        ("e\u0301", "é\n"),
        ("a\x0cb\x07\ufeff\tc", "ab\tc\n"),
        (" \n\t\n", ""),
    ],
)
def test_normalised_text(text: str, expected: str) -> None:
    assert expected == normalise(batch(text))["text"][0]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(batch(text))["text"][0]
    assert once == normalise(batch(once))["text"][0]


@pytest.mark.parametrize(
    ("text", "domain", "expected"),
    [
        (ENGLISH, "prose", None),
        ("", "prose", "empty"),
        ("Short.", "prose", "too_short"),
        ("a b " * 40, "prose", "gopher_top_2_gram"),
        (ENGLISH + "word # " * 30, "prose", "gopher_symbols"),
        (
            "".join(
                f"Something that someone else continued much further along the other road {n}...\n"
                for n in range(200)
            ),
            "prose",
            "gopher_ellipsis",
        ),
        ("".join(f"- item with the words of number {n}\n" for n in range(20)), "prose", "gopher_bullets"),
        (ENGLISH + "12345 " * 200, "prose", "few_letters"),
        (ENGLISH + "The same line of words again.\n" * 20, "prose", "gopher_repeated_lines"),
        (ENGLISH + "Lorem ipsum dolor sit amet.", "prose", "c4_lorem_ipsum"),
        ("x = 1", "code", "too_short"),
        ("# This file was auto-generated.\n" + "value = compute(other)\n" * 20, "code", "code_generated"),
        ("def f(x):\n    return x\n" * 5 + "x = '" + "a b" * 400 + "'", "code", "code_longest_line"),
        ("value = compute(other, " * 8 + "\n" + "word " * 30, "code", "code_mean_line"),
        ("+ - * / == != {} [] ()\n" * 20, "code", "code_low_alphanumeric"),
        ("t = [" + "0x1234, 5678, 91011,\n" * 30 + "]", "code", "code_numbers"),
        ("=== --- *** ::: ~~~ ...\n" * 20, "reference", "low_alphanumeric"),
    ],
)
def test_each_rule_takes_what_it_is_for(text: str, domain: str, expected: str | None) -> None:
    assert expected == rule_of(text, domain)


def test_rules_are_on_by_domain(make_text: Callable[[int, int], str]) -> None:
    """A list that would not do as prose is a fine reference text."""
    bullets = "".join(f"- {line}\n" for line in make_text(1, 300).splitlines())
    assert rule_of(bullets, "prose") == "gopher_bullets"
    assert rule_of(bullets, "reference") is None
    assert clean(batch(bullets), (), quality=False)["rule"][0] is None


def test_languages_are_identified_or_said_to_be_unknown() -> None:
    german = (
        "Der Ausschuss traf sich an einem kalten Morgen, um den Plan für die neue Brücke zu besprechen.\n"
        "Die meisten Mitglieder sprachen lange darüber, wer am Ende dafür bezahlen müsste.\n"
    )
    frame = clean(batch(ENGLISH, german, "12345 67890 " * 30), ("en",))
    assert frame["language"].to_list() == ["en", "de", "unknown"]
    assert frame["rule"].to_list()[:2] == [None, "language"]
    code = clean(batch("def f(x):\n    return x + 1\n" * 10, domain="code"), ("en",))
    assert list(code.select("language", "rule").iter_rows()) == [("code", None)]


def test_licences_come_from_tag_then_package_then_phrase() -> None:
    phrase = ENGLISH + "Permission is hereby granted, free of charge, to any person"
    tag = "# SPDX-License-Identifier: ISC\n" + phrase
    assert clean(batch(phrase), ())["licence"].to_list() == ["MIT"]
    assert clean(batch(phrase, licence="BSD-3-Clause"), ())["licence"].to_list() == ["BSD-3-Clause"]
    assert clean(batch(tag, licence="BSD-3-Clause"), ())["licence"].to_list() == ["ISC"]
    assert clean(batch(ENGLISH), ())["licence"].to_list() == ["unknown"]


def test_measures_do_not_stay_in_the_frame() -> None:
    assert {"text", "domain", "licence", "language", "rule"} == set(clean(batch(ENGLISH), ()).columns)
