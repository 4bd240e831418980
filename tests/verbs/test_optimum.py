"""`stepladder optimum` and `stepladder rates`, end to end."""

import json
import math

import pytest

from stepladder.cli import main
from stepladder.laws.forms import predict
from stepladder.laws.rates import steplaw

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}


@pytest.fixture
def law(tmp_path):
    lines = ["run,params,tokens,loss"]
    for i in range(16):
        params, ratio = 1e7 * 2 ** (i % 4 * 1.5), (3, 12, 50, 100)[i // 4]
        loss = float(predict("chinchilla", TRUTH, params, params * ratio)) * (1 + 0.001 * (-1) ** i)
        lines.append(f"r{i},{params},{params * ratio},{loss}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    path = tmp_path / "law.json"
    assert main(["fit", str(tmp_path / "runs.csv"), "--form", "chinchilla", "--law", str(path)]) == 0
    return path


def test_budget_and_loss_meet(law, capsys):
    capsys.readouterr()
    assert main(["optimum", str(law), "--budget", "1e20", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert 6 * best["optimum"]["params"] * best["optimum"]["tokens"] == pytest.approx(1e20)
    loss = best["optimum"]["loss"]
    assert best["forecast"]["loss"]["value"] == pytest.approx(loss)
    assert main(["optimum", str(law), "--loss", str(loss), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optimum"]["cost"] == pytest.approx(1e20, rel=1e-3)


def test_use_makes_the_model_smaller(law, capsys):
    sizes = []
    for served in ("0", "1e12"):
        capsys.readouterr()
        assert main(["optimum", str(law), "--loss", "2.3", "--serve-tokens", served, "--json"]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["optimum"]["params"])
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give either a budget or a loss"),
        (["--budget", "1e20", "--loss", "2"], "give either a budget or a loss"),
        (["--loss", "1.0"], "no model reaches that loss"),
    ],
)
def test_user_errors(law, capsys, words, text):
    assert main(["optimum", str(law), *words]) == 2
    assert text in capsys.readouterr().err


def test_rates_follow_steplaw_and_own_sweeps(tmp_path, capsys):
    words = ["rates", "--params", "1e8", "--tokens", "2e9"]
    assert main([*words, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["lr"], value["batch_tokens"]) == pytest.approx(steplaw(1e8, 2e9))
    lr, batch = steplaw(1e7, 2e8)
    lines = ["params,tokens,loss,lr,batch_tokens"]
    for u in (-0.6, -0.3, 0.0, 0.3, 0.6, 0.9):
        for v in (-0.5, 0.0, 0.5):
            loss = 3 * math.exp(0.004 * ((u - 0.4) ** 2 + v**2))
            lines.append(f"1e7,2e8,{loss},{lr * math.exp(u)},{batch * math.exp(v)}")
    (tmp_path / "sweep.csv").write_text("\n".join(lines) + "\n")
    assert main([*words, str(tmp_path / "sweep.csv"), "--json"]) == 0
    moved = json.loads(capsys.readouterr().out)
    assert moved["lr"] / value["lr"] == pytest.approx(math.exp(0.4), rel=0.1)
    (tmp_path / "bad.csv").write_text("params,tokens,loss\n1,2,3\n2,3,3\n3,4,2\n")
    assert main([*words, str(tmp_path / "bad.csv")]) == 2
    assert "a sweep needs lr of every run" in capsys.readouterr().err


def test_a_law_of_one_variable_has_no_optimum(law, tmp_path, capsys):
    path = tmp_path / "n.json"
    assert main(["fit", str(tmp_path / "runs.csv"), "--form", "kaplan-n", "--law", str(path)]) == 0
    assert main(["optimum", str(path), "--budget", "1e20"]) == 2
    assert "does not weigh size against tokens" in capsys.readouterr().err
