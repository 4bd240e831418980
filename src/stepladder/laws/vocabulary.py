"""Bytes per token by vocabulary size, a target size and a budget in; the size to train with, and why, out.

The parameters that spell the vocabulary (size times width) of the best model of a budget follow a power of
the budget (Tao et al. 2024, "Scaling laws with vocabulary", arXiv:2407.13623, approach 1: at equal FLOPs the
best of ten sizes for six models). Around the best size the loss rises with the square of the logarithm.

Their approach 3, a loss formula, is not used: its published constants come back only when tokens are counted
with the vocabulary in thousands put into the formula that wants it in units (rmse .09; .53 otherwise), and
with tokens counted rightly its exponent of the vocabulary is not identified by the 1,054 points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError

# Tokens per character in SlimPajama by the logarithm of the size (Tao et al., utils.py of
# sail-sg/scaling-with-vocab@6701cc2), up to 200,000.
_PUBLISHED_TOKENS = (0.00639222, -0.15811069, 1.20470122)
# Non-embedding parameters of their best models: exp(-2.4847) FLOPs^0.5 (optimal_Nv_predict.py, approach 1).
_LOG_PARAMS_SCALE = -2.4846510161625193
_MULTIPLE = 64
# Budgets at which the sizes of one model are compared.
_BUDGETS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyLaw:
    """Best vocabulary parameters = scale × FLOPs^exponent; excess loss = curvature × ln²(size / best size).

    `params` and `flops` are the ranges of the runs behind it; the loss is in nats a token, normalised by that
    of the unigram model so that sizes can be compared.
    """

    scale: float
    exponent: float
    curvature: float
    params: tuple[float, float]
    flops: tuple[float, float]

    def best_params(self, flops: float) -> float:
        """Parameters of one matrix of the best vocabulary at a budget."""
        return self.scale * flops**self.exponent


# Scale and exponent as published (approach 1: exp(-1.5890), 0.41636, that is 0.83 in the non-embedding
# parameters; `fit_vocabulary_law` gives 0.374 on their rows). The curvature is ours: median of 26 parabolas.
PUBLISHED = VocabularyLaw(
    scale=math.exp(-1.589031299255507),
    exponent=0.4163622634135234,
    curvature=0.068,
    params=(33.2e6, 1.13e9),
    flops=(1.3e16, 4.4e20),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyCandidate:
    """One size. `excess_loss`: nats a token above the best size; `flops_per_byte`: relative to the least."""

    vocab_size: int
    bytes_per_token: float
    embedding_params: int
    embedding_share: float
    flops_per_byte: float
    excess_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyChoice:
    """The size to train with, how it was found, and every size that was looked at."""

    vocab_size: int
    best_size: float
    how: str
    candidates: tuple[VocabularyCandidate, ...]


def choose_vocabulary(
    bytes_per_token: Mapping[int, float],
    *,
    nonembedding_params: float,
    width: int,
    flops: float | None = None,
    is_tied: bool = True,
    law: VocabularyLaw = PUBLISHED,
) -> VocabularyChoice:
    """The candidate with the least loss by the law, moved by how this text's tokens lengthen with the size.

    Args:
        bytes_per_token: size of the vocabulary → bytes per token measured at it.
        nonembedding_params: of the target.
        width: of the target's embedding.
        flops: of the target's training; None for the budget at which a model of this size is the best.
        is_tied: whether embedding and head are one matrix.
        law: fitted or published.

    Raises:
        LawError: no candidates, or a size that is no multiple of 64, or a number that is not above zero.
    """
    _check(bytes_per_token, nonembedding_params, width, flops)
    sizes = np.array(sorted(bytes_per_token), dtype=float)
    measured = np.array([bytes_per_token[int(size)] for size in sizes])
    budget = flops or (nonembedding_params / math.exp(_LOG_PARAMS_SCALE)) ** 2
    shift = _shift(sizes, measured, nonembedding_params, width)
    best = law.best_params(budget) / width * shift
    per_byte = (nonembedding_params + width * sizes) / measured
    excess = law.curvature * np.log(sizes / best) ** 2
    matrices = width * sizes * (1 if is_tied else 2)
    candidates = tuple(
        VocabularyCandidate(
            vocab_size=int(size),
            bytes_per_token=float(measured[place]),
            embedding_params=int(matrices[place]),
            embedding_share=float(matrices[place] / (matrices[place] + nonembedding_params)),
            flops_per_byte=float(per_byte[place] / per_byte.min()),
            excess_loss=float(excess[place]),
        )
        for place, size in enumerate(sizes)
    )
    chosen = candidates[int(excess.argmin())]
    how = _how(chosen, best, shift, budget, nonembedding_params, law)
    return VocabularyChoice(vocab_size=chosen.vocab_size, best_size=best, how=how, candidates=candidates)


def fit_vocabulary_law(
    params: Sequence[float],
    widths: Sequence[float],
    sizes: Sequence[float],
    flops: Sequence[float],
    losses: Sequence[float],
) -> VocabularyLaw:
    """The law of a table of runs, one row a measurement along a run.

    Runs of equal `params` (non-embedding) that differ in size are compared at budgets that all of them
    reached: a parabola in the logarithm of the size gives the best one. Parabolas without a minimum inside
    the measured sizes are left out.

    Raises:
        LawError: fewer than three budgets gave a best size.
    """
    table = np.array([params, widths, sizes, flops, losses], dtype=float).T
    found = [row for own in np.unique(table[:, 0]) for row in _best_sizes(table[table[:, 0] == own])]
    if len(found) < 3:
        raise LawError(
            "too few budgets have a best vocabulary size",
            got=f"{len(found)} of them",
            allowed="at least 3: models trained with several sizes to overlapping budgets",
        )
    budget, vocabulary, curvature = np.array(found).T
    exponent, log_scale = np.polyfit(np.log(budget), np.log(vocabulary), 1)
    return VocabularyLaw(
        scale=float(np.exp(log_scale)),
        exponent=float(exponent),
        curvature=float(np.median(curvature)),
        params=(float(table[:, 0].min()), float(table[:, 0].max())),
        flops=(float(table[:, 3].min()), float(table[:, 3].max())),
    )


def _best_sizes(rows: np.ndarray) -> list[tuple[float, float, float]]:
    """(FLOPs, best vocabulary parameters, curvature) of one model's runs."""
    width, sizes = rows[0, 1], np.unique(rows[:, 2])
    if len(sizes) < 3:
        return []
    runs = [rows[rows[:, 2] == size][:, 3:] for size in sizes]
    runs = [run[np.argsort(run[:, 0])] for run in runs]
    low, high = max(run[0, 0] for run in runs), min(run[-1, 0] for run in runs)
    if low >= high:
        return []
    found = []
    for budget in np.geomspace(low, high, _BUDGETS + 1)[1:]:
        losses = [np.interp(np.log(budget), np.log(run[:, 0]), run[:, 1]) for run in runs]
        square, linear, _ = np.polyfit(np.log(sizes), losses, 2)
        if square > 0 and sizes[0] < (best := np.exp(-linear / (2 * square))) < sizes[-1]:
            found.append((float(budget), float(best * width), float(square)))
    return found


