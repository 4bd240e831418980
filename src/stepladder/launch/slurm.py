"""A plan and a folder in; the text of a job for a cluster out: an sbatch script, or words for torchrun.

Every node of a job runs the same `stepladder train`; that command turns the plan into processes there.
"""

import math
import shlex
import sys
from pathlib import Path
from typing import Literal

from stepladder.errors import PlanError
from stepladder.launch.environment import Node, train_command
from stepladder.records import Plan

Emitted = Literal["slurm", "torchrun"]
# Slurm kills at the limit: some room above the plan's upper bound for start-up and other people's traffic.
_TIME_MARGIN, _LEAST_MINUTES = 1.25, 30
# So long before the limit Slurm sends USR1, and the trainer writes a checkpoint (STOP_SECONDS is below it).
_WARNING_SECONDS = 120
_MASTER = "HOST_OF_NODE_0"


def emit(kind: Emitted, plan: Plan, plan_path: Path, out: Path) -> str:
    """The text for `kind`, with absolute paths. All nodes see plan, corpus and `out` under these paths."""
    if kind == "slurm":
        return slurm_script(plan, plan_path.resolve(), out.resolve())
    lines = []
    for rank in range(plan.layout.nodes):
        node = Node(rank=rank, master=f"{_MASTER}:29500") if plan.layout.nodes > 1 else None
        words = train_command(plan_path.resolve(), out.resolve(), plan.layout, node=node, has_owner=False)
        lines += [f"# node {rank} of {plan.layout.nodes}", shlex.join(words)]
    return "\n".join(lines) + "\n"


def slurm_script(plan: Plan, plan_path: Path, out: Path) -> str:
    """An sbatch script that trains the plan; out of time, it writes a checkpoint and queues itself again.

    Raises:
        PlanError: the plan does not say how long it takes.
    """
    layout, seconds = plan.layout, plan.numbers["seconds"].high
    if not math.isfinite(seconds):
        raise PlanError("the plan does not say how long it takes", next_command="stepladder doctor")
    here = layout.processes // layout.nodes
    minutes = max(math.ceil(seconds * _TIME_MARGIN / 60), _LEAST_MINUTES)
    options = [
        f"--job-name={_word(plan.name)}",
        f"--nodes={layout.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={here * layout.threads}",
        *([f"--gpus-per-node={here}"] if layout.device == "cuda" else []),
        f"--time={minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00",
        "--requeue",
        f"--signal=B:USR1@{_WARNING_SECONDS}",
        "--open-mode=append",
        # Beside the folder: Slurm runs no job whose log lies in a folder that is not there yet.
        f"--output={shlex.quote(str(out))}.slurm-%j.log",
    ]
    train = shlex.join([sys.executable, "-m", "stepladder", "train", str(plan_path), "--out", str(out)])
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in options),
        name=plan.name.replace("\n", " "),
        time=f"{plan.numbers['seconds'].how}".replace("\n", " "),
        margin=_TIME_MARGIN,
        out=shlex.quote(str(out)),
        train=train,
        place=_PLACE if layout.nodes > 1 else _ALONE,
    )


def _word(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_.@" else "-" for char in name)


_SCRIPT = """\
#!/bin/bash
{options}
#
# {name}. The time limit is {margin} times the plan's upper bound.
# Adapt the lines above to your cluster (partition, account); the rest needs no change.
set -u
train=({train})
{place}
trainer=$!

# USR1 comes to this shell before the time is up. srun hands it on to the trainers, which write a checkpoint
# and end with 75; the job then goes back to the queue and continues from there.
waiting=1
forward() {{
  waiting=1
  kill -USR1 "$trainer" 2> /dev/null
}}
trap forward USR1
code=0
while [ "$waiting" -eq 1 ]; do
  # A trap interrupts wait, which then has to be called again; 127: it had told the code already.
  waiting=0
  wait "$trainer"
  ended=$?
  [ "$ended" -eq 127 ] || code=$ended
done
# srun ends with the largest code of its tasks.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
_ALONE = """srun --cpus-per-task="$SLURM_CPUS_PER_TASK" "${train[@]}" &"""
_PLACE = """\
# Node 0 of the job listens; two jobs on one node get two ports.
master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 10000))
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \\
  bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' node "${train[@]}" --master "$master" &"""
