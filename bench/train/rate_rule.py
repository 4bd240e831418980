"""Best rates of measured cells in; what the rule misses there, and fitted rules on cells left out, out.

    python bench/train/rate_rule.py

`rate_cells.csv` has a line for each cell of `bench/transfer.py`: the vertex is in steps of sqrt(2) from its
`ORIGIN`, the curvature is regret per squared step, so that the regret of another place is curvature x
distance^2. Each form below is fitted by least regret to all cells but one and asked for that one: only what
holds there is a rule and not a description. `share` is batch / batch of the rule, also above 1, where the
rule's own rates stay; `noise` is 1 / (1 + 3 width / batch), as noise of a batch would have it
(arXiv:1812.06162) if the noise of an orthogonal step grew with the width.
"""

import argparse
import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from transfer import ORIGIN

from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import batch_for, recipe_for

CONTEXT, VOCAB = 64, 1_024
# Which columns of `Cell.terms` a form has; their coefficients are fitted.
FORMS = {
    "constant": (0,),
    "constant, share": (0, 1),
    "share, depth": (1, 2),
    "constant, share, depth": (0, 1, 2),
    "share, depth, width": (1, 2, 3),
    "constant, share, depth, width": (0, 1, 2, 3),
    "constant, share, depth, noise": (0, 1, 2, 5),
    "constant, steps, depth, noise": (0, 4, 2, 5),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A line of the file; `curvature` is regret per squared step of sqrt(2)."""

    name: str
    optimiser: str
    vertex: float
    curvature: float
    rule: float
    terms: tuple[float, ...]


def main() -> int:
    """Print the rule's misses, then those of each form inside and outside its cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=Path, default=Path(__file__).with_name("rate_cells.csv"))
    parser.add_argument("--until", default="9", help="only cells of this date and before")
    options = parser.parse_args()
    with open(options.cells, encoding="utf-8") as file:
        cells = [read_cell(row) for row in csv.DictReader(file) if row["date"] <= options.until]
    for optimiser in sorted({cell.optimiser for cell in cells}):
        own = [cell for cell in cells if cell.optimiser == optimiser]
        print(f"{optimiser:30s}  vertex    rule   miss  regret")
        for cell in own:
            miss = cell.rule - cell.vertex
            places = f"{cell.name:30s}  {cell.vertex:+6.2f}  {cell.rule:+6.2f}  {miss:+5.2f}"
            print(f"{places}  {regret(cell, cell.rule):6.2%}")
        print("form                           left out: largest miss  regret   inside: largest miss  regret")
        places = [cell.rule for cell in own]
        print(f"{'the rule':29s}  {'':31s}  {told(own, places)}")
        for form, columns in FORMS.items():
            if len(own) - 1 <= len(columns):
                continue
            inside = [place(cell, fit(own, columns), columns) for cell in own]
            outside = [
                place(cell, fit([other for other in own if other is not cell], columns), columns)
                for cell in own
            ]
            factors = "  ".join(f"{value:+.2f}" for value in fit(own, columns))
            print(f"{form:29s}  {told(own, outside)}  {told(own, inside)}   {factors}")
        print()
    return 0


def read_cell(row: dict[str, str]) -> Cell:
    """A cell with the rule's place and the terms of the forms, all in steps of sqrt(2)."""
    width, layers, steps, batch = (int(row[key]) for key in ("width", "layers", "steps", "batch_tokens"))
    optimiser, vertex = row["optimiser"], float(row["vertex"])
    shape = shape_for_width(width, layers, vocab_size=VOCAB, context_tokens=CONTEXT)
    flat = shape_for_width(width, ORIGIN.base_layers, vocab_size=VOCAB, context_tokens=CONTEXT)
    tokens = steps * batch
    usual = recipe_for(flat, ORIGIN.base_tokens, optimiser=optimiser, rule=ORIGIN)  # type: ignore[arg-type]
    given = recipe_for(shape, tokens, optimiser=optimiser, batch_tokens=batch)  # type: ignore[arg-type]
    share = batch / batch_for(tokens, CONTEXT)
    return Cell(
        name=f"w{width:03d}-l{layers:02d}-s{steps:05d}-b{batch} {row['date'][5:]}.{row['seed']}",
        optimiser=optimiser,
        vertex=vertex,
        curvature=float(row["curvature"]),
        rule=2 * math.log2(given.hidden_lr / usual.hidden_lr),
        terms=(
            1.0,
            2 * math.log2(share),
            -2 * math.log2(layers / ORIGIN.base_layers),
            2 * math.log2(width / ORIGIN.base_width),
            -2 * math.log2(steps / 500),
            -2 * math.log2(1 + 3 * width / batch),
        ),
    )


def fit(cells: list[Cell], columns: tuple[int, ...]) -> np.ndarray:
    """Coefficients of least regret; all but the constant are exponents."""
    weights = np.sqrt([cell.curvature for cell in cells])
    terms = np.array([[cell.terms[column] for column in columns] for cell in cells])
    vertices = np.array([cell.vertex for cell in cells])
    return np.linalg.lstsq(terms * weights[:, None], vertices * weights, rcond=None)[0]


def place(cell: Cell, coefficients: np.ndarray, columns: tuple[int, ...]) -> float:
    """Where a form puts a cell's rates."""
    return float(sum(c * cell.terms[column] for c, column in zip(coefficients, columns, strict=True)))


def regret(cell: Cell, at: float) -> float:
    """Share by which the loss is above the least."""
    return cell.curvature * (at - cell.vertex) ** 2


def told(cells: list[Cell], places: list[float]) -> str:
    """The largest miss in steps and the largest regret."""
    most = max(abs(at - cell.vertex) for cell, at in zip(cells, places, strict=True))
    worst = max(regret(cell, at) for cell, at in zip(cells, places, strict=True))
    return f"{most:22.2f}  {worst:7.2%}"


if __name__ == "__main__":
    raise SystemExit(main())
