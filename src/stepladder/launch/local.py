"""A plan and a folder in; a finished Run out, trained by processes on this machine."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stepladder.errors import StepladderError, StoreError, TrainError
from stepladder.launch.environment import Node, train_command, worker_environment
from stepladder.launch.nodes import Leader, follow
from stepladder.launch.pool import JobFailure, run_many
from stepladder.launch.process import (
    RUN_FILE,
    Interrupted,
    Listener,
    OnProgress,
    finished_run,
    read_events,
    read_plan,
    stop_process,
)
from stepladder.progress import Progress
from stepladder.records import Plan, Run, from_json
from stepladder.store import read_json, write_text
from stepladder.train.faults import HANG_FILE, hang_seconds
from stepladder.train.metrics import METRICS_FILE, last_line

__all__ = ["Interrupted", "JobFailure", "run_many", "run_plan"]

STOPPED_FILE, RESTARTS_FILE, EXIT_RESUME = "stopped.json", "restarts.jsonl", 75
# Fresh starts after a crash. Each goes on from the last checkpoint; the count starts again when one got
# further, so that only a run that crashes without progress is given up.
_MOST_ATTEMPTS = 3
# The pause before a fresh start doubles from one second with each that got no further.
MOST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How one process ended: its exit code and, where it told us, the reason."""

    code: int
    failure: Mapping[str, str] | None = None
    reason: str = ""


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
            note_restart(out, ending, reached)
            if attempts >= _MOST_ATTEMPTS:
                raise TrainError(
                    f"training {plan.name!r} crashed {attempts} times without getting further",
                    got=f"exit code {ending.code}: {ending.reason}",
                    next_command=f"{sys.executable} -m stepladder.train.worker "
                    f"--plan {plan_path} --out {out}",
                )
            pause = min(2.0 ** (attempts - 1), MOST_PAUSE_SECONDS)
            print(
                f"warning: the trainer ended with {ending.code} ({ending.reason}); "
                f"starting it again in {pause:.0f} s",
                file=sys.stderr,
            )
            time.sleep(pause)


def note_restart(out: Path, ending: Ending, step: int) -> None:
    """One line more in restarts.jsonl: when, why, and from which step the run goes on."""
    path = out / RESTARTS_FILE
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit_code": ending.code,
        "reason": ending.reason,
        "step": step,
    }
    with contextlib.suppress(StoreError):  # a full disk must not keep the run from going on
        write_text(path, before + json.dumps(line) + "\n")


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
    for marker in (STOPPED_FILE, HANG_FILE):
        (out / marker).unlink(missing_ok=True)
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
    failure, is_stopped = None, False
    try:
        with Listener(process, hang_seconds()) as listener:
            for event in read_events(process.stdout):
                listener.hear()
                if event["event"] == "progress":
                    hear(event)
                elif event["event"] == "failed":
                    failure = event
                is_stopped |= event["event"] == "stopped"
            code = EXIT_RESUME if is_stopped else process.wait()
        return Ending(code=code, failure=failure, reason=_reason(out, code, is_frozen=listener.has_killed))
    finally:
        stop_process(process)


def _reason(out: Path, code: int, *, is_frozen: bool) -> str:
    """Why a process ended before its work was done, as far as can be told from outside."""
    if is_frozen:
        return "frozen: it no longer said that it was alive"
    if (out / HANG_FILE).exists():
        hung = read_json(out / HANG_FILE)
        return f"rank {hung['rank']} hung after step {hung['step']}"
    return f"killed by signal {-code}" if code < 0 else "crashed"


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
