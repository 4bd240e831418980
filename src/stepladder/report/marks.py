"""Rows, marks and channels in; the pieces that the figures of this package are put together from out.

Series are named by a datum on the colour scale, which also makes the legend.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.records import Observation
from stepladder.report.theme import BLUE, GREEN, GREY, PURPLE, VERMILLION
from stepladder.report.words import compute_of, excluded_reason

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# Longer names are broken into lines, or they would take half of a narrow page.
_LABEL_CHARACTERS = 18
COMPUTE = "training compute, 6ND (FLOP)"
MEASURED, FORECAST, RUNGS = "measured target", "frozen forecast", "ladder"
LAW, SIZES, EXCLUDED = "law", "law, one line a size", "excluded rung"
TRAINING, HELD_OUT, ALTERNATIVES, CHOSEN = "training", "held-out", "alternatives", "chosen plan"

POINT = {"type": "point", "filled": True, "size": 75, "opacity": 1}
CROSS = {"type": "point", "shape": "cross", "filled": False, "size": 80, "strokeWidth": 2, "opacity": 1}
DIAMOND = {"type": "point", "shape": "diamond", "filled": True, "size": 170, "opacity": 1}
COLOURS = {
    LAW: BLUE,
    SIZES: BLUE,
    RUNGS: GREY,
    EXCLUDED: PURPLE,
    FORECAST: GREEN,
    MEASURED: VERMILLION,
    TRAINING: BLUE,
    HELD_OUT: VERMILLION,
    ALTERNATIVES: BLUE,
    CHOSEN: VERMILLION,
}
INTERVAL_TIPS = (
    ("low80", "low 80 %", ".4f"),
    ("high80", "high 80 %", ".4f"),
    ("low95", "low 95 %", ".4f"),
    ("high95", "high 95 %", ".4f"),
)


def tips_of(*fields: tuple[str, str, str]) -> list[Spec]:
    return [
        {"field": name, "title": title, "format": text, "type": "quantitative"}
        for name, title, text in fields
    ]


RUNG_TIPS = [
    {"field": "run", "title": "run"},
    *tips_of(
        ("params", "parameters", ".3s"),
        ("tokens", "tokens", ".3s"),
        ("ratio", "tokens per parameter", ".3~g"),
        ("flops", "compute (FLOP)", ".2e"),
        ("loss", "loss", ".4f"),
    ),
]


def rung_row(row: Observation) -> dict[str, Any]:
    return {
        "run": row.run + (f", seed {row.seed}" if row.seed else ""),
        "params": row.params,
        "tokens": row.tokens,
        "ratio": row.tokens / row.params,
        "flops": compute_of(row),
        "loss": row.loss if math.isfinite(row.loss) else None,
        "excluded": excluded_reason(row),
    }


def x_axis(field: str, title: str, *, log: bool, number_format: str) -> Spec:
    scale: Spec = {"type": "log", "nice": False, "padding": 14} if log else {"zero": True, "nice": False}
    # A linear axis with an SI format would write 0M for zero; a log axis needs the format to thin its labels.
    text = {"format": number_format} if log else {"labelExpr": f"format(datum.value, '{number_format}')"}
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": {**text, "grid": False},
    }


def y_axis(field: str, title: str) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False, "nice": True}}


def layer_of(rows: Rows, mark: Spec, series: str, encoding: Mapping[str, Any]) -> Spec:
    return {
        "data": {"values": list(rows)},
        "mark": mark,
        "encoding": {**encoding, "color": {"datum": series}},
    }


def zero_line(axis: str) -> Spec:
    mark = {"type": "rule", "strokeDash": [4, 4], "color": GREY}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {axis: {"datum": 0, "type": "quantitative"}}}


def frame(height: Any, description: str) -> Spec:
    fit = {"type": "fit-x", "contains": "padding"}
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": "container",
        "height": height,
        "autosize": fit,
    }


def chart(layers: list[Spec], height: Any, description: str, colours: Mapping[str, str] = COLOURS) -> Spec:
    """Layers with one colour scale whose domain is the series that are there, in the order of drawing."""
    series = list(dict.fromkeys(e["color"]["datum"] for la in layers if "color" in (e := la["encoding"])))
    scale = {"domain": series, "range": [colours[name] for name in series]}
    for layer in layers:
        if "color" in layer["encoding"]:
            layer["encoding"]["color"] = {**layer["encoding"]["color"], "type": "nominal", "scale": scale}
    return {**frame(height, description), "layer": layers}


def intervals(
    rows: Rows, fields: tuple[str, str], title: str, tips: list[Spec], description: str, *below: Spec
) -> Spec:
    """A dot with its interval (fields low and high) a row, in the given order; `below` is drawn first."""
    name, value = fields
    told = [{**row, name: "\n".join(textwrap.wrap(str(row[name]), _LABEL_CHARACTERS))} for row in rows]
    axis = {"labelExpr": r"split(datum.label, '\n')", "labelLineHeight": 14}
    y = {"field": name, "type": "nominal", "title": None, "sort": None, "axis": axis}
    x = {
        "field": value,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": True},
    }
    tips = [{"field": name, "title": name}, *tips]
    rule = {"type": "rule", "strokeWidth": 3, "opacity": 0.6, "color": BLUE}
    span = {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "tooltip": tips}
    dot = {"type": "point", "filled": True, "size": 110, "opacity": 1, "color": BLUE}
    return {
        **frame({"step": 34}, description),
        "data": {"values": told},
        "layer": [
            *below,
            {"mark": rule, "encoding": span},
            {"mark": dot, "encoding": {"y": y, "x": x, "tooltip": tips}},
        ],
    }


def bars(
    rows: Rows,
    fields: tuple[str, str],
    title: str,
    number_format: str,
    description: str,
    *,
    ordered: bool = True,
) -> Spec:
    name, amount = fields
    y = {"field": name, "type": "nominal", "title": None, "sort": "-x" if ordered else None}
    x = {
        "field": amount,
        "type": "quantitative",
        "title": title,
        "axis": {"grid": True},
        # Room for the labels at the bars' ends.
        "scale": {"domain": [0, 1.14 * (max(row[amount] for row in rows) or 1.0)], "nice": False},
    }
    tips = [
        {"field": name, "title": name},
        {"field": amount, "title": title, "format": number_format, "type": "quantitative"},
    ]
    bar = {"type": "bar", "color": BLUE, "height": 16, "cornerRadiusEnd": 2}
    text = {"type": "text", "align": "left", "baseline": "middle", "dx": 5}
    label = {"text": {"field": amount, "type": "quantitative", "format": number_format}}
    return {
        **frame({"step": 26}, description),
        "data": {"values": list(rows)},
        "encoding": {"y": y, "x": x, "tooltip": tips},
        "layer": [{"mark": bar}, {"mark": text, "encoding": label}],
    }
