"""A config.json or a Shape in; its family, and whose tensor is which, out. No torch.

A family is a row of FAMILIES: what its configuration says, what our blocks do not compute of it, and what it
calls our parameters. Where several of ours have one name of theirs, that tensor holds one after another.
Sources: the configuration and modelling files of transformers 5.24.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepladder.errors import ExportError
from stepladder.models import configs
from stepladder.models.configs import Config
from stepladder.models.expert_files import foreign_mixture
from stepladder.records import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """`names`: our parameter, or that without ".weight" and ".bias", to theirs; {n} is a block's number.

    `fixed` are keys with the only value that our blocks compute, which is also the default of transformers.
    """

    model_type: str
    architecture: str
    names: Mapping[str, str]
    read: Callable[[Config], Shape]
    write: Callable[[Shape], dict[str, Any]]
    fixed: Mapping[str, Any]


def family_of_config(config: Config) -> Family:
    """The row of a config.json; ExportError names all that our blocks do not compute."""
    found = {family.model_type: family for family in FAMILIES}.get(str(config.get("model_type")))
    if found is None:
        raise ExportError(
            "this family of networks cannot be read",
            got=f"model_type = {config.get('model_type')!r}",
            allowed=", ".join(family.model_type for family in FAMILIES),
        )
    problems = [
        f"{key} = {config[key]!r}" for key, only in found.fixed.items() if config.get(key, only) != only
    ]
    problems += (
        configs.rope_problems(config)
        if found.model_type != "modernbert"
        else configs.modernbert_problems(config)
    )
    problems += [f"{key} = {config.get(key)!r}" for key, bad in foreign_mixture(config).items() if bad]
    if problems:
        wanted = ", ".join(f"{key} = {only!r}" for key, only in found.fixed.items())
        raise ExportError(
            "this configuration is not one that our blocks compute",
            got="; ".join(problems),
            allowed=f"model_type {found.model_type} with {wanted} and plain or llama3 rotary positions",
        )
    return found


def shape_from_config(config: Config) -> Shape:
    """The Shape of a config.json; ExportError where it lacks a size or is not ours to compute."""
    family = family_of_config(config)
    try:
        return family.read(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ExportError("config.json lacks a size or holds a wrong one", got=repr(error)) from error


def family_of_shape(shape: Shape) -> Family:
    """The first family whose configuration says all of a shape: what it writes reads back as the same."""
    for family in FAMILIES:
        written = {"model_type": family.model_type, **family.write(shape)}
        if written["model_type"] == family.model_type and family.read(written) == shape:
            return family
    raise ExportError(
        "no family of transformers computes this network",
        got=f"causal = {shape.causal}, {shape.variant}",
        allowed=", ".join(family.model_type for family in FAMILIES),
    )


def their_name(family: Family, ours: str) -> str:
    """What a family calls one of our parameters."""
    parts = ours.split(".")
    number = parts[1] if parts[0] == "layers" else ""
    whole = ".".join(["layers", "{n}", *parts[2:]]) if number else ours
    stem, _, kind = whole.rpartition(".")
    name = family.names.get(whole) or f"{family.names[stem]}.{kind}"
    return name.format(n=number)


def config_for(shape: Shape, ids: Mapping[str, int | None], torch_dtype: str) -> dict[str, Any]:
    """config.json of a shape; `ids` are those of the tokenizer's special tokens (bos_token_id, ...)."""
    family = family_of_shape(shape)
    head = {"architectures": [family.architecture], "model_type": family.model_type}
    return dict(ids) | head | family.write(shape) | {"torch_dtype": torch_dtype}


