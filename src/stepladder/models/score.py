"""A decoder, prompts and what follows them in; how likely each predicted id is, out (torch).

Continuations are scored here and nowhere else. A prompt that several continuations follow is read once, and
they all use its keys and values. Positions are relative, so the result does not depend on the batch beyond
rounding.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.errors import DataError, ExportError
from stepladder.models.generate import Ids, Reading, check_decoder
from stepladder.models.transformer import Transformer

# Positions of a batch, and logits in hand at once (64 MB). More positions leave the caches of a CPU: with
# 32,768 it takes a sixth longer (1.9 M parameters, prompts of 40 to 120 ids, four choices; docs/log.md).
_BATCH_POSITIONS, _BATCH_LOGITS = 2_048, 16_000_000
# A prompt of fewer ids costs less to read again than to keep.
_SHARED_LEAST = 16
# A prompt and its continuation, as lists or arrays of ids.
Pair = tuple[Ids | np.ndarray, Ids | np.ndarray]
# Loss in nats of each predicted id, and whether all are what greedy decoding says.
Losses = tuple[np.ndarray, bool]


def score_continuations(network: Transformer, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    """For each (prompt, continuation): log-probability of the continuation in nats, and whether it is what
    greedy decoding says. Where both outgrow the context, the last `context_tokens` predictions count.

    Raises:
        ExportError: an encoder, an empty prompt or an empty continuation.
    """
    return [(-float(losses.sum()), is_greedy) for losses, is_greedy in continuation_losses(network, pairs)]


def score_choices(
    network: Transformer, prompts: Sequence[Ids], choices: Sequence[Ids], *, neutral: Ids = ()
) -> Tensor:
    """Log-probabilities in nats of each choice after each prompt, (prompts, choices).

    With `neutral`, a prompt that says nothing, its log-probability is taken off: what is left is what the
    prompt adds (domain-conditional mutual information, arXiv:2104.08315).
    """
    asked = [*prompts, *([neutral] if neutral else [])]
    pairs = [(prompt, choice) for prompt in asked for choice in choices]
    nats = torch.tensor([one for one, _ in score_continuations(network, pairs)]).view(len(asked), -1)
    return nats[:-1] - nats[-1] if neutral else nats


def rolling_losses(network: Transformer, ids: Ids | np.ndarray, overlap: float = 0.5) -> np.ndarray:
    """Loss in nats of ids[1:], each predicted once, from windows that overlap by a share of the context."""
    pairs = rolling_pairs(np.asarray(ids), network.shape.context_tokens, overlap)
    return np.concatenate([losses for losses, _ in continuation_losses(network, pairs)])


def rolling_pairs(ids: Ids | np.ndarray, context: int, overlap: float = 0.5) -> list[Pair]:
    """Windows over a long text as pairs: what each is to predict, after what only gives it context.

    A window reads `context` ids. It begins a share of the context behind the one before; the last one begins
    where it ends with the text.

    Raises:
        DataError: the overlap is no share below 1.
    """
    if not 0 <= overlap < 1:
        raise DataError("overlap is a share of the context", got=str(overlap), allowed="0 or more, below 1")
    step = max(round(context * (1 - overlap)), 1)
    last = max(len(ids) - 1 - context, 0)
    pairs, done = [], 0
    for start in [*range(0, last, step), last]:
        end = min(start + context, len(ids) - 1)
        pairs.append((ids[start : done + 1], ids[done + 1 : end + 1]))
        done = end
    return pairs


@torch.no_grad()
def continuation_losses(network: Transformer, pairs: Sequence[Pair]) -> list[Losses]:
    """As `score_continuations`, id by id."""
    check_decoder(network)
    if not all(len(prompt) and len(said) for prompt, said in pairs):
        raise ExportError("a prompt and its continuation need one id each at least")
    found: list[Losses] = [(np.zeros(0), True)] * len(pairs)
    context = network.shape.context_tokens
    shared, alone = _by_prompt(pairs, context)
    apart = [(len(pairs[rows[0]][0]), max(len(pairs[row][1]) for row in rows) - 1) for rows in shared]
    whole = [(min(sum(map(len, pairs[row])) - 1, context), 0) for (row,) in alone]
    for states, groups, sizes in ((_after_prompts, shared, apart), (_whole, alone, whole)):
        for batch in _batches(groups, sizes, context):
            rows = [row for group in batch for row in group]
            targets = [np.asarray(pairs[row][1][-context:]) for row in rows]
            states_ND = states(network, pairs, batch)
            losses_N, is_likeliest_N = _read_off(network, states_ND, np.concatenate(targets))
            ends = np.cumsum([len(target) for target in targets])
            for row, losses, likeliest in zip(
                rows, np.split(losses_N, ends[:-1]), np.split(is_likeliest_N, ends[:-1]), strict=True
            ):
                found[row] = losses, bool(likeliest.all())
    return found


def _by_prompt(pairs: Sequence[Pair], context: int) -> tuple[list[list[int]], list[list[int]]]:
    """(rows that share a prompt worth keeping, by prompt; the others, each for itself)."""
    by_prompt: dict[bytes, list[int]] = defaultdict(list)
    for row, (prompt, _) in enumerate(pairs):
        by_prompt[np.asarray(prompt, dtype=np.int32).tobytes()].append(row)
    shared, alone = [], []
    for rows in by_prompt.values():
        prompt = len(pairs[rows[0]][0])
        length = prompt + max(len(pairs[row][1]) for row in rows) - 1
        if len(rows) > 1 and prompt >= _SHARED_LEAST and length <= context:
            most = max(_BATCH_POSITIONS // length, 1)
            shared += [rows[at : at + most] for at in range(0, len(rows), most)]
        else:
            alone += [[row] for row in rows]
    return shared, alone


def _batches(
    groups: Sequence[list[int]], sizes: Sequence[tuple[int, int]], context: int
) -> Iterator[list[list[int]]]:
    """Groups of like lengths, the longest first, while their positions fit in one batch.

    `sizes` are positions of each group's prompt and of what is read behind it; a batch is as wide as the
    largest of both together.
    """
    batch: list[list[int]] = []
    rows, wide = 0, (0, 0)
    for at in sorted(range(len(groups)), key=lambda at: -sum(sizes[at])):
        grown = max(wide[0], sizes[at][0]), max(wide[1], sizes[at][1])
        positions = (rows + len(groups[at])) * sum(grown)
        if batch and (sum(grown) > context or positions > _BATCH_POSITIONS):
            yield batch
            batch, rows, grown = [], 0, sizes[at]
        batch.append(groups[at])
        rows, wide = rows + len(groups[at]), grown
    if batch:
        yield batch


def _whole(network: Transformer, pairs: Sequence[Pair], batch: Sequence[list[int]]) -> Tensor:
    """States before each predicted id, (N, D), of rows that are read from their beginning."""
    context = network.shape.context_tokens
    rows = [np.concatenate(pairs[row])[-(context + 1) :] for (row,) in batch]
    counts = [min(len(pairs[row][1]), context) for (row,) in batch]
    # Fillers stand behind: nothing sees them.
    hidden_BTD = network.hidden(_filled([row[:-1] for row in rows], network))
    return torch.cat(
        [
            hidden_D[len(row) - 1 - count : len(row) - 1]
            for hidden_D, row, count in zip(hidden_BTD, rows, counts, strict=True)
        ]
    )


def _after_prompts(network: Transformer, pairs: Sequence[Pair], batch: Sequence[list[int]]) -> Tensor:
    """As `_whole`, of groups whose prompts are read once each."""
    prompts = [pairs[group[0]][0] for group in batch]
    said = [pairs[row][1] for group in batch for row in group]
    longest, behind = max(map(len, prompts)), max(map(len, said)) - 1
    ids_BT = _filled([prompt[::-1] for prompt in prompts], network).flip(1)
    places = torch.arange(longest, device=ids_BT.device)
    real_BT = places >= longest - torch.tensor([[len(p)] for p in prompts], device=ids_BT.device)
    rows = torch.tensor([at for at, group in enumerate(batch) for _ in group], device=ids_BT.device)
    with Reading(network, longest + behind) as reading:
        states_BTD = reading.states(ids_BT, real_BT)[rows, -1:]
        if behind:
            reading.keep(rows)
            more_BTD = reading.states(_filled([one[:-1] for one in said], network))
            states_BTD = torch.cat((states_BTD, more_BTD), dim=1)
    return torch.cat([states_TD[: len(one)] for states_TD, one in zip(states_BTD, said, strict=True)])


def _filled(rows: Sequence[Ids | np.ndarray], network: Transformer) -> Tensor:
    """Rows of ids with 0 behind the shorter ones, (B, T)."""
    ids_BT = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for at, row in enumerate(rows):
        ids_BT[at, : len(row)] = row
    return torch.from_numpy(ids_BT).to(network.embed_tokens.weight.device)


def _read_off(network: Transformer, states_ND: Tensor, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each target in nats and whether it is the likeliest id, (N,), a part at a time."""
    step = max(_BATCH_LOGITS // network.shape.vocab_size, 1)
    losses, likeliest = [], []
    targets_N = torch.from_numpy(targets.astype(np.int64)).to(states_ND.device)
    for at in range(0, len(states_ND), step):
        logits_NV = network.lm_head(states_ND[at : at + step]).float()
        losses.append(F.cross_entropy(logits_NV, targets_N[at : at + step], reduction="none"))
        likeliest.append(logits_NV.argmax(-1) == targets_N[at : at + step])
    return torch.cat(losses).cpu().numpy().astype(np.float64), torch.cat(likeliest).cpu().numpy()
