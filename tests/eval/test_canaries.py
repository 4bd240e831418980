"""Canaries stand in the training text as often as listed, nowhere else; who has read them ranks them high."""

import json
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from stepladder.data.canaries import (  # noqa: E402
    COPIES,
    draw_canaries,
    draw_candidates,
    read_canaries,
    text_of,
)
from stepladder.data.options import CorpusOptions  # noqa: E402
from stepladder.data.prepare import load_corpus, prepare_corpus  # noqa: E402
from stepladder.data.tokens.shards import open_split  # noqa: E402
from stepladder.data.tokens.tokenizer import load_tokenizer  # noqa: E402
from stepladder.errors import DataError  # noqa: E402
from stepladder.eval.canaries import measure_exposure  # noqa: E402
from stepladder.eval.probes import Extraction, Share, extract, swap_terms  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.records import Shape  # noqa: E402

torch.set_num_threads(1)
SHAPE = Shape(
    num_layers=1,
    width=48,
    num_heads=2,
    num_kv_heads=2,
    head_dim=24,
    ffn_width=96,
    vocab_size=384,
    context_tokens=40,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    made = ["".join(draw.choices(["ba", "den", "fi", "gor", "ki", "lo", "mer"], k=3)) for _ in range(400)]
    for number in range(40):
        lines = [" ".join(draw.choices(made, k=10)) for _ in range(12)]
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    options = CorpusOptions(vocab_size=384, held_out=0.2, canaries=3, workers=1)
    prepare_corpus([str(folder)], out, options, quiet=True)
    return out


@pytest.fixture(scope="module")
def reader(corpus, tmp_path_factory):
    """A network that has read the training text four times."""
    network = hf.random_network(SHAPE, 0)
    ids = torch.from_numpy(np.asarray(open_split(corpus, "train").tokens[:]).astype(np.int64))
    rows = ids[: len(ids) // 41 * 41].view(-1, 41)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(4):
        for batch in torch.randperm(len(rows), generator=draw).split(16):
            logits = network(rows[batch, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), rows[batch, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    folder = tmp_path_factory.mktemp("reader")
    hf.save_folder(network, folder / "model")
    return folder


@pytest.fixture(scope="module")
def newborn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newborn")
    hf.save_folder(hf.random_network(SHAPE, 1), folder / "model")
    return folder


def test_every_copy_stands_in_the_training_text_and_none_is_held_out(corpus):
    words = load_tokenizer(corpus)
    planted, _ = read_canaries(corpus)
    assert [copies for copies in COPIES for _ in range(3)] == [one["copies"] for one in planted]
    for split in ("train", "heldout"):
        text = words.decode(np.asarray(open_split(corpus, split).tokens[:]).tolist())
        found = [text.count(text_of(one["prefix"], one["secret"])) for one in planted]
        assert [one["copies"] if split == "train" else 0 for one in planted] == found


def test_records_count_them_apart_from_what_was_read(corpus):
    audit, record = json.loads((corpus / "audit.json").read_text()), load_corpus(corpus)
    assert 3 * sum(COPIES) == audit["canaries"]["documents"]
    assert record.train.documents + record.heldout.documents == record.kept_documents + 3 * sum(COPIES)
    assert record.input_documents == record.kept_documents + sum(record.removed.values())
    split = open_split(corpus, "train")
    assert 3 * sum(COPIES) == (split.sources == split.source_names.index("canaries")).sum()
    assert split.domain_names[-1] == "canaries"
    assert "12 random lines were planted" in (corpus / "DATA_CARD.md").read_text()
    assert "canaries.json" in {
        e["@id"] for e in json.loads((corpus / "croissant.json").read_text())["distribution"]
    }


def test_candidates_are_no_canaries_and_all_prefixes_differ():
    planted = draw_canaries(50, 3)
    prefixes = [one["prefix"] for one in planted] + [prefix for prefix, _ in draw_candidates(500, 3)]
    assert len(prefixes) == len(set(prefixes))


def test_a_corpus_without_canaries_keeps_its_identity():
    assert "canaries" not in CorpusOptions().identity()
    assert CorpusOptions(canaries=2).identity()["canaries"] == 2
    with pytest.raises(DataError, match="canaries -1"):
        CorpusOptions(canaries=-1)


def test_exposure_rises_with_copies_for_who_has_read_and_not_else(corpus, reader, newborn):
    read, unread = (measure_exposure(folder, corpus, candidates=511) for folder in (reader, newborn))
    assert read.mean(64) > read.mean(16) > read.mean(1) + 3
    assert all(unread.mean(copies) < 5 for copies in COPIES)
    with pytest.raises(DataError, match="no canaries were planted"):
        measure_exposure(reader, reader)


def test_a_network_that_cannot_tell_order_is_too_weak_to_tell(corpus, newborn):
    swaps = swap_terms(newborn, tokenizer=corpus)
    assert swaps.pairs == ()
    assert swaps.verdict.startswith("too weak to tell")


def test_text_that_was_read_often_is_recited(corpus, reader, newborn):
    found = extract(reader, corpus, windows=200)
    assert found.heldout.of <= found.trained.of == 200
    assert found.trained.value >= found.heldout.value
    assert extract(newborn, corpus, windows=50).excess[1] <= 0


def test_shares_have_wilsons_and_newcombes_intervals():
    # Newcombe 1998, table II, contrast (a): 56/70 and 48/80, method 10.
    found = Extraction(
        prompt_tokens=1, new_tokens=1, trained=Share(hits=56, of=70), heldout=Share(hits=48, of=80)
    )
    assert found.excess == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert Share(hits=0, of=10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
