import dataclasses
import json
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stepladder.errors import ExportError  # noqa: E402
from stepladder.models import export, hf  # noqa: E402
from stepladder.models.transformer import Transformer  # noqa: E402
from stepladder.records import Shape, Variant  # noqa: E402

torch.set_num_threads(1)
UNTIED = Shape(
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_width=48,
    vocab_size=300,
    context_tokens=64,
    variant=Variant(rope_theta=5_000.0, norm_eps=1e-3),
)
TIED = dataclasses.replace(UNTIED, tied_head=True)
TEXTS = ("", "Plain words, and more words.", "naïve\r\ncafé\n\n", "🙂🙃 emoji", "x" * 50, " lead\ttab ")


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Plain words, and more words of the corpus. " * 9], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def make_network(shape: Shape, seed: int = 0) -> Transformer:
    """A network in which every weight matters: the head is not zero, the norms are not one."""
    network = hf.random_network(shape, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("norm.weight") or name == "lm_head.weight":
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    return network.eval()


def make_run(folder, shape: Shape):
    network = make_network(shape)
    hf.save_folder(network, folder / "model")
    return network


def ids(shape: Shape):
    return torch.randint(0, shape.vocab_size, (3, 40), generator=torch.Generator().manual_seed(5))


def largest_difference(network: Transformer, folder) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return (network(ids(network.shape)) - model(ids(network.shape)).logits).abs().max().item()


@pytest.mark.parametrize("shape", [UNTIED, TIED], ids=["untied", "tied"])
def test_transformers_computes_the_same_logits(tmp_path, tokenizer_file, shape):
    network = make_run(tmp_path / "run", shape)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    assert largest_difference(network, folder) <= 1e-5
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.dtype == torch.float32
    assert shape.tied_head == (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr())


def swap(folder, first: str, second: str) -> None:
    tensors = export.read_tensors(folder)
    tensors[first], tensors[second] = tensors[second], tensors[first]
    export.write_tensors(folder / export.WEIGHTS_FILE, tensors)


def edit_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_parity_notices_swapped_gate_and_up(tmp_path, tokenizer_file):
    network = make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    swap(folder, "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight")
    assert largest_difference(network, folder) > 1e-3


def test_parity_notices_interleaved_rotary(tmp_path, tokenizer_file):
    network = make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    tensors = export.read_tensors(folder)
    for name, tensor in tensors.items():
        if "q_proj" in name or "k_proj" in name:
            rows, width = tensor["shape"]
            values = torch.frombuffer(bytearray(tensor["data"]), dtype=torch.float32)
            # Half-split (i, i + E/2) to interleaved (2i, 2i + 1) order within each head.
            mixed = values.view(-1, 2, UNTIED.head_dim // 2, width).transpose(1, 2).reshape(rows, width)
            tensor["data"] = mixed.contiguous().numpy().tobytes()
    export.write_tensors(folder / export.WEIGHTS_FILE, tensors)
    assert largest_difference(network, folder) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 1e-6},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}, "rope_theta": 10_000.0},
    ],
    ids=["eps", "theta"],
)
def test_parity_notices_a_wrong_constant(tmp_path, tokenizer_file, changes):
    network = make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    edit_config(folder, **changes)
    assert largest_difference(network, folder) > 1e-4


@pytest.mark.parametrize("shape", [UNTIED, TIED], ids=["untied", "tied"])
def test_greedy_text_is_identical(tmp_path, tokenizer_file, shape):
    from stepladder.models.generate import generate_many

    network = make_run(tmp_path / "run", shape)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    start = tokenizer("Plain words", return_tensors="pt")
    expected = theirs.generate(**start, max_new_tokens=30, do_sample=False)[0].tolist()
    prompt = start.input_ids[0].tolist()
    actual = generate_many(network, [prompt], 30, end=0)[0]
    # transformers keeps the end-of-text token that stopped it.
    assert [token for token in expected[len(prompt) :] if token != 0] == actual


def test_tokenizer_loads_with_the_same_ids(tmp_path, tokenizer_file):
    from tokenizers import Tokenizer

    make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    theirs, ours = (
        transformers.AutoTokenizer.from_pretrained(folder),
        Tokenizer.from_file(str(tokenizer_file)),
    )
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        # tokenizer.json says it itself: not every runtime reads tokenizer_config.json.
        assert theirs(text)["input_ids"] == alone.encode(text).ids
        # As in training, and as `complete` does, a text follows the end of another one.
        assert [0, *ours.encode(text).ids] == theirs(text)["input_ids"]
        assert ours.encode(text).ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert text == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)
    assert 0 == theirs.eos_token_id == theirs.pad_token_id == theirs.bos_token_id
    assert UNTIED.context_tokens == theirs.model_max_length


