"""What the runs of a climb kept of its planted lines in; tables, a figure and a line for the top out."""

from collections.abc import Mapping
from typing import Any

from stepladder.records import Interval
from stepladder.report.html import figure, join, paragraph, table, tag
from stepladder.report.marks import (
    DIAMOND,
    FORECAST,
    MEASURED,
    POINT,
    RUNGS,
    Spec,
    chart,
    layer_of,
    tips_of,
    x_axis,
    y_axis,
)
from stepladder.report.sections import Section

_NOTE = (
    "Exposure is log2 of all secrets that could have stood there, minus log2 of the planted one's rank among "
    "them (Carlini et al. 2019); means over the lines with so many copies. A run that reads a part of the "
    "text meets that part of the copies. The forecast was frozen before the target started."
)


def planted(exposure: Mapping[str, Any]) -> Section:
    """Exposure by copies in every run, beside the forecast of the target; empty without canaries."""
    if not exposure:
        return Section(key="planted", title="", body=join([]))
    forecast, chance = exposure.get("forecast", {}), float(exposure["chance_bits"])
    pieces = []
    if "refused" in forecast:
        pieces.append(paragraph(f"No forecast: {forecast['refused']}.", class_="verdict open"))
    else:
        head = ("copies planted", "forecast, bits", "80 % interval", "95 % interval", "measured", "held")
        pieces.append(table(head, _forecast_rows(exposure), numbers=range(5)))
    pieces.append(figure("planted", f"Exposure in bits; {chance:.2f} is chance."))
    copies = _copies(exposure)
    head = (
        "run",
        "parameters",
        "tokens",
        *(f"at {count} {'copy' if count == '1' else 'copies'}" for count in copies),
    )
    pieces += [tag("h3", "Every run"), table(head, _run_rows(exposure), numbers=range(1, 3 + len(copies)))]
    pieces.append(paragraph(_NOTE, class_="note"))
    figures = {"planted": exposure_figure(exposure)}
    return Section(key="planted", title="Planted lines", body=join(pieces), figures=figures)


def planted_line(exposure: Mapping[str, Any]) -> list[str]:
    """How many forecasts of exposure held, as one line; none without canaries or without an outcome."""
    forecast, target = exposure.get("forecast", {}), exposure.get("target")
    if target is None:
        return []
    means, most = _means(target), max(_copies(exposure), key=int)
    told = f"Canaries: {means[most]:.1f} bits of exposure at {most} copies"
    if "refused" in forecast:
        return [f"{told}; no forecast: {forecast['refused']}."]
    held = sum(Interval(**said).held80(means[copies]) for copies, said in forecast["bits"].items())
    return [
        f"{told}, forecast {forecast['bits'][most]['value']:.1f}; {held} of {len(means)} numbers of copies "
        "inside the 80 % interval."
    ]


def exposure_figure(exposure: Mapping[str, Any]) -> Spec:
    """Mean exposure of each run against the copies that it met; the target's forecast as bars of 80 %."""
    x = x_axis("met", "copies met in training", log=True, number_format="~g")
    y = y_axis("bits", "exposure (bits)")
    tips = [
        {"field": "run", "title": "run"},
        *tips_of(("met", "copies met", ".3~g"), ("bits", "bits", ".2f"), ("params", "parameters", ".3s")),
    ]
    rows = [point for name, run in exposure["runs"].items() for point in _points(name, run)]
    layers = [layer_of(rows, POINT, RUNGS, {"x": x, "y": y, "tooltip": tips})]
    forecast = exposure.get("forecast", {})
    if "bits" in forecast:
        said = _forecast_points(exposure)
        bar = {"x": x, "y": y_axis("low", "exposure (bits)"), "y2": {"field": "high"}}
        layers.append(layer_of(said, {"type": "rule", "strokeWidth": 3, "opacity": 0.6}, FORECAST, bar))
    if "target" in exposure:
        points = _points("target", exposure["target"])
        layers.append(layer_of(points, DIAMOND, MEASURED, {"x": x, "y": y, "tooltip": tips}))
    return chart(layers, 260, "Exposure of planted lines against the copies that each run met.")


def _points(name: str, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    means = _means(run)
    return [
        {"run": name, "params": run["params"], "met": run["met"][copies], "bits": means[copies]}
        for copies in run["bits"]
    ]


def _forecast_points(exposure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the target meets its copies: in proportion to its tokens, as the rungs do."""
    run = next(iter(exposure["runs"].values()))
    forecast = exposure["forecast"]
    passes = {copies: run["met"][copies] / run["tokens"] * forecast["tokens"] for copies in forecast["bits"]}
    return [
        {"met": passes[copies], "low": said["low80"], "high": said["high80"]}
        for copies, said in forecast["bits"].items()
    ]


def _copies(exposure: Mapping[str, Any]) -> list[str]:
    runs = [*exposure["runs"].values(), *([exposure["target"]] if "target" in exposure else [])]
    return sorted({count for run in runs for count in run["bits"]}, key=int)


def _means(run: Mapping[str, Any]) -> dict[str, float]:
    return {copies: sum(bits) / len(bits) for copies, bits in run["bits"].items()}


def _forecast_rows(exposure: Mapping[str, Any]) -> list[tuple[str, ...]]:
    measured = _means(exposure["target"]) if "target" in exposure else {}
    rows: list[tuple[str, ...]] = []
    for copies, ends in exposure["forecast"]["bits"].items():
        said, bits, held = Interval(**ends), "not yet", ""
        if copies in measured:
            outcome = measured[copies]
            bits = f"{outcome:.2f}"
            held = "both" if said.held80(outcome) else "95\u00a0% only" if said.held95(outcome) else "neither"
        ends80, ends95 = f"{said.low80:.2f} – {said.high80:.2f}", f"{said.low95:.2f} – {said.high95:.2f}"
        rows.append((copies, f"{said.value:.2f}", ends80, ends95, bits, held))
    return rows


def _run_rows(exposure: Mapping[str, Any]) -> list[tuple[str, ...]]:
    runs = {**exposure["runs"], **({"target": exposure["target"]} if "target" in exposure else {})}
    copies = _copies(exposure)
    return [
        (name, f"{run['params']:,.0f}", f"{run['tokens']:,.0f}", *(f"{_means(run)[c]:.2f}" for c in copies))
        for name, run in runs.items()
    ]