_PROJECTIONS = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
_PROJECTIONS += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
_QWEN_BLOCK = {name: name for name in [*_PROJECTIONS, "input_layernorm", "post_attention_layernorm"]}
_EXPERTS = [f"mlp.experts.{name}_proj" for name in ("gate", "up", "down")]
_MIXTURE_BLOCK = _QWEN_BLOCK | {name: name for name in ["mlp.gate", *_EXPERTS]}
_OLMO_BLOCK = _QWEN_BLOCK | {
    "input_layernorm": "post_attention_layernorm",
    "post_attention_layernorm": "post_feedforward_layernorm",
}
_BERT_BLOCK = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "input_layernorm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "post_attention_layernorm": "output.LayerNorm",
}
_MODERNBERT_BLOCK = {
    **{f"self_attn.{name}_proj": "attn.Wqkv" for name in "qkv"},
    "self_attn.o_proj": "attn.Wo",
    "input_layernorm": "attn_norm",
    "mlp.gate_proj": "mlp.Wi",
    "mlp.up_proj": "mlp.Wi",
    "mlp.down_proj": "mlp.Wo",
    "post_attention_layernorm": "mlp_norm",
}
_DECODER_ENDS = {"embed_tokens": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"}


def _named(prefix: str, block: Mapping[str, str], ends: Mapping[str, str]) -> dict[str, str]:
    return {f"layers.{{n}}.{ours}": f"{prefix}.{{n}}.{theirs}" for ours, theirs in block.items()} | dict(ends)


def _bert_ends(base: str, dense: str, norm: str, decoder: str, bias: str) -> dict[str, str]:
    embeddings = {"tokens": "word_embeddings", "positions": "position_embeddings"}
    embeddings |= {"types": "token_type_embeddings", "norm": "LayerNorm"}
    ends = {f"embed_{ours}": f"{base}.embeddings.{theirs}" for ours, theirs in embeddings.items()}
    return ends | {"head.dense": dense, "head.norm": norm, "lm_head": decoder, "lm_head.bias": bias}


_MODERNBERT_ENDS = {
    "embed_tokens": "model.embeddings.tok_embeddings",
    "embed_norm": "model.embeddings.norm",
    "norm": "model.final_norm",
    "head.dense": "head.dense",
    "head.norm": "head.norm",
    "lm_head": "decoder",
}
_CLS = "cls.predictions"
_BERT_ENDS = _bert_ends(
    "bert", f"{_CLS}.transform.dense", f"{_CLS}.transform.LayerNorm", f"{_CLS}.decoder", f"{_CLS}.bias"
)
_ROBERTA_ENDS = _bert_ends(
    "roberta", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"
)
_BERT_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_BERT_FIXED |= {"add_cross_attention": False}

FAMILIES = (
    Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        names=_named("model.layers", _QWEN_BLOCK, _DECODER_ENDS),
        read=configs.read_qwen3,
        write=configs.write_qwen3,
        fixed={"hidden_act": "silu", "use_sliding_window": False},
    ),
    Family(
        model_type="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        names=_named("model.layers", _MIXTURE_BLOCK, _DECODER_ENDS),
        read=configs.read_qwen3,
        write=configs.write_qwen3,
        fixed={"hidden_act": "silu", "use_sliding_window": False},
    ),
    Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        names=_named("model.layers", _QWEN_BLOCK, _DECODER_ENDS),
        read=configs.read_llama,
        write=configs.write_llama,
        fixed={"hidden_act": "silu"},
    ),
    Family(
        model_type="olmo2",
        architecture="Olmo2ForCausalLM",
        names=_named("model.layers", _OLMO_BLOCK, _DECODER_ENDS),
        read=configs.read_olmo2,
        write=configs.write_olmo2,
        fixed={"hidden_act": "silu"},
    ),
    Family(
        model_type="modernbert",
        architecture="ModernBertForMaskedLM",
        names=_named("model.layers", _MODERNBERT_BLOCK, _MODERNBERT_ENDS),
        read=configs.read_modernbert,
        write=configs.write_modernbert,
        fixed={"hidden_activation": "gelu", "classifier_activation": "gelu"},
    ),
    Family(
        model_type="bert",
        architecture="BertForMaskedLM",
        names=_named("bert.encoder.layer", _BERT_BLOCK, _BERT_ENDS),
        read=configs.read_bert,
        write=configs.write_bert,
        fixed=_BERT_FIXED,
    ),
    Family(
        model_type="roberta",
        architecture="RobertaForMaskedLM",
        names=_named("roberta.encoder.layer", _BERT_BLOCK, _ROBERTA_ENDS),
        read=configs.read_bert,
        write=configs.write_bert,
        fixed=_BERT_FIXED,
    ),
)
