"""Texts and a tokenizer's folder in; token ids cut to the context out (no torch)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stepladder.data.tokens.tokenizer import load_tokenizer

# A token spells at most this many characters of ordinary text; longer texts are cut before they are encoded.
_CHARACTERS_PER_TOKEN = 32


def encode_texts(folder: Path, texts: Sequence[str], context_tokens: int) -> list[np.ndarray]:
    """Ids of each text, at least one and at most `context_tokens`."""
    tokenizer = load_tokenizer(folder)
    cut = [text[: context_tokens * _CHARACTERS_PER_TOKEN] for text in texts]
    encoded = [np.asarray(ids[:context_tokens], dtype=np.int64) for ids in tokenizer.encode_batch(cut)]
    return [ids if len(ids) else np.zeros(1, dtype=np.int64) for ids in encoded]
