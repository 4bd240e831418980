"""The Croissant description of a corpus: complete, true to its files, valid for the library of the format."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from stepladder.data.card.croissant import corpus_files, croissant, with_statements
from stepladder.data.options import CorpusOptions
from stepladder.errors import DataError
from stepladder.records import Corpus


@pytest.fixture(scope="module")
def description(prepared: tuple[Path, Corpus]) -> dict[str, Any]:
    audit = json.loads((prepared[0] / "audit.json").read_text())
    audit["profile"] = {
        "mentions": {"gender: women": {"mentions": 1200, "documents": 9, "near": [{"term": "brave"}]}},
        "dates": {"years": {}},
        "totals": {"documents": 10},
    }
    audit["pii"] = {"email": {"documents": 3, "findings": 4}}
    options = {**CorpusOptions().identity(), "name": "made texts", "sources": ["texts"]}
    return croissant(audit, options, corpus_files(prepared[0]))


def test_files_are_described_as_they_are(prepared: tuple[Path, Corpus], description: dict[str, Any]) -> None:
    folder = prepared[0]
    objects = [e for e in description["distribution"] if e["@type"] == "cr:FileObject"]
    names = {entry["@id"] for entry in objects}
    assert {"index.json", "tokenizer.json", "audit.json", "DATA_CARD.md", "train/offsets.i64"} <= names
    assert any("quarantine" in name for name in names)
    for entry in objects:
        raw = (folder / entry["contentUrl"]).read_bytes()
        assert entry["contentSize"] == f"{len(raw)} B"
        assert entry["sha256"] == hashlib.sha256(raw).hexdigest()


def test_shards_are_a_set_for_each_split(prepared: tuple[Path, Corpus], description: dict[str, Any]) -> None:
    sets = {e["@id"]: e for e in description["distribution"] if e["@type"] == "cr:FileSet"}
    assert sorted(sets) == ["heldout-shards", "ngrams", "train-shards"]
    found = list(prepared[0].glob(sets["train-shards"]["includes"]))
    size = sum(path.stat().st_size for path in found)
    assert sets["train-shards"]["description"].startswith(f"{len(found)} shards, {size:,} bytes")


def test_responsible_fields_say_what_was_found(description: dict[str, Any]) -> None:
    assert "gender: women: 1,200 mentions by word list; near them: brave" in description["rai:dataBiases"]
    assert "4 of kind email" in description["rai:personalSensitiveInformation"][0]
    assert any("near_duplicate" in step for step in description["rai:dataPreprocessingProtocol"])
    assert "texts" in description["rai:dataCollection"]
    assert description["rai:dataSocialImpact"] == "NOT STATED"
    assert not {"version", "datePublished", "citeAs"} & set(description)


def test_a_corpus_says_when_it_was_made_and_how_it_is_cited(prepared: tuple[Path, Corpus]) -> None:
    found = json.loads((prepared[0] / "croissant.json").read_text())
    assert prepared[1].fingerprint in found["citeAs"]
    assert datetime.date.fromisoformat(found["datePublished"]) <= datetime.datetime.now(datetime.UTC).date()
    audit = json.loads((prepared[0] / "audit.json").read_text())
    assert len(found["license"]) == len(audit["licences"])


def test_what_a_person_states_replaces_what_was_guessed(description: dict[str, Any]) -> None:
    said = {"data_license": "CC-BY-4.0", "provider": "A Person", "risks": "", "contact": "x"}
    found = with_statements(description, said)
    assert (found["license"], found["creator"]["name"]) == ("CC-BY-4.0", "A Person")
    assert found["rai:dataSocialImpact"] == "NOT STATED"


def test_what_is_given_is_passed_on(prepared: tuple[Path, Corpus]) -> None:
    audit = json.loads((prepared[0] / "audit.json").read_text())
    audit.pop("pii", None)
    given = {"license": "https://spdx.org/licenses/MIT.html", "version": "1.0.0", "name": "n"}
    found = croissant(audit, given, [])
    assert {name: found[name] for name in given} == given
    assert found["rai:personalSensitiveInformation"] == [
        "Personal data and secrets were not looked for."
    ] or (audit.get("pii"))


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared corpus"):
        corpus_files(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_library_of_the_format_finds_no_error(
    prepared: tuple[Path, Corpus], description: dict[str, Any], tmp_path: Path
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="the format's library is not installed")
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(description))
    dataset = mlcroissant.Dataset(jsonld=path)
    issues = dataset.metadata.ctx.issues
    assert set(issues.errors) == set()
    missing = {warning.split('"')[1].rsplit("/")[-1] for warning in issues.warnings}
    assert missing == {"citeAs", "datePublished", "version"}
    assert dataset.metadata.data_biases == description["rai:dataBiases"]
    assert [file.sha256 for file in dataset.metadata.file_objects] == [
        e["sha256"] for e in description["distribution"] if e["@type"] == "cr:FileObject"
    ]
    given = {
        "version": "1.0.0",
        "datePublished": "2026-01-31",
        "citeAs": "made for a test",
    }
    path.write_text(json.dumps({**description, **given}))
    assert set(mlcroissant.Dataset(jsonld=path).metadata.ctx.issues.warnings) == set()
    path.write_text((prepared[0] / "croissant.json").read_text())
    issues = mlcroissant.Dataset(jsonld=path).metadata.ctx.issues
    assert (set(issues.errors), set(issues.warnings)) == (set(), set())
    first, *others = description["distribution"]
    broken = {key: value for key, value in first.items() if key != "sha256"}
    path.write_text(json.dumps({**description, "distribution": [broken, *others]}))
    with pytest.raises(mlcroissant.ValidationError, match="sha256"):
        mlcroissant.Dataset(jsonld=path)
