"""Numbers in words."""

import math

import pytest

from stepladder.records import Interval, Score
from stepladder.report.words import percent, show, show_range, verdict

FORECAST = Interval(value=1.5, low80=1.45, high80=1.55, low95=1.4, high95=1.6)


@pytest.mark.parametrize(
    ("outcome", "kind", "start"),
    [
        (1.5, "hit", "Hit: the forecast of held-out loss was exactly right"),
        (1.46, "hit", "Hit: the forecast of held-out loss was 2.7 % too high"),
        (1.55, "hit", "Hit: the forecast of held-out loss was 3.2 % too low"),
        (1.42, "half", "Miss at 80 %, hit at 95 %: the forecast of held-out loss was 5.6 % too high"),
        (1.70, "miss", "Miss: the forecast of held-out loss was 11.8 % too low"),
    ],
)
def test_verdict(outcome, kind, start):
    score = Score(run="t", quantity="loss", forecast=FORECAST, outcome=outcome)
    found, sentence = verdict(score)
    assert found == kind
    assert sentence.startswith(start)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("params", 1_234_567, "1.23M"),
        ("seconds", 75, "1 min 15 s"),
        ("usd", 0.0042, "$0.0042"),
        ("peak_bytes", 2**20, "1 MiB"),
        ("loss", 1.8, "1.8000"),
        ("kwh", 5.6e-4, "0.56 Wh"),
        ("kwh", 12.0, "12 kWh"),
        ("learning_rate", 7.5e-4, "0.00075"),
        ("anything", math.nan, "not known"),
    ],
)
def test_show(name, value, text):
    assert show(name, value) == text


def test_ranges_write_a_common_unit_once():
    assert show_range("kwh", 4.8e-4, 6.5e-4) == "0.48 – 0.65 Wh"
    assert show_range("kwh", 0.05, 0.2) == "50 Wh – 0.2 kWh"
    assert show_range("seconds", 188, 224) == "3 min 08 s – 3 min 44 s"
    assert show_range("seconds", 4, 8) == "4.0 – 8.0 s"
    assert show_range("tokens", 5, 5) == "exact"


def test_percent():
    assert percent(0.0132) == "1.3 %"
    assert percent(-0.0132, signed=True) == "-1.3 %"
    assert percent(0.3, 0) == "30 %"
