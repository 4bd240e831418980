"""A run folder's weights, shape and tokenizer in; a folder that transformers loads with no custom code out.

No torch: the tensors keep their bytes and only get the names of their family (`models/families.py`), so that
the planning half may export too. Reading a folder back into our network is `models/hf.py`.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stepladder.errors import ExportError
from stepladder.models.expert_files import expert_shapes, join_experts, split_experts
from stepladder.models.families import (
    Family,
    config_for,
    family_of_config,
    family_of_shape,
    shape_from_config,
    their_name,
)
from stepladder.models.words import find_tokenizer as find_tokenizer
from stepladder.models.words import read_tokenizer as read_tokenizer
from stepladder.models.words import tokenizer_files
from stepladder.records import Shape, from_json
from stepladder.store import read_json, write_bytes, write_json, write_text

WEIGHTS_FILE, INDEX_FILE, SHAPE_FILE = "model.safetensors", "model.safetensors.index.json", "shape.json"
Dtype = Literal["keep", "fp32", "bf16"]
# name -> {"dtype": "F32", "shape": [..], "data": bytes}: what safetensors calls a serialised tensor.
Tensors = dict[str, dict[str, Any]]
# "weight" and "bias" of a module -> their shapes.
Sizes = dict[str, tuple[int, ...]]
_TORCH_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def export_folder(run: Path, out: Path, tokenizer: Path | None = None, *, dtype: Dtype = "keep") -> Path:
    """Write `out` with config, generation config, weights and tokenizer; returns `out`.

    `run` is a run folder (weights in `run/model`), a folder with model.safetensors and shape.json, or a
    Hugging Face folder of a family that we read. `tokenizer` is a folder with tokenizer.json, or that file;
    by default what the run names.

    Raises:
        ExportError: weights are missing, damaged, not finite, or do not fit the shape; no family has it.
    """
    source = weights_folder(run)
    shape = read_shape(source)
    family = family_of_shape(shape)
    tensors = their_tensors(our_names(read_tensors(source), shape, family_beside(source)), family)
    tensors = {name: convert(tensor, dtype, name) for name, tensor in tensors.items()}
    files, ids = tokenizer_files(tokenizer if tokenizer is not None else find_tokenizer(run), shape)
    stored = {tensor["dtype"] for tensor in tensors.values()}
    if len(stored) != 1 or not stored <= set(_TORCH_DTYPES):
        raise ExportError("the weights have mixed or unknown types", got=", ".join(sorted(stored)))
    config = config_for(shape, ids, _TORCH_DTYPES[stored.pop()])
    if (run / "plan.json").exists() or is_own_export(source):
        config[_MARK] = "stepladder"
    # config.json last: a folder with one is a whole one.
    for name, content in files.items():
        write = write_text if isinstance(content, str) else write_json
        write(out / name, content)
    if shape.causal:
        # No max_new_tokens and no temperature: they would silently change what every user's generate() does.
        known = {key: ids[key] for key in _GENERATION_KEYS if ids.get(key) is not None}
        write_json(out / "generation_config.json", known)
    write_tensors(out / WEIGHTS_FILE, tensors)
    write_json(out / "config.json", config)
    return out


# Of config.json: says whose recipe a network was trained with, which `tune/rates.py` asks.
_MARK = "trained_by"
_GENERATION_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def weights_folder(folder: Path) -> Path:
    """The folder that holds the weights: `folder` itself, or `folder/model` of a run."""
    for candidate in (folder, folder / "model"):
        if (candidate / WEIGHTS_FILE).exists() or (candidate / INDEX_FILE).exists():
            return candidate
    raise ExportError(
        f"{folder} holds no trained weights",
        got="neither model.safetensors nor model/model.safetensors",
        allowed="a finished run folder, or a Hugging Face folder with safetensors",
        next_command=f"stepladder train {folder}/plan.json --out {folder}",
    )


def read_shape(folder: Path) -> Shape:
    """The Shape that lies beside weights: shape.json of ours, or config.json of a Hugging Face folder."""
    if (folder / SHAPE_FILE).exists():
        return from_json(Shape, read_json(folder / SHAPE_FILE))
    if (folder / "config.json").exists():
        return shape_from_config(read_json(folder / "config.json"))
    raise ExportError(f"{folder} has weights but neither shape.json nor config.json")


def is_own_export(folder: Path) -> bool:
    """Whether a Hugging Face folder holds a network that was trained here and not tuned since."""
    config = folder / "config.json"
    return config.exists() and read_json(config).get(_MARK) == "stepladder"


def family_beside(folder: Path) -> Family | None:
    """The family whose names the tensors of a folder have; None for ours, beside shape.json."""
    if (folder / SHAPE_FILE).exists() or not (folder / "config.json").exists():
        return None
    return family_of_config(read_json(folder / "config.json"))


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
    width, variant = shape.width, shape.variant
    norm: Sizes = {"weight": (width,), **({"bias": (width,)} if variant.norm == "layer_bias" else {})}
    parts: dict[str, Sizes] = {"embed_tokens": {"weight": (shape.vocab_size, width)}}
    if not variant.rope_theta:
        parts["embed_positions"] = {"weight": (variant.position_offset + shape.context_tokens, width)}
    if variant.token_types:
        parts["embed_types"] = {"weight": (variant.token_types, width)}
    if variant.embed_norm:
        parts["embed_norm"] = norm
    for layer in range(shape.num_layers):
        block = _block_shapes(shape, norm)
        if layer == 0 and variant.embed_norm and variant.norm_place == "before":
            block.pop("input_layernorm")
        parts |= {f"layers.{layer}.{name}": kinds for name, kinds in block.items()}
    if variant.norm_place != "after":
        parts["norm"] = norm
    if variant.lm_head != "plain":
        parts |= {"head.dense": _linear(width, width, "bias" in norm), "head.norm": norm}
    parts["lm_head"] = _linear(width, shape.vocab_size, variant.lm_head == "dense_bias")
    if shape.tied_head:
        parts["lm_head"].pop("weight")
    names = {f"{name}.{kind}": size for name, kinds in parts.items() for kind, size in kinds.items()}
    for layer in range(shape.num_layers if shape.experts.count else 0):
        names |= expert_shapes(shape, f"layers.{layer}.")
    return names


def _linear(inputs: int, outputs: int, bias: bool) -> Sizes:
    return {"weight": (outputs, inputs), **({"bias": (outputs,)} if bias else {})}


def _block_shapes(shape: Shape, norm: Sizes) -> dict[str, Sizes]:
    width, ffn, variant = shape.width, shape.ffn_width, shape.variant
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    bias, mlp_bias = variant.linear_biases
    block = {"input_layernorm": norm}
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        block[f"self_attn.{name}_proj"] = _linear(width, rows, bias)
    block["self_attn.o_proj"] = _linear(queries, width, bias)
    if variant.qk_norm != "none":
        sizes = (shape.head_dim, shape.head_dim) if variant.qk_norm == "head" else (queries, keys)
        for name, size in zip("qk", sizes, strict=True):
            block[f"self_attn.{name}_norm"] = {"weight": (size,)}
    block["post_attention_layernorm"] = norm
    if shape.experts.count:
        return block
    if variant.mlp != "gelu":
        block["mlp.gate_proj"] = _linear(width, ffn, mlp_bias)
    block["mlp.up_proj"], block["mlp.down_proj"] = (
        _linear(width, ffn, mlp_bias),
        _linear(ffn, width, mlp_bias),
    )
    return block


# Tensors that no forward pass of ours needs: tables that follow from the shape, heads of other tasks, copies.
_UNUSED = re.compile(r"(position_ids|inv_freq)$|(^|\.)pooler\.|^cls\.seq_relationship\.")
# The bias of BERT's and RoBERTa's vocabulary has two names.
_DECODER_BIAS = {
    "cls.predictions.bias": "cls.predictions.decoder.bias",
    "lm_head.bias": "lm_head.decoder.bias",
}


def our_names(tensors: Tensors, shape: Shape, family: Family | None = None) -> Tensors:
    """Tensors under the names of models/transformer.py; ExportError lists what is missing, extra, misshapen.

    `family` is the one whose names they have; None for ours. The copy of a tied head that some writers store
    is dropped.
    """
    expected = expected_shapes(shape)
    theirs = _grouped(expected, family)
    # Names of before LayerNorm had weights and biases (BERT's first checkpoints).
    old = {".gamma": ".weight", ".beta": ".bias"}
    found = {re.sub(r"\.(gamma|beta)$", lambda m: old[m[0]], name): t for name, t in tensors.items()}
    found = join_experts(found)
    for one, copy in _DECODER_BIAS.items():
        # Where the head is not tied, transformers 5 computes with the decoder's own.
        if copy in found:
            found[one] = found.pop(copy)
    if family is None:
        found = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    if shape.tied_head:
        found.pop("lm_head.weight" if family is None else their_name(family, "lm_head.weight"), None)
    sizes = {
        name: (sum(expected[one][0] for one in ours), *expected[ours[0]][1:]) for name, ours in theirs.items()
    }
    problems = [f"missing {name}" for name in sorted(theirs.keys() - found.keys())]
    problems += [f"unknown {n}" for n in sorted(found.keys() - theirs.keys()) if not _UNUSED.search(n)]
    problems += [
        f"{name} is {tuple(found[name]['shape'])}, not {wanted}"
        for name, wanted in sizes.items()
        if name in found and tuple(found[name]["shape"]) != wanted
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ExportError("the weights do not fit the shape", got="; ".join(problems[:10]) + more)
    out: Tensors = {}
    for name, ours in theirs.items():
        tensor, at = found[name], 0
        row = len(tensor["data"]) // sizes[name][0]
        for one in ours:
            end = at + expected[one][0] * row
            out[one] = {**tensor, "shape": list(expected[one]), "data": tensor["data"][at:end]}
            at = end
    return {name: out[name] for name in expected}


def their_tensors(ours: Tensors, family: Family) -> Tensors:
    """Our tensors under a family's names, joined where it keeps several in one."""
    out: Tensors = {}
    for name, parts in _grouped(ours, family).items():
        first = ours[parts[0]]
        rows = sum(ours[part]["shape"][0] for part in parts)
        data = first["data"] if len(parts) == 1 else b"".join(ours[part]["data"] for part in parts)
        out[name] = {**first, "shape": [rows, *first["shape"][1:]], "data": data}
    out = split_experts(out)
    if "lm_head.weight" in ours:
        out |= {copy: out[one] for one, copy in _DECODER_BIAS.items() if one in out}
    return out


def _grouped(ours: Iterable[str], family: Family | None) -> dict[str, list[str]]:
    """Their tensor -> those of ours that lie in it, in order."""
    theirs: dict[str, list[str]] = {}
    for name in ours:
        theirs.setdefault(name if family is None else their_name(family, name), []).append(name)
    return theirs
