"""The card says what the audit holds, and only that."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stepladder.data.card.datacard import data_card
from stepladder.data.card.profile import describe, profile_batch
from stepladder.data.options import Cleaning, CorpusOptions
from stepladder.records import Corpus

_HEADINGS = (
    "## Sources and their variety",
    "## Words",
    "## Languages by domain",
    "## Length by domain, bytes",
    "## Rude words (toxicity by word list)",
    "## Groups that the text names",
    "## Time",
    "## Personal data and secrets",
    "## Text shared with evaluation sets",
)


@pytest.fixture
def audit(prepared: tuple[Path, Corpus]) -> dict[str, Any]:
    found = json.loads((prepared[0] / "audit.json").read_text())
    return {key: value for key, value in found.items() if key not in ("pii", "profile", "contamination")}


@pytest.fixture
def figures() -> dict[str, Any]:
    texts = [f"In {1990 + n % 30} the men | of `code` met brave pilots number {n}" for n in range(150)]
    texts += [f"then the women met careful judges again and again {n}" for n in range(50)]
    frame = pl.DataFrame({"text": texts}).with_columns(
        source=pl.lit("a|b"),
        domain=pl.lit("prose"),
        licence=pl.lit("MIT"),
        language=pl.lit("en"),
        date=pl.when(pl.int_range(200) < 50).then(pl.lit("2011-02-03")).otherwise(pl.lit("")),
    )
    return describe(profile_batch(frame))


def _section(card: str, heading: str) -> str:
    return card.split(f"\n{heading}\n")[1].split("\n## ")[0]


def test_without_figures_there_are_no_sections_and_the_limits_say_what_was_not_done(
    audit: dict[str, Any],
) -> None:
    card = data_card(audit, CorpusOptions(), ["texts"])
    assert [heading for heading in _HEADINGS if heading in card] == []
    limits = _section(card, "## Uses, limits and biases")
    for words in ("not looked for", "No evaluation set", "were not counted", "guesses by a program"):
        assert words in limits


def test_each_figure_brings_its_section(audit: dict[str, Any], figures: dict[str, Any]) -> None:
    full = {
        **audit,
        "profile": figures,
        "pii": {"email": {"documents": 3, "findings": 1234}},
        "contamination": {"arc": {"documents": 7, "share_of_questions": 0.0125, "note": "x"}},
    }
    card = data_card(full, CorpusOptions(cleaning=Cleaning(pii="replace")), ["texts"])
    assert [heading for heading in _HEADINGS if heading not in card] == []
    assert "| email | 3 | 1,234 |" in _section(card, "## Personal data and secrets")
    assert "| `arc` | 7 | 1.25% |" in _section(card, "## Text shared with evaluation sets")
    limits = _section(card, "## Uses, limits and biases")
    assert "Words for men are 3.0 times as frequent as words for women (150 to 50)" in limits
    assert "75% of the documents carry no date" in limits
    assert "not looked for" not in limits
    assert "2011-02-03" in _section(card, "## Time")
    assert "`pilots` 150" in _section(card, "## Groups that the text names")


def test_every_row_of_a_table_has_the_cells_of_its_head(
    audit: dict[str, Any], figures: dict[str, Any]
) -> None:
    card = data_card({**audit, "profile": figures}, CorpusOptions(), ["texts"])
    blocks = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 9
    for block in blocks:
        cells = [line.replace("\\|", "").count("|") for line in block]
        assert len(set(cells)) == 1, block[0]


def test_a_sample_is_called_one(audit: dict[str, Any], figures: dict[str, Any]) -> None:
    sampled = {**figures["sampled"], "one_in": 8, "share": 0.125}
    card = data_card({**audit, "profile": {**figures, "sampled": sampled}}, CorpusOptions(), ["texts"])
    assert "One document in 8" in _section(card, "## Words")
    assert "12.5% of the bytes" in _section(card, "## Words")
