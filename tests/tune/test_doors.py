"""The verbs export, tune, eval, complete and predict on a tiny network, through the command line's main."""

import io
import json
import os
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from stepladder.cli import main
from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.tune.tasks import write_task


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, word_task, network_folder, corpus):
    """What `stepladder tune --json` wrote and printed."""
    folder = tmp_path_factory.mktemp("doors")
    write_task(word_task, folder / "words")
    words = ["tune", str(network_folder), "--task", str(folder / "words"), "--out", str(folder / "out")]
    assert main([*words, "--tokenizer", str(corpus), "--epochs", "6", "--methods", "full", "--json"]) == 0
    return folder / "out"


def test_tune_prints_a_table_a_verdict_and_five_examples(tuned, word_task, network_folder, corpus, capsys):
    words = ["tune", str(network_folder), "--task", str(tuned.parent / "words"), "--out", str(tuned)]
    assert main([*words, "--tokenizer", str(corpus), "--epochs", "6", "--methods", "full"]) == 0
    printed = capsys.readouterr().out
    assert "TF-IDF + logistic regression" in printed
    assert "Use the" in printed
    assert printed.count("  gold ") == 5
    assert str(tuned / "results.json") in printed


def test_eval_scores_a_tuned_folder_again(tuned, network_folder, capsys):
    assert main(["eval", str(tuned), "--json"]) == 0
    printed = last_json(capsys)
    assert json.loads((tuned / "results.json").read_text())["verdict"] == printed["verdict"]
    assert {"task", "folder", "verdict", "rows", "limits", "weak", "kind", "overlap", "uncounted"} == set(
        printed
    )
    assert printed["limits"]
    assert json.loads((tuned / "origin.json").read_text()) == {
        "model": os.path.relpath(network_folder, tuned)
    }


def test_predict_reads_stdin_and_writes_stdout(tuned, capsys, monkeypatch):
    given = b'{"text": "a red apple", "id": 1}\n\n{"text": "my old hammer"}\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
    assert main(["predict", str(tuned / "full-0"), "--task", "classification"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("id") for row in rows] == [1, None]
    assert all(row["predicted"] in ("fruit", "tool") for row in rows)


def test_predict_writes_nothing_when_a_row_is_bad(tuned, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "fine"}\n{"text": 1}\n')))
    assert main(["predict", str(tuned / "full-0")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert 'line 2: "text" is a int' in printed.err


def test_export_complete_and_eval_on_the_export(tmp_path, network_folder, corpus, capsys):
    out = str(tmp_path / "export")
    assert main(["export", str(network_folder), "--out", out, "--tokenizer", str(corpus), "--json"]) == 0
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } == set(last_json(capsys)["files"])
    for greedy in ([], ["--greedy"]):
        assert main(["complete", out, "--prompt", "the apple", "--tokens", "5", *greedy]) == 0
        assert capsys.readouterr().out.startswith("the apple")
    for prompt, unseen in (("the apple", 0), ("the apple " * 40, None)):
        assert main(["complete", out, "--prompt", prompt, "--tokens", "3", "--greedy", "--json"]) == 0
        said = capsys.readouterr()
        printed = json.loads(said.out)
        # The prompt stands behind the end of another text.
        read = 1 + len(load_tokenizer(corpus).encode(prompt))
        assert read == printed["prompt_tokens"]
        assert printed["unseen_tokens"] == (max(read - 32, 0) if unseen is None else unseen)
        assert said.err == (
            f"note: the prompt has {read:,} tokens; the network sees the last 32, its context\n"
            if unseen is None
            else ""
        )
    assert printed["unseen_tokens"] > 0
    (tmp_path / "text.txt").write_text("the apple and the hammer")
    assert main(["eval", out, "--on", str(tmp_path / "text.txt"), "--json"]) == 0
    assert last_json(capsys)["num_bytes"] == 24
    assert main(["eval", out]) == 2
    assert "--on with a text file or a corpus folder" in capsys.readouterr().err


def test_missing_folders_are_user_errors(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no trained weights" in capsys.readouterr().err
    assert main(["tune", str(tmp_path), "--task", str(tmp_path / "none.jsonl")]) == 2
    assert "cannot read" in capsys.readouterr().err
