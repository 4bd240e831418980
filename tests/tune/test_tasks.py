import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.errors import TaskError
from stepladder.tune.rows import KEYS, MAX_CHARACTERS, kind_of_row, parse_rows, row_of
from stepladder.tune.tasks import (
    Example,
    load_task,
    normal_form,
    read_task,
    split_by_group,
    split_task,
    write_task,
)


def example(text: str, label: str, group: str = "") -> Example:
    return Example(text=text, targets=(label,), group=group or text)


def lines(*rows: object) -> list[bytes]:
    return [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{not json", "not JSON"),
        (b'{"text": "caf\xe9", "label": "a"}', "not UTF-8 (byte 13)"),
        (["a"], "a list, not an object"),
        ({"text": "a"}, 'no "label"'),
        ({"text": "a", "lable": "x"}, 'no "label" (is "lable" meant?)'),
        ({"text": 3, "label": "a"}, '"text" is a int, not text'),
        ({"text": " \n", "label": "a"}, '"text" is empty'),
        ({"text": "x" * (MAX_CHARACTERS + 1), "label": "a"}, '"text" has 1,000,001 characters'),
        (b'{"text": "\\ud800", "label": "a"}', '"text" holds half a surrogate pair'),
        ({"text": "a", "label": 0.5}, '"label" is a float'),
        ({"text": "a", "label": True}, '"label" is a bool'),
        ({"text": "a", "label": None}, '"label" is a NoneType'),
        ({"text": "a", "label": " "}, '"label" is empty'),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_each_kind_of_bad_row_has_its_reason(row, reason):
    with pytest.raises(TaskError) as caught:
        parse_rows(lines({"text": "fine", "label": "a"}, row), "rows.jsonl")
    assert caught.value.wrong == "rows.jsonl has 1 bad row"
    assert f"line 2: {reason}" in caught.value.got


ROWS = {
    "classification": {"text": "a", "label": "x"},
    "multilabel": {"text": "a", "labels": ["x", 3]},
    "rating": {"text": "a", "rating": 2.5},
    "span": {"context": "it is red", "question": "how?", "answers": [{"text": "red", "start": 6}]},
    "answer": {"context": "it is red", "question": "how?", "answers": ["red", {"text": "crimson"}]},
    "translation": {"source": "red", "target": "rouge"},
    "summarisation": {"text": "a long text", "summary": "short"},
}


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_is_known_by_its_keys_and_written_as_it_was_read(kind):
    assert kind_of_row(ROWS[kind]) == kind
    (first,) = parse_rows(lines(ROWS[kind]), "rows", kind=kind)
    assert parse_rows(lines(row_of(first, kind)), "rows", kind=kind) == [first]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("multilabel", {"labels": "x"}, '"labels" is a str, not a list'),
        ("multilabel", {"labels": ["x", None]}, 'a label of "labels" is a NoneType'),
        ("multilabel", {"labels": ["x", "x"]}, '"labels" names a label twice'),
        ("rating", {"rating": "good"}, "\"rating\" is 'good', not a number"),
        ("rating", {"rating": float("nan")}, '"rating" is nan, not a number'),
        ("span", {"answers": [{"text": "red", "start": 5}]}, "\"context\" has ' re' at 5, not the"),
        ("span", {"answers": [{"text": "red"}]}, 'an answer of "answers" has no "start"'),
        ("span", {"answers": [{"text": "red", "start": -2}]}, '"answers.start" is -2, before the passage'),
        ("span", {"answers": [{"text": "red", "start": "6"}]}, '"answers.start" is a str'),
        ("span", {"question": " "}, '"question" is empty'),
        ("answer", {"answers": [7]}, 'an answer of "answers" is a int, not an object'),
        ("translation", {"target": ""}, '"target" is empty'),
        ("summarisation", {"summary": None}, '"summary" is a NoneType, not text'),
    ],
)
def test_each_kind_has_its_own_bad_rows(kind, change, reason):
    with pytest.raises(TaskError) as caught:
        parse_rows(lines({**ROWS[kind], **change}), "rows.jsonl", kind=kind)
    assert caught.value.got.startswith(f"line 1: {reason}")


def test_questions_about_one_context_are_one_group():
    rows = [{**ROWS["span"], "question": f"question {at}"} for at in range(3)]
    assert {e.group for e in parse_rows(lines(*rows), "rows", kind="span")} == {"it is red"}


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("multilabel", {"labels": []}, "no training example has a label"),
        ("rating", {"rating": 3}, "all training examples have the same rating"),
        ("span", {"answers": []}, "no training question has an answer"),
    ],
)
def test_what_cannot_be_learned_is_refused(kind, row, reason):
    many = [{**ROWS[kind], **row, KEYS[kind][0]: f"text {at}"} for at in range(30)]
    with pytest.raises(TaskError, match=reason):
        split_task("t", parse_rows(lines(*many), "rows", kind=kind), kind=kind)


