"""`stepladder calibrate`: a plan, or a ladder's folder, in; measured.csv out."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

# Above this it asks for --yes before it starts.
_ASK_SECONDS = 600.0


def calibrate(
    plan: Path,
    /,
    *,
    steps: Annotated[int, Parameter(help="Steps of each run.")] = 24,
    layouts: Annotated[str, Parameter(help="Some of plan,alone,half; all by default.")] = "",
    out: Annotated[Path, Parameter(help="The table to write.")] = Path("measured.csv"),
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it will cost and stop.")] = False,
    yes: Annotated[bool, Parameter(negative="", help="Start although it takes long.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Time a few steps of a plan in its layout and in near ones; a ladder's own runs count for free.

    Parameters
    ----------
    plan
        plan.json, as `stepladder plan` writes it, or the folder of a ladder.
    """
    from stepladder.ladder.measure import chosen, measure_layouts, rows_from_ladder
    from stepladder.launch.process import read_plan
    from stepladder.plan.layoutsearch import describe
    from stepladder.plan.measured import row_of, write_measured
    from stepladder.units import format_seconds

    if plan.is_dir():
        found = rows_from_ladder(plan)
        expected, named = 0.0, {}
    else:
        wanted = read_plan(plan)
        # The runs lie elsewhere, and a plan names its corpus as seen from its own folder.
        wanted = replace(wanted, corpus=str((plan.parent / wanted.corpus).resolve()))
        named = chosen(wanted, [name.strip() for name in layouts.split(",") if name.strip()])
        each = wanted.numbers["seconds"].high / max(wanted.steps, 1)
        # Starting processes and one held-out pass take about as long as ten seconds and a few steps.
        expected = len(named) * (each * (steps + 4) * 1.5 + 10)
        if not json_:
            for name, layout in named.items():
                print(f"{name}: {steps} steps as {describe(layout)}")
            print(f"expected: {format_seconds(expected)} at most")
        if dry_run:
            print(json.dumps({"seconds": expected, "layouts": list(named)}) if json_ else "nothing was run")
            return 0
        if expected > _ASK_SECONDS and not yes:
            print(f"this may take {format_seconds(expected)}; start it with --yes", file=sys.stderr)
            return 2
        found = measure_layouts(wanted, named, steps, out.with_suffix(".runs"), quiet=json_)
    if not found:
        print(f"{plan} holds no finished run", file=sys.stderr)
        return 2
    write_measured(out, found)
    if json_:
        print(json.dumps({"out": str(out), "rows": [row_of(step) for step in found]}))
        return 0
    for step in found:
        print(f"{step.name}: {step.seconds:.4g} s a step, {step.peak_bytes / 2**30:.3g} GiB a process")
    print(f"wrote {out}")
    print("next: stepladder plan, which reads it beside the brief")
    return 0
