"""Published runs in; tables, layers of the pictures that `*_figures.py` draw, and their files out."""

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "laws"))
from sets import REFERENCE

from stepladder.laws.estimate import FitOptions, fit_form
from stepladder.laws.forms import FORMS, to_constants
from stepladder.laws.table import Table, read_observations
from stepladder.records import Observation
from stepladder.report.export_figures import write_figures
from stepladder.report.marks import DIAMOND, POINT, Rows, Spec, frame
from stepladder.report.theme import GREY, VERMILLION

FITTED = {**POINT, "size": 32, "color": GREY}
HELD = {**DIAMOND, "size": 75, "color": VERMILLION}
DASH, SOLID = (5, 3), ()
OUT = Path(__file__).resolve().parents[1] / "docs" / "figures"
# Porian et al. mend one thing at a time.
RECIPES = {
    "Kaplan's settings": "hparams=base;warmup=long;decay=kaplan;param_count=kaplan",
    "+ head counted": "hparams=base;warmup=long;decay=kaplan;param_count=standard",
    "+ short warm-up": "hparams=base;warmup=short;decay=kaplan;param_count=standard",
    "+ decay to the end": "hparams=base;warmup=short;decay=chinchilla;param_count=standard",
    "+ tuned rate, batch": "hparams=tuned;warmup=short;decay=const;param_count=standard",
}


def columns(**values: Any) -> list[dict[str, Any]]:
    """Rows of arrays of one length; a single value stands in all of them."""
    whole = np.broadcast_arrays(*values.values())
    return [
        dict(zip(values, row, strict=True)) for row in zip(*(item.tolist() for item in whole), strict=True)
    ]


def layer(rows: Rows, mark: Mapping[str, Any], x: Spec, y: Spec, **more: Any) -> Spec:
    """One mark; `more` are further channels."""
    return {"data": {"values": list(rows)}, "mark": dict(mark), "encoding": {"x": x, "y": y, **more}}


def line(rows: Rows, colour: str, x: Spec, y: Spec, dash: Sequence[int] = SOLID) -> Spec:
    """A line, or one for each `size`."""
    mark = {"type": "line", "color": colour, "strokeWidth": 1.8, "strokeDash": list(dash)}
    return layer(rows, mark, x, y, **({"detail": {"field": "size"}} if rows and "size" in rows[0] else {}))


def words(rows: Rows, x: Spec, y: Spec, colour: str = "", **mark: Any) -> Spec:
    """The field `label` as text at its place."""
    style = {"type": "text", "align": "left", "dx": 7, "baseline": "middle", **mark}
    return layer(rows, style | ({"color": colour} if colour else {}), x, y, text={"field": "label"})


def span(rows: Rows, low: str, high: str, mark: Mapping[str, Any], axes: tuple[Spec, Spec]) -> Spec:
    """A bar along x between two fields."""
    x, y = axes
    found = layer(rows, {"type": "rule", **mark}, {**x, "field": low}, y)
    found["encoding"]["x2"] = {"field": high}
    return found


def picture(layers: Iterable[Spec], height: Any, description: str) -> Spec:
    """Layers in one frame."""
    # The reader's font may be wider than the one that the layout was made with.
    padding = {"left": 16, "right": 24, "top": 6, "bottom": 6}
    return {**frame(height, description), "layer": list(layers), "padding": padding}


def scaled(spec: Spec, low: float, high: float) -> Spec:
    """The axis from low to high."""
    return {**spec, "scale": {**spec["scale"], "domain": [low, high], "nice": False, "padding": 0}}


def named(field: str) -> Spec:
    """A vertical axis of names."""
    axis = {"labelLimit": 220, "ticks": False}
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": axis}


def legend(
    lines: Mapping[str, str], at: tuple[float, float], step: float, axes: tuple[Spec, Spec]
) -> list[Spec]:
    """Words in their colours below each other, from a place in the units of the axes."""
    x, y = axes
    fields = x["field"], y["field"]
    return [
        words([{fields[0]: at[0], fields[1]: at[1] - k * step, "label": word}], x, y, colour)
        for k, (word, colour) in enumerate(lines.items())
    ]


def runs_of(table: Table) -> list[dict[str, Any]]:
    """Rows of params, tokens, flops, loss."""
    flops = 6 * table.params * table.tokens
    return columns(params=table.params, tokens=table.tokens, flops=flops, loss=table.loss)


def rows_of(name: str) -> list[dict[str, str]]:
    """A reference file."""
    with (REFERENCE / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table_of(rows: Iterable[Mapping[str, str]], size: str = "params") -> Table:
    """Runs with their compute and their number of experts."""
    return read_observations(
        [
            Observation(
                run=row["run_id"],
                params=float(row[size]),
                tokens=float(row["tokens"]),
                loss=float(row["loss"]),
                flops=float(row["flops"]),
                notes={"experts": float(row["experts"])} if "experts" in row else {},
            )
            for row in rows
            if row[size] and row["loss"]
        ]
    )


def porian(recipe: str) -> Table:
    """Runs on RefinedWeb with these settings."""
    rows = rows_of("porian_isoflop")
    return table_of(row for row in rows if (row["family"], row["notes"]) == ("open_lm/rw", recipe))


def trained(table: Table, ratio: float = 2.0) -> Table:
    """Runs of that many tokens a parameter or more: shorter ones measure the start of training."""
    return table.take(np.flatnonzero(table.tokens >= ratio * table.params))


def constants(form: str, table: Table, **options: Any) -> dict[str, float]:
    """Constants of a fit."""
    fitted = fit_form(FORMS[form], table, FitOptions(**options))
    return to_constants(fitted.form, fitted.theta, fitted.columns.centre)


def text_of(known: Mapping[str, float]) -> str:
    """Constants on one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in known.items())


def draw(figures: Mapping[str, Callable[[], Spec]], reference: Path, names: Sequence[str] = ()) -> int:
    """Write all figures, or those named, to docs/figures in both schemes; 0 if that went well."""
    if not reference.exists():
        print(f"nothing drawn: ../shared/reference has no {reference.name} here")
        return 1
    if wrong := [name for name in names if name not in figures]:
        print(f"no figure {', '.join(wrong)}; there are {', '.join(figures)}")
        return 2
    for name in names or figures:
        spec = figures[name]()
        for scheme in ("light", "dark"):
            write_figures({f"{name}-{scheme}": spec}, "svg", OUT, scheme=scheme)
    return 0
