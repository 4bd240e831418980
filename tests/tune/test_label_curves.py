"""`stepladder data labels curve --from RUN --method full|lora`: a network tuned anew for every size."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from stepladder.cli import main
from stepladder.tune.tasks import write_task


@pytest.fixture
def labelled(tmp_path, word_task) -> Path:
    """A prepared set: 210 training rows, of which the sizes are halves."""
    write_task(word_task, tmp_path / "words")
    return tmp_path / "words"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tuned_curve_rises_and_is_kept(labelled, network_folder, corpus, tmp_path, capsys, method):
    command = ["data", "labels", "curve", str(labelled), "--from", str(network_folder), "--method", method]
    command += ["--tokenizer", str(corpus), "--out", str(tmp_path / "tuned"), "--draws", "1"]
    command += ["--sizes", "4", "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["learner"] == f"{method} network"
    assert said["sizes"] == [26, 52, 105, 210]
    # Fruit or tools: a network that has seen all words is right, one that has seen few guesses more often.
    assert said["values"][-1] > 0.9
    assert said["values"][-1] > said["values"][0]
    folders = sorted(path.name for path in (tmp_path / "tuned").iterdir())
    assert folders == ["105-0", "210-0", "26-0", "52-0"]
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned").glob(f"*/{method}-0/done.json")}
    assert len(done) == 4
    # The same call again trains nothing and says the same.
    assert main(command) == 0
    assert said == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done == {path: path.stat().st_mtime_ns for path in done}


def test_other_kinds_and_a_method_without_a_network_are_refused(labelled, tmp_path, capsys):
    pairs = [{"source": f"a {at}", "target": f"ein {at}"} for at in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    assert main(["data", "labels", "curve", str(tmp_path / "pairs.jsonl")]) == 2
    error = capsys.readouterr().err
    assert "kind without a learning curve" in error
    assert "classification, rating" in error
    assert main(["data", "labels", "curve", str(labelled), "--method", "lora"]) == 2
    error = capsys.readouterr().err
    assert "--method lora needs a network to tune" in error
    assert "--from" in error
