"""Published runs in `../shared/reference/compute`; figures of docs/plan on hours, energy and failures out.

Run: python tools/run_figures.py [NAME ...]
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "plan"))
import energy
import goodput
import hours
from figure_parts import (
    DASH,
    FITTED,
    HELD,
    columns,
    draw,
    layer,
    legend,
    line,
    named,
    picture,
    scaled,
    span,
    words,
)

from stepladder.plan.hardware import grid_of
from stepladder.plan.reliability import USUAL, best_interval, share_at
from stepladder.report.marks import Spec, x_axis, y_axis
from stepladder.report.theme import BLUE, GREY, PURPLE, VERMILLION


def hours_figure() -> Spec:
    """Device-hours of 45 runs, each forecast by constants of the other families."""
    runs = hours.published(hours.REFERENCE)
    errors = hours.left_out(runs)
    moved = hours.with_siblings(runs, errors)
    rows = [
        {
            "measured": run.hours,
            "ratio": float(np.exp(errors[index])),
            "moved": float(np.exp(moved.get(index, errors[index]))),
            "label": run.row["model"],
        }
        for index, run in enumerate(runs)
    ]
    x = scaled(x_axis("measured", "device-hours as published", log=True, number_format="~s"), 300, 5e7)
    y = {
        **y_axis("ratio", "forecast / published"),
        "scale": {"type": "log", "domain": [0.35, 2.2], "nice": False},
    }
    y["axis"] = {"values": [0.5, 0.67, 0.8, 1, 1.25, 1.5, 2], "format": ".2~f"}
    ends = columns(measured=np.array([300.0, 5e7]), ratio=1.0)
    layers = [line(ends, GREY, x, y, DASH)]
    for factor in (np.exp(-0.42), np.exp(0.42)):
        layers.append(line(columns(measured=np.array([300.0, 5e7]), ratio=factor), BLUE, x, y, DASH))
    layers.append(layer(rows, {**FITTED, "size": 45}, x, y))
    some = [rows[index] for index in moved]
    layers.append(layer(some, {**HELD, "size": 45}, x, {**y, "field": "moved"}))
    layers.append(words([row for row in rows if not 0.6 < row["ratio"] < 1.45], x, y))
    key = {"no measurement": GREY, "with smaller siblings": VERMILLION, "nine in ten": BLUE}
    for place, (word, colour) in enumerate(key.items()):
        layers.append(words([{"measured": 4e2, "ratio": 0.47 * 0.9**place, "label": word}], x, y, colour))
    return picture(layers, 340, "Forecast over published device-hours of 45 runs.")


def energy_figure() -> Spec:
    """Watts of 13 runs whose energy was measured, each family left out."""
    rows = energy.measured(energy.REFERENCE)
    gpus = [row for row in rows if not row["hw_id"].startswith("tpu")]
    shown: list[dict[str, Any]] = []
    for row in rows:
        if row in gpus:
            others = [one for one in gpus if one["family"] != row["family"]]
            said = energy.gpu_watts(row, energy.fit(others))
        else:
            said = energy.TPU_V3_CHIP * energy.power._SYSTEM_OVER_DEVICE
        scope = "device alone" if row["energy_scope"] == "gpu" else "with host"
        shown.append(
            {"run": f"{row['model']}", "watts": energy.true_watts(row), "said": said, "scope": scope}
        )
    shown.sort(key=lambda row: (row["scope"], row["watts"]))
    x = scaled(x_axis("watts", "mean watts of a device", log=False, number_format="d"), 0, 420)
    y = named("run")
    layers = [
        span(shown, "watts", "said", {"color": GREY, "strokeWidth": 2}, (x, y)),
        layer(shown, {**HELD, "size": 60}, x, y),
        layer(shown, {**FITTED, "color": BLUE, "size": 55}, {**x, "field": "said"}, y),
        words([{**shown[0], "label": "measured"}], x, y, VERMILLION, align="right", dx=-9),
        words([{**shown[0], "watts": shown[0]["said"], "label": "forecast"}], x, y, BLUE),
    ]
    return picture(layers, {"step": 24}, "Measured and forecast watts of 13 runs.")


def goodput_figure() -> Spec:
    """Share of time that is training over the time between failures: formula and simulation."""
    means = np.geomspace(0.2, 1_000, 80)
    x = scaled(x_axis("mean", "hours between failures of the job", log=True, number_format="~g"), 0.2, 1_000)
    y = {**y_axis("share", "share of time that is training"), "scale": {"domain": [0, 1]}}
    layers = [line(columns(mean=means, share=[share_at(float(one)) for one in means]), BLUE, x, y)]
    hour = [share_at(float(one), interval=1.0) for one in means]
    layers.append(line(columns(mean=means, share=hour), PURPLE, x, y, DASH))
    points = []
    for mean in (0.225, 0.5, 1.0, 1.8, 5.0, 20.0, 100.0):
        found = goodput.simulated(goodput.exponential(mean), USUAL, best_interval(mean))
        points.append({"mean": mean, "share": found})
        print(f"goodput: {mean:g} h: formula {share_at(mean):.4f}, simulated {found:.4f}")
    layers.append(layer(points, {**HELD, "size": 60}, x, y))
    for mean, label in ((0.225, "131,072 devices"), (1.8, "16,384 devices")):
        layers.append(words([{"mean": mean, "share": share_at(mean), "label": label}], x, y, dy=10, dx=9))
    key = {"formula, best interval": BLUE, "simulated": VERMILLION, "a checkpoint every hour": PURPLE}
    layers += legend(key, (20, 0.45), 0.07, (x, y))
    return picture(layers, 320, "Share of useful time over the time between failures.")


def regions_figure() -> Spec:
    """Grids of ten countries: the catalogue's interval, and what five other tools say."""
    path = hours.REFERENCE / "grid_intensity_tool_comparison.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tools = [name for name in rows[0] if name not in ("iso3", "spread_max_min", "greenalg")]
    x = x_axis("kg", "kg CO2e for each kWh", log=True, number_format="~g")
    y = named("region")
    bars, dots = [], []
    for row in sorted(rows, key=lambda one: grid_of(one["iso3"]).value):
        grid = grid_of(row["iso3"])
        name = grid.how.partition(",")[0]
        bars.append({"region": name, "kg": grid.value, "low": grid.low, "high": grid.high})
        dots += [{"region": name, "kg": float(row[tool]) / 1000} for tool in tools if row[tool]]
    layers = [
        span(bars, "low", "high", {"color": BLUE, "strokeWidth": 6, "opacity": 0.4}, (x, y)),
        layer(dots, {**FITTED, "size": 45}, x, y),
        layer(bars, {**HELD, "size": 50, "color": BLUE}, x, y),
    ]
    return picture(layers, {"step": 24}, "Carbon of national grids by the catalogue and five other tools.")


FIGURES = {
    "plan-hours": hours_figure,
    "plan-energy": energy_figure,
    "plan-goodput": goodput_figure,
    "plan-regions": regions_figure,
}


def main(names: Sequence[str]) -> int:
    """Draw all figures, or those named."""
    return draw(FIGURES, hours.REFERENCE, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
