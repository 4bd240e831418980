"""Checkpoints asked about tasks: what a budget pays for, what is written, and what a second call redoes."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("stepladder.models.hf")

from stepladder.data.tokens.tokenizer import load_tokenizer  # noqa: E402
from stepladder.errors import FingerprintError, TaskError  # noqa: E402
from stepladder.eval.probed import GOLD_ANSWERS, figures_of  # noqa: E402
from stepladder.models.score import score_continuations  # noqa: E402
from stepladder.store import ANSWERS_FILE, read_json  # noqa: E402
from stepladder.tune.probing import (  # noqa: E402
    ANSWERS,
    FROZEN,
    SHOTS,
    design_probe,
    keep_probe,
    probe_checkpoints,
    sample_task,
)
from stepladder.tune.rows import Example  # noqa: E402
from stepladder.tune.tasks import split_task  # noqa: E402


@pytest.fixture(scope="module")
def kept(word_task, corpus, network_folder, tmp_path_factory):
    """A task of which everything is asked."""
    folder = tmp_path_factory.mktemp("kept") / "words@1"
    design = design_probe(word_task, {network_folder: 1e5}, corpus, 1e4)
    keep_probe(folder, word_task, design, "words.jsonl")
    return folder


@pytest.fixture(scope="module")
def probed(kept, corpus, network_folder):
    """The probe's folder, made by a real worker."""
    (folder,) = probe_checkpoints([network_folder], [kept], tokenizer=corpus, quiet=True)
    return folder


def test_gold_answers_cost_what_the_network_says(probed, corpus, network_folder, word_task):
    found = read_json(probed / ANSWERS_FILE)
    network, words = hf.load_folder(network_folder), load_tokenizer(corpus)
    tests = [json.loads(line) for line in (probed / "test.jsonl").read_text().splitlines()]
    for at in (0, 7):
        parts = [words.encode(part) for part in ("Text:", f" {tests[at]['text']}", "\nLabel:")]
        answer = words.encode(f" {tests[at]['label']}")
        whole = [one for part in parts for one in part]
        if len(whole) + len(answer) > 31:
            continue
        ((nats, _),) = score_continuations(network, [([words.end_id, *whole], answer)])
        assert found["nats"][at] == pytest.approx(-nats, abs=1e-4)
        assert found["bytes"][at] == len(tests[at]["label"]) + 1


def test_figures_have_chance_and_standard_error(probed, word_task):
    figures = {figure.method: figure for figure in figures_of(probed)}
    assert next(iter(figures)) == GOLD_ANSWERS
    assert {GOLD_ANSWERS, "zero-shot", "frozen features"} <= set(figures)
    frozen = figures["frozen features"]
    assert frozen.metric == "accuracy"
    assert frozen.examples == len(word_task.test)
    assert frozen.chance >= 0.5
    share = frozen.value
    assert frozen.error == pytest.approx((share * (1 - share) / frozen.examples) ** 0.5, rel=0.15, abs=0.04)
    found = read_json(probed / ANSWERS_FILE)
    bits = sum(found["nats"]) / sum(found["bytes"]) / 0.6931471805599453
    assert figures[GOLD_ANSWERS].value == pytest.approx(bits, rel=1e-6)


def test_weights_go_and_a_second_call_starts_no_process(probed, kept, corpus, network_folder, monkeypatch):
    assert not list(probed.rglob("*.safetensors"))
    monkeypatch.setattr("stepladder.tune.probing.deal_jobs", lambda *_: pytest.fail("all was done"))
    assert probe_checkpoints([network_folder], [kept], tokenizer=corpus, quiet=True) == [probed]


def test_other_examples_under_the_same_name_are_refused(probed, word_task, corpus, network_folder, tmp_path):
    design = design_probe(word_task, {network_folder: 1e5}, corpus, 1e4)
    fewer = replace(design, tests=20)
    keep_probe(tmp_path / "words@1", word_task, fewer, "words.jsonl")
    with pytest.raises(FingerprintError):
        probe_checkpoints([network_folder], [tmp_path / "words@1"], tokenizer=corpus, quiet=True)


def test_a_budget_pays_for_the_gold_answers_first(word_task, corpus, network_folder):
    designs = [design_probe(word_task, {network_folder: 2e3}, corpus, s) for s in (1e5, 8.0, 5.0, 2.0)]
    assert designs[0].steps == (ANSWERS, SHOTS, FROZEN)
    assert [len(design.steps) for design in designs] == sorted(
        (len(design.steps) for design in designs), reverse=True
    )
    assert designs[2].steps == (ANSWERS,)
    for design, seconds in zip(designs[:3], (1e5, 8.0, 5.0), strict=True):
        assert 0 < design.seconds <= seconds
    assert designs[3].steps == ()
    assert "core-seconds of 2" in designs[3].reason


def test_what_is_not_for_a_kind_is_not_asked(corpus, network_folder):
    pairs = [Example(text=f"red {at}", targets=(f"rot {at}",), group=str(at)) for at in range(60)]
    task = split_task("colours", pairs, kind="translation")
    assert FROZEN not in design_probe(task, {network_folder: 1e5}, corpus, 1e5).steps
    with pytest.raises(TaskError, match="frozen"):
        design_probe(task, {network_folder: 1e5}, corpus, 1e5, ["frozn"])


def test_samples_are_drawn_alike(word_task):
    one, same, other = (sample_task(word_task, 20, seed) for seed in (0, 0, 1))
    assert one == same
    assert len(one.test) == 20
    assert one.test != other.test
