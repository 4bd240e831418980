"""A run or Hugging Face folder of a decoder in; one GGUF file that llama.cpp runs as it is, out. No torch.

What llama.cpp takes: its own names of tensors, vectors in fp32, the rows of Llama's queries and keys in
interleaved order, and a byte-level BPE whose pre-tokenizer is one of those that it has a name for.
Sources: src/models/{qwen3,qwen3moe,llama,olmo2}.cpp and src/llama-vocab.cpp of llama.cpp, as in
llama-cpp-python 0.3. The `gguf` package writes the format.
"""

import importlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.errors import ExportError, MissingExtraError
from stepladder.models.export import (
    Dtype,
    convert,
    family_beside,
    our_names,
    read_shape,
    read_tensors,
    weights_folder,
)
from stepladder.models.families import family_of_shape
from stepladder.models.words import find_tokenizer, token_ids, tokenizer_files
from stepladder.records import RopeScaling, Shape
from stepladder.store import writing

# model_type of transformers -> architecture of llama.cpp.
_ARCHITECTURES = {"qwen3": "qwen3", "qwen3_moe": "qwen3moe", "llama": "llama", "olmo2": "olmo2"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_OLMO_BLOCK = _BLOCK | {
    "input_layernorm": "post_attention_norm",
    "post_attention_layernorm": "post_ffw_norm",
}
_ENDS = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The pattern that splits a text, whether whole pieces skip the merges -> what llama.cpp calls it. Ours is the
# first. "" is the pattern that ByteLevel of `tokenizers` has itself, GPT-2's.
PRE_TOKENIZERS = {
    (_LETTERS + r"\p{N}" + _REST, False): "qwen2",
    (_LETTERS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_LETTERS + r"\p{N}{1,3}" + _REST, False): "dbrx",
    ("", False): "gpt-2",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def export_gguf(run: Path, out: Path, tokenizer: Path | None = None, *, dtype: Dtype = "keep") -> Path:
    """Write `out`, one GGUF file; arguments and errors are those of `export_folder`.

    Raises:
        MissingExtraError: the `gguf` package is not installed.
        ExportError: llama.cpp does not compute this network, or has no name for its pre-tokenizer.
    """
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as error:
        raise MissingExtraError("writing GGUF", "gguf") from error
    source = weights_folder(run)
    shape = read_shape(source)
    architecture = _architecture(shape)
    ours = our_names(read_tensors(source), shape, family_beside(source))
    files, ids = tokenizer_files(tokenizer if tokenizer is not None else find_tokenizer(run), shape)
    # The library opens its file itself; the copy then is whole or not there.
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        writer = gguf.GGUFWriter(Path(scratch) / out.name, architecture)
        _write_sizes(writer, shape, run.resolve().name)
        _write_words(writer, files, ids, shape.vocab_size)
        for name, values, kind in _tensors(ours, shape, architecture, dtype):
            writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with writing(out) as file, open(Path(scratch) / out.name, "rb") as whole:
            shutil.copyfileobj(whole, file)
    return out


def _architecture(shape: Shape) -> str:
    """What llama.cpp calls the family; ExportError where it computes something else."""
    family, variant = family_of_shape(shape).model_type, shape.variant
    problems = [] if family in _ARCHITECTURES else [family]
    problems += [f"biases in {variant.biases}"] if shape.causal and variant.biases != "none" else []
    problems += ["scaled rotary positions"] if variant.rope_scaling != RopeScaling() else []
    if problems:
        raise ExportError(
            "this network has no GGUF that we write",
            got=", ".join(problems),
            allowed=f"{', '.join(_ARCHITECTURES)} without biases, with plain rotary positions",
            next_command="stepladder export FOLDER --format folder",
        )
    return _ARCHITECTURES[family]


def _write_sizes(writer: Any, shape: Shape, name: str) -> None:
    writer.add_name(name)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.variant.rope_theta)
    writer.add_layer_norm_rms_eps(shape.variant.norm_eps)
    if shape.experts.count:
        writer.add_expert_count(shape.experts.count)
        writer.add_expert_used_count(shape.experts.active)
        writer.add_expert_feed_forward_length(shape.experts.ffn_width)


def _write_words(
    writer: Any, files: Mapping[str, Any], ids: Mapping[str, int | None], vocab_size: int
) -> None:
    definition, words = files["tokenizer.json"], files.get("tokenizer_config.json", {})
    name = pre_tokenizer_name(definition)
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    kinds = [_UNUSED] * vocab_size
    for token, number in token_ids(definition).items():
        tokens[number], kinds[number] = token, _NORMAL
    for token in definition.get("added_tokens", ()):
        kinds[token["id"]] = _CONTROL if token["special"] else _USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = definition["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for role in ("bos", "eos", "pad"):
        if ids.get(f"{role}_token_id") is not None:
            getattr(writer, f"add_{role}_token_id")(ids[f"{role}_token_id"])
    single = (definition.get("post_processor") or {}).get("single") or [{}]
    writer.add_add_bos_token(bool(words.get("add_bos_token", "SpecialToken" in single[0])))


def pre_tokenizer_name(definition: Mapping[str, Any]) -> str:
    """What llama.cpp calls the way in which a tokenizer.json splits texts.

    Raises:
        ExportError: it is no byte-level BPE, or llama.cpp has no name for its pattern.
    """
    model, splitter = definition["model"], definition.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [splitter])
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps if step.get("type") != "Split"]
    is_gpt2 = not patterns and steps[-1].get("use_regex", True)
    pattern = patterns[0] if len(patterns) == 1 else "" if is_gpt2 else None
    found = PRE_TOKENIZERS.get((str(pattern), bool(model.get("ignore_merges"))))
    if model.get("type") != "BPE" or kinds != ["ByteLevel"] or pattern is None or found is None:
        raise ExportError(
            "llama.cpp has no name for this pre-tokenizer",
            got=f"{model.get('type')} with {json.dumps(splitter, ensure_ascii=False)[:200]}",
            allowed=f"a byte-level BPE that splits as {', '.join(PRE_TOKENIZERS.values())} do",
            next_command="stepladder data PATH... --out corpus",
        )
    return found


