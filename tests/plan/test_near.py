"""measured.csv beside a brief: the plan's step, memory and interval rest on it, and the reasons name it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.cli import main
from stepladder.plan.hardware import find_device
from stepladder.plan.layoutsearch import Place, rank_layouts
from stepladder.plan.measured import MEASURED_FILE, MeasuredStep, write_measured
from stepladder.plan.near import measured_need
from stepladder.records import Derived, Plan, from_json
from stepladder.units import format_bytes

BRIEF = """\
name = "t"
[data]
sources = ["python:prose"]
[hardware]
device = "{device}"
count = {count}
[override]
width = {width}
num_layers = {layers}
context_tokens = 512
batch_tokens = 65536
tokens = 1000000000
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: str, **given) -> str:
        sizes = {"device": "h100-sxm", "count": 8, "width": 1024, "layers": 8, **given}
        (tmp_path / "stepladder.toml").write_text(BRIEF.format(**sizes))
        assert 0 == main(["plan", *words])
        return capsys.readouterr().out

    return run


def as_plan(text: str) -> Plan:
    return from_json(Plan, json.loads(text))


def width(number: Derived) -> float:
    return math.log(number.high / number.low)


def measured(plan: Plan, times: float, hw: str = "h100-sxm") -> MeasuredStep:
    return MeasuredStep(
        name="twenty-steps",
        hw=hw,
        shape=plan.shape,
        recipe=plan.recipe,
        layout=plan.layout,
        seconds=times * plan.numbers["step_seconds"].value,
        peak_bytes=0.9 * plan.numbers["peak_bytes"].value,
    )


def test_a_measured_step_moves_and_narrows_the_plan(planned, tmp_path):
    before = as_plan(planned("--json"))
    assert "prior" == before.numbers["step_seconds"].source
    write_measured(tmp_path / MEASURED_FILE, [measured(before, 1.5)])
    after = as_plan(planned("--json"))
    for name in ("step_seconds", "seconds", "peak_bytes"):
        assert width(after.numbers[name]) < width(before.numbers[name]), name
    assert 0.6 * width(before.numbers["step_seconds"]) > width(after.numbers["step_seconds"])
    assert 1.3 < after.numbers["step_seconds"].value / before.numbers["step_seconds"].value < 1.5
    assert 1.3 < after.numbers["seconds"].value / before.numbers["seconds"].value < 1.5
    assert ["measured"] * 2 == [after.numbers[name].source for name in ("step_seconds", "peak_bytes")]
    assert "1 measured configurations of measured.csv (twenty-steps)" in planned("--why", "time")
    assert f"read {MEASURED_FILE}" in planned()
    assert "--from-run LOG" not in planned()


def test_a_ladder_records_what_a_plan_reads(planned, tmp_path):
    small = as_plan(planned("--json", width=256, layers=4))
    before = as_plan(planned("--json"))
    (tmp_path / "ladder").mkdir()
    write_measured(tmp_path / "ladder" / MEASURED_FILE, [measured(small, 1.5)])
    after = as_plan(planned("--json"))
    assert width(after.numbers["step_seconds"]) < width(before.numbers["step_seconds"])
    assert after.numbers["step_seconds"].value > before.numbers["step_seconds"].value
    # Peaks of another model say nothing of this one's.
    assert before.numbers["peak_bytes"] == after.numbers["peak_bytes"]


def test_steps_of_another_device_change_nothing(planned, tmp_path):
    before = planned("--json")
    write_measured(tmp_path / MEASURED_FILE, [measured(as_plan(before), 2.0, hw="a100-sxm-80")])
    assert before == planned("--json")


def test_a_cpu_rests_on_steps_in_its_own_layout(planned, tmp_path):
    words = ("--json", "--set", "processes=1 threads=2")
    sizes = {"device": "this", "count": 1, "width": 64, "layers": 2}
    before = as_plan(planned(*words, **sizes))
    write_measured(tmp_path / MEASURED_FILE, [measured(before, 0.5, hw="cpu")])
    after = as_plan(planned(*words, **sizes))
    numbers = after.numbers
    assert (
        pytest.approx(0.5 * before.numbers["step_seconds"].value, rel=1e-3) == numbers["step_seconds"].value
    )
    assert width(numbers["step_seconds"]) < width(before.numbers["step_seconds"])
    assert "steps of measured.csv (twenty-steps)" in numbers["seconds_per_token"].how
    assert pytest.approx(0.9 * before.numbers["peak_bytes"].value, rel=1e-4) == numbers["peak_bytes"].value
    other = as_plan(planned("--json", "--set", "processes=1 threads=1", **sizes))
    assert "measured.csv" not in other.numbers["seconds_per_token"].how


def test_a_layout_that_was_timed_wins_a_tie(planned):
    plan, h100 = as_plan(planned("--json")), find_device("h100-sxm")
    place = Place(base=plan.layout, device=h100)
    first, second, _ = rank_layouts(plan.shape, plan.recipe, place).top
    assert second.step.value < 1.02 * first.step.value
    step = replace(measured(plan, 1.0), layout=second.layout, seconds=second.step.value, peak_bytes=math.nan)
    choice = rank_layouts(plan.shape, plan.recipe, replace(place, measured=(step,)))
    assert second.layout == choice.top[0].layout


def test_a_measured_peak_scales_tensors_only(planned):
    plan = as_plan(planned("--json"))
    run = (plan.shape, plan.recipe)
    plain = measured_need((), run, plan.layout, 8e10)
    tensors = sum(amount for name, amount in plain.terms.items() if name not in ("allocator", "context"))
    step = replace(measured(plan, 1.0), peak_bytes=0.8 * tensors)
    need = measured_need((step,), run, plan.layout, 8e10)
    assert pytest.approx(0.8 * plain.terms["activations"]) == need.terms["activations"]
    assert plain.terms["context"] == need.terms["context"]
    assert format_bytes(sum(need.terms.values())) == format_bytes(need.total.value)
