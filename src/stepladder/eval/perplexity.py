"""A checkpoint and held-out text in; nats per token and bits per byte out (torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from stepladder.data.tokens.shards import open_split
from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.errors import DataError, ExportError
from stepladder.models.export import find_tokenizer
from stepladder.models.hf import load_decoder
from stepladder.models.transformer import Transformer
from stepladder.units import bits_per_byte

_BATCH_TOKENS = 4_096


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
    network = load_decoder(folder)
    path = tokenizer if tokenizer is not None else find_tokenizer(folder)
    codes = load_tokenizer(path)
    # The start of a document is predicted from the end of the one before, as in training.
    ids = np.asarray([*codes.start_ids, *codes.encode(words)], dtype=np.int64)
    _check_ids(ids, network, path)
    losses = rolling_losses(network, ids, overlap)
    return _summary(losses, len(words.encode()))


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
    _check_ids(ids, network, corpus)
    losses = rolling_losses(network, ids, overlap)
    return _summary(losses, round(shards.num_bytes * len(losses) / len(shards.tokens)))


@torch.no_grad()
def rolling_losses(network: Transformer, ids: np.ndarray, overlap: float = 0.5) -> np.ndarray:
    """Loss in nats of ids[1:], each predicted once, from windows that overlap by a share of the context."""
    if not 0 <= overlap < 1:
        raise DataError("overlap is a share of the context", got=str(overlap), allowed="0 or more, below 1")
    context = network.shape.context_tokens
    step = max(round(context * (1 - overlap)), 1)
    tokens = torch.from_numpy(np.asarray(ids, dtype=np.int64))
    losses = np.full(len(ids) - 1, np.nan)
    # Each window is as long as it can be; only what no window before it predicted is counted.
    starts = [0, *range(step, max(len(ids) - 1 - (context - step), 1), step)]
    rows = max(_BATCH_TOKENS // context, 1)
    for at in range(0, len(starts), rows):
        group = starts[at : at + rows]
        length = min(context, len(ids) - 1 - group[0])
        windows = torch.stack([_window(tokens, start, length) for start in group])
        logits_BTV = network(windows[:, :-1]).float()
        losses_BT = F.cross_entropy(logits_BTV.transpose(1, 2), windows[:, 1:], reduction="none")
        for start, row in zip(group, losses_BT.numpy(), strict=True):
            real = row[: len(losses) - start]
            fresh = np.isnan(losses[start : start + len(real)])
            losses[start : start + len(real)][fresh] = real[fresh]
    return losses


def _check_ids(ids: np.ndarray, network: Transformer, source: Path) -> None:
    if int(ids.max()) >= network.shape.vocab_size:
        raise DataError(
            f"{source} belongs to another network: its tokenizer is larger than the vocabulary",
            got=f"token {int(ids.max())}",
            allowed=f"ids below {network.shape.vocab_size}",
        )


def _window(tokens: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """length + 1 ids from `start`; past the end 0, which a causal network does not see before it."""
    part = tokens[start : start + length + 1]
    return F.pad(part, (0, length + 1 - len(part)))


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
