"""`stepladder plan` on the command line: with a brief, without one, under changes, from past runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepladder.cli import EXIT_USER_ERROR, main
from stepladder.records import Corpus, Plan, Split, from_json, to_json
from stepladder.store import write_json

BRIEF = """\
name = "t"
[data]
sources = ["python:prose"]
[hardware]
device = "h100-sxm"
count = 8
region = "US"
[budget]
usd = 1000
"""
LLAMA = "layers=32 width=4096 heads=32 kv_heads=8 ffn=14336 vocab=128256 context=8192"
ALONE = ["--shape", LLAMA, "--tokens", "1e12", "--device", "h100-sxm", "--count", "8", "--nodes", "32"]


@pytest.fixture
def brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "stepladder.toml"
    path.write_text(BRIEF)
    return path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    def run(*words: str, code: int = 0) -> str:
        assert code == main(["plan", *words])
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    return run


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_shows_ends_sources_and_what_would_narrow_it(brief, said):
    shown = said()
    assert max(len(line) for line in shown.splitlines()) <= 110
    for words in (
        "P50",
        "P10",
        "P90",
        "breaks a limit usd 10%",
        "price 7",
        "half the time",
        "--from-run LOG",
    ):
        assert words in shown
    assert 3 == shown.count("  $ stepladder ")


def test_json_has_the_spread_and_can_be_read_as_a_plan(brief, said):
    value = json.loads(said("--json"))
    assert pytest.approx(1.0) == sum(value["spread"]["usd"].values())
    assert {"speed", "price"} <= set(value["spread"]["usd"])
    scores = [one["score"] for one in value["measurements"]]
    assert scores == sorted(scores, reverse=True)
    plan = from_json(Plan, value)
    for name in ("params", "tokens", "loss", "seconds", "usd", "kwh", "kg_co2e"):
        assert {"value", "low", "high", "how", "source"} == set(value[name])
    front = [row for row in plan.alternatives if row["front"]]
    losses = [row["loss"] for row in sorted(front, key=lambda row: row["seconds"])]
    assert losses == sorted(losses, reverse=True)


def test_any_shape_on_any_hardware_without_a_brief(nowhere, said):
    value = json.loads(said(*ALONE, "--json"))
    assert 8.03e9 == pytest.approx(value["params"]["value"], rel=0.001)
    assert 1e12 == pytest.approx(value["tokens"]["value"], rel=1e-5)
    assert (256, 32) == (value["layout"]["processes"], value["layout"]["nodes"])
    assert ["prior", "prior"] == [value[name]["source"] for name in ("loss", "seconds")]
    assert not list(nowhere.iterdir())


def test_hardware_and_money_alone_choose_the_size(nowhere, said):
    value = json.loads(said("--device", "rtx-4090", "--set", "hours=24", "--json"))
    assert 1e7 < value["params"]["value"] < 1e9
    assert "hours" in value["limits"]


def test_no_torch_is_loaded(nowhere):
    code = f"import sys; from stepladder.cli import main; main({['plan', *ALONE]!r})"
    code += "; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "False" == shown.splitlines()[-1]


def test_why_ends_at_files_and_takes_the_words_people_use(brief, said):
    shown = said("--why", "cost")
    assert shown.startswith("usd = ")
    assert "(plan/data/prices.csv, row h100-sxm)" in shown
    assert "its spread comes from" in shown
    assert "(plan/data/grid.csv, row US)" in said("--why", "carbon")
    assert 'did you mean "seconds"' in said("--why", "second", code=EXIT_USER_ERROR)


def test_what_ifs_stand_side_by_side(brief, said):
    changes = ["--what-if", "nodes=4", "--what-if", "region=SE", "--what-if", "hours=1e-9"]
    shown = said(*changes)
    rows = {line[:15].strip(): line[15:] for line in shown.splitlines()}
    assert rows["binds"].split() == ["usd", "usd", "usd", "impossible"]
    assert "hours=1e-9: no run of 400 steps keeps the limits: hours binds first" in shown
    base, nodes, sweden, none = json.loads(said(*changes, "--json"))
    assert 0.25 == pytest.approx(nodes["times"]["seconds"], rel=0.01)
    assert sweden["times"]["kg_co2e"] < 0.2
    assert "problem" in none
    assert base["what_if"] == ""


def test_everything_wrong_with_changes_is_said_at_once(brief, said):
    shown = said("--what-if", "node=4", "--what-if", "hors=2", code=EXIT_USER_ERROR)
    assert "--what-if has 2 problems" in shown
    shown = said("--set", "hours=-1 pue=9", code=EXIT_USER_ERROR)
    assert "stepladder.toml with hours=-1 pue=9 has 2 problems" in shown


def test_contradictions_and_unknown_hardware_are_listed_with_near_names(brief, said):
    words = "device=h100 region=SX params=5e9 max_params=1e9 width=104 num_heads=8"
    shown = said(
        "--set", words.replace("params=5e9 ", ""), "--set", "tokens=1e6 horizon=2", code=EXIT_USER_ERROR
    )
    assert "4 values that contradict" in shown
    assert "did you mean h100-" in shown
    assert 'region "SX"' in shown
    assert "width = 104 is no multiple of 2 x num_heads = 16" in shown
    assert "tokens and horizon both end the run" in shown
    shown = said("--set", "count=256", code=EXIT_USER_ERROR)
    assert "write count = 8 and nodes = 32" in shown
    shown = said("--set", "device=rtx-4090 watts_per_device=9000", code=EXIT_USER_ERROR)
    assert "watts_per_device = 9000" in shown
    assert "draws at most 900 W" in shown


def test_the_smallest_budget_that_is_possible_is_possible(brief, said):
    shown = said("--set", "usd=1e-6", code=EXIT_USER_ERROR)
    assert "usd binds first" in shown
    enough = shown.split("allowed: usd = ")[1].split()[0]
    assert "plan t" in said("--set", f"usd={enough}")
    shown = said("--set", "usd=1e-6 hours=1e-9 kwh=1e6", code=EXIT_USER_ERROR)
    both = re.search(r"allowed: (hours = \S+ and usd = \S+) for the smallest model", shown)
    assert both
    assert "plan t" in said("--set", both[1].replace(" = ", "=").replace(" and ", " "))


def test_the_region_with_the_least_carbon_is_chosen(brief, said):
    value = json.loads(said("--set", "region=world regions=US,SE,DE", "--json"))
    assert value["kg_co2e_per_kwh"]["how"].startswith("Sweden")
    assert {"SE"} == {row["region"] for row in value["alternatives"] if row["front"]}
    limited = json.loads(said("--set", "usd=none kg_co2e=20 region=world regions=DE,SE", "--json"))
    dirty = json.loads(said("--set", "usd=none kg_co2e=20 region=DE", "--json"))
    assert limited["loss"]["value"] < dirty["loss"]["value"]


def test_short_text_says_how_many_passes_and_what_more_is_worth(brief, said):
    text = "unique_tokens=200M usd=300 usd_per_million_tokens=0.001"
    value = json.loads(said("--set", text, "--json"))
    assert 4 == pytest.approx(value["epochs"]["value"], rel=0.01)
    assert 4 <= value["epochs_worth"]["value"] <= 32
    price = value["usd_per_million_new_tokens"]
    assert 0 < price["value"] < 1000
    assert price["how"].endswith("at your $0.001 buying pays")
    assert "does not pay" in said("--set", text.replace("0.001", "1e6"))
    plenty = json.loads(said("--set", "unique_tokens=1e15", "--json"))
    assert "epochs_worth" not in plenty


def test_spot_machines_cost_less_money_and_more_days(brief, said):
    size = "params=1e9 tokens=2e10 usd=none hours=1000"
    rented = json.loads(said("--set", size, "--json"))
    spot = json.loads(said("--set", f"{size} spot=true", "--json"))
    assert spot["usd"]["value"] < 0.8 * rented["usd"]["value"]
    assert rented["seconds"]["value"] < spot["seconds"]["value"] < spot["calendar_seconds"]["value"]
    assert "NSDI 2024" in said("--set", f"{size} spot=true", "--why", "goodput")
    steady = json.loads(said("--set", f"{size} spot=true spot_hours=48", "--json"))
    assert spot["goodput"]["value"] < steady["goodput"]["value"] < rented["goodput"]["value"]
    assert "spot = true is missing" in said("--set", "spot_hours=4", code=EXIT_USER_ERROR)


def test_use_of_the_model_is_counted(brief, said):
    value = json.loads(said("--set", "inference_tokens=1e12 target_loss=2.9 minimise=usd", "--json"))
    without = json.loads(said("--set", "target_loss=2.9 minimise=usd", "--json"))
    assert value["usd_with_use"]["value"] > value["usd"]["value"] > without["usd"]["value"]
    assert value["params"]["value"] < without["params"]["value"]


def test_less_memory_is_a_limit(brief, said):
    value = json.loads(said("--set", "memory_gib=24", "--json"))
    assert value["peak_bytes"]["high"] <= 24 * 2**30
    assert value["peak_bytes"]["high"] < json.loads(said("--json"))["peak_bytes"]["high"]


def test_a_past_run_narrows_speed_and_loss(nowhere, said):
    rows = [f"{at},{at * 4194304},{2.5 + 3 / at},{at * 9.0}" for at in range(50, 5000, 50)]
    (nowhere / "log.csv").write_text("step,tokens,loss,seconds\n" + "\n".join(rows))
    before = json.loads(said(*ALONE, "--json"))
    after = json.loads(said(*ALONE, "--from-run", "log.csv", "--json"))
    assert 1e12 / 4194304 * 9 == pytest.approx(
        after["seconds"]["value"] * after["goodput"]["value"], rel=0.01
    )
    assert "measured" == after["seconds"]["source"]

    def width(plan, name):
        return plan[name]["high"] / plan[name]["low"]

    assert width(after, "seconds") < 1.5 < width(before, "seconds")
    assert width(after, "loss") <= width(before, "loss")
    assert "moved to where log ended" in after["loss"]["how"]
    other = json.loads(said(*ALONE, "--from-run", "log.csv device=a100-sxm-80 devices=128", "--json"))
    assert width(after, "seconds") < width(other, "seconds")
    assert "MFU" in said(*ALONE, "--from-run", "log.csv")


def test_a_job_is_written_with_its_plan(brief, said, tmp_path):
    shown = said("--emit", "slurm", "job")
    assert "wrote " in shown
    assert {"plan.json", "job.sbatch"} == {path.name for path in (tmp_path / "job").iterdir()}
    said("job/plan.json", "--emit", "megatron", "other")
    assert (tmp_path / "other" / "arguments.txt").exists()
    said("--emit", "slurm", "dry", "--dry-run")
    assert not (tmp_path / "dry").exists()


def test_the_corpus_is_seen_from_where_the_plan_lies(brief, said, tmp_path):
    split = Split(documents=1, tokens=10**9, num_bytes=4 * 10**9)
    text = Corpus(
        input_bytes=1,
        input_documents=1,
        kept_documents=1,
        quarantined_documents=0,
        removed={},
        train=split,
        heldout=split,
        vocab_size=32_768,
        seconds=1.0,
        cpu_seconds=1.0,
        fingerprint="f",
    )
    write_json(tmp_path / "corpus" / "corpus.json", to_json(text))
    said("--emit", "torchrun", "jobs/one")
    assert "../../corpus" == json.loads((tmp_path / "jobs" / "one" / "plan.json").read_text())["corpus"]
    said("jobs/one/plan.json", "--emit", "slurm", "two")
    assert "../corpus" == json.loads((tmp_path / "two" / "plan.json").read_text())["corpus"]


def test_a_plan_alone_cannot_be_planned_again(brief, said):
    said("--out", "plan.json")
    assert "plan t" in said("plan.json")
    assert "cannot be planned again" in said("plan.json", "--what-if", "nodes=2", code=EXIT_USER_ERROR)
