"""Language of documents: py3langid's labels from the batched walk, and what is said to be unknown."""

import json
import subprocess
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from stepladder.data.quality.language import LANGUAGE_LETTERS, classify, has_letters, languages

SENTENCES = {
    "en": "The committee will meet again next week to discuss the results of the survey with all members.",
    "de": "Der Ausschuss trifft sich nächste Woche erneut, um die Ergebnisse der Umfrage zu besprechen.",
    "fr": "Le comité se réunira la semaine prochaine pour discuter des résultats avec les membres.",
    "ru": "Комитет соберётся на следующей неделе, чтобы обсудить опрос.",
}
XQUAD = Path(__file__).parents[3] / "shared" / "reference" / "tasks"


@pytest.fixture(scope="module")
def theirs() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def test_sentences_are_named_code_is_not_looked_at_and_little_text_is_unknown() -> None:
    text = pl.Series([*SENTENCES.values(), "import os", "Hello there", "", "1234567890 " * 30, "= - " * 99])
    domain = pl.Series(["prose"] * 4 + ["code"] + ["prose"] * 4)
    assert [*SENTENCES, "code", *["unknown"] * 4] == languages(text, domain).to_list()


def test_all_code_and_nothing_at_all() -> None:
    assert ["code", "code"] == languages(pl.Series(["a", "b"]), pl.Series(["code", "code"])).to_list()
    empty = pl.Series([], dtype=pl.String)
    assert [] == languages(empty, empty).to_list()


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=200), min_size=1, max_size=20))
def test_any_text_gets_the_label_and_confidence_of_py3langid(
    theirs: LanguageIdentifier, texts: list[str]
) -> None:
    labels, confidence = classify(pl.Series(texts))
    for text, label, sure in zip(texts, labels, confidence.tolist(), strict=True):
        best, highest = theirs.classify(text)
        assert sure == pytest.approx(highest, abs=1e-4)
        # Two labels that are equally likely may change places: sums of floats have no fixed order.
        assert label == best or dict(theirs.rank(text))[label] == pytest.approx(highest, abs=1e-4)


def test_real_text_gets_the_labels_of_py3langid(theirs: LanguageIdentifier) -> None:
    source = Path(subprocess.__file__).read_text()
    texts = [source[start : start + 300] for start in range(0, 60_000, 250)]
    texts += [text.upper() for text in SENTENCES.values()] + [text[:60] for text in SENTENCES.values()]
    labels, _ = classify(pl.Series(texts))
    assert [theirs.classify(text)[0] for text in texts] == labels.tolist()


def test_letters_are_counted_in_every_script() -> None:
    texts = ["a" * LANGUAGE_LETTERS, "a" * (LANGUAGE_LETTERS - 1), "日" * LANGUAGE_LETTERS]
    texts += [
        ". " * 200 + "b" * LANGUAGE_LETTERS,
        "\u0301" * 100,
        "1" * 100,
        "a1é-" * (LANGUAGE_LETTERS // 2),
    ]
    expected = [sum(map(str.isalpha, text)) >= LANGUAGE_LETTERS for text in texts]
    assert expected == has_letters(pl.Series(texts)).tolist()
    assert [True, False, True, True, False, False, True] == expected


@pytest.mark.parametrize("language", ["de", "en"])
def test_paragraphs_of_encyclopedias(language: str) -> None:
    path = XQUAD / f"xquad.{language}.json"
    if not path.exists():
        pytest.skip("needs ../shared/reference/tasks/xquad.*.json")
    found = json.loads(path.read_text())["data"]
    texts = pl.Series([part["context"][:120] for article in found for part in article["paragraphs"]])
    named = languages(texts, pl.repeat("prose", len(texts), eager=True))
    assert (named == language).mean() >= 0.98
    assert named.is_in([language, "unknown"]).mean() >= 0.995
