"""Published rows in `../shared/reference/layout`; the figure of docs/plan/memory.md out.

Run: python tools/memory_figures.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "plan"))
import memory
from figure_parts import DASH, columns, draw, layer, line, picture, scaled, words

from stepladder.plan.rowmemory import row_memory
from stepladder.report.marks import POINT, Spec, x_axis, y_axis
from stepladder.report.theme import BLUE, GREEN, GREY, PURPLE, VERMILLION

SOURCES = {
    "bigscience176": ("BLOOM trials", GREY),
    "bigscience_1b3": ("BigScience 1.3B", BLUE),
    "bigscience_v100": ("BigScience V100", PURPLE),
    "internevo": ("InternEvo", GREEN),
    "torchtitan": ("torchtitan", VERMILLION),
}


def memory_figure() -> Spec:
    """GiB of a device, each row forecast by constants of the other sources, over what was measured."""
    stated = [row for row in memory.load() if row["mem_gib"] and row["group"] in SOURCES]
    x = scaled(x_axis("measured", "GiB of a device as published", log=True, number_format="~s"), 8, 95)
    y = {
        **y_axis("ratio", "forecast / published"),
        "scale": {"type": "log", "domain": [0.72, 1.45], "nice": False},
    }
    y["axis"] = {"values": [0.75, 0.8, 0.9, 1, 1.1, 1.25, 1.4], "format": ".2~f"}
    layers = []
    for ratio, colour in ((1.0, GREY), (0.9, BLUE), (1.1, BLUE)):
        ends = columns(measured=np.array([8.0, 95.0]), ratio=ratio)
        layers.append(line(ends, colour, x, y, DASH))
    for place, (source, (word, colour)) in enumerate(SOURCES.items()):
        rule = memory.fit([row for row in stated if row["group"] != source])
        rows = []
        for row in stated:
            if row["group"] == source:
                measured = float(row["mem_gib"])
                rows.append({"measured": measured, "ratio": row_memory(row, rule).gib / measured})
        layers.append(layer(rows, {**POINT, "size": 40, "color": colour, "opacity": 0.8}, x, y))
        key = [{"measured": 8.5, "ratio": 1.4 * 0.96**place, "label": f"{word} ({len(rows)})"}]
        layers.append(words(key, x, y, colour, dx=0))
    return picture(layers, 320, "Forecast over published memory of 98 configurations.")


if __name__ == "__main__":
    sys.exit(draw({"plan-memory": memory_figure}, memory.REFERENCE))
