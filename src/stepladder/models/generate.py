"""A decoder and ids in; the ids that it goes on with out (torch). How likely given ids are: `score.py`.

Keys and values of what was read stay in a cache, so that each further token costs one position. A batch is
aligned at its end: positions are relative in every family that is read as a decoder, so rows of different
lengths are computed as they are alone.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepladder.errors import ExportError
from stepladder.models.transformer import Attend, Transformer

# Positions of keys of a batch: what they hold stays some tens of megabytes.
_BATCH_POSITIONS = 32_768
# Positions of a prompt that are read in the time that a step of a batch takes whatever its rows: 10 ms
# against 0.21 ms (5.3 M parameters, one thread; docs/log.md). Both grow with the weights.
_STEP_POSITIONS = 50
Ids = Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a token is chosen: temperature 0 takes the likeliest; else among the `top_k` likeliest (0: all)
    whose chances add up to `top_p`. The same seed gives the same text, in any batch."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


class Memory:
    """Keys and values of one block, (B, K, S, E), for at most `room` positions."""

    def __init__(self, room: int) -> None:
        self._room, self._at = room, 0
        self._held: tuple[Tensor, Tensor] | None = None

    def extend(self, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all positions so far."""
        if self._held is None:
            batch, heads, _, size = k_BKTE.shape
            keys, values = (x.new_empty(batch, heads, self._room, size) for x in (k_BKTE, v_BKTE))
            self._held = keys, values
        end = self._at + k_BKTE.shape[2]
        for held, new in zip(self._held, (k_BKTE, v_BKTE), strict=True):
            held[:, :, self._at : end] = new
        self._at = end
        keys, values = self._held
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Forget the other rows of the batch."""
        if self._held is not None:
            keys, values = self._held
            self._held = keys[rows], values[rows]


class Reading:
    """A batch that is read on: `read` takes the next positions of all rows and answers logits.

    Usable as a context, at whose end the network forgets.
    """

    def __init__(self, network: Transformer, room: int) -> None:
        check_decoder(network)
        self._network, self._at = network, 0
        self._real_BS: Tensor | None = None
        self._attends = [module for module in network.modules() if isinstance(module, Attend)]
        self._memories = [Memory(room) for _ in self._attends]

    def __enter__(self) -> "Reading":
        for attend, memory in zip(self._attends, self._memories, strict=True):
            attend.memory = memory
        return self

    def __exit__(self, *_: object) -> None:
        for attend in self._attends:
            attend.memory = None

    @torch.no_grad()
    def read(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """Logits of the last position, (B, V). `real_BT` is False for what only fills up a beginning."""
        return self._network.lm_head(self.states(ids_BT, real_BT)[:, -1]).float()

    @torch.no_grad()
    def states(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """What the head takes, of all new positions, (B, T, D)."""
        network, tokens = self._network, ids_BT.shape[1]
        here = torch.ones_like(ids_BT, dtype=torch.bool) if real_BT is None else real_BT
        self._real_BS = here if self._real_BS is None else torch.cat((self._real_BS, here), dim=1)
        at, end = self._at, self._at + tokens
        mask = network.causal_mask[at:end, :end]
        if not self._real_BS.all():
            # A filler sees itself: a row of scores without a key has no softmax.
            own_TS = torch.eye(end, dtype=torch.bool, device=ids_BT.device)[at:]
            mask = ((mask & self._real_BS[:, None, :]) | own_TS)[:, None]
        added = network._added(mask, tokens)
        places_T = torch.arange(at, end, device=ids_BT.device)
        x_BTD = network._embedded(network.embed_tokens(ids_BT), places_T)
        for layer in network.layers:
            x_BTD = layer(x_BTD, network.rope_cos[at:end], network.rope_sin[at:end], added)
        self._at = end
        return network.norm(x_BTD)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch."""
        assert self._real_BS is not None
        self._real_BS = self._real_BS[rows]
        for memory in self._memories:
            memory.keep(rows)


class Trie:
    """Sequences of ids that may be said, as a tree; each ends with `end`."""

    def __init__(self, sequences: Sequence[Ids], end: int) -> None:
        self.next: dict[int, Trie | None] = {}
        for sequence in sequences:
            node = self
            for token in sequence:
                found = node.next.get(token)
                if found is None:
                    found = node.next[token] = Trie((), end)
                node = found
            node.next[end] = None


