"""Words of a shape, or a Hugging Face config.json, in; a Shape, and a brief without a corpus, out."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepladder.errors import PlanError, did_you_mean
from stepladder.models.shape import ffn_width_for, layers_for_width, shape_for_width
from stepladder.plan.conflicts import listed
from stepladder.records import Shape
from stepladder.store import read_json

_USUAL_CONTEXT, _USUAL_VOCABULARY = 2_048, 32_768
# Published decoders say how far they can see; most of their training saw less.
_MOST_CONTEXT = 4_096
# field of Shape: the words for it, ours first, then those of config.json in the families of GPT-2, GPT-NeoX,
# LLaMA, Qwen, Gemma, OLMo and BERT.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "num_layers": ("layers", "num_layers", "num_hidden_layers", "n_layer", "n_layers"),
    "width": ("width", "hidden", "hidden_size", "n_embd", "d_model", "dim"),
    "num_heads": ("heads", "num_heads", "num_attention_heads", "n_head", "n_heads"),
    "num_kv_heads": ("kv_heads", "num_kv_heads", "num_key_value_heads", "n_kv_heads"),
    "head_dim": ("head_dim",),
    "ffn_width": ("ffn", "ffn_width", "intermediate_size", "n_inner", "ffn_hidden_size"),
    "vocab_size": ("vocab", "vocab_size", "vocabulary"),
    "context_tokens": ("context", "context_tokens", "seq", "max_position_embeddings", "n_positions", "n_ctx"),
    "tied_head": ("tied", "tied_head", "tie_word_embeddings"),
}
_FIELD_OF = {name: field for field, names in _NAMES.items() for name in names}
# Two matrices in the feed-forward part, not three.
_UNGATED = (
    "gpt2",
    "gpt_neox",
    "gptj",
    "gpt_bigcode",
    "opt",
    "bloom",
    "bert",
    "roberta",
    "falcon",
    "phi",
    "starcoder2",
)
_TIED_BY_DEFAULT = ("gpt2", "gpt_bigcode", "opt", "bloom", "gemma", "gemma2", "bert", "roberta", "falcon")
_ENCODERS = ("bert", "roberta", "modernbert")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def shape_from(text: str) -> tuple[Shape, list[str]]:
    """The Shape that `text` says, and notes on what was taken for granted.

    Raises:
        PlanError: a word is unknown, a size is missing or wrong; all of them are listed.
    """
    path = Path(text)
    if "=" not in text or path.is_file():
        return _from_config(path / "config.json" if path.is_dir() else path)
    values, problems = _words(text)
    return _shape(values, problems, "--shape")


def _words(text: str) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems = []
    for word in re.split(r"[\s,;]+", text.strip()):
        key, equals, value = word.partition("=")
        field = _FIELD_OF.get(key)
        if not equals or not value:
            problems.append(f'"{word}" is not NAME=NUMBER')
        elif field is None:
            problems.append(f'"{key}" is not a size of a model{did_you_mean(key, _FIELD_OF)}')
        elif field == "tied_head":
            values[field] = value.lower() in ("1", "true", "yes")
        elif not re.fullmatch(r"[0-9_]+", value) or int(value) < 1:
            problems.append(f"{key} = {value} is not a whole number above zero")
        else:
            values[field] = int(value)
    return values, problems


def _from_config(path: Path) -> tuple[Shape, list[str]]:
    config = read_json(path)
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict) or not any(name in config for name in _NAMES["width"]):
        raise PlanError(
            f"{path} is not the config.json of a language model",
            allowed="one with hidden_size, num_hidden_layers, num_attention_heads, vocab_size",
        )
    kind, problems, notes = str(config.get("model_type", "")), [], []
    experts = [f"{name} = {config[name]}" for name in _EXPERTS if (config.get(name) or 0) > 1]
    problems += [f"{said}: mixtures of experts are not planned from a config.json" for said in experts]
    values: dict[str, Any] = {}
    for field, names in _NAMES.items():
        found = next((config[name] for name in names if config.get(name) is not None), None)
        if found is not None:
            values[field] = found
    values.setdefault("tied_head", kind in _TIED_BY_DEFAULT)
    inner = values.get("ffn_width") or (4 * values["width"] if kind in _UNGATED else None)
    if kind in _UNGATED and inner:
        values["ffn_width"] = round(2 * inner / 3)
        notes.append(
            f"{kind} has two matrices of {inner:,} in its feed-forward part: counted as three of 2/3 of it"
        )
    if kind in _ENCODERS:
        values["causal"] = False
    seen = int(values.get("context_tokens", 0))
    if seen > _MOST_CONTEXT:
        values["context_tokens"] = _MOST_CONTEXT
        notes.append(
            f"trained on {_MOST_CONTEXT:,} tokens of context, not the {seen:,} that it can see; "
            "--set context_tokens=N says otherwise"
        )
    shape, more = _shape(values, problems, str(path))
    return shape, notes + more


def _shape(values: dict[str, Any], problems: list[str], where: str) -> tuple[Shape, list[str]]:
    notes = []
    if "width" not in values and not problems:
        problems.append("width is missing")
    if not problems:
        width = int(values["width"])
        heads = values.get("num_heads")
        if heads is not None and width % heads and "head_dim" not in values:
            problems.append(f"{heads} heads do not divide a width of {width}; give head_dim")
        kv_heads = values.get("num_kv_heads") or heads
        if heads is not None and heads % kv_heads:
            problems.append(f"{kv_heads} heads for keys do not divide {heads} heads")
    if problems:
        raise PlanError(
            listed(f"{where} has {len(problems)} problem{'s' if len(problems) > 1 else ''}", problems),
            allowed='config.json, or words: "layers=32 width=4096 heads=32 kv_heads=8 ffn=14336"',
        )
    width, heads = int(values["width"]), values.get("num_heads")
    for field, usual in (("vocab_size", _USUAL_VOCABULARY), ("context_tokens", _USUAL_CONTEXT)):
        if field not in values:
            values[field] = usual
            notes.append(f"{field} was not given: {usual:,}")
    if heads is None:
        plain = shape_for_width(
            width, vocab_size=values["vocab_size"], context_tokens=values["context_tokens"]
        )
        values |= {"num_heads": plain.num_heads, "head_dim": plain.head_dim}
        heads = plain.num_heads
    for field, rule in (("num_layers", layers_for_width), ("ffn_width", ffn_width_for)):
        if field not in values:
            values[field] = rule(width)
            notes.append(f"{field} was not given: {values[field]:,}, the rule of models/shape.py")
    values.setdefault("head_dim", width // heads)
    values["num_kv_heads"] = values.get("num_kv_heads") or heads
    return Shape(**values), notes


def bare_brief() -> dict[str, Any]:
    """A brief, as TOML has it, of somebody who has no corpus yet."""
    return {"name": "plan", "data": {"sources": ["none yet"]}}
