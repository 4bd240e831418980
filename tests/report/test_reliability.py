"""Reliability as text, figures and page: what is said of few and of many forecasts, and that it draws."""

import json
import logging
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stepladder.errors import LawError
from stepladder.laws.registry import Frozen, freeze
from stepladder.laws.score import Scored, reliability
from stepladder.records import Forecast, Interval, Score
from stepladder.report.export_figures import render
from stepladder.report.reliability import (
    error_figure,
    reliability_figure,
    reliability_page,
    reliability_text,
    sentences,
    share_figure,
    verdict,
    write_reliability,
)

LOSS = Interval(value=2.0, low80=1.95, high80=2.05, low95=1.92, high95=2.08)
SECONDS = Interval(value=100.0, low80=80.0, high80=125.0, low95=70.0, high95=140.0)


def frozen(number, loss=2.01, seconds=110.0, horizon=8.0, law="", **about):
    said = Forecast(
        run=f"run {number}",
        params=1e6,
        tokens=1e7,
        loss=LOSS,
        loss_unit="bits_per_byte",
        horizon=horizon,
        law_fingerprint=law,
    )
    pairs = (("loss_bits_per_byte", LOSS, loss), ("seconds", SECONDS, seconds))
    scores = [Score(run=said.run, quantity=q, forecast=f, outcome=y) for q, f, y in pairs if y]
    return Frozen(
        path=Path(f"climb{number}/forecast.json"),
        forecast=freeze(said),
        intact=True,
        score=next((item for item in scores if item.quantity != "seconds"), None),
        others=tuple(item for item in scores if item.quantity == "seconds"),
        **about,
    )


def scored(*losses, horizon=8.0, law=""):
    return [
        Scored(
            score=Score(run=f"r{at}", quantity="loss", forecast=LOSS, outcome=loss),
            horizon=horizon + at / 10,
            law=law,
            name=f"r{at}",
        )
        for at, loss in enumerate(losses)
    ]


def said_of(level, *losses, law=""):
    return verdict(reliability(scored(*losses, law=law))[0], level)


def test_few_forecasts_claim_little():
    assert said_of(0.8, 2.0, 2.0, 2.0, 2.0, 2.0) == (
        "loss: the 80 % interval held in 5 of 5; 5 forecasts cannot tell 80 % from 100 %"
    )
    assert said_of(0.8, 2.0, 2.0, 2.0, 2.3, 2.3).endswith("; 5 forecasts cannot tell 80 % from 33 %")
    assert said_of(0.95, 2.0).endswith("held in 1 of 1; 1 forecast cannot tell 95 % from 38 %")


def test_a_share_that_chance_seldom_gives_is_called_wrong_with_that_chance():
    assert said_of(0.8, 2.0, 2.3, 2.3, 2.3, 2.3) == (
        "loss: the 80 % interval held in 1 of 5; it is too narrow (5 forecasts with true intervals do so in "
        "0.7 % of cases)"
    )
    assert "it looks too narrow, which may be chance" in said_of(0.8, 2.0, 2.0, 2.3, 2.3, 2.3)
    assert "in 14 of 14; it is wider than needed" in said_of(0.8, *[2.0] * 14)


def test_forecasts_of_one_law_are_one_trial():
    assert said_of(0.8, *[2.3] * 5).startswith("loss: the 80 % interval held in 0 of 5; it is too narrow")
    assert said_of(0.8, *[2.3] * 5, law="a").endswith(
        "it looks too narrow, which may be chance (1 law with true intervals do so in 20.0 % of cases)"
    )


def test_bias_says_its_sign_its_error_and_how_one_sided_it_is():
    text = sentences(reliability(scored(1.98, 1.97, 1.96, 1.98, 1.97)))[2]
    assert text == (
        "loss: forecasts were 1.4 % too high on average (5 forecasts, standard error 0.2 %); 5 of 5 were too "
        "high; of sets without bias 6 % are as one-sided"
    )
    low = sentences(reliability(scored(2.02, 2.03, 1.99)))[2]
    assert "too low on average (3 forecasts" in low
    assert "2 of 3 were too low; of sets without bias 100 % are as one-sided" in low
    assert sentences(reliability(scored(1.98)))[2].endswith("1.0 % too high; one forecast shows no bias")