def generate_many(
    network: Transformer,
    prompts: Sequence[Ids],
    new_tokens: int,
    *,
    end: int,
    sampling: Sampling = GREEDY,
    vocabulary: int = 0,
    allowed: Sequence[Ids] | None = None,
) -> list[list[int]]:
    """Up to `new_tokens` ids for each prompt, without `end`, at which a row stops.

    Ids from `vocabulary` on, which no token has where a network's vocabulary is padded, are never taken.
    `allowed`: one of these sequences is said, whatever else is likelier. When prompt and answer outgrow the
    context, the network sees the last `context_tokens` ids, and each step computes them all.

    Raises:
        ExportError: an encoder, or a prompt without ids.
    """
    trie = None if allowed is None else Trie(allowed, end)
    known = vocabulary or network.shape.vocab_size
    return _written(network, prompts, new_tokens, end, lambda: _Pick(sampling, known, trie))


def generate_until(
    network: Transformer,
    prompts: Sequence[Ids],
    new_tokens: int,
    *,
    end: int,
    is_over: Callable[[Ids], bool],
    sampling: Sampling = GREEDY,
    vocabulary: int = 0,
) -> list[list[int]]:
    """As `generate_many`; a row also stops behind the first id at which `is_over` its ids so far."""
    known = vocabulary or network.shape.vocab_size
    return _written(network, prompts, new_tokens, end, lambda: _Pick(sampling, known, None, is_over, end))


