"""Every figure is drawn by the real Vega-Lite without an error or a warning, and shows what it is given."""

import json
import logging
import math
from xml.etree import ElementTree

import pytest

from stepladder.records import Interval, Observation, TaskResult
from stepladder.report import figures
from stepladder.report.export_figures import export_figures, render, write_figures
from stepladder.report.page import report_sections
from stepladder.report.parts import read_parts
from stepladder.report.theme import BLUE, GREEN, GREY, PURPLE, VERMILLION, colours, vega_config

LOSS = Interval(value=1.5, low80=1.45, high80=1.55, low95=1.4, high95=1.6)
_LOSS = "held-out loss (bits per byte)"
_COMPUTE = "training compute, 6ND (FLOP)"
# Axis titles of every figure of a finished climb.
AXES = {
    "score-loss_bits_per_byte": {_LOSS},
    "score-seconds": {"wall time (s)"},
    "score-kwh": {"energy (Wh)"},
    "law": {_COMPUTE, _LOSS},
    "sizes": {"training tokens", _LOSS},
    "residuals": {_COMPUTE, "law - measured (%)"},
    "in-context": {"training tokens", "in-context score (nats per token)"},
    "pareto": {"cost (USD)", "forecast loss (bits per byte)"},
    "training": {"training tokens", "loss (nats per token)"},
    "copies": {"share of what came in"},
    "bytes": {"MiB of text"},
    "domains": {"share of the domain's documents"},
    "collision": {"Jaccard similarity of two texts (word 5-grams)", "probability"},
    "compared": {"Jaccard similarity of two texts (word 5-grams)", "pairs compared"},
    "lengths": {"size of a document, from", "documents"},
    "removed": {"documents removed"},
    "task-1": {"accuracy, 95 % interval"},
    "seconds": {"time (s)"},
    "energy": {"energy (Wh)"},
}
KEYS = set(AXES)


@pytest.fixture(scope="module")
def specs(finished):
    return {
        key: spec
        for section in report_sections(read_parts(finished))
        for key, spec in section.figures.items()
    }


def texts(svg: bytes) -> list[str]:
    """Each drawn text, and each line of it."""
    root = ElementTree.fromstring(svg)
    return [line for node in root.iter("{http://www.w3.org/2000/svg}text") for line in node.itertext()]


def test_a_whole_climb_has_all_figures(specs):
    assert set(specs) == KEYS


@pytest.mark.parametrize("key", sorted(KEYS))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_vega_lite_draws_each_figure(specs, key, scheme, caplog):
    with caplog.at_level(logging.WARNING):
        svg = render(specs[key], "svg", scheme)
    assert svg.startswith(b"<svg")
    assert b"NaN" not in svg
    assert b"undefined" not in svg
    assert [record.getMessage() for record in caplog.records] == []
    assert f'fill="{colours(scheme)["ground"]}"' in svg.decode()


@pytest.mark.parametrize("key", sorted(KEYS))
def test_each_figure_has_axis_titles_a_description_and_tooltips(specs, key):
    spec = specs[key]
    assert spec["width"] == "container"
    assert len(spec["description"]) > 20
    assert '"tooltip"' in json.dumps(spec)
    assert AXES[key] <= set(texts(render(spec, "svg")))


def test_law_curve_shows_law_ladder_forecast_and_outcome_and_marks_excluded_rungs(specs):
    shown = texts(render(specs["law"], "svg"))
    for word in ("law", "ladder", "excluded rung", "frozen forecast", "measured target"):
        assert word in shown
    assert "training compute, 6ND (FLOP)" in shown
    assert "held-out loss (bits per byte)" in shown


def test_law_curve_without_forecast_outcome_or_band():
    rung = Observation(run="a", params=1e5, tokens=1e6, loss=2.5)
    svg = render(figures.law_curve([rung], [], None, None, "nats_per_token"), "svg")
    assert "frozen forecast" not in texts(svg)
    assert "held-out loss (nats per token)" in texts(svg)


