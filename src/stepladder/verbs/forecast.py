"""`stepladder forecast list|score`: frozen forecasts on disk in; their state, or the score of one, out."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def forecast(
    action: Annotated[Literal["list", "score"], Parameter(help="What to do.")] = "list",
    place: Annotated[Path, Parameter(help="A folder with forecasts, or one file (score).")] = Path("."),
    *,
    loss: Annotated[float | None, Parameter(help="The measured loss (score).")] = None,
    run: Annotated[str, Parameter(help="Which run of the file (score).")] = "",
    figure: Annotated[
        Path | None,
        Parameter(help="Draw how reliable they were: .html, .json, or .svg, .png (extra plots) (list)."),
    ] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """List frozen forecasts with how they turned out and how reliable they are, or score one."""
    from stepladder.errors import LawError
    from stepladder.laws.registry import find_forecasts, record_outcome, scored_of
    from stepladder.laws.score import calibrate, reliability
    from stepladder.laws.show import registry_text, score_text
    from stepladder.records import to_json

    if action == "score":
        if loss is None:
            raise LawError(
                "an outcome is needed to score a forecast",
                got="no --loss",
                next_command=f"stepladder forecast score {place} --loss 2.345",
            )
        if figure:
            raise LawError(
                "--figure belongs to forecast list: one score has no reliability",
                next_command=f"stepladder forecast list {place.parent} --figure {figure}",
            )
        result = record_outcome(place, loss, run=run)
        print(json.dumps(to_json(result)) if json_ else score_text(result))
        return 0
    from stepladder.report.reliability import reliability_text, sentences, write_reliability

    found = find_forecasts(place)
    if figure:
        write_reliability(figure, found)
    if json_:
        losses = [item.score for item in found if item.score and not item.uncounted]
        scored = scored_of(found)
        rows = reliability(scored) if scored else []
        value = {
            "forecasts": [{**to_json(item), "path": str(item.path)} for item in found],
            "calibration": to_json(calibrate(losses)) if losses else None,
            "reliability": to_json(rows),
            "verdicts": sentences(rows),
        }
        print(json.dumps(value))
        return 0
    print(registry_text(found))
    if text := reliability_text(found):
        print(f"\n{text}")
    if figure:
        print(f"\nfigure: {figure}")
    return 0
