"""A climb's or a corpus's folder in; its nouns out, and for each part that is not there words and a command.

A missing or damaged part never stops the report: its section says so.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from stepladder.brief import load_brief
from stepladder.errors import StepladderError, StoreError
from stepladder.eval.overlap import Overlap
from stepladder.laws.registry import Frozen, find_forecasts
from stepladder.laws.score import score
from stepladder.laws.table import LOSS_UNITS, UNSTATED
from stepladder.records import (
    Brief,
    Corpus,
    Forecast,
    Law,
    Observation,
    Plan,
    Run,
    Score,
    TaskResult,
    from_json,
)
from stepladder.store import fingerprint, read_json
from stepladder.train.metrics import read_metrics
from stepladder.units import JOULES_PER_KWH

T = TypeVar("T")
U = TypeVar("U")
# Any of these makes a folder that of a climb, and not of a corpus alone.
_CLIMB = ("corpus", "stepladder.toml", "ladder", "law.json", "plan.json", "forecast.json")
_TRIALS = ("ablation", "mixture")
FORETOLD_FILE, EXPOSURE_FILE = "task_forecast.json", "canary_exposure.json"
# What makes each part; shown where the part is missing.
COMMANDS: Mapping[str, str] = {
    "brief": "stepladder init",
    "corpus": "stepladder data PATH... --out corpus/",
    "audit": "stepladder data PATH... --out corpus/",
    "ladder": "stepladder ladder --out .",
    "law": "stepladder fit ladder/observations.csv --law law.json",
    "plan": "stepladder plan --out plan.json",
    "forecast": "stepladder climb",
    "target": "stepladder train plan.json --out target@1",
    "metrics": "stepladder train plan.json --out target@1",
    "score": "stepladder climb",
    "tasks": "stepladder tune --from target@1 --task TASK",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """Rungs and the unit of their loss."""

    observations: tuple[Observation, ...] = ()
    loss_unit: str = UNSTATED


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The target run's folder name, its result, its lines of metrics, what `stepladder probe` found, and what
    it and the rungs have kept of planted lines (`report/planted.py`)."""

    name: str
    run: Run | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    probes: Mapping[str, Any] = field(default_factory=dict)
    exposure: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task: rows of its table, the sentence that `tune` wrote under it, and what it says of weak labels;
    `place` is its folder's. `remarks` are what the test set cannot tell and how much of it stands in training
    text, `unseen` the rows without those examples."""

    name: str
    rows: tuple[TaskResult, ...]
    verdict: str = ""
    place: str = ""
    weak: str = ""
    remarks: tuple[str, ...] = ()
    unseen: tuple[TaskResult, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """A corpus with its audit, and trials of it by name: what a change of the data did, as their files say.

    `is_alone`: the folder is that of a corpus and holds nothing of a climb.
    """

    corpus: Corpus | None
    audit: Mapping[str, Any]
    trials: Mapping[str, Mapping[str, Any]]
    is_alone: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Everything a report is made of. `missing` says, by part, what is wrong in one sentence."""

    name: str
    brief: Brief | None
    data: Data
    ladder: Ladder
    law: Law | None
    plan: Plan | None
    forecasts: tuple[Forecast, ...]
    target: Target
    scores: tuple[Score, ...]
    tasks: tuple[Task, ...]
    foretold: tuple[Frozen, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def corpus(self) -> Corpus | None:
        """The corpus, where it is there."""
        return self.data.corpus

    @property
    def audit(self) -> Mapping[str, Any]:
        """Its audit, or nothing."""
        return self.data.audit

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of the target: the one named as the plan or the run, else the last."""
        names = {self.plan.name if self.plan else "", self.target.run.name if self.target.run else ""}
        named = [item for item in self.forecasts if item.run in names]
        return (named or list(self.forecasts) or [None])[-1]


def read_parts(folder: Path) -> Parts:
    """Read what is there.

    Raises:
        StoreError: the folder is missing or holds no part of a climb.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder", next_command="stepladder report FOLDER")
    read = _Reader(folder)
    target = _read_target(read)
    forecasts = read.part("forecast", "forecast.json", _read_forecasts, ())
    if changed := _changed(folder / "forecast.json") if forecasts else []:
        read.missing["frozen"] = f"The forecast of {', '.join(changed)} was changed after it was frozen."
    brief = read.part("brief", "stepladder.toml", load_brief, None)
    plan = read.part("plan", "plan.json", _noun(Plan), None)
    parts = Parts(
        name=brief.name if brief else plan.name if plan else folder.resolve().name,
        brief=brief,
        data=_read_data(read),
        ladder=read.part("ladder", "ladder/observations.csv", read_ladder, Ladder()),
        law=read.part("law", "law.json", _noun(Law), None),
        plan=plan,
        forecasts=forecasts,
        target=target,
        scores=(),
        tasks=_read_tasks(read),
        foretold=_read_foretold(read),
        missing=read.missing,
    )
    scores = _read_scores(read, parts)
    if not read.found:
        raise StoreError(
            f"{folder} holds nothing of a climb",
            allowed="a corpus, or a folder with stepladder.toml, corpus/, "
            "ladder/, law.json, plan.json or target@1/",
            next_command="stepladder init",
        )
    return replace(parts, scores=scores)


class _Reader:
    """Reads parts of one folder and collects what is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, 0
        self.missing: dict[str, str] = {}

    def part(self, part: str, place: str, read: Callable[[Path], T], otherwise: U) -> T | U:
        path = self.folder / place
        if not path.exists():
            self.missing[part] = f"{place} is not there yet."
            return otherwise
        self.found += 1
        try:
            return read(path)
        except StepladderError as error:
            got = f" ({error.got[:200]})" if error.got else ""
            # Reports are passed on: they name places inside the climb, not where it lies on this machine.
            wrong = error.wrong.splitlines()[0].replace(f"{self.folder}/", "")
            self.missing[part] = f"{place} cannot be used: {wrong}{got}."
            return otherwise


def _noun(kind: type[T]) -> Callable[[Path], T]:
    return lambda path: from_json(kind, _read_object(path))


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise StoreError(f"{path.name} is not a JSON object", got=type(value).__name__)
    return value


def _read_list(path: Path, kind: type[T], *keys: str) -> tuple[T, ...]:
    value = _read_object(path)
    items = next((value[key] for key in keys if key in value), None)
    if not isinstance(items, list):
        raise StoreError(f"{path.name} has no list under {' or '.join(keys)}", got=", ".join(value))
    return tuple(from_json(kind, item) for item in items)


def _read_forecasts(path: Path) -> tuple[Forecast, ...]:
    return _read_list(path, Forecast, "forecasts")


def _changed(path: Path) -> list[str]:
    """Runs whose forecast no longer fits its fingerprint, judged by the text of the file itself."""
    changed = []
    for item in _read_object(path)["forecasts"]:
        rest = {name: value for name, value in item.items() if name != "fingerprint"}
        if item.get("fingerprint") and item["fingerprint"] != fingerprint(rest):
            changed.append(str(item.get("run", "")))
    return changed


def _read_data(read: "_Reader") -> Data:
    is_alone = (read.folder / "corpus.json").exists() and not any(
        (read.folder / name).exists() for name in _CLIMB
    )
    where = "" if is_alone else "corpus/"
    trials = {}
    for name in _TRIALS:
        for place in (f"{name}.json", f"{name}/{name}.json"):
            if (read.folder / place).exists():
                trials[name] = read.part(name, place, _read_object, {})
    return Data(
        corpus=read.part("corpus", f"{where}corpus.json", _noun(Corpus), None),
        audit=read.part("audit", f"{where}audit.json", _read_object, {}),
        trials=trials,
        is_alone=is_alone,
    )


def _read_target(read: _Reader) -> Target:
    versions = [
        (int(found.group(1)), path.name)
        for path in read.folder.glob("target@*")
        if (found := re.fullmatch(r"target@(\d+)", path.name))
    ]
    name = max(versions)[1] if versions else "target@1"
    place = f"{name}/probes.json"
    return Target(
        name=name,
        run=read.part("target", f"{name}/run.json", _noun(Run), None),
        metrics=read.part("metrics", f"{name}/metrics.jsonl", lambda path: tuple(read_metrics(path)), ()),
        probes=read.part("probes", place, _read_object, {}) if (read.folder / place).exists() else {},
        exposure=read.part("exposure", EXPOSURE_FILE, _read_object, {})
        if (read.folder / EXPOSURE_FILE).exists()
        else {},
    )


def _read_tasks(read: _Reader) -> tuple[Task, ...]:
    tasks = []
    for path in sorted(read.folder.glob("tune/*/results.json")):
        place = path.relative_to(read.folder).as_posix()
        task = read.part(place, place, _read_task, None)
        tasks += [task] if task else []
    if not tasks:
        read.missing["tasks"] = "No task was tuned and scored yet (tune/*/results.json)."
    return tuple(tasks)


def _read_foretold(read: _Reader) -> tuple[Frozen, ...]:
    """Forecasts of tasks with their outcomes; a climb without tasks has none and misses nothing."""
    if not (read.folder / FORETOLD_FILE).exists():
        return ()
    return read.part("foretold", FORETOLD_FILE, lambda path: tuple(find_forecasts(path)), ())


def _read_task(path: Path) -> Task:
    value = _read_object(path)
    rows = _read_list(path, TaskResult, "results", "rows")
    name = str(value.get("task") or (rows[0].task if rows else path.parent.name))
    place = f"tune/{path.parent.name}"
    verdict, weak = (str(value.get(key, "")) for key in ("verdict", "weak"))
    overlap = from_json(Overlap, value["overlap"]) if value.get("overlap") else None
    seen = overlap.sentence if overlap else str(value.get("uncounted", ""))
    return Task(
        name=name,
        rows=rows,
        verdict=verdict,
        place=place,
        weak=weak,
        remarks=tuple(filter(None, (*map(str, value.get("limits", ())), seen))),
        unseen=overlap.rows if overlap else (),
    )


def _read_scores(read: _Reader, parts: Parts) -> tuple[Score, ...]:
    """What score.json says; computed from forecast and run where it is not there."""
    if (read.folder / "score.json").exists():
        scores = read.part("score", "score.json", lambda path: _read_list(path, Score, "scores"), ())
        return tuple(item for item in scores if math.isfinite(item.outcome) and item.outcome > 0)
    forecast, run = parts.forecast, parts.target.run
    if forecast is None or run is None or run.status != "ok":
        read.missing["score"] = "There is no forecast and finished target run to compare yet."
        return ()
    scored: list[Score] = []
    loss = outcome_loss(run, forecast.loss_unit)
    if math.isfinite(loss) and loss > 0:
        scored.append(score(forecast, loss))
    for name, outcome in (("seconds", run.seconds), ("kwh", run.joules / JOULES_PER_KWH)):
        if name in forecast.costs and math.isfinite(outcome) and outcome > 0:
            interval = forecast.costs[name]
            scored.append(Score(run=forecast.run, quantity=name, forecast=interval, outcome=outcome))
    return tuple(scored)


def outcome_loss(run: Run, loss_unit: str) -> float:
    """The held-out loss of a run in the unit of a law."""
    return run.heldout_loss if loss_unit == "nats_per_token" else run.heldout_bits_per_byte


def read_ladder(path: Path) -> Ladder:
    """All rows of observations.csv, those of weight 0 too (laws leave them out, a report shows them).

    Raises:
        StoreError: not a table of observations.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path.name} is not readable CSV", got=str(error)) from error
    header = list(rows[0]) if rows else []
    named = {f"loss_{unit}": unit for unit in LOSS_UNITS} | {"loss": UNSTATED}
    column = next((name for name in header if name in named), "")
    if not column or not {"params", "tokens"} <= set(header):
        raise StoreError(
            f"{path.name} is not a table of observations", got=", ".join(map(str, header)) or "no rows"
        )
    return Ladder(
        observations=tuple(_observation(row, column, number) for number, row in enumerate(rows, start=2)),
        loss_unit=named[column],
    )


def _observation(row: Mapping[str, str | None], loss: str, line: int) -> Observation:
    fields = {name for name in Observation.__dataclass_fields__ if name not in ("run", "notes", "seed")}
    values: dict[str, Any] = {}
    try:
        for name in fields:
            cell = row.get(loss if name == "loss" else name)
            if cell:
                values[name] = float(cell)
        notes = {
            key: _note(cell or "")
            for key, cell in row.items()
            if key and key not in {*fields, "run", "seed", loss}
        }
        if not (values["params"] > 0 and values["tokens"] > 0):
            raise ValueError("params and tokens must be above zero")
        return Observation(
            run=row.get("run") or f"row {line - 1}",
            seed=int(float(row.get("seed") or 0)),
            notes=notes,
            **{"loss": math.nan, **values},
        )
    except (KeyError, ValueError) as error:
        raise StoreError("observations.csv is damaged", got=f"line {line}: {error}") from error


def _note(cell: str) -> float | str:
    try:
        value = json.loads(cell)
    except ValueError:
        return cell
    return float(value) if isinstance(value, (int, float)) else cell
