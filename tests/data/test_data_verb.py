"""The command line of `stepladder data`."""

import json
from pathlib import Path

import pytest

from stepladder.cli import main
from stepladder.records import Corpus


def test_json_is_one_object_with_the_promised_keys(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", str(sources), "--out", str(tmp_path / "out"), "--vocab-size", "400", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert {
        *("input_bytes", "input_documents", "kept_documents", "quarantined_documents", "removed", "tokens"),
        *("seconds", "cpu_seconds"),
    } <= set(result)
    assert result["input_documents"] == (
        result["kept_documents"] + sum(result["removed"].values()) + result["quarantined_documents"]
    )
    for stage in ("read", "near", "clusters", "trim", "portray", "encode"):
        assert f"\n{stage} " in "\n" + printed.err

    assert main(words) == 0
    again = capsys.readouterr()
    assert result == json.loads(again.out)
    assert again.err == ""


def test_the_table_for_people(
    prepared: tuple[Path, Corpus], sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, corpus = prepared
    assert main(["data", str(sources), "--out", str(out), "--vocab-size", "512"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == [
        *("came in", "quarantined", "empty", "exact_duplicate", "near_duplicate", "(trimmed)"),
        *("train", "heldout"),
    ]
    assert f"{corpus.tokens:,} tokens" in lines[-3]


def test_a_dry_run_shows_shares_and_writes_nothing(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["data", str(sources), "--out", str(out), "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == 66
    prose = result["rules"]["prose"]
    assert prose["removed"]["empty"]["documents"] == 1
    assert {0.6: 0.2107, 0.9: 0.9996} == {
        alike: pytest.approx(result["collisions"][str(alike)], abs=1e-3) for alike in (0.6, 0.9)
    }
    assert not out.exists()
    assert main(["data", str(sources), "--out", str(out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "share of documents that each rule would remove" in printed
    assert "joined from 0.8 on" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_a_dry_run_shows_what_a_rule_would_remove_before_it_is_on(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made-up words have no stop words: what is told of the rule while it is off is what it then takes."""
    words = ["data", str(sources), "--dry-run"]
    assert main([*words, "--json"]) == 0
    prose = json.loads(capsys.readouterr().out)["rules"]["prose"]
    told = prose["off"]["gopher_stop_words"]
    assert told["documents"] > 50
    assert len(told["examples"]) == 3
    assert "gopher_stop_words" not in prose["removed"]

    assert main([*words, "--rules-on", "gopher_stop_words", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["rules"]["prose"]
    assert told == again["removed"]["gopher_stop_words"]
    assert "gopher_stop_words" not in again["off"]

    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if "gopher_stop_words" in line]
    assert line.startswith("    off gopher_stop_words")
    assert f"{told['share']:.1%}" in line


def test_the_audit_tells_how_alike_the_compared_pairs_were(prepared: tuple[Path, Corpus]) -> None:
    found = json.loads((prepared[0] / "audit.json").read_text())["near_duplicates"]
    assert found["candidates"] == sum(found["similarities"]) >= 1
    assert found["joined"] == sum(found["similarities"][16:]) == 1


def test_errors_say_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--out", str(tmp_path / "out")]) == 2
    assert "stepladder data python:prose --out corpus" in capsys.readouterr().err
    assert main(["data", "python:instaled", "--out", str(tmp_path / "out")]) == 2
    assert 'did you mean "python:installed"?' in capsys.readouterr().err
