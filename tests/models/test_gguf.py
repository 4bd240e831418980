"""GGUF files: what they hold, what is refused; where llama_cpp is installed, the same ids and greedy text."""

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")

from stepladder.data.tokens.tokenizer import PATTERN, load_tokenizer, train_tokenizer  # noqa: E402
from stepladder.errors import ExportError, MissingExtraError  # noqa: E402
from stepladder.models import gguf, hf  # noqa: E402
from stepladder.models.families import family_of_shape  # noqa: E402
from stepladder.models.generate import generate_many  # noqa: E402
from stepladder.records import Experts, RopeScaling, Shape, Variant  # noqa: E402
from stepladder.store import write_text  # noqa: E402

torch.set_num_threads(1)
TEXTS = [Path(module.__file__).read_text() for module in (json, subprocess, random)]
QWEN3 = Shape(
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_width=48,
    vocab_size=640,
    context_tokens=128,
    variant=Variant(rope_theta=5_000.0, norm_eps=1e-3),
)
LLAMA = dataclasses.replace(
    QWEN3, head_dim=8, variant=Variant(rope_theta=5_000.0, norm_eps=1e-3, qk_norm="none")
)
OLMO2 = dataclasses.replace(
    LLAMA, variant=Variant(norm_eps=1e-3, qk_norm="whole", norm_place="inside", rope_theta=5_000.0)
)
SHAPES = {
    "qwen3": QWEN3,
    "qwen3-tied": dataclasses.replace(QWEN3, tied_head=True),
    "qwen3_moe": dataclasses.replace(QWEN3, experts=Experts(count=4, active=2, ffn_width=24)),
    "llama": LLAMA,
    "olmo2": OLMO2,
    "olmo2-tied": dataclasses.replace(OLMO2, tied_head=True),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a tokenizer of ours; 40 of the networks' ids have no token."""
    folder = tmp_path_factory.mktemp("corpus")
    write_text(folder / "tokenizer.json", train_tokenizer(TEXTS, 600))
    return folder


def make_run(folder: Path, shape: Shape):
    """A network in which every weight matters, and its run folder."""
    network = hf.random_network(shape, 3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator))
    hf.save_folder(network, folder / "model")
    return network.eval()


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_holds_every_weight_under_the_names_of_llama_cpp(name, tmp_path, corpus):
    reader = pytest.importorskip("gguf", reason="the gguf package is not installed").GGUFReader
    shape = SHAPES[name]
    assert family_of_shape(shape).model_type == name.removesuffix("-tied")
    network = make_run(tmp_path / "run", shape)
    out = gguf.export_gguf(tmp_path / "run", tmp_path / "out" / "a.gguf", corpus)
    assert [out] == list(out.parent.iterdir())
    found = reader(out)
    stored = {tensor.name: tensor.data for tensor in found.tensors}
    architecture = found.fields["general.architecture"].contents()
    for ours, parameter in network.named_parameters():
        expected, actual = parameter.detach().numpy(), stored.pop(gguf._gguf_name(ours, architecture))
        if name == "llama" and ours.split(".")[-2] in ("q_proj", "k_proj"):
            # Row 2i of a head is its row i, row 2i + 1 its row i + E/2.
            order = np.arange(8).reshape(2, 4).T.reshape(-1)
            expected = expected.reshape(-1, 8, 32)[:, order].reshape(expected.shape)
        np.testing.assert_array_equal(expected, actual, err_msg=ours)
    assert (["output.weight"] if name == "olmo2-tied" else []) == list(stored)


