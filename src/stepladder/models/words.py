"""A run or Hugging Face folder in; the files and ids of its tokenizer that an export needs out. No torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepladder.errors import ExportError, StoreError
from stepladder.records import Shape
from stepladder.store import ORIGIN_FILE, read_json

END_OF_TEXT, MASK = "<|endoftext|>", "[MASK]"


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


def find_corpus(folder: Path) -> Path | None:
    """The corpus that a model was trained on: that of a run's plan, or of the model of a tuned folder.

    None where no record names one, or it is no longer there. The folder of a probe, CHECKPOINT/tasks/NAME, is
    asked as its checkpoint.
    """
    plans = [folder / "plan.json"]
    if folder.resolve().parent.name == "tasks":
        plans.append(folder.resolve().parents[1] / "plan.json")
    for record in (*plans, folder / ORIGIN_FILE, folder.resolve().parent / ORIGIN_FILE):
        named = read_json(record).get("corpus") if record.exists() else None
        if isinstance(named, str):
            corpus = Path(os.path.normpath(record.parent / named))
            return corpus if (corpus / "corpus.json").exists() else None
    return None


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


def tokenizer_files(path: Path, shape: Shape) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Files to write beside weights, and bos_token_id, eos_token_id, ... for config.json.

    A tokenizer of ours gets what transformers needs to know of it; files of another one are copied (a text
    where it is not JSON).

    Raises:
        ExportError: the tokenizer has ids that the network does not.
    """
    definition = read_tokenizer(path)
    ids = token_ids(definition)
    largest = max(ids.values(), default=-1)
    if largest >= shape.vocab_size:
        raise ExportError(
            "the tokenizer does not belong to these weights",
            got=f"token ids up to {largest}",
            allowed=f"ids below the network's vocabulary of {shape.vocab_size}",
        )
    end = ids.get(END_OF_TEXT)
    folder = path if path.is_dir() else path.parent
    if end is None or (folder / "tokenizer_config.json").exists():
        texts = files_beside(folder).items()
        kept = {name: json.loads(text) if name.endswith(".json") else text for name, text in texts}
        return {"tokenizer.json": definition, **kept}, _special_ids(folder, ids)
    if not shape.causal:
        definition = with_mask(definition, shape.vocab_size - 1)
    # In training every document follows the end of another one; `complete` begins with it, too.
    files = {
        "tokenizer.json": {**_filled(definition), "post_processor": _begins_with(end)},
        "tokenizer_config.json": _tokenizer_config(shape),
    }
    names = ("bos", "eos", "pad") if shape.causal else ("bos", "eos", "pad", "cls", "sep")
    return files, {f"{name}_token_id": end for name in names}


def _filled(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that say nothing."""
    return {key: value for key, value in definition.items() if value is not None}


def _begins_with(end: int) -> dict[str, Any]:
    """The post-processor of `tokenizers` that puts end of text before a text."""
    special = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    text = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    known = {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [end], "tokens": [END_OF_TEXT]}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text[0]],
        "pair": [special, text[0], special, text[1]],
        "special_tokens": known,
    }


def with_mask(definition: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A tokenizer whose last id, which no text has, is the mask that a masked run trained with."""
    model = definition["model"]
    token = {"id": number, "content": MASK, "special": True, "normalized": False}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    added = [*definition.get("added_tokens", ()), token]
    return {
        **definition,
        "model": {**model, "vocab": {**model["vocab"], MASK: number}},
        "added_tokens": added,
    }


# What belongs to a foreign tokenizer.json beside it. transformers 5 keeps a chat template in a file
# of its own, 4 in tokenizer_config.json.
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def files_beside(folder: Path) -> dict[str, str]:
    """The texts of the files that a foreign tokenizer.json needs beside it; none for one of ours."""
    found = [folder / name for name in _BESIDE]
    return {path.name: path.read_text(encoding="utf-8") for path in found if path.exists()}


# What the families call their special tokens.
_SPECIAL = {
    "bos": ("<|begin_of_text|>", "<s>", END_OF_TEXT),
    "eos": ("<|end_of_text|>", "</s>", END_OF_TEXT),
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
}


def _special_ids(folder: Path, ids: Mapping[str, int]) -> dict[str, int | None]:
    """As config.json beside the tokenizer says, else by the names that families use."""
    if (folder / "config.json").exists():
        config = read_json(folder / "config.json")
        return {key: config[key] for key in (f"{name}_token_id" for name in _SPECIAL) if key in config}
    found = {name: [ids[token] for token in tokens if token in ids] for name, tokens in _SPECIAL.items()}
    return {f"{name}_token_id": numbers[0] for name, numbers in found.items() if numbers}


def token_ids(definition: Mapping[str, Any]) -> dict[str, int]:
    """Id of every token, added ones included."""
    vocabulary = definition["model"]["vocab"]
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {w: i for i, (w, _) in enumerate(vocabulary)}
    ids |= {token["content"]: token["id"] for token in definition.get("added_tokens", ())}
    return ids


def _tokenizer_config(shape: Shape) -> dict[str, Any]:
    # The generic class takes tokenizer.json as it is; Qwen2's own would put its pre-tokenizer and NFC in.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context_tokens,
        # Without this transformers 4 adds token_type_ids, which the network's generate() then refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left" if shape.causal else "right",
        **({} if shape.causal else {"mask_token": MASK}),
    }
