"""`stepladder demo`: nothing in; a climb on text that any machine with Python has, out."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

_BRIEF = """\
# The brief of `stepladder demo`: text that came with Python and its packages, minutes on two cores.
name = "{name}"

[data]
# READMEs, manuals, licences and descriptions of installed packages, and the documentation in their code
sources = ["python:prose", "python:docstrings"]
held_out = 0.04                 # share of whole files
tasks = ["example:text-kind"]   # real labels: film review, editorial, tweet or product review?

[budget]
hours = {hours}                   # ladder and target together
ladder_share = {share}

[override]
vocab_size = 1024               # small models: a large vocabulary would be most of their parameters
context_tokens = 64             # short, and two layers: no rung or target crosses a transition between them
num_layers = 2                  # (docs/forecasting.md)
num_heads = 2
max_input_bytes = {max_bytes}
seed = {seed}
{more}"""
_FULL = {
    "hours": "0.1",
    "share": "0.44",
    "max_bytes": "120_000_000",
    "more": "max_epochs = 1                  # no text is seen twice\n",
}
# The quick path is for tests: its rungs are too short to forecast well, and its intervals say so.
_QUICK = {
    "hours": "0.012",
    "share": "0.6",
    "max_bytes": "6_000_000",
    "more": "horizon = 2\nrungs = 10\nrung_tokens = 60_000\n",
}


def demo(
    folder: Annotated[Path, Parameter(help="Where it happens.")] = Path("demo"),
    *,
    quick: Annotated[bool, Parameter(negative="", help="The same path in under 90 seconds.")] = False,
    seed: Annotated[int, Parameter(help="Seed of split, initial weights and order.")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """From text on this machine to a forecast, trained, scored, tuned and exported model, in minutes.

    Interrupt it at any moment; the same command goes on.
    """
    from stepladder.brief import load_brief
    from stepladder.eval.table import show_predictions
    from stepladder.pipeline import run_climb
    from stepladder.stages import Climb
    from stepladder.store import write_text
    from stepladder.units import format_seconds
    from stepladder.verbs.climb import summary

    started = time.monotonic()
    was_done = (folder / "report.html").exists()
    path = folder / "stepladder.toml"
    if not path.exists():
        size = _QUICK if quick else _FULL
        write_text(path, _BRIEF.format(name="quick-demo" if quick else "demo", seed=seed, **size))
    climb = Climb(
        brief=load_brief(path),
        folder=folder,
        quiet=json_,
        patient=True,
        tune_examples=400 if quick else 4000,
        tune_epochs=1 if quick else 3,
    )
    summit = run_climb(climb)
    if json_:
        print(json.dumps(summary(summit)))
        return 0
    for table in summit.tables:
        print(f"\nfive test examples of {table.task}, labelled by the tuned model:")
        print("\n".join(show_predictions(folder / "tune" / f"{table.task}@1")))
    done = (
        "everything was done already" if was_done else f"done in {format_seconds(time.monotonic() - started)}"
    )
    print(f"\n{done}; open {folder / 'report.html'}")
    print(f"next: stepladder complete {folder / 'export'} --prompt 'This module'", file=sys.stderr)
    return 0