def _tensors(
    ours: Mapping[str, dict[str, Any]], shape: Shape, architecture: str, dtype: Dtype
) -> Iterator[tuple[str, np.ndarray, str]]:
    """Name, values and type of each tensor; a 16-bit float is its bits."""
    if architecture == "olmo2" and shape.tied_head:
        # It alone asks for a head of its own.
        ours = {**ours, "lm_head.weight": ours["embed_tokens.weight"]}
    for name, tensor in ours.items():
        is_small = len(tensor["shape"]) == 1 or name.endswith("mlp.gate.weight")
        stored = convert(tensor, "fp32" if is_small else dtype, name)
        values = np.frombuffer(stored["data"], dtype="<f4" if stored["dtype"] == "F32" else "<u2")
        values = values.reshape(stored["shape"])
        heads = {"q_proj": shape.num_heads, "k_proj": shape.num_kv_heads}.get(name.split(".")[-2])
        if architecture == "llama" and heads:
            # (i, i + E/2) to (2i, 2i + 1): llama.cpp turns neighbouring rows of Llama's.
            split = values.reshape(heads, 2, shape.head_dim // 2, -1)
            values = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(stored["shape"])
        yield _gguf_name(name, architecture), values, stored["dtype"]


def _gguf_name(ours: str, architecture: str) -> str:
    stem = ours.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{_ENDS[stem]}.weight"
    _, number, part = stem.split(".", 2)
    return f"blk.{number}.{(_OLMO_BLOCK if architecture == 'olmo2' else _BLOCK)[part]}.weight"
