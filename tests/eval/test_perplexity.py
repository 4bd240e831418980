import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from stepladder.data.tokens.shards import open_split, write_split  # noqa: E402
from stepladder.data.tokens.tokenizer import load_tokenizer, train_tokenizer  # noqa: E402
from stepladder.errors import DataError, ExportError  # noqa: E402
from stepladder.eval.generate import open_speaker  # noqa: E402
from stepladder.eval.perplexity import evaluate_corpus, evaluate_text  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.models.generate import Sampling, generate_many  # noqa: E402
from stepladder.models.score import rolling_losses  # noqa: E402
from stepladder.records import Shape  # noqa: E402
from stepladder.store import write_json  # noqa: E402

torch.set_num_threads(1)
SHAPE = Shape(
    num_layers=1,
    width=32,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    ffn_width=48,
    vocab_size=300,
    context_tokens=16,
    tied_head=True,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    hf.save_folder(hf.random_network(SHAPE, 0), folder / "model")
    text = train_tokenizer(["words of a corpus, and more words of the same corpus"] * 9, 300)
    (folder / "tokenizer.json").write_text(text)
    return folder


@pytest.mark.parametrize("count", [2, 10, 16, 17, 18, 33, 100])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_every_token_is_predicted_once_from_a_whole_window(run, count, overlap):
    network = hf.load_folder(run)
    ids = np.random.default_rng(count).integers(0, 300, size=count)
    losses = rolling_losses(network, ids, overlap)
    assert len(losses) == count - 1
    step = max(round(16 * (1 - overlap)), 1)
    with torch.no_grad():
        for at in range(count - 1):
            # The first window that holds this prediction; the last one ends with the text.
            start = min(0 if at < 16 else -(-(at - 15) // step) * step, max(count - 1 - 16, 0))
            logits = network(torch.tensor(ids[None, start : at + 1]))[0, -1]
            expected = F.cross_entropy(logits[None], torch.tensor(ids[at + 1 : at + 2])).item()
            assert expected == pytest.approx(losses[at], abs=1e-5)


def test_bits_per_byte_follow_from_nats(run, tmp_path):
    (tmp_path / "text.txt").write_text("naïve words 🙂 " * 20, encoding="utf-8")
    result = evaluate_text(run, tmp_path / "text.txt")
    assert len(("naïve words 🙂 " * 20).encode()) == result.num_bytes
    assert len(load_tokenizer(run).encode("naïve words 🙂 " * 20)) == result.tokens
    expected = result.nats_per_token * result.tokens / (result.num_bytes * math.log(2))
    assert expected == pytest.approx(result.bits_per_byte, abs=1e-12)


def test_more_context_does_not_hurt_a_uniform_network(run, tmp_path):
    network = hf.load_folder(run)
    with torch.no_grad():
        network.norm.weight.zero_()
    hf.save_folder(network, tmp_path / "model")
    (tmp_path / "text.txt").write_text("any words at all")
    result = evaluate_text(tmp_path, tmp_path / "text.txt", tokenizer=run)
    assert math.log(300) == pytest.approx(result.nats_per_token, abs=1e-5)


def test_bad_texts_are_one_clear_error(run, tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "empty").write_bytes(b"")
    for name, reason in (("latin", "not UTF-8"), ("empty", "is empty"), ("missing", "cannot read")):
        with pytest.raises(DataError, match=reason):
            evaluate_text(run, tmp_path / name)
    assert evaluate_text(run, tmp_path / "latin", max_bytes=4).num_bytes == 3


def test_a_network_of_nan_is_told(run, tmp_path):
    network = hf.load_folder(run)
    with torch.no_grad():
        network.norm.weight[0] = float("nan")
    hf.save_folder(network, tmp_path / "model")
    (tmp_path / "text.txt").write_text("words")
    with pytest.raises(ExportError, match="not finite"):
        evaluate_text(tmp_path, tmp_path / "text.txt", tokenizer=run)


def test_completion_is_the_same_for_a_seed_and_outgrows_the_context(run):
    def said(prompt: str, seed: int) -> str:
        return "".join(open_speaker(run).say(prompt, 40, Sampling(temperature=1.0, seed=seed)))

    assert said("words of", 3) == said("words of", 3)
    assert said("words of", 3) != said("words of", 4)
    assert said("", 3) == said("", 3)


def test_generation_stops_at_the_end_token_and_keeps_to_the_vocabulary():
    network = hf.random_network(SHAPE, 0).eval()
    prompts, how = [[1, 2, 3]], Sampling(temperature=1.0)
    (new,) = generate_many(network, prompts, 10, end=-1, sampling=how)
    assert len(new) == 10
    assert [new[: new.index(new[4])]] == generate_many(network, prompts, 10, end=new[4], sampling=how)
    hot = Sampling(temperature=9.0)
    assert max(generate_many(network, prompts, 50, end=-1, sampling=hot, vocabulary=20)[0]) < 20


def test_a_corpus_split_gives_what_its_tokens_give(run, tmp_path):
    ids = np.random.default_rng(0).integers(1, 200, size=500)
    parts = []
    for at, piece in enumerate(np.split(ids, 4)):
        (tmp_path / f"{at}.part").write_bytes(piece.astype("<u2").tobytes())
        parts.append((tmp_path / f"{at}.part", np.array([len(piece)])))
    entry = write_split(tmp_path, "heldout", parts, "<u2", 120) | {"num_bytes": 1_500}
    write_json(tmp_path / "index.json", {"dtype": "<u2", "vocab_size": 300, "splits": {"heldout": entry}})
    whole = evaluate_corpus(run, tmp_path, max_tokens=0)
    losses = rolling_losses(hf.load_folder(run), np.asarray(open_split(tmp_path, "heldout").tokens[:]))
    assert losses.mean() == pytest.approx(whole.nats_per_token, abs=1e-9)
    assert round(1_500 * 499 / 500) == whole.num_bytes
    assert evaluate_corpus(run, tmp_path, max_tokens=100).tokens == 100
    other = hf.random_network(dataclasses.replace(SHAPE, vocab_size=100), 0)
    hf.save_folder(other, tmp_path / "model")
    with pytest.raises(DataError, match="belongs to another network"):
        evaluate_corpus(tmp_path, tmp_path)


def test_an_encoder_is_refused(run, tmp_path):
    hf.save_folder(hf.random_network(dataclasses.replace(SHAPE, causal=False), 0), tmp_path / "model")
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(ExportError, match="is an encoder"):
        evaluate_text(tmp_path, tmp_path / "words.txt", tokenizer=run)
    with pytest.raises(ExportError, match="is an encoder"):
        open_speaker(tmp_path, run)


def test_pieces_are_the_whole_text_and_stop_where_they_should(run):
    speaker, how = open_speaker(run), Sampling(temperature=1.0, seed=3)
    whole = "".join(speaker.say("words of", 40, how))
    words, ids = speaker.words, [speaker.words.end_id, *speaker.words.encode("words of")]
    (new,) = generate_many(
        speaker.network, [ids], 40, end=words.end_id, sampling=how, vocabulary=words.vocab_size
    )
    assert whole == words.decode(new)
    cut = whole[10:13]
    assert "".join(speaker.say("words of", 40, how, until=cut)) == whole[: whole.index(cut)]


def test_chat_answers_lines_of_a_pipe(run, monkeypatch, capsys):
    from stepladder.verbs.chat import chat

    monkeypatch.setattr("sys.stdin", io.StringIO("words of\n\n/reset\nwords of\n/quit\nnever read\n"))
    assert chat(run, tokens=5, temperature=0.0) == 0
    speaker = open_speaker(run)
    answer = "".join(speaker.say("User: words of\nAssistant:", 5, Sampling())).lstrip()
    assert capsys.readouterr().out == f"{answer}\n{answer}\n"
