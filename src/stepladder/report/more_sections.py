"""Parts of a climb in; the report's sections on tasks, cost and reproduction out."""

import importlib.metadata
import platform
from collections.abc import Sequence

from stepladder import __version__
from stepladder.records import TaskResult
from stepladder.report import figures
from stepladder.report.html import (
    Html,
    commands,
    facts,
    figure,
    join,
    listing,
    missing,
    paragraph,
    table,
    tag,
)
from stepladder.report.parts import COMMANDS, Parts
from stepladder.report.sections import Section
from stepladder.report.task_forecasts import forecast_pieces
from stepladder.report.words import SMALL_KWH, number_of, short_name, show
from stepladder.units import JOULES_PER_KWH

_PACKAGES = ("numpy", "scipy", "torch", "tokenizers", "polars", "scikit-learn", "transformers")


def tasks(parts: Parts) -> Section:
    """What was forecast; each task as a picture, a table with baselines, and the verdict in words."""
    pieces, specs = forecast_pieces(parts.foretold), {}
    if "foretold" in parts.missing:
        pieces.append(missing(parts.missing["foretold"], COMMANDS["forecast"]))
    if not parts.tasks:
        pieces.append(_missing(parts, "tasks"))
    for index, task in enumerate(parts.tasks, start=1):
        pieces.append(tag("h3", task.name))
        pieces.append(paragraph(task.verdict or overlap_verdict(task.rows), class_="verdict open"))
        metric = task.rows[0].metric if task.rows else ""
        shown = [row for row in task.rows if row.metric == metric]
        if shown:
            specs[f"task-{index}"] = figures.task_intervals(shown)
            name = metric.replace("_", " ").capitalize()
            caption = f"{name} on {shown[0].examples:,} test examples; bars: 95 % bootstrap intervals."
            pieces.append(figure(f"task-{index}", caption))
        pieces += [_task_table(task.rows), listing(task.remarks)]
        if task.unseen:
            pieces += [
                paragraph("Without the examples that stand in training text:"),
                _task_table(task.unseen),
            ]
    damaged = [text for part, text in parts.missing.items() if part.startswith("tune/")]
    pieces += [missing(text, COMMANDS["tasks"]) for text in damaged]
    return Section(key="tasks", title="Tasks", body=join(pieces), figures=specs)


def cost(parts: Parts) -> Section:
    """Time and energy of each stage, beside what the plan said of the target."""
    seconds = stage_amounts(parts, "seconds")
    if not seconds:
        return Section(key="cost", title="Cost and energy", body=_missing(parts, "target"))
    energy = {stage: joules / JOULES_PER_KWH for stage, joules in stage_amounts(parts, "joules").items()}
    specs = {"seconds": figures.cost_bars(seconds, "time (s)")}
    captions = {
        "seconds": "Seconds of each stage; those of rungs are added up although they ran side by side.",
        "energy": "Energy as the runs metered it, or estimated where no counter was readable: see the table.",
    }
    if energy:
        small = max(energy.values()) < SMALL_KWH
        factor, unit = (1e3, "Wh") if small else (1.0, "kWh")
        told = {stage: factor * amount for stage, amount in energy.items()}
        specs["energy"] = figures.cost_bars(told, f"energy ({unit})")
    sources = energy_sources(parts)
    rows = [
        (stage, show("seconds", amount), show("kwh", energy[stage]), sources[stage])
        if stage in energy
        else (stage, show("seconds", amount), "not metered", "")
        for stage, amount in seconds.items()
    ]
    pieces: list[Html] = [figure(key, captions[key]) for key in specs]
    pieces.append(table(("stage", "time", "energy", "energy from"), rows, numbers=(1, 2)))
    numbers = parts.plan.numbers if parts.plan else {}
    if planned := {name: numbers[name] for name in ("usd", "kwh", "kg_co2e") if name in numbers}:
        told = [f"{short_name(name)} {show(name, item.value)} ({item.how})" for name, item in planned.items()]
        pieces.append(paragraph("The plan said of the target: " + "; ".join(told) + ".", class_="note"))
    return Section(key="cost", title="Cost and energy", body=join(pieces), figures=specs)


