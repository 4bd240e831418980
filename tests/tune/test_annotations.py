import json

import pytest

from stepladder.cli import EXIT_USER_ERROR, main
from stepladder.errors import TaskError
from stepladder.tune.annotations import (
    agreement,
    cohen_kappa,
    disagreements,
    fleiss_kappa,
    random_accuracy,
    read_answers,
    with_answers,
)
from stepladder.tune.queue import text_check
from stepladder.tune.tasks import load_task, write_task

LABELS = ("fruit", "tool")


def row(identity, label, text="", **more):
    text = text or f"text {identity}"
    fields = {"id": identity, "text": text, "label": label, "check": text_check(identity, text)}
    return {**fields, "random": False, "why": {"predicted": "fruit"}, **more}


def answered(folder, *rows):
    path = folder / "answered.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_every_bad_row_is_listed_in_one_error(tmp_path):
    rows = [
        row("1", "fruit"),
        row("2", "froit"),
        row("3", "  "),
        row("4", None),
        row("1", "tool"),
        {**row("5", "tool"), "text": "another text"},
        {"id": "6", "text": "x", "label": "tool"},
    ]
    with pytest.raises(TaskError) as caught:
        read_answers(answered(tmp_path, *rows), LABELS)
    said = str(caught.value)
    assert "has 6 bad rows" in said
    for problem in (
        "line 2: unknown label 'froit' (did you mean \"fruit\"?)",
        'line 3: "label" is empty',
        'line 4: "label" is a NoneType, not text',
        "line 5: id '1' is answered at line 1 too (several people: fill \"annotator\")",
        "line 6: the text of id '5' is not the one that was asked",
        'line 7: no "check"',
    ):
        assert problem in said
    assert "labels fruit, tool" in said


def test_ten_rows_are_listed_at_most(tmp_path):
    with pytest.raises(TaskError) as caught:
        read_answers(answered(tmp_path, *(row(str(at), "") for at in range(14))), LABELS)
    assert "has 14 bad rows" in str(caught.value)
    assert "and 4 more" in str(caught.value)
    assert str(caught.value).count("is empty") == 10


def test_one_person_may_not_answer_twice_but_two_may(tmp_path):
    rows = [row("1", "fruit", annotator="anna"), row("1", "tool", annotator="ben")]
    (asked,) = read_answers(answered(tmp_path, *rows), LABELS)
    assert asked.said == {"anna": "fruit", "ben": "tool"}
    assert asked.label == ""
    with pytest.raises(TaskError, match="answered at line 1 too by anna"):
        read_answers(answered(tmp_path, *rows, rows[0]), LABELS)


def test_kappas_are_those_of_the_literature():
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = "aabbccabca", "aabbccbbac"
    assert cohen_kappa(first, second) == pytest.approx(metrics.cohen_kappa_score(list(first), list(second)))
    assert cohen_kappa("aaa", "aaa") == 1.0
    # Worked example of fourteen raters, ten subjects, five categories: 0.210 (Fleiss's kappa, Wikipedia).
    table = [
        (0, 0, 0, 0, 14),
        (0, 2, 6, 4, 2),
        (0, 0, 3, 5, 6),
        (0, 3, 9, 2, 0),
        (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0),
        (3, 2, 6, 3, 0),
        (2, 5, 3, 2, 2),
        (6, 5, 2, 1, 0),
        (0, 2, 2, 3, 7),
    ]
    answers = [
        [label for label, count in zip("abcde", counts, strict=True) for _ in range(count)]
        for counts in table
    ]
    assert fleiss_kappa(answers) == pytest.approx(0.210, abs=5e-4)


def test_agreement_names_pairs_and_all(tmp_path):
    said = {"anna": "ftft", "ben": "ftff", "cleo": "fttt"}
    rows = [
        row(str(at), {"f": "fruit", "t": "tool"}[letter], annotator=who)
        for who, letters in said.items()
        for at, letter in enumerate(letters)
    ]
    asked = read_answers(answered(tmp_path, *rows), LABELS)
    lines = agreement(asked)
    assert lines[0] == "Cohen's kappa of anna and ben: 0.50 (4 texts)"
    assert lines[-1].startswith("Fleiss' kappa of 3 people: ")
    assert [one.id for one in disagreements(asked)] == ["2", "3"]
    assert [one.label for one in asked] == ["fruit", "tool", "fruit", "tool"]
    assert agreement(read_answers(answered(tmp_path, *rows[:4]), LABELS)) == []


def test_random_rows_alone_tell_the_accuracy(tmp_path):
    rows = [row(str(at), "fruit" if at < 6 else "tool", random=True) for at in range(8)]
    rows += [row(str(at), "tool") for at in range(10, 40)]
    found = random_accuracy(read_answers(answered(tmp_path, *rows), LABELS))
    assert (found.value, found.count) == (0.75, 8)
    # Wilson's interval of 6 of 8.
    assert (found.low, found.high) == (pytest.approx(0.4093, abs=1e-4), pytest.approx(0.9285, abs=1e-4))
    assert random_accuracy(read_answers(answered(tmp_path, *rows[8:]), LABELS)) is None


def test_chosen_texts_train_and_random_ones_judge(tmp_path, word_task):
    taught = word_task.train[0].group
    rows = [
        row("1", "fruit", group="g1"),
        row("2", "tool", group="g2", random=True),
        row("3", "tool", group=taught, random=True),
        row("4", "tool", annotator="anna"),
        row("4", "fruit", annotator="ben"),
    ]
    made = with_answers(word_task, read_answers(answered(tmp_path, *rows), LABELS), "more")
    assert [one.text for one in made.train[len(word_task.train) :]] == ["text 1", "text 3"]
    assert [one.text for one in made.test[len(word_task.test) :]] == ["text 2"]
    assert made.notes[-2:] == (
        "2 labels of a queue added to train, 1 drawn by chance to test",
        "1 texts left out: people disagreed, no label has most votes",
    )


def test_the_verb_writes_all_or_nothing(tmp_path, word_task, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_task(word_task, tmp_path / "set")
    words = ["data", "labels", "read", "answered.jsonl", "--set", "set", "--out", "more"]
    answered(tmp_path, row("1", "fruit"), row("2", "?"))
    assert main(words) == EXIT_USER_ERROR
    assert "has 1 bad row" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()
    answered(tmp_path, row("1", "fruit"), row("2", "fruit", random=True))
    assert main(words) == 0
    assert "accuracy of the model on the pool: 1.000, 95 % from 0.207" in capsys.readouterr().out
    assert len(load_task(tmp_path / "more").train) == len(word_task.train) + 1
    assert main(words) == EXIT_USER_ERROR
    assert "holds a labelled set already" in capsys.readouterr().err
