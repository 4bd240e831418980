"""What a model makes of texts without labels in; which to label next, in order and why, out (no torch).

Unsure texts are those whose two likeliest labels are close (margin of calibrated probabilities; Scheffer et
al. 2001). Among the most unsure, greedy k-centre choice (Sener and Savarese, arXiv:1708.00489) takes the one
farthest from all labelled and chosen texts. A share of the rows is drawn by chance instead, before the
choice: what people answer there tells how good the model is on all of the pool.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.errors import TaskError
from stepladder.store import fingerprint
from stepladder.tune.pool import PoolRow
from stepladder.tune.rows import Example

# From this margin on a text is sure: the first label is likelier than the second by half of all probability.
SURE_MARGIN = 0.5
# k-centre chooses from so many times the rows that are wanted.
WINDOW = 2.0
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolView:
    """What a model makes of a pool: probabilities (N, labels), unit features (N, F) and those of the labelled
    examples (M, F), dense or sparse.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    features: Any
    labelled: Any

    @property
    def margin(self) -> np.ndarray:
        """By how much the likeliest label of each text is likelier than the next (N,)."""
        if self.probabilities.shape[1] < 2:
            return np.ones(len(self.probabilities))
        two = np.partition(self.probabilities, -2, axis=1)[:, -2:]
        return two[:, 1] - two[:, 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A row of the pool by number; `is_random`: drawn by chance, for an unbiased estimate."""

    row: int
    is_random: bool


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (N, labels)."""
    scaled = logits / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def temperature(logits: np.ndarray, gold: Sequence[int]) -> float:
    """The divisor of the logits under which `gold` (label numbers, -1 unknown) is likeliest (Guo et al.,
    arXiv:1706.04599); 1 where no gold label is known."""
    from scipy.optimize import minimize_scalar

    numbers = np.asarray(gold)
    known = np.flatnonzero(numbers >= 0)
    if not len(known):
        return 1.0

    def nats(log_divisor: float) -> float:
        chances = softmax(logits[known], float(np.exp(log_divisor)))
        return -float(np.log(np.maximum(chances[np.arange(len(known)), numbers[known]], 1e-12)).mean())

    ends = (np.log(_LEAST_TEMPERATURE), np.log(_MOST_TEMPERATURE))
    return float(np.exp(minimize_scalar(nats, bounds=ends, method="bounded").x))


def choose(
    view: PoolView, count: int, *, random_share: float = 0.1, window: float = WINDOW, seed: int = 0
) -> list[Chosen]:
    """`count` rows of the pool: chosen ones by growing margin, random ones spread evenly among them.

    A sure text is only taken when all unsure ones are.

    Raises:
        TaskError: fewer texts than wanted, or a share that is none.
    """
    margin = view.margin
    if not 1 <= count <= len(margin) or not 0 <= random_share <= 1:
        raise TaskError(
            "so many texts cannot be chosen",
            got=f"{count} of {len(margin)}, {random_share:g} of them at random",
            allowed=f"1 to {len(margin)} texts, a share from 0 to 1",
        )
    rng = np.random.default_rng(seed)
    by_chance = rng.choice(len(margin), size=_random_count(count, random_share), replace=False)
    rest = np.setdiff1d(np.arange(len(margin)), by_chance)
    wanted = count - len(by_chance)
    ordered = rest[np.argsort(margin[rest], kind="stable")]
    unsure = ordered[: int(np.searchsorted(margin[ordered], SURE_MARGIN))]
    if len(unsure) <= wanted:
        picked = ordered[:wanted]
    else:
        candidates = unsure[: max(wanted, round(window * wanted))]
        picked = candidates[_spread_out(view, candidates, wanted)]
    picked = picked[np.argsort(margin[picked], kind="stable")]
    return _mixed(picked.tolist(), by_chance.tolist())


def _random_count(count: int, share: float) -> int:
    return min(int(np.ceil(share * count - 1e-9)), count)


def _mixed(picked: list[int], by_chance: list[int]) -> list[Chosen]:
    """Random rows evenly spread, so that answers to the first part of the queue hold their share too."""
    places = [
        *((at + 0.5) / max(len(picked), 1) for at in range(len(picked))),
        *((at + 0.5) / max(len(by_chance), 1) for at in range(len(by_chance))),
    ]
    rows = [Chosen(row=row, is_random=False) for row in picked]
    rows += [Chosen(row=row, is_random=True) for row in by_chance]
    return [rows[at] for at in np.argsort(places, kind="stable")]


def _spread_out(view: PoolView, candidates: np.ndarray, count: int) -> list[int]:
    """Places within `candidates`, each the farthest (least similar) from all labelled and chosen texts."""
    features = view.features[candidates]
    nearest = nearest_labelled(features, view.labelled)[1]
    taken: list[int] = []
    for _ in range(count):
        at = int(nearest.argmin())
        taken.append(at)
        nearest = np.maximum(nearest, _dense(features @ features[at : at + 1].T)[:, 0])
        nearest[taken] = np.inf
    return taken


def nearest_labelled(features: Any, labelled: Any, rows_at_once: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """(number, cosine) of the most similar labelled text of each row of unit features."""
    numbers, values = [], []
    for start in range(0, features.shape[0], rows_at_once):
        alike = _dense(features[start : start + rows_at_once] @ labelled.T)
        best = alike.argmax(axis=1)
        numbers.append(best)
        values.append(alike[np.arange(len(best)), best])
    return np.concatenate(numbers), np.concatenate(values)


def _dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.todense() if hasattr(matrix, "todense") else matrix)


def queue_rows(
    pool: Sequence[PoolRow], examples: Sequence[Example], view: PoolView, chosen: Sequence[Chosen]
) -> Iterator[dict[str, Any]]:
    """What people are asked, in order: fill "label", and "annotator" where there are several."""
    numbers = [one.row for one in chosen]
    near, alike = nearest_labelled(view.features[numbers], view.labelled)
    margin = view.margin[numbers]
    for at, one in enumerate(chosen):
        row, chances = pool[one.row], view.probabilities[one.row]
        neighbour = examples[near[at]]
        why = {
            "margin": round(float(margin[at]), 4),
            "predicted": view.labels[int(chances.argmax())],
            "probability": round(float(chances.max()), 4),
            "nearest labelled": {
                "text": neighbour.text[:80],
                "label": neighbour.label,
                "cosine": round(float(alike[at]), 4),
            },
        }
        yield {
            "id": row.id,
            "text": row.text,
            "label": "",
            "random": one.is_random,
            "why": why,
            "group": row.group,
            "check": text_check(row.id, row.text),
        }


def text_check(identity: str, text: str) -> str:
    """What shows that a text is still the one that was asked."""
    return fingerprint([identity, text])
