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
    assert capsys.readouterr().out.startswith("big, loss_nats_per_token: forecast 3.")
    assert forecast("list", files) == 0
    text = capsys.readouterr().out
    assert "loss: forecasts were" in text
    assert "open" in text
    forecast("list", files, json_=True)
    assert json.loads(capsys.readouterr().out)["calibration"]["count"] == 1


def test_a_metric_is_forecast_in_place_of_the_loss(files, capsys):
    lines = (files / "runs.csv").read_text().splitlines()
    lines[0] += ",accuracy"
    for i in range(1, len(lines)):
        loss = float(lines[i].split(",")[-1])
        lines[i] += f",{0.25 + 0.75 / (1 + 2.718 ** (1.5 * (loss - 3.2))):.4f}"
    (files / "task.csv").write_text("\n".join(lines) + "\n")
    out = files / "forecast.csv"
    fit(
        files / "task.csv",
        predict=files / "targets.csv",
        out=out,
        metric="accuracy",
        chance=0.25,
        examples=2000,
    )
    rows = table(out)
    assert list(rows[0]) == ["run", "accuracy", "low80", "high80", "low95", "high95", "status"]
    assert all(0.25 <= float(row["low95"]) <= float(row["accuracy"]) <= 1 for row in rows)
    text = capsys.readouterr().out
    assert "chance 0.25, 2000 test examples" in text
    assert "roll-out error" in text


def test_next_runs_are_named(files, capsys):
    fit(files / "runs.csv", next_=3)
    assert "next runs that narrow the forecast of a run of ten times the compute" in capsys.readouterr().out
    fit(files / "runs.csv", predict=files / "targets.csv", out=files / "f.csv", next_=2, json_=True)
    found = json.loads(capsys.readouterr().out)["next_runs"]
    assert len(found) == 2
    assert found[1]["left"] < found[0]["left"]


def test_a_corpus_of_its_own_is_asked_for_of_targets(files, capsys):
    lines = (files / "runs.csv").read_text().splitlines()
    lines = [lines[0] + ",corpus", *(f"{line},{'ab'[i % 2]}" for i, line in enumerate(lines[1:]))]
    (files / "two.csv").write_text("\n".join(lines) + "\n")
    words = ["fit", str(files / "two.csv"), "--predict", str(files / "targets.csv")]
    assert main([*words, "--out", str(files / "f.csv")]) == 2
    assert "targets.csv lacks the column corpus" in capsys.readouterr().err
    (files / "targets.csv").write_text("run,params,tokens,corpus\nbig,1e8,2e9,a\nbig2,1e8,2e9,b\n")
    assert main([*words, "--out", str(files / "f.csv")]) == 0
    assert len(table(files / "f.csv")) == 2


def test_repeated_data_is_counted_in_new_tokens(files, capsys):
    lines = (files / "runs.csv").read_text().splitlines()
    lines = [lines[0] + ",unique_tokens", *(f"{line},{float(line.split(',')[2])}" for line in lines[1:])]
    lines += [f"again{i},1e7,{4e8 * i},{3.4 - 0.05 * i},1e8,".rstrip(",") for i in (1, 2, 3)]
    (files / "again.csv").write_text("\n".join(lines) + "\n")
    (files / "targets.csv").write_text("run,params,tokens,unique_tokens\nmany,1e8,2e11,1e8\n")
    fit(files / "again.csv", predict=files / "targets.csv", out=files / "f.csv")
    text = capsys.readouterr().out
    assert "repetition the worth of a token seen again fades over" in text
    assert "many sees its data 2e+03 times: beyond" in text