def test_a_file_says_sizes_and_words(tmp_path, corpus):
    reader = pytest.importorskip("gguf", reason="the gguf package is not installed").GGUFReader
    make_run(tmp_path / "run", QWEN3)
    out = gguf.export_gguf(tmp_path / "run", tmp_path / "a.gguf", corpus, dtype="bf16")
    fields = {key: field.contents() for key, field in reader(out).fields.items()}
    assert fields["qwen3.context_length"] == 128
    assert fields["qwen3.attention.key_length"] == 16
    assert fields["qwen3.rope.freq_base"] == 5_000.0
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert 0 == fields["tokenizer.ggml.bos_token_id"] == fields["tokenizer.ggml.eos_token_id"]
    tokens = fields["tokenizer.ggml.tokens"]
    assert load_tokenizer(corpus).vocab == {token: at for at, token in enumerate(tokens) if at < 600}
    assert [3, *[1] * 599, *[5] * 40] == fields["tokenizer.ggml.token_type"]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader(out).tensors}
    assert ("BF16", "F32") == (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_norm.weight"])


def test_our_pattern_is_one_that_llama_cpp_names(corpus):
    assert PATTERN == next(iter(gguf.PRE_TOKENIZERS))[0]
    definition = json.loads((corpus / "tokenizer.json").read_text())
    assert gguf.pre_tokenizer_name(definition) == "qwen2"
    plain = {"type": "ByteLevel", "use_regex": True}
    assert gguf.pre_tokenizer_name({**definition, "pre_tokenizer": plain}) == "gpt-2"
    for other in (None, {"type": "Whitespace"}, {**plain, "use_regex": False}):
        with pytest.raises(ExportError, match="has no name for this pre-tokenizer"):
            gguf.pre_tokenizer_name({**definition, "pre_tokenizer": other})
    definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+"
    with pytest.raises(ExportError, match="has no name for this pre-tokenizer"):
        gguf.pre_tokenizer_name(definition)


def test_what_llama_cpp_does_not_compute_is_refused(tmp_path, corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stepladder\[gguf\]'"):
        gguf.export_gguf(tmp_path / "run", tmp_path / "a.gguf", corpus)
    scaled = dataclasses.replace(LLAMA.variant, rope_scaling=RopeScaling(factor=4.0))
    biased = dataclasses.replace(LLAMA.variant, biases="attention")
    for variant, got in ((scaled, "scaled rotary positions"), (biased, "biases in attention")):
        with pytest.raises(ExportError, match=got):
            gguf._architecture(dataclasses.replace(LLAMA, variant=variant))


def make_texts(count: int) -> list[str]:
    chooser = random.Random(8)
    bits = [
        "🙂",
        "👩‍👩‍👧",
        "\r\n",
        "\n",
        "\t",
        "  ",
        "\u00a0",
        "é",
        "e\u0301",
        "日本語",
        "Привет",
        "مرحبا",
        "I'LL",
        "123",
    ]
    bits += ["<|endoftext|>", "[PAD601]", "#!", "_x", "\u200b", "ﬁ", "don't", " ", "\U00010348"]
    lines = [line for text in TEXTS for line in text.splitlines(keepends=True)]
    made = [["", *bits[at : at + 1]] for at in range(len(bits))]
    made += [
        [chooser.choice((chooser.choice(bits), chooser.choice(lines))) for _ in range(4)]
        for _ in range(count)
    ]
    return ["".join(parts) for parts in made][:count]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_gives_the_same_ids_and_greedy_text(name, dtype, tmp_path, corpus):
    """2,000 texts have our ids; four prompts go on as in our network, with logits that agree."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    # Without ids that no token has: random weights would write them, too.
    network = make_run(tmp_path / "run", dataclasses.replace(SHAPES[name], vocab_size=600))
    if dtype == "bf16":
        network = network.bfloat16().float()
    out = gguf.export_gguf(tmp_path / "run", tmp_path / "a.gguf", corpus, dtype=dtype)
    # Keys and values in fp32 as well (0 is ggml's number of that type).
    theirs = llama_cpp.Llama(
        str(out), n_ctx=128, n_threads=1, type_k=0, type_v=0, logits_all=True, verbose=False
    )
    words = load_tokenizer(corpus)
    texts = make_texts(2_000 if (name, dtype) == ("qwen3", "fp32") else 50)
    wrong = [t for t in texts if words.encode(t) != theirs.tokenize(t.encode(), add_bos=False)]
    assert [] == wrong
    for prompt in ("def it(self):", "The", "🙂 naïve\r\n", ""):
        ids = [0, *words.encode(prompt)]
        assert ids == theirs.tokenize(prompt.encode(), add_bos=True)
        expected = generate_many(network, [ids], 60, end=0)[0]
        theirs.reset()
        theirs.eval(ids)
        with torch.no_grad():
            ours = network(torch.tensor([ids]))[0].numpy()
        difference = float(np.abs(ours - theirs.scores[: len(ids)]).max())
        print(f"{name} {dtype}: logits differ by {difference:.1e} of {np.abs(ours).max():.1f}")
        assert difference <= (2e-5 if dtype == "fp32" else 0.05 * float(np.abs(ours).max()))
        if dtype == "fp32":
            actual = itertools.islice(theirs.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0), 60)
            new = list(itertools.takewhile(lambda token: token != 0, actual))
            assert expected == new
            # Random weights write bytes that are no UTF-8; its own completions drop them.
            assert words.decode(expected) == theirs.detokenize(new).decode("utf-8", errors="replace")
