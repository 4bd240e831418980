"""Figures of an audit in; one Vega-Lite specification (a dict, without config) a function out.

What became of text has one colour throughout: blue kept, purple removed by a rule, green copies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.data.options import Dedup
from stepladder.report.marks import (
    Rows,
    Spec,
    chart,
    frame,
    intervals,
    layer_of,
    tips_of,
    zero_line,
)
from stepladder.report.theme import BLUE, GREEN, GREY, PURPLE, VERMILLION

CAME_IN, RULES, COPIES = "came in", "removed", "copies"
TRAINING, HELD_OUT, KEPT = "training", "held out", "kept"
JOINED, APART = "joined", "compared, not joined"
FATES = {CAME_IN: GREY, RULES: PURPLE, COPIES: GREEN, KEPT: BLUE, HELD_OUT: VERMILLION, TRAINING: BLUE}
_BAR = {"type": "bar", "height": 15}
_LOWEST_SIMILARITY = 0.2
# Both figures of the search begin their plots at the same place, below each other.
_Y_EXTENT = 44


def copy_shares(rows: Rows) -> Spec:
    """The share of documents and of bytes of each kind of copy: rows of kind, of, share, label."""
    scale = {"domain": ["documents", "bytes"], "range": [GREY, GREEN]}
    most = max((row["share"] for row in rows), default=0.0) or 1.0
    x = {
        "field": "share",
        "type": "quantitative",
        "title": "share of what came in",
        "axis": {"format": ".1~%"},
        "scale": {"domain": [0, 1.18 * most], "nice": False},
    }
    tips = [{"field": "kind", "title": "kind"}, {"field": "of", "title": "of"}]
    tips += tips_of(("share", "share", ".2%"))
    label = {"type": "text", "align": "left", "baseline": "middle", "dx": 5}
    return {
        **frame({"step": 17, "for": "offset"}, "Share of the text that is copies or boilerplate."),
        "data": {"values": list(rows)},
        "encoding": {
            "y": {
                "field": "kind",
                "type": "nominal",
                "title": None,
                "sort": None,
                "axis": {"labelLimit": 190},
            },
            "yOffset": {"field": "of", "type": "nominal", "sort": None},
            "x": x,
            "tooltip": tips,
        },
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 2},
                "encoding": {"color": {"field": "of", "type": "nominal", "scale": scale}},
            },
            {
                "mark": label,
                "encoding": {"text": {"field": "label"}},
            },
        ],
    }


def waterfall(rows: Rows, unit: str) -> Spec:
    """From all bytes to those kept: rows of step, fate, low, high (in `unit`), label, share, in order."""
    most = max((row["high"] for row in rows), default=0.0) or 1.0
    x = {
        "field": "low",
        "type": "quantitative",
        "title": unit,
        "scale": {"domain": [0, 1.4 * most], "nice": False},
    }
    y = {"field": "step", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 170}}
    tips = [{"field": "step", "title": "step"}, {"field": "label", "title": "bytes"}]
    tips.append({"field": "share", "title": "share of what came in"})
    layers = [
        layer_of(own, _BAR, fate, {"y": y, "x": x, "x2": {"field": "high"}, "tooltip": tips})
        for fate in FATES
        if (own := [row for row in rows if row["fate"] == fate])
    ]
    text = {"type": "text", "align": "left", "baseline": "middle", "dx": 5}
    where = {"y": y, "x": {**x, "field": "high"}, "text": {"field": "label"}}
    layers.append({"data": {"values": list(rows)}, "mark": text, "encoding": where})
    order = {"y": {**y, "sort": [row["step"] for row in rows]}}
    for layer in layers:
        layer["encoding"] = {**layer["encoding"], **order}
    return chart(layers, {"step": 22}, "Bytes from what came in to what is kept.", FATES)


def fates_by_domain(rows: Rows) -> Spec:
    """What became of the documents of each domain: rows of domain, fate, documents, share."""
    present = [fate for fate in FATES if any(row["fate"] == fate for row in rows)]
    scale = {"domain": present, "range": [FATES[fate] for fate in present]}
    tips = [{"field": "domain", "title": "domain"}, {"field": "fate", "title": "became"}]
    tips += tips_of(("documents", "documents", ",d"), ("share", "share", ".1%"))
    order = {"field": "place", "type": "quantitative"}
    x = {
        "field": "share",
        "type": "quantitative",
        "title": "share of the domain's documents",
        "stack": "zero",
        "axis": {"format": "~%"},
        "scale": {"domain": [0, 1]},
    }
    return {
        **frame({"step": 26}, "What became of the documents of each domain."),
        "data": {"values": [{**row, "place": present.index(row["fate"])} for row in rows]},
        "mark": _BAR,
        "encoding": {
            "y": {
                "field": "domain",
                "type": "nominal",
                "title": None,
                "sort": None,
                "axis": {"labelLimit": 190},
            },
            "x": x,
            "order": order,
            "color": {"field": "fate", "type": "nominal", "scale": scale},
            "tooltip": tips,
        },
    }


def collision_curve(search: Dedup) -> Spec:
    """Probability that a pair is compared against its similarity, with the similarity that joins."""
    places = [_LOWEST_SIMILARITY + 0.01 * step for step in range(round(100 * (1 - _LOWEST_SIMILARITY)) + 1)]
    rows = [{"similarity": round(at, 2), "probability": search.collision(at)} for at in places]
    y = {
        "field": "probability",
        "type": "quantitative",
        "title": "probability",
        "axis": {"format": "~%", "minExtent": _Y_EXTENT},
        "scale": {"domain": [0, 1]},
    }
    tips = tips_of(("similarity", "similarity", ".2f"), ("probability", "compared", ".2%"))
    line = {"type": "line", "strokeWidth": 2}
    compared, threshold = "a pair is compared", f"joined from {search.jaccard:g} on"
    layers = [layer_of(rows, line, compared, {"x": _similarity("similarity"), "y": y, "tooltip": tips})]
    if search.jaccard:
        rule = {"type": "rule", "strokeWidth": 2, "strokeDash": [5, 4]}
        where = {"x": _similarity("similarity"), "tooltip": tips}
        row = {"similarity": search.jaccard, "probability": search.collision(search.jaccard)}
        layers.append(layer_of([row], rule, threshold, where))
    colours = {compared: BLUE, threshold: VERMILLION}
    return chart(layers, 190, "Probability that a pair is compared, by its similarity.", colours)


def compared_pairs(counts: Sequence[int], jaccard: float) -> Spec:
    """How many of the compared pairs have which similarity: equal bins from 0 to 1."""
    size = 1 / len(counts)
    rows = [
        {"low": place * size, "high": (place + 1) * size, "pairs": count}
        for place, count in enumerate(counts)
        if (place + 1) * size > _LOWEST_SIMILARITY + 1e-9
    ]
    y = {
        "field": "pairs",
        "type": "quantitative",
        "title": "pairs compared",
        "axis": {"minExtent": _Y_EXTENT, "tickMinStep": 1},
    }
    tips = tips_of(("low", "similarity from", ".2f"), ("high", "to", ".2f"), ("pairs", "pairs", ",d"))
    parted = {
        APART: [row for row in rows if row["low"] + size / 2 < jaccard],
        JOINED: [row for row in rows if row["low"] + size / 2 >= jaccard],
    }
    layers = []
    for series, own in parted.items():
        where = {
            "x": _similarity("low"),
            "x2": {"field": "high"},
            "y": y,
            "y2": {"datum": 0},
            "tooltip": tips,
        }
        layers += [layer_of(own, {"type": "rect", "opacity": 0.9}, series, where)] if own else []
    return chart(layers, 150, "Pairs compared, by their similarity.", {APART: GREY, JOINED: GREEN})


def length_histogram(counts: Mapping[str, int]) -> Spec:
    """Kept documents by size, a bar a doubling: label of the smallest size → documents."""
    rows = [{"size": size, "documents": count} for size, count in counts.items()]
    tips = [{"field": "size", "title": "from"}, *tips_of(("documents", "documents", ",d"))]
    axis = {"labelAngle": 0, "labelOverlap": True}
    return {
        **frame(170, "Kept documents by their size."),
        "data": {"values": rows},
        "mark": {"type": "bar", "color": BLUE, "cornerRadiusEnd": 2},
        "encoding": {
            "x": {
                "field": "size",
                "type": "nominal",
                "title": "size of a document, from",
                "sort": None,
                "axis": axis,
            },
            "y": {"field": "documents", "type": "quantitative", "title": "documents"},
            "tooltip": tips,
        },
    }


def differences(rows: Rows) -> Spec:
    """What a change of the data did, a line a kind of text: rows of text, difference, low, high."""
    tips = tips_of(("difference", "difference", "+.4f"), ("low", "low", "+.4f"), ("high", "high", "+.4f"))
    title = "difference, 95 % interval"
    told = "What a change of the data did to each kind of text."
    return intervals(rows, ("text", "difference"), title, tips, told, zero_line("x"))


def _similarity(field: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": "Jaccard similarity of two texts (word 5-grams)",
        "scale": {"domain": [_LOWEST_SIMILARITY, 1], "nice": False},
        "axis": {"grid": False, "format": ".1f"},
    }
