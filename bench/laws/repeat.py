"""Print how well the runs of Muennighoff et al. with the most epochs, and the dearest, are forecast from the
rest, by the law of repetition and by its rivals; and how well all runs are described.

Run: .venv/bin/python bench/laws/repeat.py (data: ../shared/reference/laws/datablations_*.csv)
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from stepladder.laws.discount import discount, effective_tokens, most_useful_epochs
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import predict
from stepladder.laws.repeat import (
    C4,
    PUBLISHED_PAIR,
    RepeatLaw,
    fit_repeat,
)
from stepladder.laws.table import Table, read_observations

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"
Loss = Callable[[Table], np.ndarray]


def ours(train: Table) -> Loss:
    """All constants from the runs, the base from those of one epoch."""
    law = fit_repeat(train, None)
    return lambda rows: law.loss(rows.params, rows.tokens, rows.unique_tokens)


def together(train: Table) -> Loss:
    """Base and half-lives fitted together."""
    law = fit_repeat(train, None, single_first=False)
    return lambda rows: law.loss(rows.params, rows.tokens, rows.unique_tokens)


def without_harm(train: Table) -> Loss:
    """All constants from the runs, but no cost of over-fitting."""
    law = fit_repeat(train, None, harm=False)
    return lambda rows: law.loss(rows.params, rows.tokens, rows.unique_tokens)


def published_form(train: Table) -> Loss:
    """Half-lives fitted over the published base."""
    law = fit_repeat(train)
    return lambda rows: law.loss(rows.params, rows.tokens, rows.unique_tokens)


def published(_: Table) -> Loss:
    """The paper's constants, which were fitted to 182 of these very rows."""
    nan = (float("nan"), float("nan"))
    law = RepeatLaw(
        base=C4,
        data_halflife=PUBLISHED_PAIR[0],
        size_halflife=PUBLISHED_PAIR[1],
        objective=float("nan"),
        agreeing=0,
        low=nan,
        high=nan,
    )
    return lambda rows: law.loss(rows.params, rows.tokens, rows.unique_tokens)


def plain(train: Table) -> Loss:
    """Chinchilla's law on all tokens, repeated or not."""
    law = fit_law(train, FitOptions(method="plain"))
    return lambda rows: predict(law.form, law.terms, rows.params, rows.tokens)


def discounted(train: Table) -> Loss:
    """Chinchilla's law on effective tokens, as a table with unique_tokens would be fitted."""
    repeat, worth = discount(train)
    law = fit_law(replace(train, tokens=worth))

    def loss(rows: Table) -> np.ndarray:
        new = effective_tokens(rows.params, rows.tokens, rows.unique_tokens, repeat)
        return predict(law.form, law.terms, rows.params, new)

    return loss


RIVALS = (ours, together, without_harm, discounted, published_form, published, plain)


def main() -> None:
    """Print the errors of each procedure, held out and in sample."""
    for name in ("datablations_c4", "datablations_182fit"):
        table = read_observations(REFERENCE / f"{name}.csv")
        epochs = table.tokens / table.unique_tokens
        compute = table.params * table.tokens
        print(f"{name}: {len(table)} runs, mean (median) error in % of runs held out, and rms in sample")
        columns = ("epochs 20 %", "epochs 30 %", "dearest 20 %", "dearest 30 %")
        print(f"{'':<16}" + "".join(f"{column:>16}" for column in columns) + f"{'rms':>8}")
        for rival in RIVALS:
            cells = [held(table, key, share, rival) for key in (epochs, compute) for share in (0.2, 0.3)]
            error = np.log(rival(table)(table) / table.loss)
            rms = float(np.sqrt(np.mean(error**2)))
            print(f"{rival.__name__:<16}" + "".join(f"{cell:>16}" for cell in cells) + f"{rms:>8.4f}")
        began = time.perf_counter()
        law, _ = discount(table)
        print(f"discount: {time.perf_counter() - began:.2f} s; {law.source}")
        print(f"R_D* {law.data_halflife:.4g} [{law.low[0]:.4g}, {law.high[0]:.4g}], ", end="")
        print(f"R_N* {law.size_halflife:.4g} [{law.low[1]:.4g}, {law.high[1]:.4g}], ", end="")
        print(", ".join(f"{key} {value:.4g}" for key, value in {**law.base, **law.harm}.items()))
        for size, unique in ((1.46e8, 1e8), (1.1e9, 1e8), (2.81e9, 1e9), (2.81e9, 4e9)):
            useful, best = most_useful_epochs(law, size, unique)
            print(
                f"{size:.3g} parameters, {unique:.3g} unique tokens: a token is worth less than a tenth ",
                end="",
            )
            print(f"after {useful:.1f} epochs, the loss rises after {best:.1f}")


def held(table: Table, key: np.ndarray, share: float, rival: Callable[[Table], Loss]) -> str:
    """Mean and median absolute error of the runs with the largest key, fitted without them."""
    order = np.argsort(key, kind="stable")
    count = round(share * len(table))
    train, rest = table.take(order[:-count]), table.take(order[-count:])
    error = 100 * np.abs(rival(train)(rest) / rest.loss - 1)
    return f"{error.mean():.2f} ({np.median(error):.2f})"


if __name__ == "__main__":
    main()
