"""Data in the report: figures add up, an older audit only lacks them, a corpus has a page of its own."""

import json
import shutil

import pytest

from stepladder.cli import main
from stepladder.laws.blend import Mixture
from stepladder.records import Derived, Interval, to_json
from stepladder.report.data_section import data
from stepladder.report.parts import read_parts


@pytest.fixture
def corpus(climb, tmp_path):
    """The folder of a corpus that belongs to no climb."""
    return shutil.copytree(climb / "corpus", tmp_path / "alone")


def rows_of(spec):
    return [row for layer in spec["layer"][:-1] for row in layer["data"]["values"]]


def test_steps_lead_from_what_came_in_to_what_is_kept(finished):
    spec = data(read_parts(finished)).figures["bytes"]
    steps = {row["step"]: (row["low"], row["high"]) for row in rows_of(spec)}
    sizes = {step: high - low for step, (low, high) in steps.items()}
    whole = sizes.pop("came in")
    assert whole == pytest.approx(31_400_000 / 2**20)
    assert whole == pytest.approx(sum(sizes.values()))
    assert steps["training"] == (0, pytest.approx(27_800_000 / 2**20))
    assert sizes["exact duplicate"] == pytest.approx(812 * 410 / 2**20)
    assert "empty" not in steps


def test_shares_of_copies_are_of_what_came_in(finished):
    section = data(read_parts(finished))
    # 812 exact, 403 near and 9 held-out documents of 5,120; their bytes and the cut lines of 31.4 MB.
    assert "23.9 % of the documents were removed for it" in section.body
    assert (
        f"{(1_224 * 410 + 1_539_750) / 314_000:.1f} % of the bytes that came in were copies" in section.body
    )
    [row] = [r for r in section.figures["domains"]["data"]["values"] if r["domain"].startswith("code")][1:2]
    assert row["documents"] == 312 + 403


def test_the_curve_is_that_of_the_bands(finished):
    section = data(read_parts(finished))
    rows = {row["similarity"]: row["probability"] for row in rows_of(section.figures["collision"])}
    assert rows[0.7] == pytest.approx(1 - (1 - 0.7**8) ** 14)
    assert "1,010 pairs were compared and 702 joined" in section.body
    joined = section.figures["compared"]["layer"][1]["data"]["values"]
    assert 702 == sum(row["pairs"] for row in joined)


def test_an_older_audit_has_no_figures_of_what_it_lacks(climb):
    path = climb / "corpus" / "audit.json"
    path.write_text(json.dumps({"removed": json.loads(path.read_text())["removed"]}))
    assert set(data(read_parts(climb)).figures) == {"removed"}
    path.write_text(
        '{"totals": [], "near_duplicates": {"jaccard": "x"}, "length_histogram": 3, "profile": 1}'
    )
    assert set(data(read_parts(climb)).figures) == {"removed"}


@pytest.mark.parametrize("place", ["ablation.json", "ablation/ablation.json"])
def test_a_trial_of_the_data_is_told_with_its_intervals(climb, place):
    row = {"part": "prose", "with_it": 1.8, "without": 1.84, "difference": 0.04, "low": 0.01, "high": 0.07}
    (climb / place).parent.mkdir(exist_ok=True)
    (climb / place).write_text(json.dumps({"subject": "c4", "differences": [{**row, "verdict": "helps"}]}))
    section = data(read_parts(climb))
    assert "What c4 is worth" in section.body
    assert "helps" in section.body
    assert section.figures["ablation"]["data"]["values"] == [
        {"text": "prose", "difference": 0.04, "low": 0.01, "high": 0.07}
    ]


def test_the_best_mixture_is_told_with_what_it_gains(climb):
    def derived(value):
        return Derived(value=value, low=value - 0.02, high=value + 0.02, how="the law of mixtures")

    loss = Interval(value=1.5, low80=1.45, high80=1.55, low95=1.4, high95=1.6)
    best = Mixture(
        shares={"code": derived(0.3), "prose": derived(0.7)},
        loss={"code": loss},
        mean_loss=loss,
        gains={"uniform": derived(0.034)},
        gap=0.0,
        status="refused",
        reason="too few runs",
    )
    (climb / "mixture.json").write_text(json.dumps({"law": {}, "best": to_json(best)}))
    body = data(read_parts(climb)).body
    assert "28.0 % – 32.0 %" in body
    assert "3.4 % against the uniform mixture (1.4 % – 5.4 %)" in body
    assert "The law refused this mixture: too few runs" in body


def test_a_damaged_trial_spares_the_page(climb):
    (climb / "mixture.json").write_text('{"rows": [1, {"domain": "x", "difference": null}]}')
    assert "mixture" not in data(read_parts(climb)).figures
    (climb / "mixture.json").write_bytes(b"\xff")
    assert read_parts(climb).missing["mixture"].startswith("mixture.json cannot be used")


def test_a_corpus_alone_has_a_page_with_the_data_only(corpus, capsys):
    assert main(["report", str(corpus)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5,120 documents came in, 3,592 are kept")
    assert len(lines) == 2
    page = (corpus / "report.html").read_text()
    assert page.count("<section") == 1
    assert "Where the bytes went" in page
    assert not (corpus / "MODEL_CARD.md").exists()


def test_a_corpus_without_its_audit_says_so(corpus, capsys):
    (corpus / "audit.json").unlink()
    assert main(["report", str(corpus)]) == 0
    assert capsys.readouterr().out.startswith("audit.json is not there yet.")
