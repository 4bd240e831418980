"""A run folder's weights, shape and tokenizer in; a folder that transformers loads with no custom code out.

No torch: the tensors keep their bytes and only get the names of Qwen3ForCausalLM, so that the planning half
may export too. Reading a folder back into our network is `models/hf.py`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stepladder.errors import ExportError, StoreError
from stepladder.models.expert_files import (
    expert_shapes,
    experts_from_config,
    foreign_mixture,
    join_experts,
    mixture_config,
    split_experts,
)
from stepladder.records import Shape, Variant, from_json
from stepladder.store import read_json, write_bytes, write_json

WEIGHTS_FILE, INDEX_FILE, SHAPE_FILE = "model.safetensors", "model.safetensors.index.json", "shape.json"
END_OF_TEXT = "<|endoftext|>"
Dtype = Literal["keep", "fp32", "bf16"]
# name -> {"dtype": "F32", "shape": [..], "data": bytes}: what safetensors calls a serialised tensor.
Tensors = dict[str, dict[str, Any]]
_TORCH_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def export_folder(run: Path, out: Path, tokenizer: Path | None = None, *, dtype: Dtype = "keep") -> Path:
    """Write `out` with config, generation config, weights and tokenizer; returns `out`.

    `run` is a run folder (weights in `run/model`) or a folder with model.safetensors and shape.json.
    `tokenizer` is a folder with tokenizer.json, or that file; by default what the run names.

    Raises:
        ExportError: weights are missing, damaged, not finite, or do not fit the shape; encoder shapes.
    """
    source = weights_folder(run)
    shape = read_shape(source)
    if not shape.causal:
        raise ExportError(
            "only decoders can be exported yet", got="an encoder (causal = false)", allowed="causal = true"
        )
    tensors = _named_for_qwen3(read_tensors(source), shape)
    tensors = {name: convert(tensor, dtype, name) for name, tensor in tensors.items()}
    definition = read_tokenizer(tokenizer if tokenizer is not None else find_tokenizer(run))
    end = _end_of_text_id(definition, shape)
    stored = {tensor["dtype"] for tensor in tensors.values()}
    if len(stored) != 1 or not stored <= set(_TORCH_DTYPES):
        raise ExportError("the weights have mixed or unknown types", got=", ".join(sorted(stored)))
    config = qwen3_config(shape, end, _TORCH_DTYPES[stored.pop()])
    # config.json last: a folder with one is a whole one.
    write_json(out / "tokenizer.json", definition)
    write_json(out / "tokenizer_config.json", _tokenizer_config(shape))
    write_json(out / "generation_config.json", {key: config[key] for key in _GENERATION_KEYS})
    write_tensors(out / WEIGHTS_FILE, tensors)
    write_json(out / "config.json", config)
    return out


# No max_new_tokens and no temperature: they would silently change what every user's generate() does.
_GENERATION_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def qwen3_config(shape: Shape, end: int, torch_dtype: str) -> dict[str, Any]:
    """config.json of Qwen3ForCausalLM, or of Qwen3MoeForCausalLM where the shape has experts.

    rope_theta is what transformers 4 reads, rope_parameters what transformers 5 reads; head_dim stands by
    itself because it need not be width / heads.
    """
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": shape.variant.norm_eps,
        "rope_theta": shape.variant.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.variant.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": shape.num_layers,
        "initializer_range": 0.02,
        "tie_word_embeddings": shape.tied_head,
        "use_cache": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": torch_dtype,
        **mixture_config(shape),
    }


def shape_from_config(config: Mapping[str, Any]) -> Shape:
    """The Shape of a Qwen3 config.json; ExportError says all that our blocks do not compute."""
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    refused = {
        "model_type": config.get("model_type") not in ("qwen3", "qwen3_moe"),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias", False)),
        "use_sliding_window": bool(config.get("use_sliding_window", False)),
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "rope_scaling": scaling.get("rope_type", scaling.get("type", "default")) != "default",
    }
    refused |= foreign_mixture(config)
    problems = [f"{key} = {config.get(key)!r}" for key, bad in refused.items() if bad]
    if problems:
        raise ExportError(
            "this configuration is not one that can be read",
            got="; ".join(problems),
            allowed="model_type qwen3 or qwen3_moe (experts in all blocks, weights that sum to 1), "
            "hidden_act silu, no attention bias, no sliding window, plain rotary",
        )
    try:
        heads = int(config["num_attention_heads"])
        return Shape(
            num_layers=int(config["num_hidden_layers"]),
            width=int(config["hidden_size"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            # 128 is the default of transformers' Qwen3Config, whatever the width.
            head_dim=int(config.get("head_dim") or 128),
            ffn_width=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            context_tokens=int(config["max_position_embeddings"]),
            tied_head=bool(config.get("tie_word_embeddings", False)),
            variant=Variant(
                rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
                norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            ),
            experts=experts_from_config(config),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError("config.json lacks a size or holds a wrong one", got=repr(error)) from error


def weights_folder(folder: Path) -> Path:
    """The folder that holds the weights: `folder` itself, or `folder/model` of a run."""
    for candidate in (folder, folder / "model"):
        if (candidate / WEIGHTS_FILE).exists() or (candidate / INDEX_FILE).exists():
            return candidate
    raise ExportError(
        f"{folder} holds no trained weights",
        got="neither model.safetensors nor model/model.safetensors",
        allowed="a finished run folder, or a folder in the Qwen3 layout",
        next_command=f"stepladder train {folder}/plan.json --out {folder}",
    )


def read_shape(folder: Path) -> Shape:
    """The Shape that lies beside weights: shape.json of ours, or config.json of a Hugging Face folder."""
    if (folder / SHAPE_FILE).exists():
        return from_json(Shape, read_json(folder / SHAPE_FILE))
    if (folder / "config.json").exists():
        return shape_from_config(read_json(folder / "config.json"))
    raise ExportError(f"{folder} has weights but neither shape.json nor config.json")


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a folder, as bytes; a sharded index is followed."""
    import safetensors

    names = [WEIGHTS_FILE]
    if not (folder / WEIGHTS_FILE).exists():
        names = sorted(set(read_json(folder / INDEX_FILE).get("weight_map", {}).values()))
    tensors: Tensors = {}
    for name in names:
        try:
            tensors |= dict(safetensors.deserialize((folder / name).read_bytes()))
        except (OSError, safetensors.SafetensorError) as error:
            raise ExportError(
                f"{folder / name} is not a whole safetensors file", got=str(error).strip()
            ) from error
    return tensors


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """One safetensors file, written whole or not at all; `format` is what transformers insists on.

    The format (8 bytes of header length, JSON header, data) is written here because the library's own
    function for raw bytes has changed its types between 0.4 and 0.8.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + len(tensor["data"])
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(path, b"".join((struct.pack("<Q", len(text)), text, *(t["data"] for t in tensors.values()))))


def convert(tensor: dict[str, Any], dtype: Dtype, name: str) -> dict[str, Any]:
    """A tensor in the asked type, checked to be finite."""
    stored = tensor["dtype"]
    if stored == "BF16":
        bits = np.frombuffer(tensor["data"], dtype="<u2").astype(np.uint32) << 16
        values = bits.view(np.float32)
    elif stored in ("F32", "F16"):
        values = np.frombuffer(tensor["data"], dtype="<f4" if stored == "F32" else "<f2")
    else:
        raise ExportError(f"{name} has a type that cannot be exported", got=stored, allowed="F32, BF16, F16")
    if not np.isfinite(values).all():
        raise ExportError(
            f"{name} is not finite", got=f"{int((~np.isfinite(values)).sum())} NaN or infinite weights"
        )
    if dtype == "fp32" and stored != "F32":
        return {**tensor, "dtype": "F32", "data": values.astype("<f4").tobytes()}
    if dtype == "bf16" and stored != "BF16":
        bits = values.astype("<f4").view("<u4")
        # Round to nearest, ties to even, as torch does.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return {**tensor, "dtype": "BF16", "data": rounded.astype("<u2").tobytes()}
    return tensor


def expected_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Parameter names of models/transformer.py with their shapes; the head is absent where it is tied."""
    width, ffn, head = shape.width, shape.ffn_width, shape.head_dim
    queries, keys = shape.num_heads * head, shape.num_kv_heads * head
    names: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (shape.vocab_size, width),
        "norm.weight": (width,),
    }
    if not shape.tied_head:
        names["lm_head.weight"] = (shape.vocab_size, width)
    for layer in range(shape.num_layers):
        at = f"layers.{layer}."
        names |= {
            at + "input_layernorm.weight": (width,),
            at + "post_attention_layernorm.weight": (width,),
            at + "self_attn.q_proj.weight": (queries, width),
            at + "self_attn.k_proj.weight": (keys, width),
            at + "self_attn.v_proj.weight": (keys, width),
            at + "self_attn.o_proj.weight": (width, queries),
            at + "self_attn.q_norm.weight": (head,),
            at + "self_attn.k_norm.weight": (head,),
        }
        if shape.experts.count:
            names |= expert_shapes(shape, at)
            continue
        names |= {
            at + "mlp.gate_proj.weight": (ffn, width),
            at + "mlp.up_proj.weight": (ffn, width),
            at + "mlp.down_proj.weight": (width, ffn),
        }
    return names


