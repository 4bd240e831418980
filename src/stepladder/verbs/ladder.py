"""`stepladder ladder`: a brief in; a prepared corpus and a trained ladder with observations.csv out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def ladder(
    brief: Annotated[Path, Parameter(help="The brief.")] = Path("stepladder.toml"),
    *,
    out: Annotated[Path | None, Parameter(help="Folder of the climb; by default climbs/NAME.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Design and price the rungs, then stop.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Train the small models that a law can be fitted to; the same command goes on after an interruption.

    The corpus is prepared and the speed of this machine measured first, if they are not yet there.
    """
    from stepladder import stages
    from stepladder.brief import load_brief
    from stepladder.ladder.budget import design_for
    from stepladder.ladder.collect import observations_to_columns, usable
    from stepladder.verbs.climb import keep_brief

    loaded = load_brief(brief)
    climb = stages.Climb(brief=loaded, folder=out or Path("climbs") / loaded.name, quiet=json_)
    keep_brief(brief, climb.folder)
    machine = stages.open_climb(climb)
    corpus = stages.prepare(climb)
    speed = stages.calibrate(climb, machine, corpus)
    if dry_run:
        rungs = design_for(loaded, corpus, speed)
        print("parameters     tokens  tokens/param  core-seconds  half-width of the forecast so far")
        for rung in rungs:
            print(
                f"{rung.params:10,d} {rung.tokens:10,d} {rung.ratio:13.2f} {rung.seconds:13.1f} "
                f"{rung.half_width80:10.2%}"
            )
        print(f"{len(rungs)} rungs, {sum(rung.seconds for rung in rungs) / speed.workers:.0f} s of wall time")
        return 0
    rows = stages.climb_small(climb, corpus, speed)
    path = climb.folder / "ladder" / "observations.csv"
    if json_:
        columns = observations_to_columns(rows)
        print(json.dumps({"observations": str(path), "rungs": len(rows), "usable": len(usable(rows)),
                          "runs": columns["run"], "losses": columns["loss"]}))  # fmt: skip
    else:
        print(f"{path}; next: stepladder fit {path}")
    return 0
