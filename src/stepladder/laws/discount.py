"""Runs that repeat their data in; the new tokens that each is worth, by the law of `repeat`, out."""

from dataclasses import replace

import numpy as np

from stepladder.laws.repeat import C4, LEAST_REPEATED, PUBLISHED_PAIR, REPEATED, RepeatLaw, fit_repeat
from stepladder.laws.solve import Array
from stepladder.laws.table import Table

# R_D* between 5 and 100 is what the published rows allow (`fit_repeat` on them).
PUBLISHED = RepeatLaw(
    base=C4,
    data_halflife=PUBLISHED_PAIR[0],
    size_halflife=1e9,
    objective=0.0,
    agreeing=0,
    low=(5.0, 1.0),
    high=(100.0, 1e9),
    source="published half-life of data (arXiv:2305.16264)",
)


def effective_tokens(params: Array, tokens: Array, unique_tokens: Array, law: RepeatLaw) -> Array:
    """Tokens of new data that end at the same loss; never more than `tokens`, equal where none repeats."""
    params, tokens = np.asarray(params, float), np.asarray(tokens, float)
    goal = law.loss(params, tokens, unique_tokens)
    # New tokens lower the loss without end, so the answer is unique: bisect its logarithm.
    low, high = np.log(tokens) - 20.0, np.log(tokens)
    for _ in range(40):
        middle = (low + high) / 2
        new = np.exp(middle)
        short = law.loss(params, new, new) > goal
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(tokens > unique_tokens, np.exp(high), tokens)


def most_useful_epochs(
    law: RepeatLaw, params: float, unique_tokens: float, *, least_worth: float = 0.1
) -> tuple[float, float]:
    """Epochs after which a token seen again is worth less than `least_worth` of a new one, and after which
    the loss rises (infinite where it never does within 10,000 epochs)."""
    epochs = np.geomspace(1.0, 1e4, 1000)
    size, tokens, unique = np.full(1000, params), epochs * unique_tokens, np.full(1000, unique_tokens)
    marginal = np.diff(effective_tokens(size, tokens, unique, law)) / np.diff(tokens)
    best = int(np.argmin(law.loss(size, tokens, unique)))
    spent = np.flatnonzero(marginal < least_worth)
    useful = float(epochs[spent[0]]) if len(spent) else float("inf")
    return useful, float(epochs[best]) if law.harm and best < 999 else float("inf")


def discount(table: Table) -> tuple[RepeatLaw, Array]:
    """The law of repetition for these runs and the effective tokens of each.

    Ten runs of which five repeat their data are fitted: where they do not tell the half-lives, these stay at
    the published ones, their priors. Fewer get the published R_D*, no size discounted. `source` says which.
    """
    repeated = int((table.tokens > REPEATED * table.unique_tokens).sum())
    if repeated >= LEAST_REPEATED and len(table) >= 2 * LEAST_REPEATED:
        law = fit_repeat(table, None)
        return law, effective_tokens(table.params, table.tokens, table.unique_tokens, law)
    source = f"{PUBLISHED.source}: {repeated} repeated runs are too few"
    law = replace(PUBLISHED, source=source)
    return law, effective_tokens(table.params, table.tokens, table.unique_tokens, law)
