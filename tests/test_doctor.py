"""The verbs init, doctor and plan as a user types them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepladder.brief import OVERRIDES, TABLES, load_brief
from stepladder.cli import main
from stepladder.plan.machine import measure_machine
from stepladder.plan.template import brief_text


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_init_writes_a_brief_that_loads(capsys):
    assert run(capsys, "init")[0] == 0
    brief = load_brief(Path("stepladder.toml"))
    assert brief.data.sources == ("python:prose",)
    assert brief.budget.hours == 0.25
    assert f"{measure_machine(rates='none').cores} cores" in Path("stepladder.toml").read_text()


def test_init_never_overwrites_unasked(capsys):
    Path("stepladder.toml").write_text("mine")
    code, _, err = run(capsys, "init")
    assert code == 2
    assert err == (
        "error: stepladder.toml is there already\n"
        "  allowed: another name, or --force to replace it\n"
        "  next:    stepladder plan stepladder.toml\n"
    )
    assert Path("stepladder.toml").read_text() == "mine"
    assert run(capsys, "init", "--show")[1].startswith("# What you have")
    assert run(capsys, "init", "--force")[0] == 0
    load_brief(Path("stepladder.toml"))


@pytest.mark.parametrize("name", ["a b/c", "ünï", "...", ""])
def test_init_makes_a_usable_name_of_any_folder(name):
    text = brief_text(measure_machine(rates="none"), name)
    Path("stepladder.toml").write_text(text)
    assert load_brief(Path("stepladder.toml")).name


def test_the_template_has_every_key_and_its_examples_are_allowed():
    text = brief_text(measure_machine(rates="none"), "x")
    for table, rules in TABLES.items():
        for key, rule in rules.items():
            assert re.search(rf"^(# )?{key} = .*{re.escape(rule.allowed)}$", text, re.M), (table, key)
    for key, rule in OVERRIDES.items():
        assert f"# {key} =  # {rule.allowed}\n" in text
    shown, rest = text.split("[override]")
    Path("all.toml").write_text(re.sub(r"^# (\w+ = )", r"\1", shown, flags=re.M) + "[override]\n")
    brief = load_brief(Path("all.toml"))
    assert brief.goal.max_params == 100_000_000
    assert rest


def test_doctor_looks_without_measuring(capsys):
    code, out, _ = run(capsys, "doctor", "--quick")
    assert code == 0
    assert out.startswith("stepladder doctor\n  system    ")
    assert "matrix rates: not measured yet; type: stepladder doctor" in out
    code, out, _ = run(capsys, "doctor", "--quick", "--json")
    assert json.loads(out)["cores"] >= 1


def test_plan_needs_nothing_but_a_brief(capsys):
    run(capsys, "init")
    code, out, _ = run(capsys, "plan", "--out", "plan.json")
    assert code == 0
    assert "time 50 steps of this plan" in out
    assert "the loss is not forecast from your text" in out
    kept = json.loads(Path("plan.json").read_text())
    assert {"value", "low", "high", "how", "source"} == set(kept["seconds"])
    code, out, _ = run(capsys, "plan", "plan.json", "--why", "kwh")
    assert code == 0
    assert out.startswith("kwh = ")
    assert "\n  watts = " in out


def test_plan_json_is_one_object_and_a_dry_run_writes_nothing(capsys):
    run(capsys, "init")
    code, out, _ = run(capsys, "plan", "--json", "--dry-run", "--out", "plan.json")
    assert code == 0
    assert json.loads(out)["name"]
    assert not Path("plan.json").exists()


def test_plan_reads_runs_from_a_csv(capsys):
    run(capsys, "init")
    lines = ["run,params,tokens,loss_bits_per_byte,flops,seconds,weight"]
    for index, params in enumerate((1e5, 2e5, 3e5, 4e5, 5e5)):
        flops = 6 * params * 1e6
        lines.append(f"r{index},{params:.0f},1000000,2.{index},{flops:.0f},{10 + flops * 3e-11:.3f},1")
    lines.append("bad,100000,1000000,9.0,6e11,99999,0")
    Path("observations.csv").write_text("\n".join(lines) + "\n")
    code, out, _ = run(capsys, "plan", "--why", "seconds_per_token")
    assert code == 0
    assert "fitted to 5 measured runs" in out
    assert "[measured]" in out


def test_the_target_keeps_depth_and_heads_of_a_ladder_beside_the_brief(capsys):
    run(capsys, "init")
    over = "[override]\nwidth = 48\nnum_layers = 4\nnum_heads = 2\nvocab_size = 512\n"
    Path("rung.toml").write_text(Path("stepladder.toml").read_text().split("[override]")[0] + over)
    assert run(capsys, "plan", "rung.toml", "--out", "ladder/r01@1/plan.json")[0] == 0
    row = "r01,150000,1000000,2.1,1e12,30,1"
    Path("ladder/observations.csv").write_text(
        f"run,params,tokens,loss_bits_per_byte,flops,seconds,weight\n{row}\n"
    )
    shape = json.loads(run(capsys, "plan", "--json")[1])["shape"]
    assert (shape["num_layers"], shape["num_heads"], shape["vocab_size"]) == (4, 2, 512)


def test_tables_of_configurations_and_of_runs(capsys):
    Path("configs.csv").write_text(
        "id,hw,gpus,layers,hidden,heads,seq,gbs\na,A100,8,24,2048,16,2048,64\nb,abacus,8,24,2048,16,2048,64\n"
    )
    code, out, _ = run(capsys, "plan", "--configs", "configs.csv", "--out", "steps.csv")
    assert (code, out.splitlines()[0]) == (0, "wrote steps.csv: 1 forecasts, 1 refused")
    assert Path("steps.csv").read_text().count("\n") == 3
    Path("runs.csv").write_text("id,params_active,tokens,hw_id\nx,7e9,1e12,a100-sxm-80\n")
    code, out, _ = run(capsys, "plan", "--runs", "runs.csv", "--out", "hours.csv", "--json")
    assert json.loads(out) == {"rows": 1, "refused": {}, "out": "hours.csv"}
    code, _, err = run(capsys, "plan", "--runs", "runs.csv")
    assert (code, "each need a file to write" in err) == (2, True)


def test_errors_of_a_brief_reach_the_user(capsys):
    Path("stepladder.toml").write_text('name = "x"\n[data]\nsources = ["a"]\n[budget]\nhour = 1\n')
    code, _, err = run(capsys, "plan")
    assert code == 2
    assert '[budget] hour: unknown key (did you mean "hours"?)' in err
    code, _, err = run(capsys, "plan", "nothing.toml")
    assert (code, "nothing.toml does not exist" in err) == (2, True)


def test_an_unknown_device_is_told_with_near_names(capsys):
    brief = 'name = "x"\n[data]\nsources = ["a"]\n[hardware]\ndevice = "a100"\n[budget]\nusd = 10\n'
    Path("stepladder.toml").write_text(brief)
    code, _, err = run(capsys, "plan")
    assert code == 2
    assert 'device "a100" is not in the catalogue' in err


def test_planning_never_loads_torch():
    code = (
        "import sys; from stepladder.cli import main;"
        "main(['init']); main(['plan']); main(['doctor', '--quick']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