def our_names(tensors: Tensors, shape: Shape) -> Tensors:
    """Tensors under the names of models/transformer.py; ExportError lists what is missing, extra, misshapen.

    The copy of a tied head that some writers store is dropped.
    """
    ours = join_experts({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    if shape.tied_head:
        ours.pop("lm_head.weight", None)
    expected = expected_shapes(shape)
    problems = [f"missing {name}" for name in sorted(expected.keys() - ours.keys())]
    problems += [f"unknown {name}" for name in sorted(ours.keys() - expected.keys())]
    problems += [
        f"{name} is {tuple(ours[name]['shape'])}, not {wanted}"
        for name, wanted in expected.items()
        if name in ours and tuple(ours[name]["shape"]) != wanted
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ExportError("the weights do not fit the shape", got="; ".join(problems[:10]) + more)
    return {name: ours[name] for name in expected}


def find_tokenizer(folder: Path) -> Path:
    """The tokenizer.json of a run: beside its weights, or in the corpus that its plan names."""
    candidates = [folder / "tokenizer.json", folder / "model" / "tokenizer.json"]
    plan = folder / "plan.json"
    if plan.exists():
        corpus = read_json(plan).get("corpus")
        if isinstance(corpus, str):
            candidates += [folder / corpus / "tokenizer.json", Path(corpus) / "tokenizer.json"]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ExportError(
        f"no tokenizer.json found for {folder}",
        got=", ".join(str(candidate) for candidate in candidates),
        allowed="--tokenizer with the folder of the corpus that it was trained on",
    )


def read_tokenizer(path: Path) -> dict[str, Any]:
    """The JSON of a tokenizer.json, given as file or folder."""
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        definition = read_json(path)
    except StoreError as error:
        raise ExportError(f"{path} cannot be read as a tokenizer", got=str(error)) from error
    if not isinstance(definition, dict) or "vocab" not in (definition.get("model") or {}):
        raise ExportError(f"{path} is not a tokenizer.json with a vocabulary")
    return definition


def token_ids(definition: Mapping[str, Any]) -> dict[str, int]:
    """Id of every token, added ones included; ExportError where there is no end of text."""
    vocabulary = definition["model"]["vocab"]
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {w: i for i, (w, _) in enumerate(vocabulary)}
    ids |= {token["content"]: token["id"] for token in definition.get("added_tokens", ())}
    if END_OF_TEXT not in ids:
        raise ExportError(f"the tokenizer has no {END_OF_TEXT}", got=f"{len(ids)} tokens")
    return ids


def _end_of_text_id(definition: Mapping[str, Any], shape: Shape) -> int:
    ids = token_ids(definition)
    largest = max(ids.values(), default=-1)
    if largest >= shape.vocab_size:
        raise ExportError(
            "the tokenizer does not belong to these weights",
            got=f"token ids up to {largest}",
            allowed=f"ids below the network's vocabulary of {shape.vocab_size}",
        )
    return ids[END_OF_TEXT]


def _tokenizer_config(shape: Shape) -> dict[str, Any]:
    # The generic class takes tokenizer.json as it is; Qwen2's own would put its pre-tokenizer and NFC in.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context_tokens,
        # Without this transformers 4 adds token_type_ids, which the network's generate() then refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }


def _named_for_qwen3(tensors: Tensors, shape: Shape) -> Tensors:
    ours = split_experts(our_names(tensors, shape))
    return {name if name.startswith("lm_head") else f"model.{name}": t for name, t in ours.items()}
