"""`stepladder doctor`: this machine in, a block to paste into an issue out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def doctor(
    *,
    refresh: Annotated[bool, Parameter(negative="", help="Measure again, not from the cache.")] = False,
    quick: Annotated[bool, Parameter(negative="", help="Look only; measure nothing.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Say what is there, how fast it computes, what is missing and what to type."""
    import sys

    from stepladder.plan.examine import examination
    from stepladder.plan.machine import measure_machine
    from stepladder.records import to_json

    if not quick:
        print("measuring matrix rates (half a minute the first time)...", file=sys.stderr)
    machine = measure_machine(rates="cached" if quick else "refresh" if refresh else "measure", folder=Path())
    if json_:
        print(json.dumps(to_json(machine)))
    else:
        print("\n".join(examination(machine)))
    return 0
