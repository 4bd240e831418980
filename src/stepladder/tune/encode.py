"""Texts and a tokenizer's folder in; token ids cut to the context out (no torch)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.records import Shape

# A token spells at most this many characters of ordinary text; longer texts are cut before they are encoded.
CHARACTERS_PER_TOKEN = 32


class Coder:
    """A tokenizer and the network that reads its ids. `pool` is how states become one for a text."""

    def __init__(self, folder: Path, shape: Shape, pool: Literal["mean", "last"] = "mean") -> None:
        self.tokenizer = load_tokenizer(folder)
        self.context_tokens, self.is_causal, self.pool = shape.context_tokens, shape.causal, pool
        self.token_types = shape.variant.token_types
        # Ids from here on are padding of the network's vocabulary.
        self.usable_ids = min(self.tokenizer.vocab_size, shape.vocab_size)

    def texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text with its template, at most the context."""
        cut = [text[: self.context_tokens * CHARACTERS_PER_TOKEN] for text in texts]
        encoded = self.tokenizer.encode_batch(cut)
        template = self.tokenizer.template
        room = self.context_tokens - len(template.begin) - len(template.close)
        return [np.asarray(template.around(ids[:room]), dtype=np.int64) for ids in encoded]
