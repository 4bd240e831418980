"""Published rows in `../shared/reference/layout`; the figure of docs/plan/step-time.md out.

Run: python tools/step_figures.py
"""

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "plan"))
import steps
from figure_parts import DASH, columns, draw, layer, line, picture, scaled, words

from stepladder.plan.stepcalibrate import described
from stepladder.report.marks import POINT, Spec, x_axis, y_axis
from stepladder.report.theme import BLUE, GREEN, GREY, VERMILLION

KINDS = {"V100": GREEN, "A100, A800": BLUE, "H100 and after": VERMILLION}
ENDS = (0.04, 2_000.0)
MOST = 100  # rows of a source that are drawn, evenly


def step_figure() -> Spec:
    """Seconds of a step, each row forecast by constants of the other sources, over what was measured."""
    table = steps.published(steps.REFERENCE)
    rows, count = [], len(table.rows)
    for source in sorted(set(table.sources)):
        mine = np.flatnonzero(table.sources == source)
        mine = table.take(mine[:: math.ceil(len(mine) / MOST)])
        rule = steps.fit(table.take(np.flatnonzero(table.sources != source)))
        for row, said, log in zip(mine.rows, described(mine.rows, rule)[0], mine.logs, strict=True):
            kind = {"V": "V100", "A": "A100, A800"}.get(row["hw"][0], "H100 and after")
            rows.append({"measured": float(np.exp(log)), "ratio": float(np.exp(said - log)), "kind": kind})
    x = scaled(x_axis("measured", "seconds of a step as published", log=True, number_format="~g"), *ENDS)
    y = {
        **y_axis("ratio", "forecast / published"),
        "scale": {"type": "log", "domain": [0.2, 2.2], "nice": False},
    }
    y["axis"] = {"values": [0.25, 0.5, 0.8, 1, 1.25, 2], "format": ".2~f"}
    layers = [line(columns(measured=np.array(ENDS), ratio=1.0), GREY, x, y, DASH)]
    for place, (kind, colour) in enumerate(KINDS.items()):
        mine = [row for row in rows if row["kind"] == kind]
        layers.append(layer(mine, {**POINT, "size": 18, "color": colour, "opacity": 0.7}, x, y))
        key = [{"measured": 0.05, "ratio": 0.32 * 0.87**place, "label": kind}]
        layers.append(words(key, x, y, colour, dx=0))
    return picture(layers, 320, f"Forecast over published seconds of {len(rows)} of {count} steps.")


if __name__ == "__main__":
    sys.exit(draw({"plan-steps": step_figure}, steps.REFERENCE))
