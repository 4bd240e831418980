"""The whole story: a brief in; a scored, tuned and exported model with its report out. Read this first.

Each stage is a function of nouns to nouns in `stages.py` (of tasks: `task_stages.py`, of planted lines:
`canary_stages.py`); each can be run alone by the verb of its name and keeps what it has done, so that the
same call goes on after an interruption.
"""

from dataclasses import dataclass
from pathlib import Path

from stepladder import canary_stages, stages, task_stages
from stepladder.eval.table import TaskTable
from stepladder.records import Forecast, Plan, Report, Run, Score
from stepladder.stages import Climb


@dataclass(frozen=True, kw_only=True, slots=True)
class Summit:
    """What a climb came to."""

    plan: Plan
    forecast: Forecast
    run: Run
    scores: tuple[Score, ...]
    foretold: tuple[Forecast, ...]
    task_scores: tuple[Score, ...]
    tables: tuple[TaskTable, ...]
    export: Path | None
    report: Report


def run_climb(climb: Climb) -> Summit:
    """Climb from the brief to the report."""
    machine = stages.open_climb(climb)

    # What have I got, and how fast is it?
    corpus = stages.prepare(climb)
    speed = stages.calibrate(climb, machine, corpus)

    # Climb small, and learn how loss falls with size and data.
    observations = stages.climb_small(climb, corpus, speed)
    law = stages.learn(climb, observations)
    probes = task_stages.probe_rungs(climb, observations)

    # Decide what the rest of the budget buys, and say what will come of it before it starts.
    plan, forecast = stages.decide(climb, machine, corpus, speed, observations, law)
    foretold = task_stages.foretell(climb, plan, law, probes)
    canary_stages.foretell_exposure(climb, corpus, plan, observations)

    # Climb high, and tell the truth.
    run = stages.climb_high(climb)
    scores = stages.tell(climb, forecast, run)
    task_scores = task_stages.tell_tasks(climb, foretold, probes)
    canary_stages.tell_exposure(climb, corpus, run)

    # Put the model to work, and hand it over.
    tables = stages.adapt(climb, run)
    export = stages.hand_over(climb, run)
    report = stages.write_report(climb)
    return Summit(
        plan=plan,
        forecast=forecast,
        run=run,
        scores=tuple(scores),
        foretold=tuple(foretold),
        task_scores=tuple(task_scores),
        tables=tuple(tables),
        export=export,
        report=report,
    )