def reproduce(parts: Parts) -> Section:
    """Commands, versions, seeds and fingerprints."""
    seeds = sorted(
        {row.seed for row in parts.ladder.observations} | ({parts.plan.seed} if parts.plan else set())
    )
    prints = {
        "corpus": parts.corpus.fingerprint if parts.corpus else "",
        "corpus that the plan names": parts.plan.corpus_fingerprint if parts.plan else "",
        "law": parts.law.fingerprint if parts.law else "",
        "law behind the forecast": parts.forecast.law_fingerprint if parts.forecast else "",
        "forecast": parts.forecast.fingerprint if parts.forecast else "",
    }
    lines = (
        "stepladder climb stepladder.toml",
        "",
        "stepladder data SOURCES --out corpus/",
        "stepladder ladder stepladder.toml --out .",
        "stepladder fit ladder/observations.csv --law law.json",
        "stepladder plan stepladder.toml --law law.json --out plan.json",
        "stepladder train plan.json --out target@1",
        "stepladder tune --from target@1 --task TASK",
        "stepladder report .",
    )
    versions = {"stepladder": __version__, "python": platform.python_version()} | _versions()
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    body = join(
        [
            paragraph("The first line does all of it; those below are its steps, in the climb's own folder."),
            commands(*lines),
            facts(
                {
                    "seeds": ", ".join(map(str, seeds)) or "not recorded",
                    **{f"fingerprint: {name}": text for name, text in prints.items() if text},
                    "versions where this page was written": told,
                    "machine": f"{platform.machine()}, {platform.system()}",
                }
            ),
        ]
    )
    return Section(key="reproduce", title="How to reproduce", body=body)


def stage_amounts(parts: Parts, name: str) -> dict[str, float]:
    """Seconds or joules by stage, in the order of the climb; stages that did not record it are left out."""
    amounts: dict[str, float] = {}
    if parts.corpus and name == "seconds":
        amounts["data"] = parts.corpus.seconds
    rungs = [number_of(getattr(row, name)) for row in parts.ladder.observations]
    known = [amount for amount in rungs if amount == amount]
    if known:
        amounts["ladder"] = sum(known)
    run = parts.target.run
    if run and number_of(getattr(run, name)) == number_of(getattr(run, name)):
        amounts["target"] = getattr(run, name)
    spent = [
        row.seconds * row.seeds
        for task in parts.tasks
        for row in task.rows
        if row.metric == task.rows[0].metric
    ]
    spent = [amount for amount in spent if amount == amount]
    if spent and name == "seconds":
        amounts["tasks"] = sum(spent)
    return amounts


def energy_sources(parts: Parts) -> dict[str, str]:
    """Which counters give the energy of a stage, or "estimate: ..."; several are joined."""
    found = {"ladder": {str(row.notes.get("joules_source") or "") for row in parts.ladder.observations}}
    if parts.target.run:
        found["target"] = {parts.target.run.energy.source}
    return {
        stage: "; ".join(sorted(source or "not recorded" for source in sources))
        for stage, sources in found.items()
    }


def overlap_verdict(rows: Sequence[TaskResult]) -> str:
    """The best method by the first metric, and which others its interval overlaps."""
    if not rows:
        return "The table of this task is empty."
    shown = [row for row in rows if row.metric == rows[0].metric]
    best = max(shown, key=lambda row: row.value)
    near = [row.method for row in shown if row is not best and row.high >= best.low]
    text = f"Best by {best.metric.replace('_', ' ')}: {best.method} ({best.value:.3f})."
    return text + (
        f" Its interval overlaps that of {', '.join(near)}."
        if near
        else " No other interval overlaps its own."
    )


def _task_table(results: Sequence[TaskResult]) -> Html:
    """A row a method, a column a metric."""
    metrics = list(dict.fromkeys(row.metric for row in results))
    cells = {(row.method, row.metric): f"{row.value:.3f} ({row.low:.3f} – {row.high:.3f})" for row in results}
    first = {row.method: row for row in reversed(results)}
    methods = dict.fromkeys(row.method for row in results)
    head = ("method", *[metric.replace("_", " ") for metric in metrics], "seeds", "time", "notes")
    rows = [
        (
            method,
            *[cells.get((method, metric), "") for metric in metrics],
            first[method].seeds,
            show("seconds", first[method].seconds),
            first[method].notes,
        )
        for method in methods
    ]
    return table(head, rows, numbers=range(1, 3 + len(metrics)))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _missing(parts: Parts, part: str) -> Html:
    return missing(parts.missing.get(part, f"No {part} was found."), COMMANDS.get(part, ""))
