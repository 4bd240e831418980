import json
import random

import pytest

pytest.importorskip("sklearn")

from stepladder.errors import TaskError
from stepladder.eval import baselines, table
from stepladder.eval.predictions import Predictions, write_predictions
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
        write_predictions(run, gold, predicted, [0.9] * len(gold))
        write_json(run / "done.json", {"method": method, "seed": seed, "seconds": 1.5})


def noisy(gold, share, seed=0):
    chooser = random.Random(seed)
    return [g if chooser.random() < share else ("b" if g == "a" else "a") for g in gold]


def said_of(methods) -> str:
    """The verdict on predicted labels by method, one list a seed."""
    test = table.TestSet(task="demo", kind="classification", gold=GOLD, groups=None)
    runs = {name: [Predictions(said=tuple(one)) for one in lists] for name, lists in methods.items()}
    return table.score(test, runs).verdict


def task_rows(kind, **splits) -> baselines.TaskRows:
    return baselines.TaskRows(name="demo", kind=kind, rows=splits)


GOLD = random.Random(1).choices("ab", k=400)


def test_the_verdict_says_use_the_linear_model_when_it_wins():
    methods = {table.TUNED: [noisy(GOLD, 0.7)], baselines.LINEAR: [noisy(GOLD, 0.9, 1)]}
    assert said_of(methods).startswith("Use the linear model: the fine-tuned network loses")


def test_the_verdict_says_use_the_linear_model_when_nothing_can_be_told():
    methods = {table.TUNED: [noisy(GOLD, 0.8)], baselines.LINEAR: [noisy(GOLD, 0.8, 1)]}
    assert "Use the linear model: the fine-tuned network cannot be told from it" in said_of(methods)


def test_the_verdict_prefers_a_network_that_wins_and_weighs_pretraining():
    methods = {
        table.TUNED: [noisy(GOLD, 0.95)],
        table.SCRATCH: [noisy(GOLD, 0.8, 1)],
        baselines.LINEAR: [noisy(GOLD, 0.8, 2)],
    }
    said = said_of(methods)
    assert said.startswith("Use the fine-tuned network: it beats the linear model")
    assert "Pretraining helped (+0." in said


def test_the_verdict_says_when_nothing_was_learned():
    methods = {baselines.LINEAR: [noisy(GOLD, 0.5)], baselines.MAJORITY: [["a"] * len(GOLD)]}
    assert "does not beat the majority class" in said_of(methods)
    # Better than the linear model, and still no better than saying the same always: nothing to use.
    methods = {
        table.TUNED: [noisy(GOLD, 0.6)],
        baselines.LINEAR: [noisy(GOLD, 0.3, 1)],
        baselines.MAJORITY: [noisy(GOLD, 0.6, 2)],
    }
    said = said_of(methods)
    assert said.startswith("The fine-tuned network beats the linear model")
    assert "fine-tuned does not beat the majority class: this task was not learned." in said


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
    write_predictions(tmp_path / "fine-tuned-0", GOLD[:-1], GOLD[:-1], [1.0] * 399)
    with pytest.raises(TaskError, match="does not belong to this test set"):
        table.task_table(tmp_path)


def test_damaged_predictions_are_refused(tmp_path):
    write_folder(tmp_path, GOLD, {(table.TUNED, 0): GOLD})
    write_text(tmp_path / "fine-tuned-0" / "predictions.jsonl", '{"index": 0, "go')
    with pytest.raises(TaskError, match="not readable JSON lines"):
        table.task_table(tmp_path)


def labelled(labels):
    return [{"text": f"text {at}", "label": label} for at, label in enumerate(labels)]


def test_baselines_that_know_only_frequencies():
    task = task_rows("classification", train=labelled("abb"), test=labelled("aa"))
    assert baselines.majority(task) == (["b", "b"], [2 / 3, 2 / 3])
    even = task_rows("classification", train=labelled("ba"), test=labelled("a"))
    assert baselines.majority(even)[0] == ["a"]
    many = task_rows("classification", train=labelled("abbb"), test=labelled("a" * 4_000))
    drawn = baselines.chance(many, 1)[0]
    assert pytest.approx(drawn.count("a") / 4_000, abs=0.03) == 0.25
    assert (
        drawn
        == baselines.chance(task_rows("classification", **{**many.rows, "train": labelled("bbab")}), 1)[0]
    )


