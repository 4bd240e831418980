"""A decoder as it is, asked without and with examples."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("stepladder.models.hf")

from stepladder.data.tokens.tokenizer import load_tokenizer  # noqa: E402
from stepladder.models.generate import generate_many  # noqa: E402
from stepladder.models.score import score_continuations  # noqa: E402
from stepladder.records import Shape  # noqa: E402
from stepladder.store import read_json  # noqa: E402
from stepladder.tune.prompts import said  # noqa: E402
from stepladder.tune.rows import Example  # noqa: E402
from stepladder.tune.shots import write_shots  # noqa: E402
from stepladder.tune.tasks import split_task, write_task  # noqa: E402

SHAPE = Shape(
    num_layers=1,
    width=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    ffn_width=48,
    vocab_size=300,
    context_tokens=256,
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A folder with weights that say something, though nothing sensible."""
    network = hf.random_network(SHAPE, 7)
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("decoder")
    hf.save_folder(network, folder / "model")
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_labels_are_chosen_by_what_the_text_adds(decoder, corpus, word_task, tmp_path):
    write_task(word_task, tmp_path)
    zero, few = write_shots(tmp_path, decoder, tokenizer=corpus, quiet=True)
    assert (zero.name, few.name) == ("zero-shot-0", "few-shot-0")
    network, words = hf.load_folder(decoder), load_tokenizer(corpus)
    names = [words.encode(f" {label}") for label in word_task.labels]
    for row, example in list(zip(lines(zero), word_task.test, strict=True))[:10]:
        empty = [words.end_id, *words.encode("Text:\nLabel:")]
        # The three parts of a prompt are encoded apart.
        parts = [words.encode(part) for part in ("Text:", f" {example.text}", "\nLabel:")]
        prompt = [words.end_id, *(one for part in parts for one in part)]
        gains = [
            score_continuations(network, [(prompt, name)])[0][0]
            - score_continuations(network, [(empty, name)])[0][0]
            for name in names
        ]
        best = gains.index(max(gains))
        assert (row["gold"], row["predicted"]) == (example.label, word_task.labels[best])
        assert row["probability"] == pytest.approx(torch.tensor(gains).softmax(0).max().item(), abs=1e-4)
    assert 1 < read_json(few / "done.json")["shots"] <= 16
    assert lines(few) != lines(zero)


def test_what_is_done_is_kept(decoder, corpus, word_task, tmp_path):
    write_task(word_task, tmp_path)
    folders = write_shots(tmp_path, decoder, tokenizer=corpus, quiet=True)
    before = [(folder / "predictions.jsonl").stat().st_mtime_ns for folder in folders]
    assert folders == write_shots(tmp_path, decoder, tokenizer=corpus, quiet=True)
    assert before == [(folder / "predictions.jsonl").stat().st_mtime_ns for folder in folders]


@pytest.mark.parametrize("kind", ["rating", "multilabel", "answer", "translation"])
def test_other_kinds_get_rows_of_their_form(kind, decoder, corpus, tmp_path):
    targets = {
        "rating": ("1.0", "4.0"),
        "multilabel": ("a", "b"),
        "answer": ("red", "old"),
        "translation": ("rouge", "vieux"),
    }[kind]
    question = "which?" if kind == "answer" else ""
    examples = [
        Example(
            text=f"{('red', 'old')[at % 2]} {at}",
            targets=(targets[at % 2],),
            group=str(at),
            question=question,
        )
        for at in range(40)
    ]
    task = split_task("t", examples, kind=kind)
    write_task(task, tmp_path)
    zero, _ = write_shots(tmp_path, decoder, tokenizer=corpus, quiet=True)
    rows = lines(zero)
    assert [row["index"] for row in rows] == list(range(8))
    said_type = {"rating": float, "multilabel": list}.get(kind, str)
    assert {type(row["predicted"]) for row in rows} == {said_type}
    if kind == "rating":
        assert all(1 <= row["predicted"] <= 4 for row in rows)
    if kind == "multilabel":
        assert all(len(row["predicted"]) == 1 for row in rows)
    if kind == "translation":
        words, network = load_tokenizer(corpus), hf.load_folder(decoder)
        ids = [
            words.end_id,
            *words.encode("Source:"),
            *words.encode(f" {task.test[0].text}"),
            *words.encode("\nTarget:"),
        ]
        longest = max(len(words.encode(f" {t}")) for t in targets) + 1
        again = generate_many(network, [ids], longest, end=words.end_id)
        assert rows[0]["predicted"] == said(words.decode(again[0]), kind)


def test_an_encoder_and_long_examples_get_no_rows(corpus, word_task, decoder, tmp_path):
    hf.save_folder(hf.random_network(replace(SHAPE, causal=False), 1), tmp_path / "encoder" / "model")
    write_task(word_task, tmp_path / "t")
    assert write_shots(tmp_path / "t", tmp_path / "encoder", tokenizer=corpus, quiet=True) == []
    long = [Example(text=f"{at} " + "red " * 200, targets=("ab"[at % 2],), group=str(at)) for at in range(20)]
    write_task(split_task("long", long), tmp_path / "long")
    folders = write_shots(tmp_path / "long", decoder, tokenizer=corpus, quiet=True)
    assert [folder.name for folder in folders] == ["zero-shot-0"]
