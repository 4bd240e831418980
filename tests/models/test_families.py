"""Folders that transformers wrote from random weights: same logits in our network, same folder back."""

import json
import os
from dataclasses import replace

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stepladder.errors import ExportError  # noqa: E402
from stepladder.models import export, families, hf  # noqa: E402
from stepladder.models.count import count_params  # noqa: E402
from stepladder.models.generate import generate_many  # noqa: E402
from stepladder.models.transformer import Transformer  # noqa: E402

torch.set_num_threads(1)
SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
# name -> model_type and what differs from the usual configuration of its family.
CASES = {
    "llama": ("llama", {"num_key_value_heads": 2, "rms_norm_eps": 1e-3}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-scaled": ("llama", {"rope_parameters": LLAMA3}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-3}),
    "qwen3-biases": (
        "qwen3",
        {"num_key_value_heads": 4, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "olmo2": ("olmo2", {"num_key_value_heads": 2, "rms_norm_eps": 1e-3}),
    "olmo2-tied": ("olmo2", {"tie_word_embeddings": True}),
    "bert": ("bert", {"layer_norm_eps": 1e-3}),
    "bert-untied": ("bert", {"tie_word_embeddings": False}),
    "roberta": ("roberta", {"layer_norm_eps": 1e-3, "max_position_embeddings": 50}),
    "modernbert": ("modernbert", {"local_attention": 8, "norm_eps": 1e-3}),
    "modernbert-global": (
        "modernbert",
        {"global_attn_every_n_layers": 1, "tie_word_embeddings": False, "decoder_bias": False},
    ),
    "modernbert-biases": (
        "modernbert",
        dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True),
    ),
}
DECODERS = [name for name, (kind, _) in CASES.items() if "bert" not in kind]


def make_theirs(name: str):
    """A network of transformers in which every weight matters."""
    kind, changes = CASES[name]
    config = transformers.AutoConfig.for_model(kind, **(SIZES | changes))
    torch.manual_seed(0)
    auto = transformers.AutoModelForMaskedLM if "bert" in kind else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(name, network of transformers, the folder that it saved)."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = make_theirs(request.param)
    theirs.save_pretrained(folder)
    return request.param, theirs, folder


def ids():
    return torch.randint(3, SIZES["vocab_size"], (3, 40), generator=torch.Generator().manual_seed(5))


def largest_difference(ours: Transformer, theirs) -> float:
    with torch.no_grad():
        return (ours(ids()) - theirs(ids()).logits.float()).abs().max().item()


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_our_network_computes_the_same_logits(case, attention):
    _, theirs, folder = case
    assert largest_difference(hf.load_folder(folder, attention=attention), theirs) <= 1e-5


def test_the_folder_comes_back_as_it_was(case, tmp_path, words):
    name, theirs, folder = case
    out = export.export_folder(folder, tmp_path / "out", words)
    before, after = (json.loads((at / "config.json").read_text()) for at in (folder, out))
    assert before["model_type"] == after["model_type"]
    assert before["architectures"] == after["architectures"]
    again = type(theirs).from_pretrained(out).eval()
    for key, value in theirs.state_dict().items():
        if name == "bert-untied" and key == "cls.predictions.bias":
            continue  # there transformers computes with the decoder's own
        assert torch.equal(value, again.state_dict()[key]), key
    with torch.no_grad():
        assert torch.equal(theirs(ids()).logits, again(ids()).logits)
    if "bert" not in name:
        assert after["rope_theta"] == after["rope_parameters"]["rope_theta"]
        # A length or a temperature would silently change what every user's generate() does.
        generation = json.loads((out / "generation_config.json").read_text())
        assert generation.keys() <= {"bos_token_id", "eos_token_id", "pad_token_id"}
    if "modernbert" in name:
        thetas = {kind: rope["rope_theta"] for kind, rope in after["rope_parameters"].items()}
        assert after["global_rope_theta"] == thetas["full_attention"]
        assert after.get("local_rope_theta") == thetas.get("sliding_attention")


@pytest.mark.parametrize("name", CASES)
def test_bf16_folders_come_back_as_they_were(name, tmp_path, words):
    half = make_theirs(name).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    out = export.export_folder(tmp_path / "half", tmp_path / "out", words)
    again = type(half).from_pretrained(out, dtype="auto")
    assert again.dtype == torch.bfloat16
    is_spare = name == "bert-untied"  # transformers computes with the decoder's own bias there
    for key, value in half.state_dict().items():
        assert (is_spare and key == "cls.predictions.bias") or torch.equal(value, again.state_dict()[key]), (
            key
        )


def test_a_run_of_ours_comes_back_in_its_family(case, tmp_path, words):
    """Ours keeps a foreign network under our names; export finds the family again."""
    _, theirs, folder = case
    network = hf.load_folder(folder)
    hf.save_folder(network, tmp_path / "run" / "model")
    out = export.export_folder(tmp_path / "run", tmp_path / "out", words)
    again = type(theirs).from_pretrained(out).eval()
    assert largest_difference(network, again) <= 1e-5
    assert hf.load_folder(tmp_path / "run").shape == hf.load_folder(out).shape


def test_names_and_counts_agree_with_the_network(case):
    shape = hf.load_folder(case[2]).shape
    expected = {name: tuple(value.shape) for name, value in Transformer(shape).named_parameters()}
    assert expected == export.expected_shapes(shape)
    assert sum(p.numel() for p in Transformer(shape).parameters()) == count_params(shape).total


@pytest.mark.parametrize("name", ["llama", "olmo2", "bert", "modernbert"])
def test_shards_and_bf16_are_read(name, tmp_path):
    half = make_theirs(name).to(torch.bfloat16)
    half.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / export.INDEX_FILE).exists()
    theirs = type(half).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert largest_difference(hf.load_folder(tmp_path), theirs) <= 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_text_is_identical(name, tmp_path):
    theirs = make_theirs(name)
    theirs.save_pretrained(tmp_path)
    start = ids()[:1, :6]
    expected = theirs.generate(start, max_new_tokens=30, do_sample=False)[0, 6:].tolist()
    actual = generate_many(hf.load_folder(tmp_path), start.tolist(), 30, end=2)[0]
    assert [token for token in expected if token != 2] == actual


def test_padding_does_not_change_the_states_of_an_encoder(tmp_path):
    """A window of 8 leaves padded rows without a real key: still no NaN anywhere."""
    theirs = make_theirs("modernbert")
    theirs.save_pretrained(tmp_path)
    real = torch.arange(40) < torch.tensor([[40], [13], [5]])
    with torch.no_grad():
        expected = theirs(ids(), attention_mask=real.long()).logits
        for attention in ("explicit", "sdpa"):
            actual = hf.load_folder(tmp_path, attention=attention)(ids(), real[:, None, None, :])
            assert torch.isfinite(actual).all()
            torch.testing.assert_close(expected[real], actual[real], atol=1e-5, rtol=0)


def swapped(tensors, first, second):
    tensors[first], tensors[second] = tensors[second], tensors[first]


def halves_swapped(tensors, name):
    data = tensors[name]["data"]
    tensors[name]["data"] = data[len(data) // 2 :] + data[: len(data) // 2]


def interleaved(tensors, parts, head_dim=8):
    """Rows of queries and keys from half-split (i, i + E/2) to interleaved (2i, 2i + 1) order."""
    for name, tensor in tensors.items():
        if any(part in name for part in parts) and name.endswith("weight"):
            values = torch.frombuffer(bytearray(tensor["data"]), dtype=torch.float32)
            mixed = values.view(-1, 2, head_dim // 2, tensor["shape"][1]).transpose(1, 2)
            tensor["data"] = mixed.contiguous().numpy().tobytes()


MLP = "model.layers.1.mlp."
WRONG_WEIGHTS = {
    "llama-gate-up": ("llama", lambda t: swapped(t, MLP + "gate_proj.weight", MLP + "up_proj.weight")),
    "olmo2-gate-up": ("olmo2", lambda t: swapped(t, MLP + "gate_proj.weight", MLP + "up_proj.weight")),
    "modernbert-gate-up": ("modernbert", lambda t: halves_swapped(t, MLP + "Wi.weight")),
    "llama-interleaved": ("llama", lambda t: interleaved(t, ("q_proj", "k_proj"))),
    "qwen3-interleaved": ("qwen3", lambda t: interleaved(t, ("q_proj", "k_proj"), 16)),
    "olmo2-interleaved": ("olmo2", lambda t: interleaved(t, ("q_proj", "k_proj"))),
    "modernbert-interleaved": ("modernbert", lambda t: interleaved(t, ("Wqkv",))),
}


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_parity_notices_wrong_weights(wrong, tmp_path):
    name, damage = WRONG_WEIGHTS[wrong]
    theirs = make_theirs(name)
    theirs.save_pretrained(tmp_path)
    tensors = export.read_tensors(tmp_path)
    damage(tensors)
    export.write_tensors(tmp_path / export.WEIGHTS_FILE, tensors)
    assert largest_difference(hf.load_folder(tmp_path), theirs) > 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rms_norm_eps": 1e-6}),
        ("qwen3", {"rms_norm_eps": 1e-6}),
        ("olmo2", {"rms_norm_eps": 1e-6}),
        ("bert", {"layer_norm_eps": 1e-12}),
        ("roberta", {"layer_norm_eps": 1e-12}),
        ("modernbert", {"norm_eps": 1e-6}),
        ("modernbert", {"local_attention": 16}),
        ("llama-scaled", {"rope_parameters": LLAMA3 | {"factor": 2.0}}),
    ],
)
def test_parity_notices_a_wrong_constant(name, changes, tmp_path):
    theirs = make_theirs(name)
    theirs.save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    assert largest_difference(hf.load_folder(tmp_path), theirs) > 1e-4


def edit_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_first_names_of_bert_are_read(tmp_path):
    theirs = make_theirs("bert")
    theirs.save_pretrained(tmp_path)
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in export.read_tensors(tmp_path).items()
    }
    pooler = tensors["cls.predictions.transform.dense.weight"]
    tensors["bert.pooler.dense.weight"] = tensors["cls.seq_relationship.weight"] = pooler
    export.write_tensors(tmp_path / export.WEIGHTS_FILE, tensors)
    assert largest_difference(hf.load_folder(tmp_path), theirs) <= 1e-5


