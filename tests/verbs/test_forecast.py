"""`stepladder forecast list` over folders of climbs: text, JSON, figure, and what it refuses."""

import json
import math
from dataclasses import replace

import pytest

from stepladder.cli import main
from stepladder.laws.registry import freeze, write_forecasts
from stepladder.records import Forecast, Interval, Score, to_json


def band(value, width):
    ends = [value * math.exp(side * width) for side in (-1, 1, -1.5, 1.5)]
    return Interval(value=value, low80=ends[0], high80=ends[1], low95=ends[2], high95=ends[3])


@pytest.fixture
def climbs(tmp_path):
    """Three climbs: two scored, one of them with a miss, and one whose forecast was changed."""
    for number, (loss, seconds) in enumerate([(1.97, 90.0), (1.8, 110.0), (2.0, 100.0)]):
        said = freeze(
            Forecast(
                run="target",
                params=1e6,
                tokens=1e7 + number,
                loss=band(2.0, 0.03),
                loss_unit="bits_per_byte",
                costs={"seconds": band(100.0, 0.2)},
                horizon=8.0 + number,
            )
        )
        folder = tmp_path / f"seed{number}"
        pairs = (("loss_bits_per_byte", said.loss, loss), ("seconds", said.costs["seconds"], seconds))
        scores = [Score(run="target", quantity=q, forecast=f, outcome=y) for q, f, y in pairs]
        write_forecasts(folder / "forecast.json", [replace(said, horizon=1.0) if number == 2 else said])
        (folder / "score.json").write_text(json.dumps({"scores": [to_json(item) for item in scores]}))
    return tmp_path


def test_list_tells_reliability_and_what_is_not_counted(climbs, capsys):
    assert main(["forecast", "list", str(climbs)]) == 0
    text = capsys.readouterr().out
    assert "loss, all     2 (2)" in text
    assert "loss: the 80 % interval held in 1 of 2; 2 forecasts cannot tell 80 % from 16 %" in text
    assert "seconds: the 95 % interval held in 2 of 2; 2 forecasts cannot tell" in text
    assert "seed2/forecast.json (target): it was changed after it was frozen" in text


def test_json_has_rows_and_verdicts_and_nothing_else_is_printed(climbs, capsys):
    assert main(["forecast", "list", str(climbs), "--json", "--figure", str(climbs / "out.json")]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [row["uncounted"] for row in value["forecasts"]] == ["", "", "it was changed after it was frozen"]
    assert [(row["quantity"], row["horizon"], row["count"]) for row in value["reliability"]] == [
        ("loss", "all", 2),
        ("seconds", "all", 2),
    ]
    assert len(value["verdicts"]) == 6
    assert json.loads((climbs / "out.json").read_text())["vconcat"]


def test_figure_is_written_and_named(climbs, capsys):
    page = climbs / "reliability.html"
    assert main(["forecast", "list", str(climbs), "--figure", str(page)]) == 0
    assert capsys.readouterr().out.endswith(f"figure: {page}\n")
    assert page.read_text().startswith("<!doctype html>")


def test_without_scores_the_list_stands_and_the_figure_is_an_error(climbs, capsys):
    for path in climbs.glob("*/score.json"):
        path.unlink()
    assert main(["forecast", "list", str(climbs)]) == 0
    text = capsys.readouterr().out
    assert "open" in text
    assert "held" not in text
    assert main(["forecast", "list", str(climbs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reliability"] == []
    assert main(["forecast", "list", str(climbs), "--figure", str(climbs / "a.html")]) == 2
    assert "no scored forecast yet" in capsys.readouterr().err


def test_a_figure_of_another_kind_or_of_one_score_is_refused(climbs, capsys):
    assert main(["forecast", "list", str(climbs), "--figure", "a.pdf"]) == 2
    assert "allowed: a name in .html .json .svg .png" in capsys.readouterr().err
    forecast = str(climbs / "seed0" / "forecast.json")
    assert main(["forecast", "score", forecast, "--loss", "2", "--figure", "a.html"]) == 2
    assert "--figure belongs to forecast list" in capsys.readouterr().err
