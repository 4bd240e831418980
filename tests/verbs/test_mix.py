"""`stepladder mix`, end to end."""

import json
import math

import pytest

from stepladder.cli import main


@pytest.fixture
def runs(tmp_path):
    rows = ["share_web,share_code,loss_web,loss_code"]
    for i in range(10):
        web = 0.05 + 0.1 * i
        rows.append(
            f"{web:.2f},{1 - web:.2f},{2 + math.exp(-2 * web):.5f},{1 + math.exp(-3 * (1 - web)):.5f}"
        )
    path = tmp_path / "mix.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_best_mixture_is_found(runs, capsys, tmp_path):
    assert main(["mix", str(runs), "--json", "--next", "2", "--out", str(tmp_path / "best.json")]) == 0
    value = json.loads(capsys.readouterr().out)
    # 2 exp(-2 w) = 3 exp(-3 (1 - w)) at the minimum of the sum.
    best = (3 + math.log(2 / 3)) / 5
    assert value["best"]["shares"]["web"]["value"] == pytest.approx(best, abs=0.02)
    assert len(value["next"]) == 2
    assert json.loads((tmp_path / "best.json").read_text()) == value["best"]


def test_limits_hold(runs, capsys):
    words = ["mix", str(runs), "--json", "--available", "web=1e9", "--tokens", "1e10", "--max-epochs", "2"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["best"]["shares"]["web"]["value"] <= 0.2 + 1e-6


def test_the_first_runs_come_as_a_table_to_fill_in(capsys):
    assert main(["mix", "--domains", "web,code", "--next", "3"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "share_web,share_code,loss_web,loss_code"
    assert len(lines) == 4
    assert all(sum(float(cell) for cell in line.split(",")[:2]) == pytest.approx(1) for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "a mixture needs runs, or two or more domains"),
        (["--domains", "web"], "a mixture needs runs"),
        (["RUNS", "--weights", "web"], "--weights needs names and numbers"),
        (["RUNS", "--weights", "wub=1"], 'did you mean "web"'),
        (["RUNS", "--available", "web=1e9"], "available tokens need a budget"),
    ],
)
def test_user_errors(runs, capsys, words, text):
    assert main(["mix", *(str(runs) if word == "RUNS" else word for word in words)]) == 2
    assert text in capsys.readouterr().err
