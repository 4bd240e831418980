"""The model card has a metadata block that YAML reads, and leaves to people what only they can say."""

from dataclasses import replace

import pytest

from stepladder.models.count import train_flops_per_token
from stepladder.report.build import build_report
from stepladder.report.cards import model_card, tuned_card
from stepladder.report.eu_summary import compute_verdict, eu_summary, training_flops
from stepladder.report.markdown import NOT_STATED
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
    heldout, task = block["model-index"][0]["results"]
    assert [metric["name"] for metric in heldout["metrics"]] == [
        "held-out loss (bits per byte)",
        "held-out loss (nats per token)",
    ]
    assert [(m["name"], m["value"]) for m in task["metrics"]] == [
        ("accuracy (fine-tuned)", 0.871),
        ("macro_f1 (fine-tuned)", 0.859),
    ]
    assert block["metrics"] == ["accuracy", "loss", "macro_f1"]


def test_emissions_are_those_of_ladder_and_target_in_grams(card, finished):
    parts = read_parts(finished)
    joules = sum(row.joules for row in parts.ladder.observations) + parts.target.run.joules
    grams = 1e3 * joules / 3.6e6 * 2.7e-4 / 5.6e-4
    found = metadata(card)["co2_eq_emissions"]
    assert pytest.approx(grams, rel=1e-3) == found["emissions"]
    assert found["source"].endswith("x 0.482 kg a kWh")


def test_the_hubs_own_parser_reads_both_cards(card, finished):
    hub = pytest.importorskip("huggingface_hub", reason="the hub's library is not installed")
    data = hub.ModelCard(card).data
    assert (data.model_name, data.pipeline_tag) == ("prose-1m", "text-generation")
    assert [result.metric_type for result in data.eval_results] == ["loss", "loss", "accuracy", "macro_f1"]
    parts = read_parts(finished)
    tuned = hub.ModelCard(tuned_card(parts, parts.tasks[0])).data
    assert (tuned.base_model, tuned.pipeline_tag) == ("prose-1m", "text-classification")
    assert [result.metric_value for result in tuned.eval_results] == [0.871, 0.859]


def test_only_people_can_state_uses_licence_and_contact(card):
    for name in ("Intended use", "Out of scope", "Contact", "Licence of the weights"):
        assert f"- **{name}**: {NOT_STATED}" in card


def test_card_tells_shape_data_scores_and_tasks(card):
    assert "- **Parameters**: 1,600,000" in card
    assert "3,592 kept of 5,120" in card
    assert "error -3.8 %" in card
    assert "| TF-IDF + logistic regression | accuracy | 0.885 | 0.862 – 0.907 | 824 |" in card


def test_overlap_with_training_text_stands_in_page_and_cards(card, finished):
    parts = read_parts(finished)
    for text in (card, tuned_card(parts, parts.tasks[0]), render_page(parts)):
        assert "24 of 824 test examples (2.9%) stand in training text" in text
        assert "Without the examples that stand in training text" in text
        assert "0.861" in text  # of the fine-tuned network without them
        assert "a difference of 0.032 accuracy" in text


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


def test_what_a_person_states_once_fills_all_cards(climb):
    with (climb / "stepladder.toml").open("a") as file:
        file.write('[card]\nlicense = "Apache-2.0"\nprovider = "A Person"\ncontact = "a@example.org"\n')
    build_report(climb)
    card = (climb / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert metadata(card)["license"] == "apache-2.0"
    assert "- **Contact**: a@example.org" in card
    assert f"- **Intended use**: {NOT_STATED}" in card
    summary = (climb / "EU_SUMMARY.md").read_text(encoding="utf-8")
    assert "- **Name and contact**: A Person; a@example.org" in summary
    tuned = (climb / "tune" / "code-or-prose@1" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- **Provider**: A Person" in tuned


def test_flags_compare_the_runs_own_compute_with_both_thresholds(finished):
    parts = read_parts(finished)
    target, everything = training_flops(parts)
    shape, run = parts.plan.shape, parts.target.run
    rungs = sum(row.flops for row in parts.ladder.observations)
    assert (target, everything) == (train_flops_per_token(shape) * run.tokens, target + rungs)
    assert compute_verdict(parts).count("**: no: ") == 2
    long = replace(parts, target=replace(parts.target, run=replace(run, tokens=2 * 10**16)))
    assert compute_verdict(long).count("**: YES: reached") == 1
    longer = replace(parts, target=replace(parts.target, run=replace(run, tokens=2 * 10**18)))
    assert compute_verdict(longer).count("**: YES: reached") == 2


def test_the_summary_has_every_section_of_the_template(finished):
    summary = eu_summary(read_parts(finished))
    headings = [line.lstrip("# ").split(" ")[0] for line in summary.splitlines() if line.startswith("##")]
    wanted = ["Is", "1.", "1.1", "1.2", "1.3", "2.", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3."]
    assert wanted == headings
    assert "less than 1 billion tokens (9,600,000)" in summary
    assert "30 email" in summary


def test_what_the_probes_found_stands_on_the_card(climb):
    assert "Not tested: words for groups swapped, training text recited" in model_card(read_parts(climb))
    (climb / "target@1" / "probes.json").write_text('{"terms": {"verdict": "0 of 10 pairs lean"}}')
    card = model_card(read_parts(climb))
    assert "- **Words for groups swapped**: 0 of 10 pairs lean" in card
    assert "Not tested: training text recited, planted lines memorised" in card


def test_energy_stands_beside_its_source(card, finished):
    source = "estimate: CPU seconds x 5 W a core"
    (line,) = (line for line in card.splitlines() if line.startswith("- **Target**"))
    assert line.endswith(f" ({source})")
    assert f"<td>{source}</td>" in render_page(read_parts(finished))


def test_the_card_of_an_encoder_names_its_own_layout_and_loader(finished):
    parts = read_parts(finished)
    masked = replace(parts, plan=replace(parts.plan, objective="masked"))
    for of, layout, loader in ((parts, "Qwen3", "CausalLM"), (masked, "ModernBERT", "MaskedLM")):
        text = model_card(of)
        assert f"**Architecture**: {layout} layout" in text
        assert f"AutoModelFor{loader}.from_pretrained" in text
