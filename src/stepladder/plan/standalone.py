"""Words of a shape, or a Hugging Face config.json, in; a Shape, and a brief without a corpus, out."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepladder.errors import PlanError, did_you_mean
from stepladder.models.shape import ffn_width_for, layers_for_width, shape_for_width
from stepladder.plan.conflicts import listed
from stepladder.records import Experts, Shape
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
    "num_experts": ("experts", "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "experts_active": (
        "active",
        "experts_active",
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_top_k",
    ),
    "expert_ffn_width": ("expert_ffn", "expert_ffn_width", "moe_intermediate_size"),
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
# Mixtures that have these beside or in place of routed experts are other networks than ours.
_OTHER_EXPERTS = (
    "n_shared_experts",
    "num_shared_experts",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
)
_NOT_EVERYWHERE = (("first_k_dense_replace", 0), ("decoder_sparse_step", 1), ("mlp_only_layers", []))


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
    values: dict[str, Any] = {}
    for field, names in _NAMES.items():
        found = next((config[name] for name in names if config.get(name) is not None), None)
        if found is not None:
            values[field] = found
    problems += _other_mixture(config) if (values.get("num_experts") or 0) > 1 else []
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


def _other_mixture(config: Mapping[str, Any]) -> list[str]:
    """What a mixture has that a block of ours has not."""
    said = [f"{name} = {config[name]}: shared experts" for name in _OTHER_EXPERTS if config.get(name)]
    said += [
        f"{name} = {config[name]}: experts in some layers only"
        for name, usual in _NOT_EVERYWHERE
        if (config.get(name) or usual) != usual
    ]
    return [f"{one} are not planned" for one in said]


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
    experts, more = _experts(values)
    problems += more
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
    shape = Shape(**values)
    if experts.count and not experts.ffn_width:
        # Mixtral and its like give the width of an expert as that of the feed-forward part.
        experts = replace(experts, ffn_width=shape.ffn_width)
    return replace(shape, experts=experts), notes


def _experts(values: dict[str, Any]) -> tuple[Experts, list[str]]:
    """The experts that `values` name, taken out of them, and what is wrong; none below two of them."""
    count, active, width = (
        int(values.pop(name, None) or 0) for name in ("num_experts", "experts_active", "expert_ffn_width")
    )
    if count < 2:
        return Experts(), ["active or expert_ffn without experts"] if (active or width) and not count else []
    if not active:
        return Experts(), [f"{count} experts, but not how many of them a token passes (active)"]
    if not 1 <= active <= count:
        return Experts(), [f"{active} of {count} experts for a token: say 1 to {count}"]
    return Experts(count=count, active=active, ffn_width=width), []


def bare_brief() -> dict[str, Any]:
    """A brief, as TOML has it, of somebody who has no corpus yet."""
    return {"name": "plan", "data": {"sources": ["none yet"]}}
