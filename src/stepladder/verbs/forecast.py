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
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """List frozen forecasts with how they turned out, or score one against its outcome."""
    from stepladder.errors import LawError
    from stepladder.laws.registry import find_forecasts, record_outcome
    from stepladder.laws.score import calibrate
    from stepladder.laws.show import registry_text, score_text
    from stepladder.records import to_json

    if action == "score":
        if loss is None:
            raise LawError(
                "an outcome is needed to score a forecast",
                got="no --loss",
                next_command=f"stepladder forecast score {place} --loss 2.345",
            )
        result = record_outcome(place, loss, run=run)
        print(json.dumps(to_json(result)) if json_ else score_text(result))
        return 0
    found = find_forecasts(place)
    scores = [item.score for item in found if item.score is not None and item.intact]
    reliability = calibrate(scores) if scores else None
    if json_:
        rows = [{**to_json(item), "path": str(item.path)} for item in found]
        print(json.dumps({"forecasts": rows, "calibration": to_json(reliability) if reliability else None}))
        return 0
    print(registry_text(found, reliability))
    return 0
