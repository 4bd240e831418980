"""Texts scored through the door of `complete`, against the ids scored alone."""

import math

import pytest

torch = pytest.importorskip("torch")

from stepladder.data.tokens.tokenizer import train_tokenizer  # noqa: E402
from stepladder.errors import DataError, ExportError  # noqa: E402
from stepladder.eval.generate import open_speaker  # noqa: E402
from stepladder.eval.perplexity import evaluate_text  # noqa: E402
from stepladder.eval.scorer import pair_ids, score_pairs, score_texts, write_texts  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.models.export import export_folder  # noqa: E402
from stepladder.models.generate import Sampling  # noqa: E402
from stepladder.models.score import score_continuations  # noqa: E402
from stepladder.records import Shape  # noqa: E402

SHAPE = Shape(
    num_layers=2,
    width=32,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    ffn_width=48,
    vocab_size=320,
    context_tokens=24,
    tied_head=True,
)
CONTEXTS = ("words of a corpus", "more words of the same", "")
CHOICES = (" words", " of the same corpus", " naïve 🙂")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    network = hf.random_network(SHAPE, 0)
    with torch.no_grad():
        network.embed_tokens.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    hf.save_folder(network, folder / "model")
    text = train_tokenizer(["words of a corpus, and more words of the same corpus"] * 9, 300)
    (folder / "tokenizer.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def speaker(run):
    return open_speaker(run)


def test_a_run_its_weights_and_its_export_score_alike(run, speaker, tmp_path):
    export = export_folder(run, tmp_path / "export")
    pairs = [(context, choice) for context in CONTEXTS for choice in CHOICES]
    expected = score_pairs(speaker, pairs)
    for folder in (run / "model", export):
        words = run if folder != export else None
        assert expected == score_pairs(open_speaker(folder, words), pairs)


def test_continuations_are_encoded_with_their_context(speaker):
    words = speaker.words
    for context in (*CONTEXTS, "words of  ", "words \n"):
        for choice in CHOICES:
            prompt, said = pair_ids(speaker, context, choice)
            assert [0, *words.encode(context + choice)] == [*prompt, *said]
            assert words.decode(prompt) == context.rstrip()
    # The blank that ends a context is the beginning of a word, as it is in running text.
    assert pair_ids(speaker, "words of ", "words") == pair_ids(speaker, "words of", " words")


def test_scores_are_those_of_the_ids(speaker):
    pairs = [(context, choice) for context in CONTEXTS for choice in CHOICES]
    ids = [pair_ids(speaker, *pair) for pair in pairs]
    expected = score_continuations(speaker.network, ids)
    for (nats, is_greedy), (_, said), (_, text), found in zip(
        expected, ids, pairs, score_pairs(speaker, pairs), strict=True
    ):
        assert nats == pytest.approx(found.nats, abs=1e-6)
        assert (is_greedy, len(said), len(text.encode())) == (found.is_greedy, found.tokens, found.num_bytes)
        assert found.nats / len(text.encode()) == found.nats_per_byte


def test_a_neutral_context_is_taken_off(speaker):
    pairs = [(context, choice) for context in CONTEXTS[:2] for choice in CHOICES]
    plain = score_pairs(speaker, pairs)
    prior = {choice: score_pairs(speaker, [("Answer:", choice)])[0].nats for choice in CHOICES}
    for (_, choice), before, after in zip(
        pairs, plain, score_pairs(speaker, pairs, neutral="Answer:"), strict=True
    ):
        assert before.nats - prior[choice] == pytest.approx(after.nats, abs=1e-5)
    nothing = score_pairs(speaker, [("", choice) for choice in CHOICES], neutral="")
    assert [0.0] * 3 == pytest.approx([one.nats for one in nothing], abs=1e-5)


def test_long_texts_are_scored_each_for_itself(run, speaker, tmp_path):
    texts = ["words of a corpus " * 30, "naïve 🙂", "and more words of the same corpus"]
    together = score_texts(speaker, texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = score_texts(speaker, [text])
        assert alone.nats == pytest.approx(found.nats, abs=1e-3)
        assert len(speaker.words.encode(text)) == found.tokens
        assert -found.nats / math.log(2) / len(text.encode()) == pytest.approx(found.bits_per_byte)
        (tmp_path / "text.txt").write_text(text)
        assert evaluate_text(run, tmp_path / "text.txt", overlap=0).bits_per_byte == pytest.approx(
            found.bits_per_byte, abs=1e-5
        )


def test_a_text_is_written_up_to_the_first_stop(speaker):
    whole = write_texts(speaker, CONTEXTS, 40)
    for context, text in zip(CONTEXTS, whole, strict=True):
        assert "".join(speaker.say(context, 40, Sampling())) == text
    stops = [whole[0][9:12], whole[0][15:16], whole[1][4:7], ""]
    for text, cut in zip(whole, write_texts(speaker, CONTEXTS, 40, until=stops), strict=True):
        assert (
            text[: min([text.index(stop) for stop in stops if stop and stop in text] or [len(text)])] == cut
        )


def test_what_cannot_be_scored_is_told(run, speaker, tmp_path):
    with pytest.raises(DataError, match="no id of its own"):
        score_pairs(speaker, [("words", "")])
    with pytest.raises(DataError, match="an empty text"):
        score_texts(speaker, ["words", ""])
    network = hf.load_folder(run)
    with torch.no_grad():
        network.norm.weight[0] = float("nan")
    hf.save_folder(network, tmp_path / "model")
    with pytest.raises(ExportError, match="not finite"):
        score_pairs(open_speaker(tmp_path, run), [("words", " of")])