def test_text_has_a_row_a_bucket_and_says_what_does_not_count():
    found = [frozen(1), frozen(2, horizon=20.0), frozen(3, uncounted="it is a copy of elsewhere")]
    lines = reliability_text(found).splitlines()
    assert lines[0].split()[:3] == ["forecasts", "n", "(laws)"]
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        "loss, all",
        "loss, 3-10x",
        "loss, 10-30x",
        "seconds, all",
        "seconds, 3-10x",
        "seconds, 10-30x",
    ]
    assert lines[-1] == "not counted: climb3/forecast.json (run 3): it is a copy of elsewhere"
    assert reliability_text(found[2:]) == lines[-1]
    assert reliability_text([frozen(4, loss=0, seconds=0)]) == ""


SETS = {
    "five": scored(2.0, 2.01, 2.2, 1.8, 2.03),
    "one": scored(2.0),
    "equal horizons": [*scored(2.0), *scored(2.2), *scored(1.9)],
    "no horizon": scored(2.0, 2.1, horizon=math.nan),
    "forty": scored(*[2.0 + 0.01 * at for at in range(40)]),
    "two quantities": [
        *scored(2.0, 2.1),
        Scored(score=Score(run="s", quantity="seconds", forecast=SECONDS, outcome=90.0), horizon=9.0),
    ],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_vega_lite_draws_both_panels(name, scheme, caplog):
    spec = reliability_figure(SETS[name])
    with caplog.at_level(logging.WARNING):
        svg = render(spec, "svg", scheme)
    assert b"NaN" not in svg
    assert b"undefined" not in svg
    assert [record.getMessage() for record in caplog.records] == []
    texts = [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
    assert "loss: intervals that held (%)" in texts
    assert ("loss: error of the forecast (%)" in texts) == (name != "no horizon")


def test_panels_show_what_they_are_given():
    shares = share_figure(SETS["five"], "loss")["layer"][0]["data"]["values"]
    assert [(row["level"], row["share"], row["held"]) for row in shares] == [
        (50.0, 40.0, "2 of 5"),
        (80.0, 60.0, "3 of 5"),
        (90.0, 60.0, "3 of 5"),
        (95.0, 60.0, "3 of 5"),
    ]
    errors = error_figure(SETS["five"], "loss")["layer"][1]["data"]["values"]
    assert [row["verdict"].split()[-1] for row in errors] == ["held", "held", "missed", "missed", "held"]
    for row in errors:
        assert (row["low"] <= 0 <= row["high"]) == row["verdict"].endswith("held")
    assert errors[2]["error"] == pytest.approx(100 * (2.0 / 2.2 - 1))


def test_forecasts_of_one_horizon_stand_beside_each_other():
    errors = error_figure(SETS["equal horizons"], "loss")["layer"][1]["data"]["values"]
    assert [row["horizon"] for row in errors] == [8.0, 8.0, 8.0]
    assert len({row["at"] for row in errors}) == 3


def test_page_opens_offline_and_escapes_names():
    found = [frozen(1), frozen("<script>alert(1)</script>", horizon=math.nan), frozen(3, uncounted="a copy")]
    page = reliability_page(found)
    assert page.count("<script") == 5  # three libraries, the specifications, the drawing
    assert "$" not in page.split("<style>")[0]
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', page, re.S).group(1))["figures"]
    assert set(specs) == set(re.findall(r'id="figure-([^"]+)"', page))
    assert set(specs) == {"shares-loss", "errors-loss", "shares-seconds", "errors-seconds"}
    assert re.findall(r'(?:src|href)="([^#"][^"]*)"', page.split("<!-- Vega")[0]) == []
    assert "2 scores without a horizon are in the table, not in the figure" in page
    assert "a copy" in page


@pytest.mark.parametrize(
    ("name", "begin"), [("a.html", b"<!doctype"), ("a.json", b"{"), ("a.svg", b"<svg"), ("a.PNG", b"\x89PNG")]
)
def test_the_name_chooses_the_kind(tmp_path, name, begin):
    write_reliability(tmp_path / name, [frozen(1), frozen(2)])
    assert (tmp_path / name).read_bytes().startswith(begin)


def test_other_names_and_nothing_scored_are_errors_that_write_nothing(tmp_path):
    with pytest.raises(LawError, match=r"allowed: a name in \.html \.json \.svg \.png"):
        write_reliability(tmp_path / "a.pdf", [frozen(1)])
    for name in ("a.html", "a.json", "a.svg"):
        with pytest.raises(LawError, match="no scored forecast yet"):
            write_reliability(tmp_path / name, [frozen(1, loss=0, seconds=0)])
    assert list(tmp_path.iterdir()) == []