def test_old_configurations_of_modernbert_mean_the_same(tmp_path):
    theirs = make_theirs("modernbert")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    new = families.shape_from_config(config)
    for key in ("layer_types", "rope_parameters"):
        config.pop(key)
    old = config | {"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0}
    assert new == families.shape_from_config(old | {"local_rope_theta": 10_000.0})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda tensors: tensors.pop("bert.encoder.layer.1.output.dense.bias"),
            "missing bert.encoder.layer.1",
        ),
        (lambda tensors: tensors.update(adapter=tensors["cls.predictions.bias"]), "unknown adapter"),
        (
            lambda tensors: tensors["cls.predictions.bias"].update(shape=[100, 2]),
            r"is \(100, 2\), not \(200,\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_damaged_folders_are_one_clear_error(damage, message, tmp_path):
    make_theirs("bert").save_pretrained(tmp_path)
    tensors = export.read_tensors(tmp_path)
    damage(tensors)
    export.write_tensors(tmp_path / export.WEIGHTS_FILE, tensors)
    with pytest.raises(ExportError, match=message):
        hf.load_folder(tmp_path)


def test_a_missing_shard_is_one_clear_error(tmp_path):
    make_theirs("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(ExportError, match=f"{gone.name} is not a whole safetensors file"):
        hf.load_folder(tmp_path)


def test_foreign_configurations_are_refused_with_all_reasons():
    with pytest.raises(
        ExportError,
        match=r"(?s)model_type = 'gpt2'.*qwen3, qwen3_moe, llama, olmo2, modernbert, bert, roberta",
    ):
        families.shape_from_config({"model_type": "gpt2"})
    yarn = {"rope_type": "yarn", "factor": 2.0}
    with pytest.raises(ExportError, match="hidden_act = 'gelu'; rope_type = 'yarn'"):
        families.shape_from_config({"model_type": "llama", "hidden_act": "gelu", "rope_scaling": yarn})
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    with pytest.raises(ExportError, match="not every n-th block"):
        families.shape_from_config({"model_type": "modernbert", "layer_types": kinds})
    with pytest.raises(ExportError, match="lacks a size"):
        families.shape_from_config({"model_type": "qwen3"})
    shape = families.shape_from_config(SIZES | {"model_type": "bert"})
    with pytest.raises(ExportError, match="no family of transformers"):
        families.family_of_shape(replace(shape, causal=True))
