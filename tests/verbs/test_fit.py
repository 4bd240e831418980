"""`stepladder fit` and `stepladder forecast`, end to end through their functions."""

import csv
import io
import json

import pytest

from stepladder.cli import main
from stepladder.laws.forms import predict
from stepladder.verbs.fit import fit
from stepladder.verbs.forecast import forecast

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture
def files(tmp_path):
    lines = ["run,params,tokens,loss_nats_per_token"]
    for i in range(12):
        params, ratio = 1e6 * 2 ** (i % 4 * 1.5), (3, 12, 50)[i % 3]
        wobble = 1 + 0.003 * (-1) ** i
        loss = float(predict("chinchilla", TRUTH, params, params * ratio)) * wobble
        lines.append(f"r{i},{params},{params * ratio},{loss}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "targets.csv").write_text("run,params,tokens\nbig,1e8,2e9\nbigger,2e8,4e9\n")
    return tmp_path


def test_csv_in_csv_out(files, capsys):
    out = files / "forecast.csv"
    code = fit(files / "runs.csv", predict=files / "targets.csv", out=out, law=files / "law.json")
    rows = table(out)
    assert code == 0
    assert list(rows[0]) == ["run", "loss", "low80", "high80", "low95", "high95", "status"]
    assert [row["run"] for row in rows] == ["big", "bigger"]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    for row in rows:
        low95, low80, loss, high80, high95 = (
            float(row[k]) for k in ("low95", "low80", "loss", "high80", "high95")
        )
        assert low95 < low80 < loss < high80 < high95
    beside = json.loads((files / "forecast.json").read_text())
    assert [item["run"] for item in beside["forecasts"]] == ["big", "bigger"]
    assert all(item["fingerprint"] and item["created"] for item in beside["forecasts"])
    assert json.loads((files / "law.json").read_text())["loss_unit"] == "nats_per_token"
    text = capsys.readouterr().out
    assert "optimum    certified:" in text
    assert "80 % interval" in text


def test_json_is_the_only_thing_on_stdout(files, capsys):
    fit(files / "runs.csv", predict=files / "targets.csv", out=files / "forecast.csv", json_=True)
    value = json.loads(capsys.readouterr().out)
    assert set(value) == {"law", "notes", "forecasts", "next_runs"}


def test_refused_rows_keep_an_interval_and_a_reason(files):
    lines = (files / "runs.csv").read_text().splitlines()[:6]
    (files / "few.csv").write_text("\n".join(lines) + "\n")
    fit(files / "few.csv", predict=files / "targets.csv", out=files / "forecast.csv")
    first, _ = table(files / "forecast.csv")
    assert first["status"] == "refused"
    assert float(first["low95"]) < float(first["loss"]) < float(first["high95"])
    beside = json.loads((files / "forecast.json").read_text())
    assert beside["forecasts"][0]["reason"].startswith("5 runs cannot determine 5 constants")


def test_user_errors_leave_with_code_two(files, capsys):
    (files / "bad.csv").write_text("params,tokens\n1,2\n")
    assert main(["fit", str(files / "bad.csv")]) == 2
    assert "bad.csv lacks the column loss" in capsys.readouterr().err


def test_forecasts_are_listed_and_scored(files, capsys):
    fit(files / "runs.csv", predict=files / "targets.csv", out=files / "forecast.csv")
    capsys.readouterr()
    assert forecast("score", files / "forecast.json", loss=3.9, run="big") == 0
    assert capsys.readouterr().out.startswith("big: forecast 3.")
    assert forecast("list", files) == 0
    text = capsys.readouterr().out
    assert "1 scored: median error" in text
    assert "open" in text
    forecast("list", files, json_=True)
    assert json.loads(capsys.readouterr().out)["calibration"]["count"] == 1