def test_tokenizer_gives_only_what_the_network_takes(tmp_path, tokenizer_file):
    make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["model_input_names"] == ["input_ids", "attention_mask"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert {"input_ids", "attention_mask"} == set(tokenizer("words"))


def test_config_says_both_forms_of_rotary_and_no_sampling_defaults(tmp_path, tokenizer_file):
    make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    config = json.loads((folder / "config.json").read_text())
    assert 5_000.0 == config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == "float32"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [UNTIED, TIED], ids=["untied", "tied"])
def test_round_trip_keeps_every_bit(tmp_path, tokenizer_file, shape, dtype):
    """Run → export → transformers → its own folder → our network → run → export: the same bytes."""
    network = make_network(shape).to(dtype)
    hf.save_folder(network, tmp_path / "run" / "model")
    export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert theirs.dtype == dtype
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path / "run", tmp_path / "out", tmp_path / "theirs"):
        again = hf.load_folder(folder)
        assert shape == again.shape
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter.float(), again.get_parameter(name)), name
    hf.save_folder(again.to(dtype), tmp_path / "again" / "model")
    export.export_folder(tmp_path / "again", tmp_path / "last", tokenizer_file)
    for name in (export.WEIGHTS_FILE, "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "last" / name).read_bytes()


def test_bf16_rounds_as_torch_does(tmp_path, tokenizer_file):
    network = make_run(tmp_path / "run", UNTIED)
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file, dtype="bf16")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    expected = network.get_parameter("layers.0.mlp.up_proj.weight").to(torch.bfloat16)
    assert torch.equal(expected, model.model.layers[0].mlp.up_proj.weight)
    back = export.export_folder(
        _as_run(folder, tmp_path / "half"), tmp_path / "fp32", tokenizer_file, dtype="fp32"
    )
    assert torch.equal(expected.float(), hf.load_folder(back).get_parameter("layers.0.mlp.up_proj.weight"))


def _as_run(folder, run):
    network = hf.load_folder(folder)
    hf.save_folder(network.to(torch.bfloat16), run / "model")
    return run


def test_reads_what_transformers_saves_in_shards(tmp_path):
    config = transformers.Qwen3Config(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / export.INDEX_FILE).exists()
    network = hf.load_folder(tmp_path)
    with torch.no_grad():
        difference = (network(ids(network.shape)) - model(ids(network.shape)).logits).abs().max().item()
    assert difference <= 1e-5


def test_damaged_weights_are_one_clear_error(tmp_path, tokenizer_file):
    make_run(tmp_path / "run", UNTIED)
    weights = tmp_path / "run" / "model" / export.WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match="not a whole safetensors file"):
        export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    assert not (tmp_path / "out").exists()


def test_nan_weights_are_refused(tmp_path, tokenizer_file):
    network = make_network(UNTIED)
    with torch.no_grad():
        network.get_parameter("layers.0.mlp.up_proj.weight")[3, 4] = float("nan")
    hf.save_folder(network, tmp_path / "run" / "model")
    with pytest.raises(ExportError, match=r"up_proj\.weight is not finite"):
        export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_shape_are_listed(tmp_path, tokenizer_file):
    make_run(tmp_path / "run", UNTIED)
    (tmp_path / "run" / "model" / "shape.json").write_text(
        json.dumps(dataclasses.asdict(dataclasses.replace(UNTIED, num_layers=3, ffn_width=40)))
    )
    with pytest.raises(
        ExportError, match=r"missing layers\.2\.input_layernorm\.weight.*and \d+ more"
    ) as caught:
        export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)
    assert caught.value.got.count(";") + 1 == 10


def test_foreign_tokenizer_is_refused(tmp_path, tokenizer_file):
    make_run(tmp_path / "run", dataclasses.replace(UNTIED, vocab_size=270))
    with pytest.raises(ExportError, match="does not belong to these weights"):
        export.export_folder(tmp_path / "run", tmp_path / "out", tokenizer_file)


def test_missing_pieces_name_the_next_step(tmp_path, tokenizer_file):
    with pytest.raises(ExportError, match="holds no trained weights"):
        export.export_folder(tmp_path, tmp_path / "out", tokenizer_file)
    make_run(tmp_path / "run", UNTIED)
    with pytest.raises(ExportError, match=r"no tokenizer\.json found"):
        export.export_folder(tmp_path / "run", tmp_path / "out")
    hf.save_folder(make_network(dataclasses.replace(UNTIED, causal=False)), tmp_path / "encoder" / "model")
    with pytest.raises(ExportError, match="no family of transformers"):
        export.export_folder(tmp_path / "encoder", tmp_path / "out", tokenizer_file)


def test_names_agree_with_the_network():
    for shape in (UNTIED, TIED):
        network = Transformer(shape)
        expected = {name: tuple(value.shape) for name, value in network.named_parameters()}
        assert expected == export.expected_shapes(shape)
