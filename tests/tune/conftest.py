import random

import pytest

from stepladder.records import Shape
from stepladder.tune.tasks import Example, split_task

TINY = Shape(
    num_layers=1,
    width=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    ffn_width=48,
    vocab_size=300,
    context_tokens=32,
)
FRUIT, TOOLS = ("apple", "pear", "plum", "cherry"), ("hammer", "saw", "drill", "pliers")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with the tokenizer.json of a byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY.vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(FRUIT + TOOLS) + " and the words around it"] * 20, trainer)
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory):
    """A run folder with random weights."""
    hf = pytest.importorskip("stepladder.models.hf")
    folder = tmp_path_factory.mktemp("run")
    hf.save_folder(hf.random_network(TINY, 7), folder / "model")
    return folder


@pytest.fixture(scope="session")
def word_task():
    """Fruit or tools: learned by any method within a few steps."""
    chooser, examples = random.Random(0), []
    for at in range(300):
        label, words = (("fruit", FRUIT), ("tool", TOOLS))[at % 2]
        filler = " ".join(chooser.choices(["the", "of", "and", "red", "old", "big"], k=chooser.randint(1, 9)))
        text = f"{filler} {chooser.choice(words)} {at}"
        examples.append(Example(text=text, targets=(label,), group=str(at)))
    return split_task("words", examples)
