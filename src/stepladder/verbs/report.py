"""`stepladder report`: the folder of a climb or of a corpus in, one HTML page (and figures as files) out."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def report(
    folder: Annotated[Path, Parameter(help="Folder of the climb, or of a corpus.")] = Path(),
    *,
    figures: Annotated[
        Literal["png", "svg"] | None,
        Parameter(help="Also write each figure to FOLDER/figures (extra plots)."),
    ] = None,
    open_: Annotated[bool, Parameter(name="--open", negative="", help="Open the page in a browser.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Write report.html: forecast and outcome, law, ladder, plan, data, tasks, cost, how to reproduce."""
    from stepladder.records import to_json
    from stepladder.report.build import build_report

    built = build_report(folder)
    written: list[Path] = []
    if figures:
        from stepladder.report.export_figures import export_figures

        written = export_figures(folder, figures)
    if json_:
        print(json.dumps({**to_json(built), "figures": [str(path) for path in written]}))
    else:
        for line in built.headlines:
            print(line)
        if written:
            print(f"{len(written)} figures in {written[0].parent}")
        print(f"report: {built.path}")
    if open_:
        import webbrowser

        webbrowser.open(Path(built.path).resolve().as_uri())
    return 0
