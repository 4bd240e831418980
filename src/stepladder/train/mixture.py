"""Samples per source and wanted shares in; the source of any global sample, and its place there, out.

The schedule is a tree of two-way splits. A node that has received n samples has passed round(n A / T) of
them to its left child, A and T being the integer weights of the child and of the node. So counts are exact
functions of the sample index, nothing is drawn and no state is held; the schedule repeats after T samples.

A count is off its share by at most half a sample at each split above it: by less than one over any first S
samples for up to four sources, by at most `Mixture.bound` for more; between any two samples by at most twice
that. One over *every* run cannot be had: it needs balanced words, which three or more letters allow for
special shares only (R. Graham, J. Comb. Theory A 15, 1973; R. Tijdeman, Discrete Math. 32, 1980).
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from stepladder.errors import TrainError, did_you_mean

# Weights are integers that add up to at most this, so that n A stays below 2^62; others are rounded to it.
_MOST_TOTAL = 1 << 30

Tree = int | tuple["Tree", "Tree"]


class Mixture:
    """Which source each global sample is from."""

    def __init__(self, names: Sequence[str], samples: Sequence[int], shares: Sequence[Fraction]) -> None:
        """`samples` per source in one epoch; `shares` (>= 0) need not add up to one."""
        self.names, self.samples = list(names), np.asarray(samples, dtype=np.int64)
        self.weights = _integers(shares)
        self.total = int(self.weights.sum())
        used = [int(source) for source in np.argsort(-self.weights, kind="stable") if self.weights[source]]
        self.tree, self.bound = min(
            ((tree, self._bound(tree)) for tree in (_balanced(used), self._halved(used))),
            key=lambda pair: pair[1],
        )

    def sources(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source numbers, and how many samples of that source came before, of global indices (int64)."""
        rounds, rest = np.divmod(np.asarray(samples, dtype=np.int64), self.total)
        source, place = np.empty_like(rest), np.empty_like(rest)
        waiting: list[tuple[Tree, np.ndarray, np.ndarray]] = [(self.tree, np.arange(len(rest)), rest)]
        while waiting:
            tree, chosen, count = waiting.pop()
            if isinstance(tree, int):
                source[chosen], place[chosen] = tree, count
                continue
            before = self._left(tree, count)
            goes_left = self._left(tree, count + 1) > before
            waiting.append((tree[0], chosen[goes_left], before[goes_left]))
            waiting.append((tree[1], chosen[~goes_left], (count - before)[~goes_left]))
        return source, place + rounds * self.weights[source]

    def counts(self, num_samples: int) -> np.ndarray:
        """Samples of each source among the first `num_samples`."""
        rounds, rest = divmod(num_samples, self.total)
        out = self.weights * rounds
        waiting: list[tuple[Tree, int]] = [(self.tree, rest)]
        while waiting:
            tree, count = waiting.pop()
            if isinstance(tree, int):
                out[tree] += count
                continue
            left = int(self._left(tree, np.int64(count)))
            waiting += [(tree[0], left), (tree[1], count - left)]
        return out

    def epochs(self, num_samples: int) -> dict[str, float]:
        """How often each source has been seen after `num_samples`."""
        seen = self.counts(num_samples) / np.maximum(self.samples, 1)
        return dict(zip(self.names, seen.tolist(), strict=True))

    def shares(self) -> dict[str, float]:
        """Share of each source in the samples; 0 for one that is left out."""
        return dict(zip(self.names, (self.weights / self.total).tolist(), strict=True))

    def _weight(self, tree: Tree) -> int:
        if isinstance(tree, int):
            return int(self.weights[tree])
        return self._weight(tree[0]) + self._weight(tree[1])

    def _left(self, tree: tuple[Tree, Tree], count: np.ndarray | np.int64) -> np.ndarray:
        part, whole = self._weight(tree[0]), self._weight(tree)
        return np.asarray((2 * count * part + whole) // (2 * whole))

    def _bound(self, tree: Tree, above: float = 0.0, is_root: bool = True) -> float:
        """Largest deviation of a source: half of the sum of weight(source) / weight(node) over its path."""
        weight = self._weight(tree)
        above += 0.0 if is_root else 1 / weight
        if isinstance(tree, int):
            return above * weight / 2
        return max(self._bound(child, above, False) for child in tree)

    def _halved(self, used: list[int]) -> Tree:
        """Sources from the heaviest down, cut where both sides weigh most nearly the same."""
        if len(used) == 1:
            return used[0]
        sums = np.cumsum(self.weights[used])
        cut = int(np.argmin(np.abs(2 * sums[:-1] - sums[-1]))) + 1
        return self._halved(used[:cut]), self._halved(used[cut:])


def mix(
    names: Sequence[str],
    samples: Sequence[int],
    weights: Mapping[str, float] | None = None,
    epochs: Mapping[str, float] | None = None,
    run_samples: int = 0,
) -> Mixture:
    """The mixture that is asked for by weights, by epochs, or (neither) each source as large as it is.

    Epochs alone: shares in proportion to epochs x samples, reached exactly after that many samples. Both:
    `run_samples` is the length of the run; sources with epochs take what they need of it and the others share
    the rest by weight. Sources that are not named are left out.

    Raises:
        TrainError: an unknown source, a weight or epoch count that cannot be met.
    """
    weights, epochs = dict(weights or {}), dict(epochs or {})
    _check(names, samples, weights, epochs)
    if not weights and not epochs:
        return Mixture(names, samples, [Fraction(int(count)) for count in samples])
    size = dict(zip(names, samples, strict=True))
    wanted = {name: _fraction(value) * int(size[name]) for name, value in epochs.items()}
    given = {name: _fraction(value) for name, value in weights.items()}
    if wanted and given:
        rest = run_samples - sum(wanted.values())
        if rest <= 0:
            raise TrainError(
                "the epochs leave no samples for the sources with weights",
                got=f"{float(sum(wanted.values())):g} samples wanted by epochs, a run of {run_samples}",
                allowed="fewer epochs, a longer run (run_samples), or weights alone",
            )
        total = sum(given.values())
        given = {name: value * rest / total for name, value in given.items()}
    shares = wanted | given
    return Mixture(names, samples, [shares.get(name, Fraction(0)) for name in names])


def _check(
    names: Sequence[str],
    samples: Sequence[int],
    weights: Mapping[str, float],
    epochs: Mapping[str, float],
) -> None:
    problems = []
    empty = {name for name, count in zip(names, samples, strict=True) if not count}
    for kind, values in (("weight", weights), ("epochs", epochs)):
        for name, value in values.items():
            if name not in names:
                problems.append(f"no source {name}{did_you_mean(name, names)}")
            elif not (math.isfinite(value) and value >= 0):
                problems.append(f"{kind} of {name} is {value}")
            elif value and name in empty:
                problems.append(f"{name} has no sample to take")
    problems += [f"{name} has both a weight and epochs" for name in weights if name in epochs]
    if not problems and (weights or epochs) and not any([*weights.values(), *epochs.values()]):
        problems.append("every weight is 0")
    if weights and epochs and not any(weights.values()):
        problems.append("every weight is 0")
    if problems:
        raise TrainError(
            "the mixture of sources cannot be made",
            got="; ".join(dict.fromkeys(problems)),
            allowed=f"numbers >= 0 for {', '.join(names)}",
            next_command="stepladder data names the sources in DATA_CARD.md",
        )


def _fraction(value: float) -> Fraction:
    # 0.1 means a tenth, not the binary number nearest to it.
    return Fraction(repr(float(value)))


def _integers(shares: Sequence[Fraction]) -> np.ndarray:
    """Integers in the proportion of the shares, exact when they add up to at most _MOST_TOTAL."""
    scale = math.lcm(*(share.denominator for share in shares))
    numbers = [int(share * scale) for share in shares]
    divisor = math.gcd(*numbers)
    if not divisor:
        raise TrainError(
            "no source has a sample to take", got=f"{len(shares)} sources", allowed="one or more"
        )
    numbers = [number // divisor for number in numbers]
    if (total := sum(numbers)) > _MOST_TOTAL - len(numbers):
        room = _MOST_TOTAL - len(numbers)
        numbers = [max(number * room // total, 1) if number else 0 for number in numbers]
    return np.array(numbers, dtype=np.int64)


def _balanced(used: list[int]) -> Tree:
    """A tree of the least depth; neighbours in weight are siblings."""
    if len(used) == 1:
        return used[0]
    half = 1 << ((len(used) - 1).bit_length() - 1)
    return _balanced(used[:half]), _balanced(used[half:])
