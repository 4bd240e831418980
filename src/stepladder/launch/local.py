"""A plan and a folder in; a finished Run out, trained by processes on this machine."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import StepladderError, TrainError
from stepladder.launch.environment import Node, train_command, worker_environment
from stepladder.launch.nodes import Leader, follow
from stepladder.launch.pool import JobFailure, run_many
from stepladder.launch.process import (
    RUN_FILE,
    Interrupted,
    OnProgress,
    finished_run,
    read_events,
    read_plan,
    stop_process,
)
from stepladder.progress import Progress
from stepladder.records import Plan, Run, from_json
from stepladder.store import read_json
from stepladder.train.metrics import METRICS_FILE, last_line

__all__ = ["Interrupted", "JobFailure", "run_many", "run_plan"]

STOPPED_FILE, EXIT_RESUME = "stopped.json", 75
# Fresh starts after a crash. Each goes on from the last checkpoint; the count starts again when one got
# further, so that only a run that crashes without progress is given up.
_MOST_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How one process ended: its exit code and, where it told us, the reason."""

    code: int
    failure: Mapping[str, str] | None = None


def run_plan(
    plan_path: Path,
    out: Path,
    *,
    quiet: bool = False,
    on_progress: OnProgress | None = None,
    node: Node | None = None,
) -> Run:
    """Train one plan to its end, resuming what `out` holds; a crashed process is started again.

    `node` is this machine's place in a run on several, all of which see `out`.

    Raises:
        Interrupted: the process was stopped (Ctrl-C or SIGTERM); its checkpoint is written.
        TrainError: the plan cannot be trained, or its process keeps crashing.
    """
    done = finished_run(plan_path, out)
    if done:
        return done
    if node and node.rank:
        return follow(plan_path, out, node)
    plan = read_plan(plan_path)
    attempts, reached = 0, _steps_done(out)
    with Leader(out, node) as leader, Progress("train", plan.tokens, "tokens", quiet=quiet) as progress:
        progress.resume_at(last_line(out / METRICS_FILE).get("tokens", 0))

        def hear(event: Mapping[str, float]) -> None:
            progress.update(event["tokens"], f"loss {event['loss']:.3f}")
            if on_progress:
                on_progress(plan.name, int(event["tokens"]), plan.tokens, event["loss"])

        while True:
            ending = _attempt(plan_path, out, plan, hear, (leader, node))
            if (out / RUN_FILE).exists():
                # Whatever the exit code says: a process group may abort after its work is done.
                return from_json(Run, read_json(out / RUN_FILE))
            if ending.code == EXIT_RESUME or (out / STOPPED_FILE).exists():
                raise Interrupted(f"{plan.name} stopped half-way")
            if ending.failure:
                raise _as_error(ending.failure)
            attempts = 1 if _steps_done(out) > reached else attempts + 1
            reached = _steps_done(out)
            if attempts >= _MOST_ATTEMPTS:
                raise TrainError(
                    f"training {plan.name!r} crashed {attempts} times without getting further",
                    got=f"exit code {ending.code}",
                    next_command=f"{sys.executable} -m stepladder.train.worker "
                    f"--plan {plan_path} --out {out}",
                )
            print(f"warning: the trainer ended with {ending.code}; starting it again", file=sys.stderr)


def _attempt(
    plan_path: Path,
    out: Path,
    plan: Plan,
    hear: Callable[[Mapping[str, float]], None],
    among: tuple[Leader, Node | None],
) -> Ending:
    """One process (or torchrun) from start to end. Ctrl-C is passed on as one SIGTERM."""
    leader, node = among
    out.mkdir(parents=True, exist_ok=True)
    (out / STOPPED_FILE).unlink(missing_ok=True)
    process = subprocess.Popen(
        train_command(plan_path, out, plan.layout, node=node),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=worker_environment(plan.layout),
        # A group of its own: Ctrl-C of the terminal reaches us alone, and we tell it once.
        start_new_session=True,
    )
    leader.begin(process)
    assert process.stdout is not None
    failure = None
    try:
        for event in read_events(process.stdout):
            if event["event"] == "progress":
                hear(event)
            elif event["event"] == "failed":
                failure = event
        return Ending(code=process.wait(), failure=failure)
    finally:
        stop_process(process)


def _steps_done(out: Path) -> int:
    """Steps that a restart would keep."""
    return max((int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")), default=0)


def _as_error(failure: Mapping[str, str]) -> StepladderError:
    if "wrong" not in failure:
        return TrainError(failure["reason"])
    return TrainError(
        failure["wrong"],
        got=failure["got"],
        allowed=failure["allowed"],
        next_command=failure["next_command"],
    )
