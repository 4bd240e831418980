"""A small prepared corpus, and plans for models that train in seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepladder.data.tokens.shards import write_split
from stepladder.records import Derived, Layout, Plan, Recipe, Shape, to_json

VOCAB, CONTEXT = 64, 32


def write_corpus(folder: Path, tokens: int = 20_000) -> Path:
    """A corpus of random walks over the vocabulary: there is something to learn, and nothing to download."""
    draw = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", tokens), ("heldout", tokens // 5)):
        ids = np.cumsum(draw.integers(1, 4, count)) % VOCAB
        part = folder / f"{split}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(ids.astype("<u2").tobytes())
        entry = write_split(folder, split, [(part, np.array([count]))], "<u2", 7_000)
        splits[split] = entry | {"num_bytes": 3 * count}
    index = {"dtype": "<u2", "vocab_size": VOCAB, "end_id": 0, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


MakePlan = Callable[..., Path]


@pytest.fixture
def make_plan(corpus: Path, tmp_path: Path) -> MakePlan:
    def make(name: str = "plan", steps: int = 12, layout: Layout | None = None, **recipe: object) -> Path:
        values = {"batch_tokens": 8 * CONTEXT, "embed_lr": 0.02, "head_lr": 0.02, "hidden_lr": 2e-3} | recipe
        number = Derived(value=1.0, low=1.0, high=1.0, how="a test")
        tokens = steps * int(str(values["batch_tokens"]))
        names = ("params", "batch_tokens", "learning_rate", "seconds", "usd", "kwh", "kg_co2e")
        plan = Plan(
            name=name,
            corpus=str(corpus),
            shape=Shape(
                num_layers=2,
                width=32,
                num_heads=2,
                num_kv_heads=1,
                head_dim=16,
                ffn_width=48,
                vocab_size=VOCAB,
                context_tokens=CONTEXT,
            ),
            recipe=Recipe(**values),  # type: ignore[arg-type]
            layout=layout or Layout(),
            seed=3,
            numbers=dict.fromkeys(names, number)
            | {"tokens": Derived(value=tokens, low=tokens, high=tokens, how="a test")},
        )
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(to_json(plan)))
        return path

    return make


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of ours of two ids, which no test reads text with."""
    added = {"id": 0, "content": "<|endoftext|>", "special": True, "normalized": False}
    added |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    model = {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1}, "merges": []}
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [added], "model": model}))
    return path.parent
