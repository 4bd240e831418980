"""`stepladder climb`: a brief in; ladder, law, frozen forecast, target, score, tasks, export, report out."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

# Above this a climb asks for --yes before it starts.
_ASK_HOURS, _ASK_USD = 1.0, 5.0


def climb(
    brief: Annotated[Path, Parameter(help="The brief.")] = Path("stepladder.toml"),
    *,
    out: Annotated[Path | None, Parameter(help="Folder of the climb; by default climbs/NAME.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it will cost and stop.")] = False,
    yes: Annotated[bool, Parameter(negative="", help="Start although it costs much.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Climb from the brief to the report; the same command goes on after an interruption."""
    from stepladder.brief import load_brief
    from stepladder.pipeline import run_climb
    from stepladder.stages import Climb

    loaded = load_brief(brief)
    folder = out or Path("climbs") / loaded.name
    limits = {
        name: value
        for name in ("hours", "usd", "kwh", "kg_co2e")
        if (value := getattr(loaded.budget, name)) is not None
    }
    told = ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "no limit"
    print(f"{loaded.name}: at most {told}, in {folder}", file=sys.stderr)
    if dry_run:
        return 0
    if not yes and (limits.get("hours", 0) > _ASK_HOURS or limits.get("usd", 0) > _ASK_USD):
        print(f"this may cost {told}; start it with --yes", file=sys.stderr)
        return 2
    keep_brief(brief, folder)
    summit = run_climb(Climb(brief=loaded, folder=folder, quiet=json_))
    if json_:
        print(json.dumps(summary(summit)))
    return 0


def keep_brief(brief: Path, folder: Path) -> None:
    """Leave a copy of the brief, and of hardware.toml beside it, in the climb's folder."""
    from stepladder.plan.overlay import NAME, load_overlay
    from stepladder.store import write_text

    own = brief.parent / NAME
    if own.exists():
        load_overlay(own)
    for path, name in ((brief, "stepladder.toml"), (own, NAME)):
        if path.exists() and not (folder / name).exists():
            write_text(folder / name, path.read_text(encoding="utf-8"))


def summary(summit: object) -> dict[str, object]:
    """What `--json` prints of a climb."""
    from stepladder.pipeline import Summit
    from stepladder.records import to_json

    assert isinstance(summit, Summit)
    return {
        "plan": {name: number.value for name, number in summit.plan.numbers.items()},
        "forecast": to_json(summit.forecast),
        "run": to_json(summit.run),
        "scores": [{**to_json(one), "relative_error": one.relative_error} for one in summit.scores],
        "task_forecasts": [to_json(one) for one in summit.foretold],
        "task_scores": [{**to_json(one), "relative_error": one.relative_error} for one in summit.task_scores],
        "tasks": [{"task": table.task, "verdict": table.verdict} for table in summit.tables],
        "export": str(summit.export) if summit.export else None,
        "report": summit.report.path,
    }
