"""The 240 Chinchilla runs in; time, objective and distance to the optimum of this fit and of its peers, out.

    python bench/laws/peers.py [--chinchilla FOLDER] [--grid 5] [--starts 1024] [--resamples 1]

Objective: Huber loss, δ = 1e-3, of log-loss, summed (Hoffmann et al., arXiv:2203.15556, appendix D.2). One
process, one thread, one after the other. The peers:

- L-BFGS-B with the exact gradient of the log-sum-exp form from random starts, as Hoffmann et al. describe it.
- OLMo-core's model ladder (github.com/allenai/OLMo-core, olmo_core/model_ladder/analysis/scaling_laws.py),
  written anew from its constants: L-BFGS-B on (E, A, α, B, β) within bounds, gradients by differences, from
  the 4^5 = 1,024 points of a grid; then the same for each of 100 resamples of the runs.
- The PyPI package `chinchilla` used as its README says (5^5 = 3,125 starts of BFGS), with the log-Huber loss
  instead of its default. Not a dependency: `pip install --target FOLDER chinchilla` makes FOLDER.

What takes hours is run in part: fewer points of a grid (--starts, --grid) and fewer resamples. Times are then
scaled by the number of starts and marked with ~.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import distributions
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import load

from stepladder.laws.estimate import FitOptions, fit_form, with_rows
from stepladder.laws.forms import FORMS
from stepladder.laws.solve import minimise
from stepladder.laws.table import Table

BEST = 0.001018274
NEAR = 1e-4
DELTA = 1e-3
OLMO_STARTS, OLMO_RESAMPLES, CHINCHILLA_SLICES = 1024, 100, 5
Array = np.ndarray


def main() -> int:
    """Print one line a procedure, times as ratios to ours."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chinchilla", type=Path, help="folder with the PyPI package chinchilla")
    parser.add_argument(
        "--grid", type=int, default=CHINCHILLA_SLICES, help="points an axis of chinchilla's grid"
    )
    parser.add_argument("--starts", type=int, default=OLMO_STARTS, help="starts of each many-start fit")
    parser.add_argument(
        "--resamples", type=int, default=1, help="resamples that the many-start fit is run on"
    )
    options = parser.parse_args()
    table = load("chinchilla")
    rng = np.random.default_rng(0)
    weights = np.stack(
        [
            np.bincount(rng.integers(len(table), size=len(table)), minlength=len(table))
            for _ in range(OLMO_RESAMPLES)
        ]
    )
    print(f"{'procedure':<50} {'seconds':>10} {'x ours':>8}  objective    above the best  starts near it")
    fit, resampled, minima = ours(table, weights.astype(float))
    random_starts(table, options.starts, fit)
    olmo(table, weights[: options.resamples], options.starts, (fit, resampled, minima))
    chinchilla(table, options.chinchilla, options.grid, fit)
    return 0


def ours(table: Table, weights: Array) -> tuple[float, float, Array]:
    """The certified fit, and a refit of every resample from it: seconds of each, minima of the resamples."""
    options = FitOptions(method="plain")
    fit_form(FORMS["chinchilla"], table, options)  # the first call pays for imports
    seconds, fitted = timed(lambda: fit_form(FORMS["chinchilla"], table, options))
    row("ours, certified, 24 starts", seconds, seconds, fitted.objective, fitted.share)
    starts = np.repeat(fitted.theta[None], len(weights), axis=0)
    again, found = timed(lambda: minimise(with_rows(fitted, weight=weights), starts))
    row(f"ours, with {len(weights)} resamples", seconds + again, seconds)
    for count in (1000, 4000):
        more = np.random.default_rng(1).multinomial(len(table), np.full(len(table), 1 / len(table)), count)
        many = with_rows(fitted, weight=more.astype(float))
        spent, done = timed(
            lambda many=many, n=count: minimise(many, np.repeat(fitted.theta[None], n, axis=0))
        )
        row(f"ours, {count:,} resamples alone, {done.converged.mean():.1%} converged", spent, seconds)
    return seconds, seconds + again, found.value


def random_starts(table: Table, starts: int, unit: float) -> None:
    """L-BFGS-B in (log E, log A, log B, α, β), exact gradient."""
    from scipy.optimize import minimize

    log_n, log_d, log_loss = np.log(table.params), np.log(table.tokens), np.log(table.loss)

    def objective(x: Array) -> tuple[float, Array]:
        terms = np.stack([np.full(len(log_n), x[0]), x[1] - x[3] * log_n, x[2] - x[4] * log_d])
        top = terms.max(axis=0)
        share = np.exp(terms - top)
        total = share.sum(axis=0)
        residual = top + np.log(total) - log_loss
        share /= total
        clipped = np.clip(residual, -DELTA, DELTA)
        slope = (clipped * share).sum(axis=1)
        last = [-(clipped * share[1] * log_n).sum(), -(clipped * share[2] * log_d).sum()]
        return float(np.sum(clipped * (residual - clipped / 2))), np.array([*slope, *last])

    rng = np.random.default_rng(0)
    points = [
        np.array([*rng.uniform((-1, 0, 0), (1.5, 25, 25)), *rng.uniform(0, 1.5, 2)]) for _ in range(starts)
    ]
    seconds, found = timed(lambda: [minimize(objective, x, jac=True, method="L-BFGS-B").fun for x in points])
    many("L-BFGS-B, log-sum-exp, exact gradient", seconds, unit, np.array(found), OLMO_STARTS)


