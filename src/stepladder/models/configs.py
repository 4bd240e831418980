"""config.json of a family in; our Shape out, and back. No torch.

Defaults are those of the configuration classes of transformers 5.24.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from stepladder.models.expert_files import experts_from_config, mixture_config
from stepladder.records import Local, RopeScaling, Shape, Variant

Config = Mapping[str, Any]


def _sizes(config: Config, head_dim: int | None = None) -> dict[str, Any]:
    """What all families call the same."""
    width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    return {
        "num_layers": int(config["num_hidden_layers"]),
        "width": width,
        "num_heads": heads,
        "num_kv_heads": int(config.get("num_key_value_heads") or heads),
        "head_dim": int(config.get("head_dim") or head_dim or width // heads),
        "ffn_width": int(config["intermediate_size"]),
        "vocab_size": int(config["vocab_size"]),
        "context_tokens": int(config["max_position_embeddings"]),
    }


def _their_sizes(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": shape.context_tokens,
        "initializer_range": 0.02,
        "tie_word_embeddings": shape.tied_head,
    }


def _biases(config: Config) -> Literal["none", "attention", "mlp", "all"]:
    attention, mlp = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    return "all" if attention and mlp else "attention" if attention else "mlp" if mlp else "none"


def _rope(config: Config) -> dict[str, Any]:
    """Rotary parameters, as transformers 4 or 5 writes them."""
    return {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}


def rope_problems(config: Config) -> list[str]:
    """Kinds of rotary positions that are not ours."""
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    return [] if kind in ("default", "llama3") else [f"rope_type = {kind!r}"]


def _rope_variant(config: Config) -> dict[str, Any]:
    rope, scaling = _rope(config), RopeScaling()
    if rope.get("rope_type", rope.get("type")) == "llama3":
        scaling = RopeScaling(
            factor=float(rope["factor"]),
            low_frequency=float(rope["low_freq_factor"]),
            high_frequency=float(rope["high_freq_factor"]),
            original_tokens=int(rope["original_max_position_embeddings"]),
        )
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    return {"rope_theta": theta, "rope_scaling": scaling}


def _decoder(config: Config, head_dim: int | None = None, **variant: Any) -> Shape:
    return Shape(
        **_sizes(config, head_dim),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        variant=Variant(
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            biases=_biases(config),
            **_rope_variant(config),
            **variant,
        ),
    )


def write_llama(shape: Shape) -> dict[str, Any]:
    """For LlamaConfig: rope_theta is what transformers 4 reads, rope_parameters what transformers 5 reads."""
    variant, scaling = shape.variant, shape.variant.rope_scaling
    attention, mlp = variant.linear_biases
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling != RopeScaling():
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency,
            "original_max_position_embeddings": scaling.original_tokens,
        }
    return _their_sizes(shape) | {
        "num_key_value_heads": shape.num_kv_heads,
        # It stands by itself because it need not be width / heads.
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": variant.norm_eps,
        "rope_theta": variant.rope_theta,
        "rope_parameters": {**rope, "rope_theta": variant.rope_theta},
        **({"rope_scaling": rope} if scaling != RopeScaling() else {}),
        "attention_bias": attention,
        "attention_dropout": 0.0,
        **({"mlp_bias": True} if mlp else {}),
        "use_cache": True,
    }


def read_qwen3(config: Config) -> Shape:
    """Of Qwen3Config and Qwen3MoeConfig."""
    # 128 is the default of transformers' Qwen3Config, whatever the width. It has no bias in its MLP.
    shape = _decoder({**config, "mlp_bias": False}, head_dim=128)
    return replace(shape, experts=experts_from_config(config))


def write_qwen3(shape: Shape) -> dict[str, Any]:
    """For Qwen3Config, or Qwen3MoeConfig where the shape has experts."""
    windows = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": shape.num_layers}
    return {"model_type": "qwen3"} | write_llama(shape) | windows | mixture_config(shape)


def read_llama(config: Config) -> Shape:
    """Of LlamaConfig."""
    return _decoder(config, qk_norm="none")


def read_olmo2(config: Config) -> Shape:
    """Of Olmo2Config."""
    # Its attention has heads of width / heads, whatever head_dim says; no bias in its MLP.
    known = {key: value for key, value in config.items() if key not in ("head_dim", "mlp_bias")}
    known.setdefault("rms_norm_eps", 1e-5)
    return _decoder(known, qk_norm="whole", norm_place="inside")


def write_olmo2(shape: Shape) -> dict[str, Any]:
    """For Olmo2Config."""
    return {key: value for key, value in write_llama(shape).items() if key != "head_dim"}


def read_bert(config: Config) -> Shape:
    """Of BertConfig and RobertaConfig."""
    sizes = _sizes({**config, "num_key_value_heads": None, "head_dim": None})
    # RoBERTa's positions begin behind the row of its padding.
    offset = 0 if config.get("model_type", "bert") == "bert" else int(config.get("pad_token_id", 1)) + 1
    sizes["context_tokens"] -= offset
    return Shape(
        **sizes,
        tied_head=bool(config.get("tie_word_embeddings", True)),
        causal=False,
        variant=Variant(
            rope_theta=0.0,
            norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            norm="layer_bias",
            norm_place="after",
            qk_norm="none",
            mlp="gelu",
            biases="all",
            lm_head="dense_bias",
            token_types=int(config.get("type_vocab_size", 2)),
            position_offset=offset,
        ),
    )


def write_bert(shape: Shape) -> dict[str, Any]:
    """For BertConfig, or RobertaConfig where positions have an offset."""
    offset = shape.variant.position_offset
    kind = {"model_type": "roberta", "pad_token_id": offset - 1} if offset else {"model_type": "bert"}
    return _their_sizes(shape) | {
        **kind,
        "max_position_embeddings": shape.context_tokens + offset,
        "hidden_act": "gelu",
        "layer_norm_eps": shape.variant.norm_eps,
        "type_vocab_size": shape.variant.token_types,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _modernbert_types(config: Config) -> list[bool]:
    """Whether each block attends to a window."""
    if config.get("layer_types"):
        return [kind == "sliding_attention" for kind in config["layer_types"]]
    every = int(config.get("global_attn_every_n_layers", 3))
    return [number % every > 0 for number in range(int(config["num_hidden_layers"]))]


def _modernbert_every(types: list[bool]) -> int:
    return next((n for n in range(1, len(types)) if not types[n]), len(types))


def modernbert_problems(config: Config) -> list[str]:
    """What our blocks do not compute of a ModernBertConfig."""
    ropes = config.get("rope_parameters") or {}
    kinds = [f"{name}: {value}" for name, value in ropes.items() if value.get("rope_type") != "default"]
    problems = [f"rope_parameters {kind}" for kind in kinds]
    types = _modernbert_types(config) if "num_hidden_layers" in config or "layer_types" in config else []
    if types and types != [n % _modernbert_every(types) > 0 for n in range(len(types))]:
        problems.append("layer_types: not every n-th block attends to all")
    if bool(config.get("classifier_bias")) != bool(config.get("norm_bias")):
        problems.append("classifier_bias is not norm_bias")
    return problems


def read_modernbert(config: Config) -> Shape:
    """Of ModernBertConfig, as transformers 4 or 5 writes it."""
    ropes, types, local = config.get("rope_parameters") or {}, _modernbert_types(config), Local()
    if any(types):
        theta = ropes.get("sliding_attention", {}).get("rope_theta", config.get("local_rope_theta", 10_000.0))
        window = int(config.get("local_attention", 128))
        local = Local(window=window, every=_modernbert_every(types), rope_theta=float(theta))
    theta = ropes.get("full_attention", {}).get("rope_theta", config.get("global_rope_theta", 160_000.0))
    return Shape(
        **_sizes({**config, "num_key_value_heads": None, "head_dim": None}),
        tied_head=bool(config.get("tie_word_embeddings", True)),
        causal=False,
        variant=Variant(
            rope_theta=float(theta),
            norm_eps=float(config.get("norm_eps", 1e-5)),
            norm="layer_bias" if config.get("norm_bias") else "layer",
            qk_norm="none",
            mlp="geglu",
            biases=_biases(config),
            lm_head="dense_bias" if config.get("decoder_bias", True) else "dense",
            local=local,
        ),
    )


def write_modernbert(shape: Shape) -> dict[str, Any]:
    """For ModernBertConfig."""
    variant, local = shape.variant, shape.variant.local
    attention, mlp = variant.linear_biases
    types = ["sliding" if variant.is_local(number) else "full" for number in range(shape.num_layers)]
    thetas = {"full": variant.rope_theta, "sliding": local.rope_theta}
    return _their_sizes(shape) | {
        "hidden_activation": "gelu",
        "norm_eps": variant.norm_eps,
        "norm_bias": variant.norm == "layer_bias",
        "classifier_bias": variant.norm == "layer_bias",
        "classifier_activation": "gelu",
        "attention_bias": attention,
        "mlp_bias": mlp,
        "decoder_bias": variant.lm_head == "dense_bias",
        "local_attention": local.window or 128,
        "layer_types": [f"{kind}_attention" for kind in types],
        "rope_parameters": {
            f"{kind}_attention": {"rope_type": "default", "rope_theta": theta}
            for kind, theta in thetas.items()
        },
        # The same for transformers 4.
        "global_attn_every_n_layers": local.every if local.window else 1,
        "global_rope_theta": variant.rope_theta,
        "local_rope_theta": local.rope_theta,
    }
