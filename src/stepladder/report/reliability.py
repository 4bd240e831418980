"""Scored forecasts in; how reliable they were as text, as figures and as one HTML page, out."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from stepladder.errors import LawError
from stepladder.laws.registry import Frozen, scored_of
from stepladder.laws.score import (
    LEVELS,
    Z80,
    Reliability,
    Scored,
    reliability,
    surprise,
    tail,
)
from stepladder.records import to_json
from stepladder.report.export_figures import render
from stepladder.report.html import Html, figure, join, listing, paragraph, table
from stepladder.report.marks import POINT, SCHEMA, Rows, Spec, frame, tips_of, x_axis, y_axis, zero_line
from stepladder.report.page import page_of
from stepladder.report.sections import Section
from stepladder.report.theme import BLUE, GREEN, GREY, VERMILLION, vega_config
from stepladder.report.words import UNITS, percent, show, show_range
from stepladder.store import write_bytes, write_text

KINDS = (".html", ".json", ".svg", ".png")
HELD, MISSED = "80 % interval held", "80 % interval missed"
# A share that true intervals fall short of (or exceed) this seldom is called wrong, and doubtful.
_FIRM, _DOUBT = 0.05, 0.2
_SHARES = tuple(percent(level, 0) for level in LEVELS)
_HEAD = ("forecasts", "n (laws)", *_SHARES, "bias", "median", "width")
_KEY = (
    "n forecasts of so many laws; at each level how many intervals held and the 80 % interval of that share; "
    "mean signed error ± standard error, median absolute error, median width of the 95 % interval; all in %"
)
_CAPTIONS = (
    "Share of intervals that held against the level that they claim; an honest forecast lies on the dashed "
    "line. Bands: 80 % interval of the share, with as many trials as there are laws.",
    "Error of each forecast against its horizon, with its 80 % interval: a bar that crosses zero held.",
)


def write_reliability(path: Path, found: Sequence[Frozen]) -> None:
    """Write the figure as the name asks: .html a page, .json the specification, .svg or .png a picture.

    Raises:
        LawError: another ending, or nothing was scored yet.
        MissingExtraError: a picture without the extra `plots`.
    """
    if path.suffix.lower() not in KINDS:
        raise LawError(
            "a figure cannot be written under that name",
            got=path.name,
            allowed=f"a name in {' '.join(KINDS)}",
        )
    kind = path.suffix.lower()
    scored = scored_of(found)
    if kind == ".html":
        write_text(path, reliability_page(found))
    elif kind == ".json":
        spec = {**reliability_figure(scored), "config": vega_config("light")}
        write_text(path, json.dumps(to_json(spec), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        write_bytes(path, render(reliability_figure(scored), "svg" if kind == ".svg" else "png"))


def reliability_text(found: Sequence[Frozen]) -> str:
    """The table, a verdict and the bias of each quantity, and which forecasts were not counted."""
    lines = []
    if scored := scored_of(found):
        rows = reliability(scored)
        cells = [_HEAD, *map(_cells, rows)]
        wide = [max(len(row[at]) for row in cells) for at in range(len(_HEAD))]
        lines = [
            "  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)).rstrip()
            for row in cells
        ]
        lines += [f"({_KEY})", *sentences(rows)]
    return "\n".join([*lines, *_uncounted(found)])


def sentences(rows: Sequence[Reliability]) -> list[str]:
    """What the rows over all horizons say."""
    return [
        text
        for row in rows
        if row.horizon == "all"
        for text in (verdict(row, 0.8), verdict(row, 0.95), bias_text(row))
    ]


def verdict(row: Reliability, level: float) -> str:
    """What the share at `level` says, and what so few forecasts cannot say."""
    share = next(item for item in row.shares if item.level == level)
    claim = percent(level, 0)
    begin = f"{row.quantity}: the {claim} interval held in {share.held} of {row.count}"
    count = f"{row.laws} {_trials(row)}"
    # Forecasts of one law are as many trials as there are laws.
    held = math.floor(share.share * row.laws + 0.5)
    narrow = share.share < level
    chance = tail(held, row.laws, level) if narrow else 1 - tail(held - 1, row.laws, level)
    if chance >= _DOUBT:
        far = max((share.low, share.high), key=lambda end: abs(end - level))
        return f"{begin}; {count} cannot tell {claim} from {percent(far, 0)}"
    word = "too narrow" if narrow else "wider than needed"
    called = f"it is {word}" if chance < _FIRM else f"it looks {word}, which may be chance"
    return f"{begin}; {called} ({count} with true intervals do so in {percent(chance)} of cases)"


def bias_text(row: Reliability) -> str:
    """By how much forecasts of a kind were off on average, and how one-sided they were."""
    size = math.expm1(row.bias)
    begin = f"{row.quantity}: forecasts were {percent(abs(size))} too {'high' if size > 0 else 'low'}"
    if row.laws == 1:
        return f"{begin}; one {_trials(row)} shows no bias"
    high = 2 * row.too_high >= row.laws
    most = row.too_high if high else row.laws - row.too_high
    chance = min(2 * (1 - tail(most - 1, row.laws, 0.5)), 1.0)
    return (
        f"{begin} on average ({row.laws} {_trials(row)}, standard error {percent(row.bias_error)}); "
        f"{most} of {row.laws} were too {'high' if high else 'low'}; of sets without bias "
        f"{percent(chance, 0)} are as one-sided"
    )


def share_figure(scored: Sequence[Scored], quantity: str) -> Spec:
    """Observed share of intervals that held against their level, with the band of the share."""
    (row,) = (row for row in reliability(scored) if (row.quantity, row.horizon) == (quantity, "all"))
    rows = [
        {key: 100 * getattr(share, key) for key in ("level", "share", "low", "high")}
        | {"held": f"{share.held} of {row.count}"}
        for share in row.shares
    ]
    x = {
        **x_axis("level", "level of the interval (%)", log=False, number_format="d"),
        "scale": {"domain": [45, 100], "nice": False},
        "axis": {"values": [100 * level for level in LEVELS], "grid": False, "labelOverlap": False},
    }
    y = {**y_axis("share", f"{quantity}: intervals that held (%)"), "scale": {"domain": [0, 100]}}
    tips = [
        {"field": "held", "title": "held"},
        *tips_of(("level", "level (%)", "d"), ("share", "held (%)", ".0f")),
        *tips_of(("low", "share, low 80 % (%)", ".0f"), ("high", "share, high 80 % (%)", ".0f")),
    ]
    ends = [{"level": 45, "share": 45}, {"level": 100, "share": 100}]
    dashed = {"type": "line", "strokeDash": [4, 4], "strokeWidth": 1, "color": GREY}
    band = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
    layers = [
        _drawn(rows, {"type": "area", "opacity": 0.2, "color": BLUE}, band),
        _drawn(ends, dashed, {"x": x, "y": y}),
        _drawn(rows, {"type": "line", "strokeWidth": 2, "color": BLUE}, {"x": x, "y": y}),
        _drawn(rows, {**POINT, "color": BLUE}, {"x": x, "y": y, "tooltip": tips}),
    ]
    return {**frame(240, f"Share of the intervals of {quantity} that held."), "layer": layers}


def error_figure(scored: Sequence[Scored], quantity: str) -> Spec:
    """Signed error of each forecast of a quantity against its horizon, its 80 % interval as a bar."""
    rows = _error_rows(scored, quantity)
    ends = [row["at"] for row in rows]
    x = x_axis("at", "horizon (compute over the ladder's largest run)", log=True, number_format="~g")
    # One forecast, or several of one horizon, still get an axis.
    x["scale"] = {**x["scale"], "domain": [min(ends) / 1.15, max(ends) * 1.15]}
    y = y_axis("error", f"{quantity}: error of the forecast (%)")
    y["axis"] = {"labelExpr": "datum.value == 0 ? '0' : format(datum.value, '+~r')"}
    scale = {"domain": [HELD, MISSED], "range": [GREEN, VERMILLION]}
    color = {"field": "verdict", "type": "nominal", "scale": scale}
    tips = [
        {"field": "name", "title": "run"},
        *tips_of(("horizon", "horizon", ".3~g"), ("forecast", "forecast", ",.4~g")),
        *tips_of(("measured", "measured", ",.4~g"), ("error", "error (%)", "+.2f")),
    ]
    bar = {"type": "rule", "strokeWidth": 5 if len(rows) <= 30 else 2, "opacity": 0.45}
    span = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color, "tooltip": tips}
    point = {"x": x, "y": y, "color": color, "tooltip": tips}
    layers = [
        zero_line("y"),
        _drawn(rows, bar, span),
        _drawn(rows, POINT, point),
    ]
    return {**frame(240, f"Error of each forecast of {quantity} against its horizon."), "layer": layers}


def reliability_figure(scored: Sequence[Scored]) -> Spec:
    """Both panels of every quantity in one specification of fixed width."""
    rows = [
        {
            "hconcat": [
                _inner(spec, width) for spec, width in zip(panels.values(), (280, 400), strict=False)
            ],
            "resolve": {"scale": {"color": "independent"}},
        }
        for panels in _panels(scored).values()
    ]
    text = "How reliable forecasts were: shares of intervals that held, and errors by horizon."
    return {"$schema": SCHEMA, "description": text, "vconcat": rows, "spacing": 30}


def reliability_page(found: Sequence[Frozen]) -> str:
    """One page that opens offline: sentences, table, figures, and every forecast."""
    scored = scored_of(found)
    rows = reliability(scored)
    panels = _panels(scored)
    specs = {f"{kind}-{name}": spec for name, both in panels.items() for kind, spec in both.items()}
    left_out = sum(not math.isfinite(item.horizon) for item in scored)
    notes = _uncounted(found)
    notes += [f"{left_out} scores without a horizon are in the table, not in the figure"] if left_out else []

    def kept(start: str) -> dict[str, Spec]:
        return {key: spec for key, spec in specs.items() if key.startswith(start)}

    def drawn(start: str, caption: str) -> list[Html]:
        return [figure(key, caption) for key in kept(start)]

    head = table(_HEAD, map(_cells, rows), range(1, len(_HEAD)))
    bodies = (
        ("verdict", "Verdict", [listing(sentences(rows))], {}),
        (
            "shares",
            "How often intervals held",
            [head, paragraph(_KEY, class_="note"), *drawn("shares", _CAPTIONS[0])],
            kept("shares"),
        ),
        ("errors", "Errors", drawn("errors", _CAPTIONS[1]), kept("errors")),
        ("forecasts", "Forecasts", [_forecasts(scored), listing(notes)], {}),
    )
    shown = [
        Section(key=key, title=title, body=join(body), figures=figures)
        for key, title, body, figures in bodies
    ]
    title = "How reliable the forecasts were"
    return page_of(title, title, shown, contents=False)


def _forecasts(scored: Sequence[Scored]) -> Html:
    head = ("run", "quantity", "horizon", "forecast", "80 % interval", "measured", "error", "held")
    return table(head, map(_line, scored), range(2, 7))


def _line(item: Scored) -> tuple[str, ...]:
    one, said = item.score, item.score.forecast
    unit = UNITS.get(one.quantity.removeprefix("loss_"), "")
    held = "both" if said.held80(one.outcome) else "95\u00a0%" if said.held95(one.outcome) else "none"
    return (
        item.name,
        f"{item.quantity}, {unit}" if unit else item.quantity,
        f"{item.horizon:.3g}x" if math.isfinite(item.horizon) else "unknown",
        show(one.quantity, said.value),
        show_range(one.quantity, said.low80, said.high80),
        show(one.quantity, one.outcome),
        percent(one.relative_error, signed=True) if one.outcome else "not of 0",
        held,
    )


def _error_rows(scored: Sequence[Scored], quantity: str) -> Rows:
    """Rows by horizon; near ones are moved apart by a bar's width where there are few."""
    some = [item for item in scored if item.quantity == quantity and math.isfinite(item.horizon)]
    some = [item for item in some if item.score.outcome]  # nothing is a share of 0
    some.sort(key=lambda item: item.horizon)
    gap = 1.02 if len(some) <= 30 else 1.0
    rows, last = [], 0.0
    for item in some:
        one, last = item.score, max(item.horizon, last * gap)
        ends = {"low": one.forecast.low80, "high": one.forecast.high80, "error": one.forecast.value}
        rows.append(
            {
                "name": item.name,
                "at": last,
                "horizon": item.horizon,
                "forecast": one.forecast.value,
                "measured": one.outcome,
                "verdict": HELD if surprise(one) <= Z80 else MISSED,
                **{key: 100 * (value / one.outcome - 1) for key, value in ends.items()},
            }
        )
    return rows


