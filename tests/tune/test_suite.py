"""What tuning costs, before it starts."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from stepladder.models.export import read_shape
from stepladder.tune.encode import Coder
from stepladder.tune.rows import Example
from stepladder.tune.suite import Scope, cost_lines, tuning_cost
from stepladder.tune.tasks import split_task


@pytest.fixture(scope="module")
def trained(tmp_path_factory, network_folder):
    """A run that read 3,000 tokens a second."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(network_folder, folder)
    (folder / "run.json").write_text(json.dumps({"tokens": 30_000, "seconds": 10.0}))
    return folder


def test_training_scoring_and_asking_are_counted(word_task, trained, corpus):
    coder = Coder(corpus, read_shape(trained / "model"))
    lengths = [len(ids) for ids in coder.texts([f"\n{e.text}\n{e.label}" for e in word_task.train])]
    mean = sum(lengths[:200]) / 200
    train, dev, test = len(word_task.train), len(word_task.dev), len(word_task.test)
    plain = tuning_cost(trained, word_task, corpus, Scope(runs=4, epochs=3, workers=2, shots=False))
    assert plain.tokens == pytest.approx(4 * 3 * train * mean, rel=1e-3)
    assert plain.scored_tokens == pytest.approx(4 * mean * (4 * dev + test), rel=1e-3)
    assert plain.written_tokens == 0
    assert plain.seconds == pytest.approx(plain.tokens / 3_000 / 2)
    assert plain.scoring_seconds == pytest.approx(plain.scored_tokens / 3 / 3_000, rel=1e-3)
    asked = tuning_cost(trained, word_task, corpus, Scope(runs=4, epochs=3, workers=2))
    assert asked.scored_tokens - plain.scored_tokens == pytest.approx(test * (2 * mean + 16), rel=1e-2)


def test_answers_are_counted_one_token_after_the_other(trained, corpus):
    pairs = [
        Example(text=f"a red apple {at}", targets=("pear " * (1 + at % 5),), group=str(at))
        for at in range(50)
    ]
    task = split_task("pairs", pairs, kind="translation")
    longest = max(len(ids) for ids in Coder(corpus, read_shape(trained / "model")).texts(["pear " * 5]))
    cost = tuning_cost(trained, task, corpus, Scope(runs=2, epochs=1, workers=1))
    assert cost.written_tokens == longest * len(task.test) * 4
    line, *more = cost_lines(trained, [task], corpus, Scope(runs=2, epochs=1, workers=1))
    assert f"{cost.written_tokens:,} to write" in line
    assert f"{cost.seconds:,.0f} + {cost.scoring_seconds:,.0f} s at most" in line
    assert more == []
    total = cost_lines(trained, [task, task], corpus, Scope(runs=2, epochs=1, workers=1))[-1]
    assert total.startswith(f"all: 4 runs, {2 * cost.tokens:,} tokens to train on")


def test_without_a_speed_no_seconds_are_told(word_task, network_folder, corpus):
    (line,) = cost_lines(network_folder, [word_task], corpus, Scope(runs=1, epochs=1, workers=1))
    assert line.endswith("how long is not known: the folder has no run.json")
