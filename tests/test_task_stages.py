"""Forecasts of tasks from probes of rungs: frozen before the target starts, refused in words, told once."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder import task_stages
from stepladder.brief_nouns import Brief, DataBrief
from stepladder.errors import StoreError
from stepladder.eval.probed import GOLD_ANSWERS, PROBES_FILE, Figure, probed_seconds
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.registry import find_forecasts, is_intact, record_outcomes, scored_of
from stepladder.laws.score import reliability
from stepladder.laws.show import registry_text
from stepladder.laws.table import read_observations
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.records import Derived, Law, Layout, Observation, Plan, Recipe
from stepladder.report.reliability import write_reliability
from stepladder.report.task_forecasts import forecast_line, forecast_pieces
from stepladder.stages import LOSS_UNIT, Climb
from stepladder.store import write_json
from stepladder.task_stages import (
    FORETOLD_FILE,
    TaskProbe,
    _write_probes,
    foretell,
    probes_text,
    tell_tasks,
)

TESTS = 1_000


def shape_of(width: int):
    return shape_for_width(width, vocab_size=1024, context_tokens=64, num_layers=2, num_heads=2)


def loss_of(params: float, tokens: float) -> float:
    return 0.9 + 14 / params**0.3 + 90 / tokens**0.36


def accuracy_of(loss: float) -> float:
    return 0.25 + 0.6 / (1 + math.exp(-5 * (1.9 - loss)))


RUNGS = [(width, tokens) for width in (32, 48, 64, 96) for tokens in (4e5, 1.2e6, 4e6)]
TARGET = (96, 1.6e7)


def run_of(name: str, width: int, tokens: float, seed: int) -> Observation:
    count = count_params(shape_of(width))
    noise = np.random.default_rng(seed).normal(0, 0.003)
    return Observation(
        run=name,
        params=count.total,
        nonembed_params=count.nonembed,
        tokens=tokens,
        loss=loss_of(count.total, tokens) * math.exp(noise),
        flops=train_flops_per_token(shape_of(width)) * tokens,
        seconds=10.0,
    )


def figures_of_run(run: Observation, seed: int) -> list[Figure]:
    """What the gold answers cost, an accuracy that follows the loss, and one at chance."""
    rng = np.random.default_rng(100 + seed)
    share = rng.binomial(TESTS, accuracy_of(run.loss)) / TESTS
    guess = rng.binomial(TESTS, 0.25) / TESTS
    common = {"task": "kinds", "examples": TESTS, "seconds": 1.0}
    error = math.sqrt(0.25 / TESTS)
    bits = 1.4 * run.loss**0.9 * math.exp(rng.normal(0, 0.005))
    return [
        Figure(method="frozen features", metric="accuracy", value=share, error=error, chance=0.25, **common),
        Figure(method="zero-shot", metric="accuracy", value=guess, error=error, chance=0.25, **common),
        Figure(
            method=GOLD_ANSWERS,
            metric="answer_bits_per_byte",
            value=bits,
            error=0.02,
            chance=math.nan,
            **common,
        ),
    ]


@pytest.fixture(scope="module")
def probes() -> list[TaskProbe]:
    runs = [run_of(f"r{at:02d}", *size, at) for at, size in enumerate(RUNGS, start=1)]
    return [TaskProbe(run=run, figure=f) for at, run in enumerate(runs) for f in figures_of_run(run, at)]


@pytest.fixture(scope="module")
def law(probes: list[TaskProbe]) -> Law:
    runs = list(dict.fromkeys(probe.run.run for probe in probes))
    rows = [next(probe.run for probe in probes if probe.run.run == name) for name in runs]
    return fit_law(read_observations(rows, LOSS_UNIT), FitOptions(bootstraps=100))


@pytest.fixture
def climb(tmp_path: Path) -> Climb:
    brief = Brief(name="a", data=DataBrief(sources=("texts",), tasks=("kinds.jsonl",)))
    return Climb(brief=brief, folder=tmp_path)


def plan_of() -> Plan:
    width, tokens = TARGET
    recipe = Recipe(batch_tokens=1024, embed_lr=0.02, head_lr=0.02, hidden_lr=2e-3)
    numbers = {"tokens": Derived(value=tokens, low=tokens, high=tokens, how="a test")}
    return Plan(
        name="target",
        corpus="corpus",
        shape=shape_of(width),
        recipe=recipe,
        layout=Layout(),
        seed=0,
        numbers=numbers,
    )


def test_gold_answers_come_first_and_each_forecast_is_frozen(climb, probes, law, capsys):
    said = foretell(climb, plan_of(), law, probes)
    assert [item.run for item in said] == [
        "target kinds, gold answers",
        "target kinds, frozen features",
        "target kinds, zero-shot",
    ]
    assert all(is_intact(item) for item in said)
    assert all(3 < item.horizon < 6 for item in said)
    loss = loss_of(count_params(shape_of(96)).total, TARGET[1])
    by_name = {item.run.rpartition(", ")[2]: item for item in said}
    assert by_name["gold answers"].status == by_name["frozen features"].status == "ok"
    assert by_name["gold answers"].loss.held95(1.4 * loss**0.9)
    assert by_name["frozen features"].loss.held95(accuracy_of(loss))
    assert by_name["zero-shot"].status == "refused"
    assert "at chance" in by_name["zero-shot"].reason or "does not follow" in by_name["zero-shot"].reason
    printed = [line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert printed[0].startswith("target kinds, gold answers: ")
    assert printed[0].endswith(") answer_bits_per_byte")
    # No number that nobody should believe.
    assert printed[2] == f"target kinds, zero-shot: refused, {by_name['zero-shot'].reason}"


def test_what_was_frozen_stays_and_nothing_is_added_once_the_target_has_started(climb, probes, law, capsys):
    first = foretell(climb, plan_of(), law, [p for p in probes if p.figure.method == GOLD_ANSWERS])
    before = (climb.folder / FORETOLD_FILE).read_text()
    assert foretell(climb, plan_of(), law, [p for p in probes if p.figure.method == GOLD_ANSWERS]) == first
    assert (climb.folder / FORETOLD_FILE).read_text() == before
    (climb.folder / "target@1").mkdir()
    (climb.folder / "target@1" / "metrics.jsonl").write_text("{}\n")
    assert foretell(climb, plan_of(), law, probes) == first
    assert "the target had started" in capsys.readouterr().out
    (climb.folder / "target@1" / "metrics.jsonl").unlink()
    both = foretell(climb, plan_of(), law, probes)
    assert both[0] == first[0]
    assert len(both) == 3


def test_a_changed_forecast_is_an_error(climb, probes, law):
    foretell(climb, plan_of(), law, probes)
    path = climb.folder / FORETOLD_FILE
    value = json.loads(path.read_text())
    value["forecasts"][1]["loss"]["value"] += 0.01
    path.write_text(json.dumps(value))
    with pytest.raises(StoreError, match="was changed after it was frozen"):
        foretell(climb, plan_of(), law, probes)


def test_outcomes_are_told_in_the_report_and_counted_apart_from_losses(climb, probes, law):
    said = foretell(climb, plan_of(), law, probes)
    path = climb.folder / FORETOLD_FILE
    outcomes = {item.run: item.loss.value * 1.001 for item in said}
    scores = record_outcomes(path, outcomes)
    assert [score.quantity for score in scores] == [
        "task_answer_bits_per_byte",
        "task_accuracy",
        "task_accuracy",
    ]
    found = find_forecasts(path)
    assert {item.quantity for item in scored_of(found)} == {"task"}
    (line,) = forecast_line(found)
    assert line == (
        "Tasks: 2 of 2 outcomes inside the 80 % interval of their forecast, 2 inside the 95 % interval; "
        "1 more forecasts were refused."
    )
    page = "".join(forecast_pieces(found))
    assert "kinds, zero-shot: refused" in page
    assert page.count("<tr>") == 4
    assert forecast_line([]) == []


def test_a_score_of_nothing_is_told_beside_its_forecast(climb, probes, law, monkeypatch, capsys):
    said = foretell(climb, plan_of(), law, probes)
    target = run_of("target", *TARGET, 99)
    write_json(climb.folder / "target@1" / "run.json", {"status": "ok"})
    figures = [
        replace(one, value=0.0) if one.metric == "accuracy" else one for one in figures_of_run(target, 99)
    ]
    found = [TaskProbe(run=target, figure=one) for one in figures]
    monkeypatch.setattr(task_stages, "observe", lambda _: target)
    monkeypatch.setattr(task_stages, "_probe", lambda *_: found)
    capsys.readouterr()
    scores = tell_tasks(climb, said, probes)
    assert [score.run for score in scores] == [item.run for item in said]
    assert [score.outcome for score in scores[1:]] == [0.0, 0.0]
    printed = capsys.readouterr().out
    assert "frozen features, task_accuracy: forecast 0." in printed
    assert "measured 0, error +0." in printed
    assert "MISS: outside the 80 % interval" in printed
    assert "zero-shot: measured 0; its forecast had been refused" in printed
    frozen = find_forecasts(climb.folder / FORETOLD_FILE)
    assert "1 of 2 outcomes inside the 80 % interval" in forecast_line(frozen)[0]
    assert "0.000" in "".join(forecast_pieces(frozen))
    (row, *_) = reliability(scored_of(frozen))
    assert row.count == 3
    assert [share.held for share in row.shares if share.level in (0.8, 0.95)] == [1, 1]
    assert math.isfinite(row.bias)
    assert math.isfinite(row.median_error)
    assert "+0." in registry_text(frozen)
    write_reliability(climb.folder / "reliability.html", frozen)
    assert "not of 0" in (climb.folder / "reliability.html").read_text()


def test_probes_stand_in_one_table_that_keeps_rows_of_other_runs(tmp_path, probes):
    path = tmp_path / PROBES_FILE
    _write_probes(path, probes)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("run,seed,params,nonembed_params,tokens,flops,loss_bits_per_byte,task,method,")
    assert len(lines) == 1 + len(probes)
    assert probed_seconds(tmp_path) == len(probes)
    target = run_of("target", *TARGET, 99)
    _write_probes(path, [TaskProbe(run=target, figure=figure) for figure in figures_of_run(target, 99)])
    _write_probes(path, probes)
    assert path.read_text().splitlines()[: len(lines)] == lines
    assert [line.split(",")[0] for line in path.read_text().splitlines()[len(lines) :]] == ["target"] * 3
    stamp = path.stat().st_mtime_ns
    _write_probes(path, probes)
    assert path.stat().st_mtime_ns == stamp
    text = probes_text([replace(probe) for probe in probes[:3]])
    assert text.startswith("kinds, gold answers: answer bits per byte on 1000 examples\n  r01")
