import pytest

from stepladder.tune.prompts import answer_of, few_shot, parts_of, prompt_ids, prompt_of, said
from stepladder.tune.rows import KINDS, Example


def example(*targets: str, question: str = "") -> Example:
    return Example(text="one two", targets=targets, group="g", question=question)


def test_prompts_end_where_the_answer_begins():
    assert prompt_of(example("good"), "classification") + answer_of(example("good"), "classification") == (
        "Text: one two\nLabel: good"
    )
    asked = example("two", question="which?")
    assert prompt_of(asked, "answer") + answer_of(asked, "answer") == (
        "Text: one two\nQuestion: which?\nAnswer: two"
    )
    assert prompt_of(example("un deux"), "translation") == "Source: one two\nTarget:"


@pytest.mark.parametrize(
    ("kind", "targets", "answer"),
    [
        ("multilabel", (), " none"),
        ("multilabel", ("a", "b"), " a, b"),
        ("rating", ("2.5",), " 2.5"),
        ("rating", ("3.0",), " 3"),
        ("span", (), " no answer"),
    ],
)
def test_answers_of_each_kind(kind, targets, answer):
    assert answer_of(example(*targets), kind) == answer


def test_what_was_said_is_one_line():
    assert said(" red and blue \n\nText: more", "answer") == "red and blue"
    assert said(" no answer\n", "span") == ""
    assert said(" no answer", "summarisation") == "no answer"


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_cut_and_nothing_else(kind):
    one = example("1", question="q" * 5 if kind in ("span", "answer") else "")
    encode = lambda text: list(text.encode())  # noqa: E731
    whole = prompt_of(one, kind).encode()
    assert bytes(prompt_ids(encode, one, kind, 200)) == whole
    cut = bytes(prompt_ids(encode, one, kind, len(whole) - 3))
    before, text, behind = (part.encode() for part in parts_of(one, kind))
    assert cut == before + text[:-3] + behind
    assert bytes(prompt_ids(encode, one, kind, 4)) == whole[-4:]


def test_few_shots_are_prompts_with_their_answers():
    shots = few_shot([example("good"), example("bad")], "classification")
    assert shots == "Text: one two\nLabel: good\n\nText: one two\nLabel: bad\n\n"
