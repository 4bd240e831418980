"""Mixtures of experts against transformers' Qwen3-MoE, against torch's counts, and in files."""

import dataclasses
import json
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from stepladder.errors import ExportError  # noqa: E402
from stepladder.models import export, families, hf  # noqa: E402
from stepladder.models.count import count_params, forward_flops_per_token, train_flops_per_token  # noqa: E402
from stepladder.models.experts import mixtures  # noqa: E402
from stepladder.models.transformer import Transformer  # noqa: E402
from stepladder.records import Experts, Shape, Variant  # noqa: E402

torch.set_num_threads(1)
SHAPE = Shape(
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_width=48,
    vocab_size=300,
    context_tokens=64,
    variant=Variant(rope_theta=5_000.0, norm_eps=1e-3),
    experts=Experts(count=6, active=2, ffn_width=24),
)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = {"<|endoftext|>": 0, "a": 1}
    path.write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": words, "merges": []}}))
    return path


def make_network(shape: Shape = SHAPE) -> Transformer:
    """A network in which every weight matters: no gain is one and the head is not zero."""
    network = hf.random_network(shape, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("norm.weight") or name == "lm_head.weight":
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    return network.eval()


def ids():
    return torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(5))


def exported(folder, tokenizer, network):
    hf.save_folder(network, folder / "run" / "model")
    return export.export_folder(folder / "run", folder / "out", tokenizer)


@torch.no_grad()
def largest_difference(network, folder) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert "Qwen3MoeForCausalLM" == type(model).__name__
    return (network(ids()) - model(ids()).logits).abs().max().item()


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_computes_the_same_logits(tmp_path, tokenizer_file, tied):
    network = make_network(dataclasses.replace(SHAPE, tied_head=tied))
    folder = exported(tmp_path, tokenizer_file, network)
    difference = largest_difference(network, folder)
    print(f"largest difference of a logit {difference:.1e}")
    assert difference <= 1e-5


def test_parity_notices_two_experts_that_changed_places(tmp_path, tokenizer_file):
    network = make_network()
    folder = exported(tmp_path, tokenizer_file, network)
    tensors = export.read_tensors(folder)
    first, second = (f"model.layers.1.mlp.experts.{place}.up_proj.weight" for place in (0, 3))
    tensors[first], tensors[second] = tensors[second], tensors[first]
    export.write_tensors(folder / export.WEIGHTS_FILE, tensors)
    assert largest_difference(network, folder) > 1e-3


def test_round_trip_keeps_every_bit(tmp_path, tokenizer_file):
    network = make_network()
    exported(tmp_path, tokenizer_file, network)
    for folder in (tmp_path / "run", tmp_path / "out"):
        again = hf.load_folder(folder)
        assert SHAPE == again.shape
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, again.get_parameter(name)), name


def test_reads_what_transformers_saves(tmp_path):
    config = transformers.Qwen3MoeConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
    )
    torch.manual_seed(0)
    model = transformers.Qwen3MoeForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    assert largest_difference(hf.load_folder(tmp_path), tmp_path) <= 1e-5


def test_other_mixtures_and_missing_experts_are_refused(tmp_path, tokenizer_file):
    config = families.config_for(SHAPE, {}, "float32")
    assert SHAPE == families.shape_from_config(config)
    changes = {"norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [0]}
    with pytest.raises(ExportError) as caught:
        families.shape_from_config(config | changes)
    for key in changes:
        assert key in str(caught.value)
    folder = exported(tmp_path, tokenizer_file, make_network())
    tensors = export.read_tensors(folder)
    del tensors["model.layers.0.mlp.experts.2.up_proj.weight"]
    with pytest.raises(ExportError, match=r"missing layers\.0\.mlp\.experts\.up_proj"):
        export.our_names(tensors, SHAPE)


def test_counts_are_those_of_torch():
    network, count = make_network().train(), count_params(SHAPE)
    assert count.total == sum(parameter.numel() for parameter in network.parameters())
    idle = SHAPE.num_layers * 4 * 3 * SHAPE.width * SHAPE.experts.ffn_width
    assert count.active == count.total - idle
    tokens = torch.randint(0, 300, (2, SHAPE.context_tokens), generator=torch.Generator().manual_seed(2))
    with FlopCounterMode(display=False) as forward:
        logits = network(tokens)
    with FlopCounterMode(display=False) as backward:
        logits.float().logsumexp(-1).sum().backward()
    assert forward_flops_per_token(SHAPE) * tokens.numel() == forward.get_total_flops()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert train_flops_per_token(SHAPE) * tokens.numel() == both


def test_a_mixture_is_the_weighted_sum_of_its_chosen_experts():
    (mixture, _) = mixtures(make_network())
    states = torch.randn(2, 5, SHAPE.width, generator=torch.Generator().manual_seed(3))
    gate, up, down = (getattr(mixture.experts, f"{name}_proj").detach() for name in ("gate", "up", "down"))
    with torch.no_grad():
        answers = mixture(states)
        for state, answer in zip(states.flatten(0, 1), answers.flatten(0, 1), strict=True):
            weights, chosen = torch.softmax(mixture.gate(state), dim=-1).topk(2)
            each = [
                down[place] @ (torch.nn.functional.silu(gate[place] @ state) * (up[place] @ state))
                for place in chosen
            ]
            expected = sum(w * one for w, one in zip(weights / weights.sum(), each, strict=True))
            assert torch.allclose(expected, answer, atol=1e-6)


def test_the_balance_evens_out_what_experts_get():
    def busiest(balance: float) -> float:
        network = hf.random_network(
            dataclasses.replace(SHAPE, experts=dataclasses.replace(SHAPE.experts, balance=balance)), 0
        ).train()
        with torch.no_grad():
            for mixture in mixtures(network):
                mixture.gate.weight[:2] *= 8  # tokens want one of two experts more than any other
        optimiser = torch.optim.Adam([mixture.gate.weight for mixture in mixtures(network)], lr=1e-2)
        for _ in range(150):
            optimiser.zero_grad()
            (network.hidden(ids()).sum() * 0.0).backward()
            loads = [mixture.load.clone() for mixture in mixtures(network)]
            for mixture in mixtures(network):
                mixture.load.zero_()
            optimiser.step()
        return max((load.max() / load.mean()).item() for load in loads)

    even, skewed = busiest(1.0), busiest(0.0)
    assert even < 1.2
    assert skewed > 1.35
