"""The cases of the training benches: shapes, a corpus of a random chain with something to learn, plans."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepladder.data.tokens.shards import write_split
from stepladder.models.shape import shape_for_width
from stepladder.records import Derived, Layout, Plan, Recipe, Shape, to_json

RATE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network and the sequences of a step."""

    width: int
    layers: int
    vocabulary: int
    context: int
    sequences: int

    @property
    def shape(self) -> Shape:
        """In the Qwen3 layout."""
        return shape_for_width(
            self.width, self.layers, vocab_size=self.vocabulary, context_tokens=self.context
        )

    @property
    def step_tokens(self) -> int:
        """Predicted tokens of a step."""
        return self.sequences * self.context

    @property
    def flops_per_token(self) -> float:
        """Of matrix products, forward and backward (3 x forward): blocks, whole attention scores, head."""
        shape = self.shape
        block = 4 * self.width**2 + 3 * self.width * shape.ffn_width
        attention = 2 * self.context * self.width
        return 6 * (self.layers * (block + attention) + self.vocabulary * self.width)


CASES = {
    "5.7M": Case(width=256, layers=6, vocabulary=4096, context=256, sequences=8),
    "1.3M": Case(width=128, layers=4, vocabulary=2048, context=128, sequences=16),
}

# One device, one micro-batch a step: bench/train/gpu.py.
GPU_CASES = {
    "124M": Case(width=768, layers=12, vocabulary=50_304, context=1024, sequences=32),
    "350M": Case(width=1024, layers=24, vocabulary=50_304, context=1024, sequences=16),
    "1B": Case(width=2048, layers=16, vocabulary=50_304, context=2048, sequences=8),
}


def write_corpus(case: Case, folder: Path, tokens: int = 400_000) -> None:
    """Each token is followed by one of eight that hang on it, the first ones more often."""
    draw = np.random.default_rng(0)
    followers = draw.integers(0, case.vocabulary, (case.vocabulary, 8))
    which = draw.choice(8, tokens, p=0.5 ** np.arange(1, 9) / (1 - 0.5**8))
    ids = np.zeros(tokens, dtype="<u2")
    for place in range(1, tokens):
        ids[place] = followers[ids[place - 1], which[place]]
    splits = {}
    for split, part in (("train", ids), ("heldout", ids[: 4 * case.context + 1])):
        path = folder / f"{split}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part.tobytes())
        entry = write_split(folder, split, [(path, np.array([len(part)]))], "<u2", 1 << 30)
        splits[split] = entry | {"num_bytes": 2 * len(part)}
    index = {"dtype": "<u2", "vocab_size": case.vocabulary, "end_id": 0, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))


def plan_of(case: Case, corpus: Path, steps: int, layout: Layout) -> Plan:
    """A constant rate for all groups, AdamW, no weight decay: what every side can do."""
    number = Derived(value=100.0, low=100.0, high=100.0, how="a bench")
    tokens = steps * case.step_tokens
    names = ("params", "batch_tokens", "learning_rate", "seconds", "usd", "kwh", "kg_co2e")
    recipe = Recipe(
        batch_tokens=case.step_tokens,
        embed_lr=RATE,
        head_lr=RATE,
        hidden_lr=RATE,
        warmup_share=0.0,
        decay_share=0.0,
    )
    numbers = dict.fromkeys(names, number)
    numbers["tokens"] = Derived(value=tokens, low=tokens, high=tokens, how="a bench")
    return Plan(
        name="bench",
        corpus=str(corpus),
        shape=case.shape,
        recipe=recipe,
        layout=layout,
        seed=0,
        numbers=numbers,
    )


def write_plan(plan: Plan, path: Path) -> Path:
    """As the worker reads it."""
    path.write_text(json.dumps(to_json(plan)))
    return path
