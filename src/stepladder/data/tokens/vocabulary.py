"""Sample texts in; bytes per token at every candidate size of the vocabulary out, from one training.

A byte-level BPE with fewer merges is the beginning of one with more: its vocabulary and its merges are cut
off behind the wanted size, and the file is the same, byte for byte, as one trained at that size. Also how
many bytes of each source the sample takes, so that it represents the mixture.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepladder.data.tokens.tokenizer import Tokenizer, train_tokenizer
from stepladder.errors import DataError, did_you_mean

# Powers of two and the half steps between them, all multiples of 64: NVIDIA's guide to matrix multiplication
# asks for dimensions that are multiples of 64 elements of two bytes.
VOCABULARY_SIZES = tuple(sorted([1024 << k for k in range(8)] + [1536 << k for k in range(7)]))
# One text in ten is kept from the training and measured: a merge that only repeats the sample counts nothing.
_HELD_EVERY = 10
# Every source with a weight gets at least a tenth of an equal share: characters and words of its own then
# are in the sample at all.
FLOOR_SHARE = 0.1
_SMALLEST = 1 + 256  # end-of-text and one token a byte


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyCurve:
    """Bytes per token by size of the vocabulary, measured on texts that the training had not seen.

    `tokenizer` is the JSON text of the largest one trained; `cut_tokenizer` makes the smaller ones.
    """

    bytes_per_token: Mapping[int, float]
    trained_bytes: int
    measured_bytes: int
    tokenizer: str


def measure_vocabulary(texts: Sequence[str], sizes: Sequence[int] = VOCABULARY_SIZES) -> VocabularyCurve:
    """Bytes per token (end-of-text left out) at each of `sizes` that the texts have merges for.

    Raises:
        DataError: no text, or so little that not even the smallest size is reached.
    """
    held = [text for text in texts[::_HELD_EVERY] if text]
    trained = [text for place, text in enumerate(texts) if place % _HELD_EVERY] or held
    if not held:
        raise DataError("no text to choose a vocabulary on", next_command="stepladder data --help")
    largest = train_tokenizer(trained, max(sizes))
    definition = json.loads(largest)
    reached = len(definition["model"]["vocab"])
    measured = sum(len(text.encode()) for text in held)
    curve = {}
    for size in sorted(sizes):
        if size <= reached:
            _, lengths = Tokenizer(json.loads(cut_tokenizer(largest, size))).encode_many(held)
            curve[size] = measured / max(1, int(lengths.sum()) - len(held))
    if not curve:
        raise DataError(
            "too little text to choose a vocabulary on",
            got=f"merges for {reached} tokens",
            allowed=f"text that has merges for {min(sizes)}",
            next_command=f"stepladder data PATH... --vocab-size {max(_SMALLEST, reached // 64 * 64)}",
        )
    return VocabularyCurve(
        bytes_per_token=curve,
        trained_bytes=sum(len(text.encode()) for text in trained),
        measured_bytes=measured,
        tokenizer=largest,
    )


def cut_tokenizer(definition: str, vocab_size: int) -> str:
    """JSON text of the tokenizer's first `vocab_size` ids: what training at that size gives.

    Raises:
        DataError: the size is below that of the bytes.
    """
    if vocab_size < _SMALLEST:
        raise DataError(
            "a vocabulary needs a token for each byte", got=str(vocab_size), allowed=f"{_SMALLEST} or more"
        )
    whole = json.loads(definition)
    model = whole["model"]
    model["vocab"] = {token: rank for token, rank in model["vocab"].items() if rank < vocab_size}
    model["merges"] = model["merges"][: len(model["vocab"]) - _SMALLEST]
    return json.dumps(whole, indent=2, ensure_ascii=False)


def sample_quota(
    bytes_by_source: Mapping[str, int], weights: Mapping[str, float] | None, sample_bytes: int
) -> dict[str, int]:
    """Bytes that the sample takes from each source; they sum to `sample_bytes` or to all that there is.

    In proportion to `weights` (a source that is not named has none), else to the bytes of the sources. A
    source gives no more than it has; what it lacks is shared among the others. Each source with a weight
    gives at least `FLOOR_SHARE` of an equal share, or all that it has.

    Raises:
        DataError: a weight is negative or not a number, names no source, or all are zero.
    """
    wanted = dict(bytes_by_source) if weights is None else _checked(weights, bytes_by_source)
    names = sorted(name for name, weight in wanted.items() if weight > 0 and bytes_by_source[name] > 0)
    most = {name: bytes_by_source[name] for name in names}
    total = max(0, min(sample_bytes, sum(most.values())))
    quota = dict.fromkeys(bytes_by_source, 0)
    if not total:
        return quota
    least = {name: min(most[name], FLOOR_SHARE * total / len(names)) for name in names}

    def shares(scale: float) -> dict[str, float]:
        return {name: min(most[name], max(least[name], scale * wanted[name])) for name in names}

    # The scale at which the shares sum to the sample: halving the interval 200 times leaves no float in it.
    low, high = 0.0, max(most[name] / wanted[name] for name in names)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle).values()) < total else (low, middle)
    exact = shares(high)
    quota |= {name: int(share) for name, share in exact.items()}
    # Bytes lost to rounding go to the largest remainders that have room.
    for name in sorted(names, key=lambda name: (int(exact[name]) - exact[name], name)):
        quota[name] += min(most[name] - quota[name], 1, total - sum(quota.values()))
    return quota


def _checked(weights: Mapping[str, float], sources: Mapping[str, int]) -> dict[str, float]:
    problems = []
    for name, weight in weights.items():
        if name not in sources:
            problems.append(f'no source is called "{name}"{did_you_mean(name, sources)}')
        elif not (math.isfinite(weight) and weight >= 0):
            problems.append(f"the weight of {name} is {weight}")
    if not problems and not any(weights.values()):
        problems.append("all weights are zero")
    if problems:
        raise DataError("; ".join(problems), allowed="weights of 0 or more for " + ", ".join(sorted(sources)))
    return {name: float(weights.get(name, 0.0)) for name in sources}