def _written(
    network: Transformer,
    prompts: Sequence[Ids],
    new_tokens: int,
    end: int,
    make_pick: "Callable[[], _Pick]",
) -> list[list[int]]:
    """The ids that each prompt goes on with, in batches of like lengths; a batch has a pick of its own."""
    check_decoder(network)
    if not all(prompts):
        raise ExportError("a prompt without ids has nothing to go on from")
    context, answers = network.shape.context_tokens, [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    lengths = [min(len(prompts[row]), context) for row in order]
    for first, last in itertools.pairwise(_cuts(lengths, new_tokens, context)):
        batch = order[first:last]
        for rows, tokens in _steps(network, [prompts[row] for row in batch], new_tokens, end, make_pick()):
            for row, token in zip(rows, tokens, strict=True):
                answers[batch[row]].append(token)
    return answers


def _cuts(lengths: Sequence[int], new_tokens: int, context: int) -> list[int]:
    """Where to cut prompts, the longest first, into batches: rows are filled up to the longest of a batch,
    and each batch has `new_tokens` steps; the least sum of both."""
    costs, begins = [0], [0]
    for last in range(1, len(lengths) + 1):
        best, begin = -1, 0
        for first in range(last - 1, -1, -1):
            room = min(lengths[first] + new_tokens, context)
            if first < last - 1 and (last - first) * room > _BATCH_POSITIONS:
                break
            cost = costs[first] + (last - first) * lengths[first] + new_tokens * _STEP_POSITIONS
            if best < 0 or cost < best:
                best, begin = cost, first
        costs.append(best)
        begins.append(begin)
    cuts = [len(lengths)]
    while cuts[-1]:
        cuts.append(begins[cuts[-1]])
    return cuts[::-1]


def stream(
    network: Transformer,
    prompt: Ids,
    new_tokens: int,
    *,
    end: int,
    sampling: Sampling = GREEDY,
    vocabulary: int = 0,
) -> Iterator[int]:
    """The ids of `generate_many` for one prompt, each as soon as it is known."""
    check_decoder(network)
    pick = _Pick(sampling, vocabulary or network.shape.vocab_size, None)
    for _, tokens in _steps(network, [prompt], new_tokens, end, pick):
        yield from tokens


class _Pick:
    """Chooses the next token of each row; remembers where each row stands in the trie, and what it said.

    A row whose ids `is_over` has `end` next, whatever else is likelier.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocabulary: int,
        trie: Trie | None,
        is_over: Callable[[Ids], bool] | None = None,
        end: int = -1,
    ) -> None:
        self._how, self._vocabulary, self._trie = sampling, vocabulary, trie
        self._is_over, self._end = is_over, end
        self._at: dict[int, Trie | None] = {}
        self._said: dict[int, list[int]] = {}
        self._draws: dict[int, torch.Generator] = {}

    def __call__(self, logits_BV: Tensor, rows: Sequence[int]) -> list[int]:
        logits_BV = logits_BV[:, : self._vocabulary].cpu()
        if self._trie is not None:
            logits_BV = torch.stack([self._only(one, row) for one, row in zip(logits_BV, rows, strict=True)])
        if self._how.temperature <= 0:
            tokens = logits_BV.argmax(-1).tolist()
        else:
            tokens = [self._draw(one, row) for one, row in zip(logits_BV, rows, strict=True)]
        for row, token in zip(rows, tokens, strict=True):
            node = self._at.get(row, self._trie)
            self._at[row] = node.next[token] if node is not None else None
        return tokens if self._is_over is None else self._ended(tokens, rows, self._is_over)

    def _ended(self, tokens: list[int], rows: Sequence[int], is_over: Callable[[Ids], bool]) -> list[int]:
        """`end` for rows that were over before."""
        told = []
        for token, row in zip(tokens, rows, strict=True):
            said = self._said.setdefault(row, [])
            told.append(self._end if said and is_over(said) else token)
            said.append(token)
        return told

    def _only(self, logits_V: Tensor, row: int) -> Tensor:
        node = self._at.get(row, self._trie)
        assert node is not None
        kept = torch.full_like(logits_V, float("-inf"))
        may = list(node.next)
        kept[may] = logits_V[may]
        return kept

    def _draw(self, logits_V: Tensor, row: int) -> int:
        how = self._how
        logits_V, order = (logits_V / how.temperature).sort(descending=True)
        chances = torch.softmax(logits_V, dim=-1)
        # The first token that reaches top_p is still taken.
        chances[chances.cumsum(-1) - chances > how.top_p] = 0
        if how.top_k:
            chances[how.top_k :] = 0
        draw = self._draws.setdefault(row, torch.Generator().manual_seed(how.seed))
        return int(order[torch.multinomial(chances, 1, generator=draw)])


@torch.no_grad()
def _steps(
    network: Transformer, prompts: Sequence[Ids], new_tokens: int, end: int, pick: _Pick
) -> Iterator[tuple[list[int], list[int]]]:
    """(rows, their next tokens) until all rows have ended."""
    context, device = network.shape.context_tokens, network.embed_tokens.weight.device
    said = [list(prompt) for prompt in prompts]
    windows = [row[-context:] for row in said]
    longest = max(map(len, windows))
    ids_BT = torch.zeros(len(said), longest, dtype=torch.long)
    real_BT = torch.zeros(len(said), longest, dtype=torch.bool)
    for at, window in enumerate(windows):
        ids_BT[at, longest - len(window) :] = torch.tensor(window)
        real_BT[at, longest - len(window) :] = True
    rows, room = list(range(len(said))), context
    with contextlib.ExitStack() as stack:
        reading = stack.enter_context(Reading(network, min(longest + new_tokens, context)))
        logits_BV = reading.read(ids_BT.to(device), real_BT.to(device))
        room -= longest
        for step in range(new_tokens):
            tokens = pick(logits_BV, rows)
            on = [at for at, token in enumerate(tokens) if token != end]
            rows, tokens = [rows[at] for at in on], [tokens[at] for at in on]
            if rows:
                yield rows, tokens
            if not rows or step == new_tokens - 1:
                return
            for row, token in zip(rows, tokens, strict=True):
                said[row].append(token)
            if room > 0:
                if len(on) < len(logits_BV):
                    reading.keep(torch.tensor(on, device=device))
                logits_BV = reading.read(torch.tensor(tokens, device=device)[:, None])
                room -= 1
            else:
                # The window moves: every position changes, and nothing that was kept is of use.
                stack.close()
                last = [network(torch.tensor([said[row][-context:]], device=device))[0, -1] for row in rows]
                logits_BV = torch.stack(last).float()


def check_decoder(network: Transformer) -> None:
    """Raise ExportError where a network does not read forwards with rotary positions."""
    shape = network.shape
    if not shape.causal:
        raise ExportError(
            "an encoder does not write text", allowed="a folder of a decoder: a run with objective causal"
        )
    if not shape.variant.rope_theta:
        raise ExportError("generation reads rotary positions only", got="learned positions")
