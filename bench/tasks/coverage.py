"""Nothing in; how often bootstrap intervals hold the true value, on simulated test sets, out.

    python bench/tasks/coverage.py [--sets 400]

Right and wrong answers with a known probability, each example on its own or in groups that share a tendency
(beta-distributed chances, intra-group correlation .3, group sizes 1 to 9); and skewed scores of the kind that
F1 of answers has (many zeros and ones). Clustered rows resample whole groups, as tables do; the last column
shows what resampling single examples would have held.
"""

import argparse

import numpy as np

from stepladder.eval.resample import Resampling, Sums, bootstrap

_CORRELATION = 0.3


def ratio(sums: np.ndarray) -> np.ndarray:
    """Sum of scores over their number."""
    return sums[..., 0] / sums[..., 1]


def held(score: np.ndarray, group: np.ndarray, true: float, clustered: bool) -> bool:
    """Whether the 95 % interval holds `true`."""
    rows = np.stack([score, np.ones_like(score)], axis=1)
    if clustered:
        summed = np.zeros((group.max() + 1, 2))
        np.add.at(summed, group, rows)
        rows = summed
    found = bootstrap([Sums(counts=rows, formula=ratio)], Resampling(draws=1_000))
    return found.low <= true <= found.high


def answers(
    draw: np.random.Generator, groups: int, share: float, clustered: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, group of each)."""
    sizes = draw.integers(1, 10, groups) if clustered else np.ones(groups, dtype=int)
    group = np.repeat(np.arange(groups), sizes)
    if clustered:
        strength = 1 / _CORRELATION - 1
        share_of = draw.beta(share * strength, (1 - share) * strength, groups)[group]
    else:
        share_of = np.full(groups, share)
    return (draw.random(len(group)) < share_of).astype(float), group


def partial(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores like F1 of answers: 60 % nothing, 25 % all, the rest between."""
    kind, between = draw.random(count), draw.beta(2, 3, count)
    score = np.where(kind < 0.6, 0.0, np.where(kind < 0.85, 1.0, between))
    return score, np.arange(count)


def main() -> int:
    """Print one line for each kind and size of test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=400)
    sets = parser.parse_args().sets
    error = 100 * (0.95 * 0.05 / sets) ** 0.5
    print(f"{sets} test sets a row; one standard error of a coverage is {error:.1f} points")
    for count in (25, 50, 100, 400):
        for share in (0.5, 0.8, 0.95):
            for clustered in (False, True):
                draw = np.random.default_rng([count, round(100 * share), clustered])
                made = [answers(draw, count, share, clustered) for _ in range(sets)]
                right = np.mean([held(*one, share, clustered) for one in made])
                wrong = (
                    f", single examples {np.mean([held(*one, share, False) for one in made]):.1%}"
                    if clustered
                    else ""
                )
                what = "groups" if clustered else "examples"
                print(f"{count:>4} {what:<8} {share:.0%} right: held {right:.1%}{wrong}", flush=True)
        draw = np.random.default_rng([count, 1])
        true = 0.25 + 0.15 * 0.4
        right = np.mean([held(*partial(draw, count), true, False) for _ in range(sets)])
        print(f"{count:>4} examples partial scores: held {right:.1%}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
