import json
import random

import pytest

pytest.importorskip("sklearn")

from stepladder.errors import TaskError
from stepladder.eval import baselines, table
from stepladder.store import write_json, write_text


def write_folder(folder, gold, methods) -> None:
    """A tuned folder: methods maps (method, seed) to predicted labels."""
    write_json(folder / "task.json", {"name": "demo"})
    for split in ("train", "dev", "test"):
        labels = gold if split == "test" else list("abab") * 5
        rows = [json.dumps({"text": f"{g * 3} word {at}", "label": g}) for at, g in enumerate(labels)]
        write_text(folder / f"{split}.jsonl", "\n".join(rows) + "\n")
    for (method, seed), predicted in methods.items():
        run = folder / f"{method.replace(' ', '-')}-{seed}"
        table.write_predictions(run, gold, predicted, [0.9] * len(gold))
        write_json(run / "done.json", {"method": method, "seed": seed, "seconds": 1.5})


def noisy(gold, share, seed=0):
    chooser = random.Random(seed)
    return [g if chooser.random() < share else ("b" if g == "a" else "a") for g in gold]


GOLD = random.Random(1).choices("ab", k=400)


def test_the_verdict_says_use_the_linear_model_when_it_wins():
    methods = {table.TUNED: [noisy(GOLD, 0.7)], baselines.LINEAR: [noisy(GOLD, 0.9, 1)]}
    assert table.verdict(GOLD, methods).startswith("Use the linear model: the fine-tuned network loses")


def test_the_verdict_says_use_the_linear_model_when_nothing_can_be_told():
    methods = {table.TUNED: [noisy(GOLD, 0.8)], baselines.LINEAR: [noisy(GOLD, 0.8, 1)]}
    assert "Use the linear model: the fine-tuned network cannot be told from it" in table.verdict(
        GOLD, methods
    )


def test_the_verdict_prefers_a_network_that_wins_and_weighs_pretraining():
    methods = {
        table.TUNED: [noisy(GOLD, 0.95)],
        table.SCRATCH: [noisy(GOLD, 0.8, 1)],
        baselines.LINEAR: [noisy(GOLD, 0.8, 2)],
    }
    said = table.verdict(GOLD, methods)
    assert said.startswith("Use the fine-tuned network: it beats the linear model")
    assert "Pretraining helped (+0." in said


def test_the_verdict_says_when_nothing_was_learned():
    methods = {baselines.LINEAR: [noisy(GOLD, 0.5)], baselines.MAJORITY: [["a"] * len(GOLD)]}
    assert "does not beat the majority class" in table.verdict(GOLD, methods)


def test_seeds_make_one_row_and_unfinished_runs_none(tmp_path):
    methods = {(table.TUNED, seed): noisy(GOLD, 0.8, seed) for seed in range(3)}
    write_folder(tmp_path, GOLD, methods)
    (tmp_path / "fine-tuned-2" / "done.json").unlink()
    rows = {(row.method, row.metric): row for row in table.task_table(tmp_path).rows}
    tuned = rows[table.TUNED, "accuracy"]
    assert (tuned.seeds, tuned.examples, tuned.seconds) == (2, 400, 1.5)
    assert tuned.low < tuned.value < tuned.high
    # The words of the texts give the label away.
    assert rows[baselines.LINEAR, "accuracy"].value == 1.0
    assert rows[baselines.LINEAR, "accuracy"].low < 1.0


def test_predictions_of_another_test_set_are_refused(tmp_path):
    write_folder(tmp_path, GOLD, {(table.TUNED, 0): GOLD})
    table.write_predictions(tmp_path / "fine-tuned-0", GOLD[:-1], GOLD[:-1], [1.0] * 399)
    with pytest.raises(TaskError, match="does not belong to this test set"):
        table.task_table(tmp_path)


def test_damaged_predictions_are_refused(tmp_path):
    write_folder(tmp_path, GOLD, {(table.TUNED, 0): GOLD})
    write_text(tmp_path / "fine-tuned-0" / "predictions.jsonl", '{"index": 0, "go')
    with pytest.raises(TaskError, match="not readable JSON lines"):
        table.task_table(tmp_path)


def test_baselines():
    assert baselines.majority(["a", "b", "b"], 2) == ["b", "b"]
    assert baselines.majority(["b", "a"], 1) == ["a"]
    drawn = baselines.chance(["a", "b", "b", "b"], 4_000, seed=1)
    assert pytest.approx(drawn.count("a") / 4_000, abs=0.03) == 0.25
    assert drawn == baselines.chance(["b", "a", "b", "b"], 4_000, seed=1)
    train = (["red apple", "green pear", "steel saw", "old hammer"] * 5, list("ffTT") * 5)
    labels, sure = baselines.linear(train, train, ["an apple", "a saw", "☃"])
    assert labels[:2] == ["f", "T"]
    assert all(0.5 <= chance <= 1 for chance in sure)
