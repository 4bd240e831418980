"""Prompts and what may follow them in; log-probabilities of what follows out (torch)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from stepladder.errors import DataError
from stepladder.models.transformer import Transformer

_BATCH_TOKENS = 16_384


@torch.no_grad()
def continuation_scores(
    network: Transformer, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[np.ndarray, np.ndarray]:
    """(log-probability in nats of each continuation, whether each of its ids was the likeliest).

    Where both together outgrow the context, the beginning of the prompt is left out.

    Raises:
        DataError: the network is an encoder.
    """
    if not network.shape.causal:
        raise DataError("an encoder has no continuations to score", allowed="a causal network")
    scores, greedy = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
    context = network.shape.context_tokens
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]) + len(pairs[row][1]))
    rows = max(_BATCH_TOKENS // context, 1)
    for at in range(0, len(order), rows):
        group = order[at : at + rows]
        ids = [[*pairs[row][0], *pairs[row][1]][-context - 1 :] for row in group]
        longest = max(map(len, ids))
        tokens = torch.tensor([own + [0] * (longest - len(own)) for own in ids])
        logits_BTV = network(tokens[:, :-1]).float()
        targets = tokens[:, 1:]
        losses_BT = F.cross_entropy(logits_BTV.transpose(1, 2), targets, reduction="none").numpy()
        best_BT = (logits_BTV.argmax(dim=-1) == targets).numpy()
        for place, row in enumerate(group):
            stop = len(ids[place]) - 1
            span = slice(stop - min(len(pairs[row][1]), stop), stop)
            scores[row] = -losses_BT[place, span].sum()
            greedy[row] = best_BT[place, span].all()
    return scores, greedy
