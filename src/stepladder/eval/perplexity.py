"""A checkpoint and held-out text in; nats per token and bits per byte out (torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stepladder.data.tokens.shards import open_split
from stepladder.errors import DataError, ExportError
from stepladder.eval.generate import open_speaker
from stepladder.eval.scorer import check_ids, score_texts
from stepladder.models.hf import load_decoder
from stepladder.models.score import rolling_losses
from stepladder.units import bits_per_byte


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Mean loss over `tokens` predicted tokens that spell `num_bytes` bytes of UTF-8."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    num_bytes: int


def evaluate_text(
    folder: Path, text: Path, *, tokenizer: Path | None = None, overlap: float = 0.5, max_bytes: int = 0
) -> Perplexity:
    """Loss of a run or Qwen3 folder on a text file, every token predicted once.

    `overlap` is the share of a window that only gives context to the rest (0: fastest, and the first tokens
    of each window are hard). `max_bytes` reads only the beginning of the file.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or is empty.
        ExportError: the folder holds no weights or no tokenizer.
    """
    try:
        content = text.read_bytes()
        content = content[:max_bytes] if max_bytes else content
        # A cut may fall inside a character: what is left of it at the end is dropped.
        words = content.decode("utf-8", errors="ignore" if max_bytes else "strict")
    except OSError as error:
        raise DataError(f"cannot read {text}", got=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{text} is not UTF-8", got=f"byte {error.start}") from error
    if not words:
        raise DataError(f"{text} is empty")
    (found,) = score_texts(open_speaker(folder, tokenizer), [words], overlap)
    return Perplexity(
        nats_per_token=-found.nats / found.tokens,
        bits_per_byte=found.bits_per_byte,
        tokens=found.tokens,
        num_bytes=found.num_bytes,
    )


def evaluate_corpus(
    folder: Path,
    corpus: Path,
    *,
    split: Literal["train", "heldout"] = "heldout",
    overlap: float = 0.5,
    max_tokens: int = 65_536,
) -> Perplexity:
    """Loss of a run or Qwen3 folder on the beginning of a corpus split (`max_tokens` 0: on all of it)."""
    network = load_decoder(folder)
    shards = open_split(corpus, split)
    count = len(shards.tokens) if not max_tokens else min(max_tokens + 1, len(shards.tokens))
    if count < 2:
        raise DataError(f"the {split} split of {corpus} is empty")
    ids = np.asarray(shards.tokens[:count], dtype=np.int64)
    check_ids([ids], network)
    losses = rolling_losses(network, ids, overlap)
    return _summary(losses, round(shards.num_bytes * len(losses) / len(shards.tokens)))


def _summary(losses: np.ndarray, num_bytes: int) -> Perplexity:
    mean = float(losses.mean())
    if not np.isfinite(mean):
        raise ExportError("the network's losses are not finite", got="NaN or infinite weights")
    return Perplexity(
        nats_per_token=mean,
        bits_per_byte=bits_per_byte(mean, len(losses), num_bytes),
        tokens=len(losses),
        num_bytes=num_bytes,
    )
