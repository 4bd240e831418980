"""Windows of tokens in; windows with masked tokens, and the losses of a masked model, out (torch)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepladder.data.labels import mixed
from stepladder.models.transformer import Transformer
from stepladder.train.batches import BatchSource
from stepladder.train.objective import NextToken
from stepladder.train.spread import Inputs
from stepladder.units import bits_per_byte

# As ModernBERT (arXiv:2412.13663), and all of them become the mask: keeping a tenth and drawing another
# tenth at random gains nothing at such shares (arXiv:2202.08005 §6).
MASKED_SHARE = 0.3
_HELDOUT_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskedWindows:
    """A micro-batch: ids (B, T) with masks in them, targets (B, T), -1 where nothing is predicted."""

    ids: np.ndarray
    targets: np.ndarray


def mask_windows(windows: np.ndarray, places: np.ndarray, mask_id: int, seed: int) -> MaskedWindows:
    """Mask as many tokens of each window (B, T + 1), whose last token another window begins with.

    Which ones is a function of the seed and of a window's place in the order of samples alone: other in each
    epoch, the same after a resume and on any number of processes.
    """
    tokens = windows[:, :-1]
    length = tokens.shape[1]
    numbers = places.astype(np.uint64)[:, None] * np.uint64(length) + np.arange(
        1, length + 1, dtype=np.uint64
    )
    key = np.random.SeedSequence([seed, length]).generate_state(1, np.uint64)
    draws = mixed(mixed(numbers) ^ key)
    chosen = np.argpartition(draws, masked_count(length) - 1, axis=1)[:, : masked_count(length)]
    ids, targets = tokens.copy(), np.full_like(tokens, -1)
    np.put_along_axis(targets, chosen, np.take_along_axis(tokens, chosen, 1), 1)
    np.put_along_axis(ids, chosen, mask_id, 1)
    return MaskedWindows(ids=ids, targets=targets)


def masked_count(context_tokens: int) -> int:
    """Masked tokens of a window."""
    return max(round(MASKED_SHARE * context_tokens), 1)


class MaskedBatches:
    """The windows of a source, masked; `consumed` is its own."""

    def __init__(self, source: BatchSource, mask_id: int, seed: int) -> None:
        self._source, self._mask_id, self._seed = source, mask_id, seed

    @property
    def consumed(self) -> int:
        """Samples of all ranks so far."""
        return self._source.consumed

    @consumed.setter
    def consumed(self, samples: int) -> None:
        self._source.consumed = samples

    def next(self) -> list[MaskedWindows]:
        """This rank's micro-batches of the next global batch."""
        source = self._source
        places = source.consumed + np.arange(source.rank, source.batch_sequences, source.world)
        parts = source.micro_batches(len(places))
        return [
            mask_windows(windows, places[part], self._mask_id, self._seed)
            for windows, part in zip(source.next(), parts, strict=True)
        ]


class MaskedTokens(NextToken):
    """Masked language modelling. Tokens are counted as read; losses are means over the masked ones."""

    def count(self, batch: Any) -> int:
        """Tokens read."""
        return batch.ids.size

    def inputs(self, batch: Any, *, blocks: bool = False) -> Inputs:
        """Ids (B, T), targets (B, T; -1 where nothing is predicted) and no mask."""
        ids, targets = (torch.from_numpy(a).to(self._ranks.device) for a in (batch.ids, batch.targets))
        return ids, targets, None

    def loss(self, model: Transformer, batch: Any) -> Tensor:
        """Mean over masked tokens, times the tokens read: what the loop divides by."""
        ids, targets, _ = self.inputs(batch)
        total = self.spread.sum(model.hidden(ids), model.lm_head.weight, targets, some=True)
        return total * (ids.shape[1] / masked_count(ids.shape[1]))

    @torch.no_grad()
    def evaluate(self, model: Transformer) -> dict[str, float]:
        """heldout_loss (nats a masked token), heldout_bits_per_byte of masked text, heldout_tokens read.

        The same tokens of the same windows are masked for every run on a corpus.
        """
        context, ranks = self._source.context_tokens, self._ranks
        replica, replicas = ranks.data
        total = torch.zeros(1, dtype=torch.float64, device=ranks.device)
        rows = max(8_192 // context, 1)
        # As NextToken: all ranks run the same number of passes.
        for start in range(0, len(self._windows), rows * replicas):
            mine = np.arange(start + replica, start + rows * replicas, replicas)
            real = mine < len(self._windows)
            numbers = self._windows[np.where(real, mine, 0)]
            mask_id = model.shape.vocab_size - 1
            batch = mask_windows(self._source.read(numbers), numbers, mask_id, _HELDOUT_SEED)
            ids, targets, _ = self.inputs(batch)
            losses = self.spread.losses(model, ids, targets.clamp(min=0), None)
            counts = (targets >= 0) & torch.from_numpy(real).to(ranks.device)[:, None]
            total += losses[counts].double().sum() * ranks.weight
        loss = (ranks.sum_tensor(total) / (len(self._windows) * masked_count(context))).item()
        return {
            "heldout_loss": loss,
            "heldout_bits_per_byte": bits_per_byte(loss, 1.0, self._bytes_per_token),
            "heldout_tokens": len(self._windows) * context,
        }
