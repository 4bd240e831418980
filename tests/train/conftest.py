"""A corpus of two sources, prepared for real, and plans on it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder.data.options import Cleaning, CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.records import Layout, Order, Plan, from_json, to_json

VOCAB = 300
MakePlan = Callable[..., Path]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two sources with words of their own."""
    folder = tmp_path_factory.mktemp("texts")
    draw = np.random.default_rng(0)
    vocabulary = {
        "rivers": "the old river ran past a quiet mill and the miller sold flour to all who came",
        "letters": "xz qj kv wyx jqz vvk zxq kjw qqy xkz",
    }
    for name, words in vocabulary.items():
        (folder / name).mkdir()
        for number in range(40):
            lines = [" ".join(draw.choice(words.split(), 9)) for _ in range(30)]
            (folder / name / f"{number:02d}.txt").write_text("\n".join(lines))
    plain = Cleaning(quality=False)
    options = CorpusOptions(vocab_size=VOCAB, held_out=0.2, workers=1, cleaning=plain)
    prepare_corpus([str(folder / "rivers"), str(folder / "letters")], folder / "corpus", options, quiet=True)
    return folder / "corpus"


@pytest.fixture
def make_mixed(make_plan: MakePlan, mixed: Path, tmp_path: Path) -> MakePlan:
    def make(order: Order, name: str = "plan", steps: int = 12, layout: Layout | None = None) -> Path:
        path = make_plan(name, steps=steps, layout=layout)
        plan = from_json(Plan, json.loads(path.read_text()))
        shape = replace(plan.shape, vocab_size=load_tokenizer(mixed).vocab_size)
        path.write_text(json.dumps(to_json(replace(plan, corpus=str(mixed), shape=shape, order=order))))
        return path

    return make