def olmo(table: Table, weights: Array, starts: int, mine: tuple[float, float, Array]) -> None:
    """OLMo-core's fit, and its fit of some resamples, set beside our minima of the same resamples."""
    fit, resampled, minima = mine
    seconds, values = timed(lambda: olmo_fit(table, np.ones(len(table)), starts))
    many("OLMo-core procedure", seconds, fit, values, OLMO_STARTS)
    if not len(weights):
        return
    again, found = timed(lambda: [olmo_fit(table, weight.astype(float), starts).min() for weight in weights])
    whole = (seconds + again / len(weights) * OLMO_RESAMPLES) * OLMO_STARTS / starts
    row(
        f"OLMo-core procedure, {OLMO_RESAMPLES} resamples (ran {len(weights)})", whole, resampled, scaled=True
    )
    above = np.array(found) / minima[: len(found)] - 1
    print(f"{'':<50} (x ours with as many; minima {above.min():+.1e} to {above.max():+.1e} above ours)")


def olmo_fit(table: Table, weight: Array, starts: int) -> Array:
    """Objectives that L-BFGS-B reaches from `starts` of the 1,024 points of the grid."""
    from scipy.optimize import minimize

    log_n, log_d, log_loss, least = (
        np.log(table.params),
        np.log(table.tokens),
        np.log(table.loss),
        table.loss.min(),
    )

    def objective(x: Array) -> float:
        E, A, alpha, B, beta = x
        predicted = E + np.exp(np.log(A) - alpha * log_n) + np.exp(np.log(B) - beta * log_d)
        size = np.abs(np.log(np.maximum(predicted, 1e-10)) - log_loss)
        return float(np.sum(weight * np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA))))

    bounds = [(0.0, least), (1e-10, 1e10), (0.01, 2.0), (1e-10, 1e10), (0.01, 2.0)]
    amplitude, exponent = np.linspace(1, 20, 4), np.linspace(0.2, 0.8, 4)
    grid = list(product(np.linspace(0, least, 4), amplitude, exponent, amplitude, exponent))
    chosen = np.random.default_rng(0).permutation(len(grid))[:starts]
    solve = partial(minimize, objective, method="L-BFGS-B", bounds=bounds, options={"maxiter": 10_000})
    return np.array([solve(grid[at]).fun for at in chosen])


def chinchilla(table: Table, folder: Path | None, slices: int, unit: float) -> None:
    """The package of that name, from a folder of its own, with the grid of its README."""
    if folder:
        sys.path.append(str(folder))
    found = [item for item in distributions() if (item.metadata["Name"] or "").lower() == "chinchilla"]
    if not found:
        print("chinchilla (PyPI): skipped, not installed here; see --chinchilla")
        return
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    ends = {"E": (1, 2), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}
    grid = {name: np.linspace(low, high, slices) for name, (low, high) in ends.items()}
    with tempfile.TemporaryDirectory() as place:
        lines = [
            f"{6 * n * d},{n},{d},{y}" for n, d, y in zip(table.params, table.tokens, table.loss, strict=True)
        ]
        (Path(place) / "df.csv").write_text("\n".join(["C,N,D,loss", *lines]) + "\n")
        model = Chinchilla(place, param_grid=grid, loss_fn=partial(log_huber, delta=DELTA), log_level=50)
        model.visualizer.optim = lambda *_args, **_options: None  # drawing is not fitting
        seconds, _ = timed(lambda: model.fit(parallel=False))
    predicted = model.E + model.A * table.params**-model.alpha + model.B * table.tokens**-model.beta
    objective = float(np.sum(log_huber(table.loss, predicted, DELTA)))
    run, whole = slices**5, CHINCHILLA_SLICES**5
    name = f"chinchilla {found[0].version}, {run} of {whole:,} starts"
    row(name, seconds * whole / run, unit, objective, scaled=run < whole)


def many(name: str, seconds: float, unit: float, values: Array, whole: int) -> None:
    """A many-start procedure of which all or some starts ran."""
    near = float(np.mean(values < BEST * (1 + NEAR)))
    scaled = len(values) != whole
    text = f"{name}, {len(values)} of {whole:,}" if scaled else f"{name}, {whole:,}"
    row(text, seconds * whole / len(values), unit, float(values.min()), near, scaled=scaled)


def row(
    name: str,
    seconds: float,
    unit: float,
    objective: float = 0.0,
    share: float = -1.0,
    *,
    scaled: bool = False,
) -> None:
    """Print one line; `~` marks a time that was scaled up from a part."""
    time_text = ("~" if scaled else "") + f"{seconds:,.2f}"
    text = f"{objective:.9f}  {objective / BEST - 1:+.1e}" if objective else ""
    text += f"        {share:.0%}" if share >= 0 else ""
    print(f"{name:<50} {time_text:>10} {seconds / unit:>8,.1f}  {text}".rstrip(), flush=True)


def timed(do: Callable):
    """Seconds and result."""
    began = time.perf_counter()
    result = do()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    sys.exit(main())