def _panels(scored: Sequence[Scored]) -> dict[str, dict[str, Spec]]:
    """The figures of each quantity; errors only where there is a horizon to set them against."""
    panels = {}
    for name in dict.fromkeys(row.quantity for row in reliability(scored)):
        panels[name] = {"shares": share_figure(scored, name)}
        if any(item.quantity == name and math.isfinite(item.horizon) for item in scored):
            panels[name]["errors"] = error_figure(scored, name)
    return panels


def _inner(spec: Spec, width: int) -> Spec:
    """A specification for the inside of another: only the whole has a schema and fits itself."""
    return {key: value for key, value in spec.items() if key not in ("$schema", "autosize")} | {
        "width": width
    }


def _drawn(rows: Rows, mark: Spec, encoding: Spec) -> Spec:
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


def _cells(row: Reliability) -> tuple[str, ...]:
    shares = (f"{share.held} ({100 * share.low:.0f}–{100 * share.high:.0f})" for share in row.shares)
    error = f" ± {100 * row.bias_error:.1f}" if row.laws > 1 else ""
    bias = f"{100 * math.expm1(row.bias):+.1f}{error}"
    rest = (bias, f"{100 * row.median_error:.1f}", f"{100 * row.width95:.1f}")
    return (f"{row.quantity}, {row.horizon}", f"{row.count} ({row.laws})", *shares, *rest)


def _uncounted(found: Sequence[Frozen]) -> list[str]:
    return [
        f"not counted: {item.path} ({item.forecast.run}): {item.uncounted}"
        for item in found
        if item.uncounted
    ]


def _trials(row: Reliability) -> str:
    name = "law" if row.laws < row.count else "forecast"
    return name + "s" * (row.laws > 1)
