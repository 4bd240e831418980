"""`stepladder init`: this machine in, a commented stepladder.toml that plans for it out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def init(
    path: Annotated[Path, Parameter(help="File to write.")] = Path("stepladder.toml"),
    *,
    force: Annotated[bool, Parameter(negative="", help="Replace the file that is there.")] = False,
    show: Annotated[bool, Parameter(negative="", help="Print the brief and write nothing.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Write a brief with every key, its default and what is allowed."""
    from stepladder.errors import BriefError
    from stepladder.plan.machine import measure_machine
    from stepladder.plan.template import brief_text
    from stepladder.store import write_text

    if path.exists() and not (force or show):
        raise BriefError(
            f"{path} is there already",
            allowed="another name, or --force to replace it",
            next_command=f"stepladder plan {path}",
        )
    name = path.resolve().parent.name if path.name == "stepladder.toml" else path.stem
    text = brief_text(measure_machine(rates="none"), name)
    if show:
        print(text, end="")
        return 0
    write_text(path, text)
    if json_:
        print(json.dumps({"path": str(path)}))
    else:
        print(f"wrote {path}: put your text into [data] sources, your limit into [budget], then")
        print(f"  stepladder plan {path}")
    return 0
