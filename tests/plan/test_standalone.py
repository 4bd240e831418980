"""Shapes from words and from the config.json of several families."""

import json
from pathlib import Path

import pytest

from stepladder.errors import PlanError
from stepladder.models.count import count_params
from stepladder.plan.standalone import shape_from

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}


def write(folder: Path, config: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


def test_llama_has_the_parameters_that_its_card_says(tmp_path):
    shape, notes = shape_from(write(tmp_path, LLAMA))
    # 8,030,261,248 with its norms; ours has a norm for queries and keys of each layer, too.
    assert 8_030_261_248 + 32 * 2 * 128 == count_params(shape).total
    assert 4_096 == shape.context_tokens
    assert 1 == len(notes)
    assert notes[0].startswith("trained on 4,096 tokens of context, not the 131,072 that it can see")
    assert shape_from(str(tmp_path))[0] == shape


def test_the_two_matrices_of_gpt2_count_as_two_thirds_of_three(tmp_path):
    shape, notes = shape_from(write(tmp_path, GPT2))
    assert (2048, True, 64) == (shape.ffn_width, shape.tied_head, shape.head_dim)
    # 124.4 M with 0.79 M of learnt positions, which ours has not.
    assert count_params(shape).total == pytest.approx(124.44e6 - 0.79e6, rel=0.002)
    assert len(notes) == 1


def test_an_encoder_is_not_causal(tmp_path):
    assert not shape_from(write(tmp_path, {**LLAMA, "model_type": "modernbert"}))[0].causal


def test_words_leave_the_rest_to_the_rules():
    shape, notes = shape_from("width=512")
    assert (8, 8, 64, 32_768) == (shape.num_layers, shape.num_heads, shape.head_dim, shape.vocab_size)
    assert 4 == len(notes)
    assert 2 == shape_from("layers=2 width=64 heads=4 kv_heads=2 ffn=96 vocab=64 context=32")[0].num_kv_heads


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "layer=2 width=x 7",
            ['"layer" is not a size of a model (did you mean "layers"?)', "width = x", '"7" is not'],
        ),
        (
            "width=100 heads=8 kv_heads=3",
            ["8 heads do not divide a width of 100", "3 heads for keys do not divide"],
        ),
        ("layers=2", ["width is missing"]),
    ],
)
def test_all_that_is_wrong_with_a_shape(text, said):
    with pytest.raises(PlanError) as caught:
        shape_from(text)
    lines = caught.value.wrong.splitlines()
    assert len(said) + 1 == len(lines)
    assert all(part in line for part, line in zip(said, lines[1:], strict=True))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PlanError, match=r"is not the config\.json of a language model"):
        shape_from(write(tmp_path, {"model_type": "vit"}))