@pytest.mark.parametrize("kind", ["multilabel", "rating", "span", "translation"])
def test_a_written_task_of_each_kind_reads_back_equal(kind, tmp_path):
    moving = {"rating": {"rating": 1}, "span": {"context": "red", "answers": []}}.get(kind, {})
    key = KEYS[kind][0] if kind != "span" else "question"
    rows = [{**ROWS[kind], **(moving if at % 2 else {}), key: f"text {at}"} for at in range(40)]
    rows = [row | {"group": str(at)} for at, row in enumerate(rows)]
    task = split_task("t", parse_rows(lines(*rows), "rows", kind=kind), kind=kind)
    write_task(task, tmp_path)
    assert load_task(tmp_path) == task
    assert [len(part) for part in task.splits().values()] == [28, 4, 8]


def test_bad_rows_are_listed_up_to_ten():
    with pytest.raises(TaskError) as caught:
        parse_rows(lines(*[{"text": ""}] * 13), "rows.jsonl")
    assert caught.value.wrong == "rows.jsonl has 13 bad rows"
    assert [f"line {n}" for n in range(1, 11)] == [
        x.split(":")[0].strip() for x in caught.value.got.split("\n")
    ][:10]
    assert caught.value.got.endswith("and 3 more")


def test_rows_may_have_numbers_as_labels_a_byte_order_mark_and_other_keys():
    rows = lines(
        b'\xef\xbb\xbf{"text": "a", "label": 3, "id": 7}', b"", {"text": "b\r", "label": "x", "group": 5}
    )
    assert [(e.text, e.label, e.group) for e in parse_rows(rows, "rows")] == [
        ("a", "3", "row 1"),
        ("b\r", "x", "5"),
    ]


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(TaskError, match="holds no examples"):
        read_task(tmp_path / "empty.jsonl")
    with pytest.raises(TaskError, match="cannot read"):
        read_task(tmp_path / "missing.jsonl")


def test_one_class_is_refused():
    with pytest.raises(TaskError, match=r"1 label\(s\): only"):
        split_task("t", [example(f"text {at}", "only") for at in range(50)])


def test_a_label_that_only_the_test_has_is_refused(tmp_path):
    for split, labels in (("train", "abab"), ("dev", "ab"), ("test", "abzz")):
        rows = [json.dumps({"text": f"{split} {at}", "label": label}) for at, label in enumerate(labels)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    with pytest.raises(TaskError, match=r"label 'z' is only in test \(2 times\)"):
        read_task(tmp_path)


def test_too_few_examples_are_refused():
    with pytest.raises(TaskError, match="is empty"):
        split_task("t", [example("one", "a"), example("two", "b")])


def test_training_texts_that_the_test_has_are_left_out(tmp_path):
    splits = {"train": ["same  Text", "b", "c", "d"], "dev": ["e", "f"], "test": ["Same text", "g"]}
    for split, texts in splits.items():
        rows = [json.dumps({"text": text, "label": "ab"[at % 2]}) for at, text in enumerate(texts)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    task = read_task(tmp_path)
    assert [e.text for e in task.train] == ["b", "c", "d"]
    assert task.notes == ("1 training texts left out because dev or test has them",)


def test_a_folder_without_dev_splits_it_from_train(tmp_path):
    for split, count in (("train", 100), ("test", 10)):
        rows = [json.dumps({"text": f"{split} {at}", "label": at % 2}) for at in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    assert {k: len(v) for k, v in read_task(tmp_path).splits().items()} == {
        "train": 90,
        "dev": 10,
        "test": 10,
    }


def test_one_file_is_capped_and_split(tmp_path):
    rows = [json.dumps({"text": f"text {at}", "label": at % 3}) for at in range(1_000)]
    (tmp_path / "big.jsonl").write_text("\n".join(rows))
    task = read_task(tmp_path / "big.jsonl", examples=300)
    assert sum(len(part) for part in task.splits().values()) == 300
    assert task == read_task(tmp_path / "big.jsonl", examples=300)
    assert task.fingerprint != read_task(tmp_path / "big.jsonl", examples=300, seed=1).fingerprint


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 15)), min_size=1, max_size=80),
    st.integers(0, 3),
)
def test_no_group_and_no_text_is_ever_on_two_sides(rows, seed):
    examples = [example(f"text {at}", label, str(group)) for at, (label, group) in enumerate(rows)]
    parts = split_by_group(examples, {"test": 0.2, "dev": 0.1}, seed)
    assert sorted(e.text for e in examples) == sorted(e.text for part in parts.values() for e in part)
    groups = [{e.group for e in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_split_shares_hold_in_each_label():
    examples = [example(f"text {at}", "ab"[at % 10 == 0]) for at in range(1_000)]
    task = split_task("t", examples)
    assert {k: len(v) for k, v in task.splits().items()} == {"train": 700, "dev": 100, "test": 200}
    assert sum(e.label == "b" for e in task.test) == 20


def test_repeated_texts_are_kept_once():
    examples = [example(f"text {at}", "ab"[at % 2]) for at in range(40)] + [example("TEXT  3", "b", "x")]
    task = split_task("t", examples)
    forms = [normal_form(e.text) for part in task.splits().values() for e in part]
    assert len(forms) == len(set(forms)) == 40
    assert task.notes == ("1 repeated texts left out",)


def test_a_written_task_reads_back_equal(tmp_path, word_task):
    write_task(word_task, tmp_path)
    assert word_task == load_task(tmp_path)
    assert word_task.fingerprint == load_task(tmp_path).fingerprint
