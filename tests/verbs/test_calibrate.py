"""A few steps near a plan, timed; tables that the planner reads; refusals."""

import csv
import json

import pytest

from stepladder.cli import main
from stepladder.plan.measured import read_measured
from stepladder.records import Layout


def test_a_dry_run_prices_and_writes_nothing(make_plan, tmp_path, capsys):
    path = make_plan(layout=Layout(processes=2, shard="ddp"))
    assert 0 == main(["calibrate", str(path), "--dry-run", "--json", "--out", str(tmp_path / "m.csv")])
    told = json.loads(capsys.readouterr().out)
    assert ["plan", "alone", "half"] == told["layouts"]
    assert told["seconds"] > 0
    assert not (tmp_path / "m.csv").exists()


def test_steps_are_measured_once_and_read_back(make_plan, tmp_path, capsys):
    words = ["calibrate", str(make_plan()), "--layouts", "plan", "--steps", "9", "--json"]
    words += ["--out", str(tmp_path / "m.csv")]
    assert 0 == main(words)
    first = json.loads(capsys.readouterr().out)
    assert 0 == main(words)
    assert first == json.loads(capsys.readouterr().out)
    (step,) = read_measured(tmp_path / "m.csv")
    assert 0 < step.seconds < 60
    assert 1e8 < step.peak_bytes < 1e10
    with (tmp_path / "m.csv").open() as file:
        row = next(csv.DictReader(file))
    assert ("2", "32", "fp32", "stepladder", "8") == tuple(
        row[name] for name in ("layers", "hidden", "dtype", "framework", "gbs")
    )
    capsys.readouterr()
    assert 0 == main(["calibrate", str(tmp_path / "m.runs"), "--json", "--out", str(tmp_path / "free.csv")])
    assert (tmp_path / "m.csv").read_text() == (tmp_path / "free.csv").read_text()


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--layouts", "plam"], 'did you mean "plan"'), (["--steps", "2"], "too few to time")],
)
def test_bad_words_are_refused(make_plan, tmp_path, capsys, more, told):
    assert 2 == main(["calibrate", str(make_plan()), "--out", str(tmp_path / "m.csv"), *more])
    assert told in capsys.readouterr().err
