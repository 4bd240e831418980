"""A model and a held-out split in; its loss by document and by source out (torch).

Documents are masked from each other and every token but the first of each piece is predicted once. The same
samples are read for every run on a corpus, so that runs can be compared document by document.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepladder.data.files import write_arrays
from stepladder.data.tokens.shards import TokenArray
from stepladder.data.tokens.tokenizer import byte_pieces, load_own_tokenizer
from stepladder.store import write_json
from stepladder.train.objective import inputs_of
from stepladder.train.packing import PackedSource, Packing
from stepladder.train.parallel import Ranks
from stepladder.train.source import DOCUMENTS_FILE, SOURCES_FILE
from stepladder.train.spread import Predictor, Spread

# Of each source at most this many tokens are read.
TOKENS_PER_SOURCE = 65_536
_ROW_TOKENS = 8_192


@torch.no_grad()
def score_documents(
    model: Predictor,
    split: TokenArray,
    packing: Packing,
    token_bytes: np.ndarray,
    ranks: Ranks,
    spread: Spread,
) -> dict[str, np.ndarray]:
    """Of each document that was read: its number, those of source and domain, nats, and their bytes."""
    samples = _spread(packing)
    replica, replicas = ranks.data
    reader = PackedSource(split, packing, replicas, 0, (replica, replicas))
    totals = torch.zeros(2, len(split.offsets) - 1, dtype=torch.float64)
    rows = max(_ROW_TOKENS // packing.context_tokens, 1)
    for start in range(0, len(samples), rows * replicas):
        mine = np.arange(start + replica, start + rows * replicas, replicas)
        real = mine < len(samples)
        chosen = samples[np.where(real, mine, 0)]
        batch = reader.read(chosen)
        ids, targets, mask = inputs_of(batch, ranks.device)
        losses = spread.losses(model, ids, targets, mask)
        counts = batch.predicted & real[:, None]
        piece = (packing.first[chosen][:, None] + batch.document[:, 1:])[counts]
        document = np.searchsorted(split.offsets, packing.starts[piece], side="right") - 1
        nats = ranks.weight * losses.double().cpu().numpy()[counts]
        width = token_bytes[batch.tokens[:, 1:][counts]] / ranks.degrees.model
        for row, values in enumerate((nats, width)):
            totals[row] += torch.from_numpy(np.bincount(document, values, minlength=totals.shape[1]))
    nats, num_bytes = ranks.sum_tensor(totals.to(ranks.device)).cpu().numpy()
    document = np.flatnonzero(num_bytes)
    numbers = {
        name: (column[document] if len(column) else np.zeros(len(document))).astype(np.int64)
        for name, column in (("source", split.sources), ("domain", split.domains))
    }
    return {
        "document": document,
        **numbers,
        "nats": nats[document],
        "num_bytes": num_bytes[document].astype(np.int64),
    }


def by_source(scores: dict[str, np.ndarray], names: list[str]) -> dict[str, dict[str, float]]:
    """Source -> bits_per_byte, documents, num_bytes."""
    out = {}
    for number, name in enumerate(names):
        own = scores["source"] == number
        size = int(scores["num_bytes"][own].sum())
        if size:
            bits = float(scores["nats"][own].sum()) / math.log(2) / size
            out[name] = {"bits_per_byte": bits, "documents": int(own.sum()), "num_bytes": size}
    return out


def write_scores(scores: dict[str, np.ndarray], names: list[str], folder: Path) -> None:
    """Both files of a run's folder."""
    write_arrays(folder / DOCUMENTS_FILE, scores)
    write_json(folder / SOURCES_FILE, by_source(scores, names))


def bytes_of_tokens(corpus: Path) -> np.ndarray:
    """Bytes of text that each id spells; 0 for end-of-text."""
    tokenizer = load_own_tokenizer(corpus)
    out = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for piece, rank in byte_pieces(tokenizer.vocab).items():
        out[rank] = len(piece)
    return out


def _spread(packing: Packing) -> np.ndarray:
    """Numbers of the samples to read: of each source some, evenly spread."""
    most = max(TOKENS_PER_SOURCE // packing.context_tokens, 1)
    parts: list[Any] = []
    for first, last in zip(packing.source_first[:-1], packing.source_first[1:], strict=True):
        count = min(int(last - first), most)
        if count:
            parts.append(first + np.arange(count) * int(last - first) // count)
    return np.concatenate(parts)
