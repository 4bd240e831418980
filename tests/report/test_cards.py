"""The model card has a metadata block that YAML reads, and leaves to people what only they can say."""

import pytest

from stepladder.report.build import build_report
from stepladder.report.cards import NOT_STATED, model_card
from stepladder.report.page import render_page
from stepladder.report.parts import read_parts


@pytest.fixture(scope="module")
def card(finished):
    return model_card(read_parts(finished))


def metadata(card: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(card.split("---\n")[1])


def test_metadata_block(card):
    block = metadata(card)
    assert block["library_name"] == "transformers"
    assert block["pipeline_tag"] == "text-generation"
    assert block["language"] == ["en", "de", "fr"]
    assert (block["license"], block["license_name"]) == ("other", "not-stated")
    metrics = block["model-index"][0]["results"][0]["metrics"]
    assert [metric["name"] for metric in metrics] == [
        "held-out loss (bits per byte)",
        "held-out loss (nats per token)",
    ]


def test_only_people_can_state_uses_licence_and_contact(card):
    for name in ("Intended use", "Out of scope", "Contact", "Licence of the weights"):
        assert f"- **{name}**: {NOT_STATED}" in card


def test_card_tells_shape_data_scores_and_tasks(card):
    assert "- **Parameters**: 1,600,000" in card
    assert "3,592 kept of 5,120" in card
    assert "error -3.8 %" in card
    assert "| TF-IDF + logistic regression | accuracy | 0.885 | 0.862 – 0.907 | 824 |" in card


def test_a_name_cannot_break_the_metadata(climb):
    import json

    (climb / "stepladder.toml").unlink()
    plan = json.loads((climb / "plan.json").read_text())
    (climb / "plan.json").write_text(json.dumps({**plan, "name": 'a: "b"\n---\nlicense: mit'}))
    block = metadata(model_card(read_parts(climb)))
    assert block["license"] == "other"
    assert block["model-index"][0]["name"] == 'a: "b"\n---\nlicense: mit'


def test_card_is_written_beside_the_report(climb):
    build_report(climb)
    assert (
        (climb / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: transformers\n")
    )


def test_energy_stands_beside_its_source(card, finished):
    source = "estimate: CPU seconds x 5 W a core"
    (line,) = (line for line in card.splitlines() if line.startswith("- **Target**"))
    assert line.endswith(f" ({source})")
    assert f"<td>{source}</td>" in render_page(read_parts(finished))