def _shift(sizes: np.ndarray, measured: np.ndarray, params: float, width: int) -> float:
    """By what factor the size with the least FLOPs a byte lies above that on the law's own text."""
    if len(sizes) < 4:
        return 1.0
    grid = np.geomspace(sizes[0], sizes[-1], 2000)
    logs = np.log(grid)
    own = np.polyval(np.polyfit(np.log(sizes), 1 / measured, 2), logs)
    theirs = np.polyval(_PUBLISHED_TOKENS, np.minimum(logs, math.log(200_000)))
    cost = params + width * grid
    return float(grid[(cost * own).argmin()] / grid[(cost * theirs).argmin()])


def _how(
    chosen: VocabularyCandidate, best: float, shift: float, flops: float, params: float, law: VocabularyLaw
) -> str:
    text = (
        f"vocabulary law (arXiv:2407.13623): {law.scale:.3g} × ({flops:.3g} FLOPs)^{law.exponent:.3f} "
        f"parameters in one matrix, times {shift:.2f} for this text's bytes per token: {best:,.0f}; "
        f"nearest candidate {chosen.vocab_size:,}, {chosen.bytes_per_token:.2f} bytes per token, "
        f"{chosen.embedding_share:.0%} of the parameters in the embedding"
    )
    inside = law.params[0] <= params <= law.params[1] and law.flops[0] <= flops <= law.flops[1]
    if not inside:
        text += (
            f"; outside the law's runs ({law.params[0]:.2g} to {law.params[1]:.2g} parameters, "
            f"{law.flops[0]:.2g} to {law.flops[1]:.2g} FLOPs)"
        )
    return text


def _check(curve: Mapping[int, float], params: float, width: int, flops: float | None) -> None:
    if not curve:
        raise LawError("no vocabulary sizes to choose from")
    odd = sorted(size for size in curve if size <= 0 or size % _MULTIPLE)
    if odd:
        raise LawError(
            "vocabulary sizes must be multiples of 64", got=", ".join(map(str, odd)), allowed="64, 128, ..."
        )
    numbers = {"nonembedding_params": params, "width": width, **({} if flops is None else {"flops": flops})}
    numbers |= {f"bytes per token at {size}": value for size, value in curve.items()}
    wrong = [
        f"{name} = {value}" for name, value in numbers.items() if not (value > 0 and math.isfinite(value))
    ]
    if wrong:
        raise LawError("not numbers above zero", got=", ".join(wrong))
