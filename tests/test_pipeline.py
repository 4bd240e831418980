"""The whole climb on real text, small: each stage leaves what the next one needs, and a second run redoes
nothing. The same path as `stepladder demo --quick`."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepladder.brief import load_brief
from stepladder.errors import FingerprintError, PlanError
from stepladder.laws.registry import is_intact
from stepladder.records import Forecast, Plan, Run, from_json
from stepladder.stages import Climb, open_climb
from stepladder.store import read_json
from stepladder.train.metrics import last_line

DEMO = [sys.executable, "-m", "stepladder", "demo", "--quick"]
BRIEF = """
name = "{name}"
[data]
sources = ["python:prose"]
[hardware]
device = "{device}"
[budget]
hours = 0.01
[override]
seed = {seed}
"""


def demo(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    command = [*DEMO, "--folder", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=check, env=environment)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished quick climb and what it printed."""
    folder = tmp_path_factory.mktemp("climb") / "demo"
    done = demo(folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def files(folder: Path) -> dict[str, float]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_climb_ends_with_score_tuned_output_and_report(climbed: tuple[Path, str]) -> None:
    folder, printed = climbed
    stages = [line.split()[0] for line in printed.splitlines() if line]
    wanted = ["data", "calibrate", "ladder", "law", "forecast", "target", "score", "tune", "export", "report"]
    places = [stages.index(stage) for stage in wanted]
    assert places == sorted(places)
    assert sum(line.startswith(("right ", "WRONG ")) for line in printed.splitlines()) == 5
    assert f"open {folder / 'report.html'}" in printed


def test_the_forecast_was_frozen_before_the_target_started(climbed: tuple[Path, str]) -> None:
    folder, _ = climbed
    said = from_json(Forecast, read_json(folder / "forecast.json")["forecasts"][0])
    plan = from_json(Plan, read_json(folder / "plan.json"))
    run = from_json(Run, read_json(folder / "target@1" / "run.json"))
    assert is_intact(said)
    assert (said.params, said.tokens) == (run.params, run.tokens)
    assert plan.tokens == run.tokens
    frozen = (folder / "forecast.json").stat().st_mtime
    assert frozen < (folder / "target@1" / "metrics.jsonl").stat().st_ctime
    scores = {item["quantity"]: item for item in read_json(folder / "score.json")["scores"]}
    assert scores["loss_bits_per_byte"]["outcome"] == run.heldout_bits_per_byte
    assert scores["loss_bits_per_byte"]["forecast"]["value"] == said.loss.value
    assert last_line(folder / "target@1" / "metrics.jsonl")["heldout_loss"] == run.heldout_loss


def test_the_ladder_can_identify_a_law(climbed: tuple[Path, str]) -> None:
    folder, _ = climbed
    with (folder / "ladder" / "observations.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    ratios = sorted(float(row["tokens"]) / float(row["params"]) for row in rows)
    assert len(rows) >= 10
    assert ratios[-1] / ratios[0] > 15
    sizes = [(row["params"], row["tokens"]) for row in rows]
    assert len(sizes) - len(set(sizes)) == 1
    assert all(row["in_context_score"] for row in rows)


def test_a_second_run_says_that_all_is_done_and_trains_nothing(climbed: tuple[Path, str]) -> None:
    folder, first = climbed
    before = files(folder)
    again = demo(folder)
    assert "everything was done already" in again.stdout
    told = [line for line in first.splitlines() if line.startswith("score")]
    assert told == [line for line in again.stdout.splitlines() if line.startswith("score")]
    changed = {name for name, stamp in files(folder).items() if before.get(name) != stamp}
    assert not {name for name in changed if name.startswith(("corpus/", "ladder/r", "target@1/", "export/"))}


def test_the_export_loads_without_custom_code(climbed: tuple[Path, str]) -> None:
    folder, _ = climbed
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('This module', return_tensors='pt')\n"
        "print(model.generate(**ids, max_new_tokens=5, do_sample=False).shape[1] - ids['input_ids'].shape[1])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(folder / "export")]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert shown.stdout.strip() == "5", shown.stderr[-2000:]


def test_json_is_one_object_on_stdout(climbed: tuple[Path, str]) -> None:
    folder, _ = climbed
    value = json.loads(demo(folder, "--json").stdout)
    keys = {"plan", "forecast", "run", "scores", "task_forecasts", "task_scores", "tasks", "export", "report"}
    assert set(value) == keys
    assert {score["quantity"] for score in value["scores"]} == {"loss_bits_per_byte", "seconds"}


def test_another_brief_does_not_overwrite_a_climb(tmp_path: Path) -> None:
    path = tmp_path / "stepladder.toml"

    def climb(**fields: object) -> Climb:
        path.write_text(BRIEF.format(**{"name": "a", "device": "this", "seed": 0} | fields))
        return Climb(brief=load_brief(path), folder=tmp_path / "climb", quiet=True)

    open_climb(climb())
    open_climb(climb())
    with pytest.raises(FingerprintError, match="seed"):
        open_climb(climb(seed=1))
    with pytest.raises(PlanError, match="a climb trains on the machine that it is started on"):
        open_climb(climb(device="h100-sxm"))


@pytest.mark.slow
def test_a_kill_at_any_moment_changes_nothing_in_the_end(climbed: tuple[Path, str], tmp_path: Path) -> None:
    """kill -9 again and again during ladder and target; the same plans end with the same bits."""
    folder, _ = climbed
    copy = tmp_path / "demo"
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    # Same corpus, plans and design; all training is done again.
    for path in (*copy.glob("ladder/r*@1"), copy / "target@1"):
        for item in path.iterdir():
            if item.name not in ("plan.json", "artefact.json"):
                subprocess.run(["rm", "-rf", str(item)], check=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    kills = 0
    for seconds in (8, 13, 11, 17, 9, 14):
        process = subprocess.Popen(
            [*DEMO, "--folder", str(copy)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(2)
    demo(copy)
    assert kills >= 2
    for run in ("ladder/r01@1", "ladder/r10@1", "target@1"):
        first, second = (from_json(Run, read_json(at / run / "run.json")) for at in (folder, copy))
        assert second.heldout_loss == first.heldout_loss
        assert second.loss == first.loss
