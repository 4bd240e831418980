"""Planted lines in a climb: ranked by every rung, forecast before the target starts, told and shown once."""

import json
import random
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepladder.brief_nouns import Brief, DataBrief  # noqa: E402
from stepladder.canary_stages import foretell_exposure, tell_exposure  # noqa: E402
from stepladder.data.options import CorpusOptions  # noqa: E402
from stepladder.data.prepare import load_corpus, prepare_corpus  # noqa: E402
from stepladder.errors import StoreError  # noqa: E402
from stepladder.eval.canaries import measure_exposure  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.models.count import count_params  # noqa: E402
from stepladder.records import (  # noqa: E402
    Derived,
    Energy,
    Interval,
    Layout,
    Observation,
    Plan,
    Recipe,
    Run,
    Shape,
)
from stepladder.report.build import build_report  # noqa: E402
from stepladder.report.parts import EXPOSURE_FILE  # noqa: E402
from stepladder.report.planted import planted, planted_line  # noqa: E402
from stepladder.stages import Climb  # noqa: E402
from stepladder.store import write_text  # noqa: E402

SHAPE = Shape(
    num_layers=1,
    width=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    ffn_width=32,
    vocab_size=300,
    context_tokens=40,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A climb's folder with a corpus of planted lines, two rungs and a target of random weights."""
    draw, texts = random.Random(0), tmp_path_factory.mktemp("texts")
    for number in range(40):
        words = ["".join(draw.choices(["ba", "den", "fi", "gor"], k=3)) for _ in range(80)]
        (texts / f"{number}.txt").write_text(" ".join(words) + "\n")
    folder = tmp_path_factory.mktemp("climb")
    options = CorpusOptions(vocab_size=300, held_out=0.2, canaries=3, workers=1)
    prepare_corpus([str(texts)], folder / "corpus", options, quiet=True)
    for seed, name in enumerate(("ladder/r01@1", "ladder/r02@1", "target@1")):
        network = hf.random_network(SHAPE, seed)
        torch.nn.init.normal_(network.lm_head.weight, generator=torch.Generator().manual_seed(seed))
        hf.save_folder(network, folder / name / "model")
    return folder


@pytest.fixture
def climb(made, tmp_path) -> Climb:
    shutil.copytree(made, tmp_path / "climb")
    return Climb(brief=Brief(name="x", data=DataBrief(sources=("x",))), folder=tmp_path / "climb", quiet=True)


def plan_of(tokens: int) -> Plan:
    recipe = Recipe(batch_tokens=40, hidden_lr=0.01, embed_lr=0.01, head_lr=0.01)
    number = Derived(value=float(tokens), low=float(tokens), high=float(tokens), how="a test", source="user")
    return Plan(
        name="target",
        corpus="corpus",
        shape=SHAPE,
        recipe=recipe,
        layout=Layout(),
        seed=0,
        numbers={"tokens": number},
    )


def rungs(corpus) -> list[Observation]:
    size = count_params(SHAPE).total
    return [
        Observation(run=f"r0{at}", params=size, tokens=at * corpus.train.tokens, loss=3.0, flops=1e9)
        for at in (1, 2)
    ]


def run_of(corpus) -> Run:
    return Run(
        name="target", params=count_params(SHAPE).total, tokens=4 * corpus.train.tokens, steps=1, loss=1.0,
        heldout_loss=1.0, heldout_bits_per_byte=1.0, in_context_score=0.0, seconds=1.0,
        energy=Energy(joules=1.0, source="x"), peak_bytes=1, status="ok",
    )  # fmt: skip


def test_exposure_is_forecast_frozen_told_and_shown(climb):
    corpus = load_corpus(climb.folder / "corpus")
    plan = plan_of(4 * corpus.train.tokens)
    foretell_exposure(climb, corpus, plan, rungs(corpus))
    path = climb.folder / EXPOSURE_FILE
    kept = json.loads(path.read_text())
    assert list(kept["runs"]) == ["r01", "r02"]
    assert kept["runs"]["r02"]["met"] == {"1": 2.0, "4": 8.0, "16": 32.0, "64": 128.0}
    measured = measure_exposure(climb.folder / "ladder" / "r02@1", climb.folder / "corpus").bits
    for copies, bits in measured.items():
        assert kept["runs"]["r02"]["bits"][str(copies)] == pytest.approx(bits)
    assert set(kept["forecast"]["bits"]) == {"1", "4", "16", "64"}
    assert planted_line(kept) == []  # nothing was measured yet
    assert "not yet" in planted(kept).body

    # Asked again, also after the target has started: the forecast stays.
    write_text(climb.folder / "target@1" / "metrics.jsonl", "{}\n")
    foretell_exposure(climb, corpus, plan, rungs(corpus))
    assert kept == json.loads(path.read_text())

    tell_exposure(climb, corpus, run_of(corpus))
    told = json.loads(path.read_text())
    assert {key: value for key, value in told.items() if key != "target"} == kept
    mean = sum(told["target"]["bits"]["64"]) / 3
    (line,) = planted_line(told)
    assert line.startswith(f"Canaries: {mean:.1f} bits of exposure at 64 copies")
    held = sum(
        Interval(**said).held80(sum(told["target"]["bits"][copies]) / 3)
        for copies, said in told["forecast"]["bits"].items()
    )
    assert f"{held} of 4 numbers of copies" in line
    body = planted(told).body
    assert f"{mean:.2f}" in body
    report = build_report(climb.folder)
    assert line in report.headlines
    page = Path(report.path).read_text()
    assert 'id="planted"' in page
    assert "Planted lines" in page


def test_a_forecast_that_was_changed_is_refused(climb):
    corpus = load_corpus(climb.folder / "corpus")
    foretell_exposure(climb, corpus, plan_of(corpus.train.tokens), rungs(corpus))
    path = climb.folder / EXPOSURE_FILE
    kept = json.loads(path.read_text())
    kept["forecast"]["bits"]["64"]["value"] += 1
    path.write_text(json.dumps(kept))
    with pytest.raises(StoreError, match="changed after it was frozen"):
        tell_exposure(climb, corpus, run_of(corpus))


def test_nothing_is_forecast_once_the_target_has_started(climb):
    corpus = load_corpus(climb.folder / "corpus")
    write_text(climb.folder / "target@1" / "metrics.jsonl", "{}\n")
    foretell_exposure(climb, corpus, plan_of(corpus.train.tokens), rungs(corpus))
    kept = json.loads((climb.folder / EXPOSURE_FILE).read_text())
    assert kept["forecast"] == {"refused": "the target had started before the rungs were ranked"}
    assert "No forecast: the target had started" in planted(kept).body


def test_a_climb_without_canaries_has_no_section(climb):
    (climb.folder / "corpus" / "canaries.json").unlink()
    corpus = load_corpus(climb.folder / "corpus")
    foretell_exposure(climb, corpus, plan_of(corpus.train.tokens), rungs(corpus))
    assert not (climb.folder / EXPOSURE_FILE).exists()
    assert planted({}).title == ""