def test_the_linear_model_learns_words():
    texts = zip(["red apple", "green pear", "steel saw", "old hammer"] * 5, list("ffTT") * 5, strict=True)
    train = [{"text": text, "label": label} for text, label in texts]
    test = [{"text": text, "label": "f"} for text in ("an apple", "a saw", "☃")]
    labels, sure = baselines.linear(task_rows("classification", train=train, dev=train, test=test))
    assert labels[:2] == ["f", "T"]
    assert all(0.5 <= chance <= 1 for chance in sure)


ROWS = {
    "multilabel": lambda at: {
        "text": f"{'red ' * (at % 2)}{'old ' * (at % 3 == 0)}{at}",
        "labels": ["r"] * (at % 2) + ["s"] * (at % 3 == 0),
    },
    "rating": lambda at: {"text": f"{['bad', 'fair', 'good'][at % 3]} {at}", "rating": at % 3},
    "span": lambda at: {
        "context": f"In {at} the door was {('red', 'blue')[at % 2]}.",
        "question": "which door?",
        "answers": [{"text": ("red", "blue")[at % 2], "start": len(f"In {at} the door was ")}]
        if at % 4
        else [],
    },
    "answer": lambda at: {
        "context": f"The door {at} is {('red', 'blue')[at % 2]}.",
        "question": "which?",
        "answers": [{"text": ("red", "blue")[at % 2]}],
    },
    "translation": lambda at: {
        "source": f"{('red', 'old')[at % 2]} door {at}",
        "target": f"porte {('rouge', 'ancienne')[at % 2]} {at}",
    },
    "summarisation": lambda at: {
        "text": f"Door {at} is red. It was painted.",
        "summary": f"Door {at} is red.",
    },
}
MAIN = {
    "multilabel": ("micro_f1", "TF-IDF + one-vs-rest"),
    "rating": ("mean_absolute_error", "TF-IDF + ridge"),
    "span": ("f1", "best window"),
    "answer": ("f1", "nearest training pair"),
    "translation": ("chrf", "word for word"),
    "summarisation": ("rouge_l", "lead sentence"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_has_a_table_with_baselines_and_a_verdict(kind, tmp_path):
    write_json(tmp_path / "task.json", {"name": "demo", "kind": kind})
    for split, places in (("train", range(60)), ("dev", range(60, 90)), ("test", range(90, 150))):
        lines = [json.dumps(ROWS[kind](at)) for at in places]
        write_text(tmp_path / f"{split}.jsonl", "\n".join(lines) + "\n")
    gold = task_rows(kind, test=[ROWS[kind](at) for at in range(90, 150)]).gold("test")
    perfect = [one[0] if one else "" for one in gold] if kind in ("span", "answer") else gold
    write_predictions(tmp_path / "full-0", gold, perfect, [])
    write_json(tmp_path / "full-0" / "done.json", {"method": table.TUNED, "seed": 0, "seconds": 1.0})
    found = table.task_table(tmp_path)
    rows = {(row.method, row.metric): row for row in found.rows}
    metric, rival = MAIN[kind]
    expected = {"rating": 0.0, "translation": 100.0}.get(kind, 1.0)
    assert rows[table.TUNED, metric].value == pytest.approx(expected)
    assert (rival, metric) in rows
    assert all(row.low <= row.value <= row.high for row in found.rows)
    assert "network" in found.verdict
    text = table.format_table(found)
    assert len(text.split("\n")) >= len({row.method for row in found.rows}) + 1
    assert table.show_predictions(tmp_path, count=3)


def test_the_table_says_how_many_training_labels_are_weak(tmp_path):
    write_folder(tmp_path, GOLD, {(table.TUNED, 0): GOLD})
    assert table.task_table(tmp_path).weak == ""
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    marked = [
        row | ({"weak": True, "weak_source": "rules r.json"} if at < 5 else {}) for at, row in enumerate(rows)
    ]
    write_text(tmp_path / "train.jsonl", "\n".join(map(json.dumps, marked)) + "\n")
    found = table.task_table(tmp_path)
    said = "5 of 20 training labels are weak, given by no person: 5 rules r.json."
    assert found.weak == said
    assert table.format_table(found).endswith(said)
    assert json.loads((tmp_path / "results.json").read_text())["weak"] == said
