"""A decoder with its tokenizer and texts in; how likely they are and what it writes after them out (torch).

The ids are scored in `stepladder.models.score`; here texts become ids. What is scored stands at the start of
a document. A context and its continuation are encoded as one text, of which the continuation has the ids
behind those of the context; blanks that end a context belong to the continuation, as words begin with theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepladder.errors import DataError, ExportError
from stepladder.eval.generate import Speaker
from stepladder.models.generate import GREEDY, Ids, Sampling, generate_until
from stepladder.models.score import Losses, Pair, continuation_losses, rolling_pairs
from stepladder.models.transformer import Transformer
from stepladder.units import bits_per_byte


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Log-likelihood of a text in nats, whether greedy decoding says it, its tokens and bytes of UTF-8."""

    nats: float
    is_greedy: bool
    tokens: int
    num_bytes: int

    @property
    def nats_per_byte(self) -> float:
        """Choices of different lengths are compared by it."""
        return self.nats / self.num_bytes

    @property
    def bits_per_byte(self) -> float:
        """Loss, as of `stepladder eval`."""
        return bits_per_byte(-self.nats / self.tokens, self.tokens, self.num_bytes)


def score_pairs(
    speaker: Speaker, pairs: Sequence[tuple[str, str]], *, neutral: str | None = None
) -> list[Scored]:
    """Each (context, continuation). Contexts that share continuations are cheap: each is read once.

    With `neutral`, a context that says nothing, its log-likelihood of the continuation is taken off: what is
    left is what the context adds, and may be above 0 (arXiv:2104.08315).

    Raises:
        ExportError: losses that are not finite.
        DataError: an empty continuation, or a tokenizer of another network.
    """
    said = list(dict.fromkeys(continuation for _, continuation in pairs)) if neutral is not None else []
    asked = [*pairs, *((neutral or "", one) for one in said)]
    coded = [pair_ids(speaker, *pair) for pair in asked]
    for (context, continuation), (_, ids) in zip(asked, coded, strict=True):
        if not ids:
            raise DataError("a continuation has no id of its own", got=f"{continuation!r} after {context!r}")
    losses = _checked_losses(speaker.network, coded)
    scored = [_scored([one], text) for one, (_, text) in zip(losses, asked, strict=True)]
    prior = {one: score.nats for one, score in zip(said, scored[len(pairs) :], strict=True)}
    return [
        replace(score, nats=score.nats - prior.get(continuation, 0.0))
        for score, (_, continuation) in zip(scored, pairs, strict=False)
    ]


def score_texts(speaker: Speaker, texts: Sequence[str], overlap: float = 0.0) -> list[Scored]:
    """Each text as a document of its own, every token predicted once from windows as long as the context.

    `overlap` is the share of a window that only gives context to the rest: at 0 all but the last window begin
    with one token of context (lm-eval's `loglikelihood_rolling`).

    Raises:
        DataError: an empty text, or a tokenizer of another network.
        ExportError: losses that are not finite.
    """
    pairs: list[Pair] = []
    ends = []
    for text in texts:
        if not text:
            raise DataError("an empty text has no token to predict")
        # The start of a document is predicted from the end of the one before, as in training.
        ids = np.array([*speaker.words.start_ids, *speaker.words.encode(text)])
        pairs += rolling_pairs(ids, speaker.network.shape.context_tokens, overlap)
        ends.append(len(pairs))
    losses = _checked_losses(speaker.network, pairs)
    starts = [0, *ends[:-1]]
    return [_scored(losses[at:end], text) for at, end, text in zip(starts, ends, texts, strict=True)]


def write_texts(
    speaker: Speaker,
    prompts: Sequence[str],
    tokens: int,
    *,
    until: Sequence[str] = (),
    sampling: Sampling = GREEDY,
) -> list[str]:
    """What follows each prompt: at most `tokens` tokens, up to the first of the texts `until`."""
    start, words = speaker.words.start_ids, speaker.words
    coded = [[*start, *words.encode(prompt)] for prompt in prompts]
    return write_ids(speaker, coded, tokens, until=until, sampling=sampling)


def write_ids(
    speaker: Speaker,
    prompts: Sequence[Ids],
    tokens: int,
    *,
    until: Sequence[str] = (),
    sampling: Sampling = GREEDY,
) -> list[str]:
    """As `write_texts`, after ids."""
    stops = [stop for stop in until if stop]
    # A token spells one byte or more, so a text that ends with the last token stands in so many of them.
    reach = max((len(stop.encode()) for stop in stops), default=0) + 4

    def is_over(said: Ids) -> bool:
        tail = speaker.words.decode(said[-reach:])
        return any(stop in tail for stop in stops)

    check_ids(prompts, speaker.network)
    written = generate_until(
        speaker.network,
        prompts,
        tokens,
        end=speaker.words.end_id,
        is_over=is_over,
        sampling=sampling,
        vocabulary=speaker.vocabulary,
    )
    return [_before(speaker.words.decode(said), stops) for said in written]


def pair_ids(speaker: Speaker, context: str, continuation: str) -> Pair:
    """A context at the start of a document, and what follows it."""
    kept = context.rstrip()
    head, whole = speaker.words.encode(kept), speaker.words.encode(context + continuation)
    return [*speaker.words.start_ids, *head], whole[len(head) :]


def check_ids(rows: Sequence[Ids | np.ndarray], network: Transformer) -> None:
    """Raise DataError where a tokenizer is larger than a network's vocabulary."""
    largest = max((int(np.max(row)) for row in rows if len(row)), default=0)
    if largest >= network.shape.vocab_size:
        raise DataError(
            "the text belongs to another network: its tokenizer is larger than the vocabulary",
            got=f"token {largest}",
            allowed=f"ids below {network.shape.vocab_size}",
        )


def _checked_losses(network: Transformer, pairs: Sequence[Pair]) -> list[Losses]:
    check_ids([row for pair in pairs for row in pair], network)
    found = continuation_losses(network, pairs)
    if not all(np.isfinite(losses).all() for losses, _ in found):
        raise ExportError("the network's losses are not finite", got="NaN or infinite weights")
    return found


def _scored(parts: Sequence[Losses], text: str) -> Scored:
    return Scored(
        nats=-sum(float(losses.sum()) for losses, _ in parts),
        is_greedy=all(is_greedy for _, is_greedy in parts),
        tokens=sum(len(losses) for losses, _ in parts),
        num_bytes=len(text.encode()),
    )


def _before(text: str, stops: Sequence[str]) -> str:
    """Up to the first of the stops."""
    return text[: min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))]
