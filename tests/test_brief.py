"""The brief is strict: every problem is told at once, with what is allowed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.brief import OVERRIDES, load_brief
from stepladder.errors import BriefError
from stepladder.records import BudgetBrief, CardBrief, DataBrief, GoalBrief, HardwareBrief

SMALL = """
name = "notes"
[data]
sources = ["texts/"]
[budget]
hours = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "stepladder.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(BriefError) as caught:
        load_brief(write(folder, text))
    return str(caught.value).replace(str(folder) + "/", "")


def test_a_small_brief_gets_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SMALL)
    brief = load_brief(Path("stepladder.toml"))
    assert (brief.name, brief.objective, brief.override) == ("notes", "causal", {})
    assert DataBrief(sources=("texts/",)) == brief.data
    assert BudgetBrief(hours=2) == brief.budget
    assert (HardwareBrief(), GoalBrief(), CardBrief()) == (brief.hardware, brief.goal, brief.card)


def test_the_card_takes_texts_only(tmp_path):
    assert load_brief(write(tmp_path, SMALL + '[card]\nlicense = "mit"')).card == CardBrief(license="mit")
    text = complaint(tmp_path, SMALL + "[card]\nlicence = 3\nrisks = 4")
    assert '[card] licence: unknown key (did you mean "license"?)' in text
    assert "[card] risks: got 4; allowed: a string" in text


def test_a_full_brief_is_read(tmp_path):
    brief = load_brief(
        write(
            tmp_path,
            """
            name = "full-1.0"
            objective = "masked"
            [data]
            sources = ["a", "/b", "hf:c"]
            held_out = "kept.txt"
            tasks = ["t.jsonl"]
            [hardware]
            device = "h100-sxm"
            count = 8
            nodes = 2
            region = "SE"
            [budget]
            usd = 100.5
            ladder_share = 0.3
            [goal]
            minimise = "usd"
            target_loss = 3.1
            max_params = 1e9
            inference_tokens = 1e12
            [override]
            tokens = 2e9
            precision = "bf16"
            tied_head = true
            """,
        )
    )
    assert (f"{tmp_path}/a", "/b", "hf:c") == brief.data.sources
    assert (f"{tmp_path}/kept.txt", (f"{tmp_path}/t.jsonl",)) == (brief.data.held_out, brief.data.tasks)
    assert HardwareBrief(device="h100-sxm", count=8, nodes=2, region="SE") == brief.hardware
    assert brief.goal.max_params == 1_000_000_000
    assert isinstance(brief.goal.max_params, int)
    assert brief.override == {"tokens": 2_000_000_000, "precision": "bf16", "tied_head": True}


def test_all_problems_are_told_at_once(tmp_path):
    text = """nmae = "x"
objective = "casual"
[data]
sources = "texts"
held_out = 0.7
[hardware]
count = 2.5
hours = 3
[budget]
hours = -1
ladder_share = 0.95
usd = true
[goal]
target = 3
[override]
batch_token = 8
context_tokens = 100
[extra]
"""
    assert complaint(tmp_path, text) == (
        "stepladder.toml has 14 problems\n"
        '  - line 1: nmae: unknown key (did you mean "name"?)\n'
        '  - line 2: objective: got "casual"; allowed: "causal" or "masked" (did you mean "causal"?)\n'
        "  - line 18: extra: unknown key; known: name, objective, data, hardware, budget, goal, card, "
        "override\n"
        "  - name is missing; allowed: a string\n"
        '  - line 4: [data] sources: got "texts"; allowed: a list of strings, as in ["a.txt", "docs/"]\n'
        "  - line 5: [data] held_out: got 0.7; allowed: a share of the files between 0 and 0.5, or a path\n"
        "  - line 7: [hardware] count: got 2.5; allowed: a whole number from 1 to 1,000,000\n"
        "  - line 8: [hardware] hours: unknown key (it belongs in [budget])\n"
        "  - line 10: [budget] hours: got -1; allowed: a number above 0\n"
        "  - line 11: [budget] ladder_share: got 0.95; allowed: a number from 0.01 to 0.9\n"
        "  - line 12: [budget] usd: got true; allowed: a number above 0\n"
        '  - line 14: [goal] target: unknown key (did you mean "target_loss"?)\n'
        '  - line 16: [override] batch_token: unknown key (did you mean "batch_tokens"?)\n'
        "  - line 17: [override] context_tokens: got 100; allowed: a whole number and a multiple of 8 "
        "from 16 to 1,048,576\n"
        "  next:    stepladder init --show   (prints a brief that has every key)"
    )


def test_contradictions_are_told(tmp_path):
    text = """name = "x"
[data]
sources = ["a"]
[goal]
minimise = "usd"
[override]
batch_tokens = 100
context_tokens = 64
params = 1e6
width = 64
"""
    assert complaint(tmp_path, text) == (
        "stepladder.toml has 4 problems\n"
        "  - nothing ends the run; allowed: at least one of hours, usd, kwh, kg_co2e in [budget], "
        "or target_loss in [goal], or tokens in [override]\n"
        '  - line 5: [goal] minimise: got "usd" without target_loss: the cheapest run is no run\n'
        "  - line 7: [override] batch_tokens: got 100; allowed: a multiple of context_tokens (64)\n"
        "  - line 9: [override] params: params and width both set the size; allowed: one\n"
        "  next:    stepladder init --show   (prints a brief that has every key)"
    )


def test_toml_errors_name_the_line(tmp_path):
    text = complaint(tmp_path, 'name = "x"\nsources = [\n')
    assert text.startswith("stepladder.toml is not valid TOML\n  got:     ")
    assert "at end of document" in text
    assert "(at line 2, column" in complaint(tmp_path, 'name = "x"\nhours == 2\n')
    assert "(at line 2" in complaint(tmp_path, 'name = "x"\nname = "y"\n')


def test_tables_must_be_tables(tmp_path):
    text = complaint(tmp_path, 'name = "x"\ndata = 3\n')
    assert "  - line 2: data: got 3; allowed: a table, as in [data]\n" in text


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "-rm"])
def test_names_that_are_no_folder_names_are_refused(tmp_path, name):
    assert "line 2: name: got" in complaint(tmp_path, SMALL.replace("notes", name))


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "[]", "'2'"])
def test_numbers_must_be_finite_numbers(tmp_path, value):
    assert "[budget] hours: got" in complaint(tmp_path, SMALL.replace("hours = 2", f"hours = {value}"))


def test_missing_files_say_what_to_type(tmp_path):
    with pytest.raises(BriefError) as caught:
        load_brief(tmp_path / "none.toml")
    assert str(caught.value).endswith("none.toml does not exist\n  next:    stepladder init")
    with pytest.raises(BriefError, match="cannot be read"):
        load_brief(tmp_path)


def test_other_encodings_and_huge_files_are_refused(tmp_path):
    path = tmp_path / "stepladder.toml"
    path.write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(BriefError, match=r"is not UTF-8 text\n  got:     byte 0xe9 at position 8"):
        load_brief(path)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(BriefError, match="too large to be a brief"):
        load_brief(path)


@pytest.mark.parametrize("key", sorted(OVERRIDES))
def test_every_override_checks_its_value(tmp_path, key):
    text = complaint(tmp_path, SMALL + f"[override]\n{key} = [1, 2]\n")
    assert f"line 8: [override] {key}: got [1, 2]; allowed: {OVERRIDES[key].allowed}\n" in text


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_crash_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("brief") / "stepladder.toml"
    path.write_bytes(content)
    with pytest.raises(BriefError):
        load_brief(path)