def test_a_rung_without_a_finite_loss_does_not_break_the_figure():
    rows = [
        Observation(run="a", params=1e5, tokens=1e6, loss=2.5),
        Observation(run="b", params=1e5, tokens=2e6, loss=math.nan, notes={"excluded": "diverged"}),
    ]
    svg = render(figures.law_curve(rows, [], None, None, "bits_per_byte"), "svg")
    assert b"NaN" not in svg


def test_forecast_of_little_energy_is_drawn_in_watt_hours():
    kwh = Interval(value=5e-4, low80=4e-4, high80=6e-4, low95=3e-4, high95=7e-4)
    assert "energy (Wh)" in texts(render(figures.forecast_outcome("kwh", kwh, 5.2e-4), "svg"))
    big = Interval(value=5.0, low80=4.0, high80=6.0, low95=3.0, high95=7.0)
    assert "energy (kWh)" in texts(render(figures.forecast_outcome("kwh", big, None), "svg"))


def test_training_curve_is_thinned_to_means():
    lines = [{"tokens": step, "loss": 2.0 + (step % 2)} for step in range(1, 50_001)]
    rows = figures.training_curve(lines)["layer"][0]["data"]["values"]
    assert len(rows) <= figures.MAX_CURVE_POINTS
    assert rows[-1]["tokens"] == 50_000
    assert all(abs(row["loss"] - 2.5) < 0.01 for row in rows)


def test_bars_leave_room_for_their_labels():
    spec = figures.removed_by_rule({"exact_duplicate": 1_000, "too_short": 10})
    assert spec["encoding"]["x"]["scale"]["domain"] == [0, 1_140.0]
    assert {"1,000", "10", "exact duplicate"} <= set(texts(render(spec, "svg")))


def test_long_names_of_methods_are_broken_into_lines():
    row = TaskResult(
        task="t",
        method="TF-IDF + logistic regression",
        metric="accuracy",
        value=0.9,
        low=0.8,
        high=0.95,
        examples=9,
    )
    assert {"TF-IDF + logistic", "regression"} <= set(texts(render(figures.task_intervals([row]), "svg")))


def test_alternatives_without_a_cost_or_loss_are_left_out():
    rows = [
        {"loss": 1.5, "usd": 2.0},
        {"loss": 1.4},
        {"loss": None, "usd": 3.0},
        {"loss": {"value": 1.3}, "usd": {"value": 4.0}},
    ]
    spec = figures.pareto_front(rows, {"loss": 1.45, "usd": 2.5}, "usd", "bits_per_byte")
    assert [(row["cost"], row["loss"]) for row in spec["layer"][0]["data"]["values"]] == [
        (2.0, 1.5),
        (4.0, 1.3),
    ]


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_and_text_have_contrast_in_both_schemes(scheme):
    ground = colours(scheme)["ground"]
    for colour in (BLUE, VERMILLION, GREEN, PURPLE, GREY):
        assert contrast(colour, ground) >= 3, colour  # WCAG 2.2, 1.4.11 for graphics
    for name in ("ink", "soft"):
        assert contrast(colours(scheme)[name], ground) >= 4.5, name  # 1.4.3 for text
    assert vega_config(scheme)["background"] == ground


def test_figures_are_written_as_files(finished, tmp_path):
    written = export_figures(finished, "svg", tmp_path / "out")
    assert {path.stem for path in written} == KEYS
    assert all(path.read_bytes().startswith(b"<svg") for path in written)


def test_png_has_twice_the_pixels(tmp_path):
    spec = figures.forecast_outcome("loss", LOSS, 1.52)
    path = write_figures({"loss": spec}, "png", tmp_path)[0]
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20], "big") >= 1_200


def test_without_the_extra_the_error_names_it(finished, monkeypatch):
    import sys

    from stepladder.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"stepladder\[plots\]"):
        export_figures(finished, "svg")
