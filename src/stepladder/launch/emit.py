"""A plan and a folder in; plan.json and the files of a job out, for our trainer or another one.

Every node of ours runs the same `stepladder train`; the folder has to be seen by all of them under one path.
"""

import json
import shlex
from pathlib import Path
from typing import Literal

from stepladder.errors import PlanError
from stepladder.launch.megatron import megatron_files
from stepladder.launch.slurm import emit as job_text
from stepladder.launch.titan import torchtitan_files
from stepladder.records import Plan, to_json
from stepladder.store import write_json, write_text

Kind = Literal["torchrun", "slurm", "kubernetes", "ray", "torchtitan", "megatron"]
_PORT = 29_500


def emit_job(kind: Kind, plan: Plan, folder: Path) -> list[Path]:
    """Write plan.json and the job's files into `folder`; what was written, the plan first.

    The plan's corpus is taken as seen from `folder`.

    Raises:
        PlanError: the layout cannot be said in the other trainer's words.
    """
    path, out = folder.resolve() / "plan.json", folder.resolve() / "run"
    texts = {
        "torchrun": lambda: {"train.sh": _HEAD + job_text("torchrun", plan, path, out)},
        "slurm": lambda: {"job.sbatch": job_text("slurm", plan, path, out)},
        "kubernetes": lambda: {"job.yaml": kubernetes_yaml(plan, path, out)},
        "ray": lambda: {"ray_train.py": ray_script(plan, path, out)},
        "torchtitan": lambda: torchtitan_files(plan),
        "megatron": lambda: megatron_files(plan),
    }[kind]()
    write_json(path, to_json(plan))
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in ("plan.json", *texts)]


def kubernetes_yaml(plan: Plan, path: Path, out: Path) -> str:
    """A headless Service and an Indexed Job (batch/v1), one pod a node.

    A pod that ends with 75 has written a checkpoint and is started again without being counted as a failure.
    """
    layout = plan.layout
    name = _dns(plan.name)
    here = layout.processes // layout.nodes
    train = shlex.join(["stepladder", "train", str(path), "--out", str(out)])
    if layout.nodes > 1:
        train += f' --node-rank "$JOB_COMPLETION_INDEX" --master {name}-0.{name}:{_PORT}'
    return _KUBERNETES.format(
        name=name,
        title=json.dumps(plan.name),
        nodes=layout.nodes,
        cpus=json.dumps(str(here * layout.threads)),
        gpus=f"nvidia.com/gpu: {here}" if layout.device == "cuda" else f"memory: {_memory(plan, here)}",
        train=json.dumps(f"exec {train}"),
        threads=json.dumps(str(layout.threads)),
        folder=json.dumps(str(path.parent)),
        port=_PORT,
    )


def ray_script(plan: Plan, path: Path, out: Path) -> str:
    """A program for the cluster's head: one actor a node, each runs the launcher that the others run, too."""
    layout = plan.layout
    here = layout.processes // layout.nodes
    return _RAY.format(
        plan=str(path),
        out=str(out),
        nodes=layout.nodes,
        gpus=here if layout.device == "cuda" else 0,
        cpus=here * layout.threads if layout.device == "cpu" else max(here, 1),
        port=_PORT,
    )


def _memory(plan: Plan, here: int) -> str:
    peak = plan.numbers.get("peak_bytes")
    if peak is None:
        raise PlanError("the plan does not say how much memory it needs", next_command="stepladder plan")
    return f"{max(round(peak.high * here / 2**20), 512)}Mi"


def _dns(name: str) -> str:
    """A label that Kubernetes takes: small letters, digits and dashes, at most 52 of them."""
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower()).strip("-")
    return plain[:52].strip("-") or "plan"


_HEAD = """\
#!/bin/bash
# One line a node; give each node its own. All nodes see plan, corpus and run folder under these paths.
"""
_KUBERNETES = """\
# {title}: kubectl apply -f job.yaml
# Put your image, and the volume that all nodes share, in place of IMAGE and CLAIM; the rest needs no change.
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  clusterIP: None
  selector:
    job-name: {name}
  ports:
    - name: torchrun
      port: {port}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {nodes}
  parallelism: {nodes}
  backoffLimit: 20
  podFailurePolicy:
    rules:
      # 75: a checkpoint is written, go on from it. A pod that its node took away is no failure either.
      - action: Ignore
        onExitCodes:
          containerName: train
          operator: In
          values: [75]
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
            status: "True"
  template:
    metadata:
      labels:
        job-name: {name}
    spec:
      subdomain: {name}
      restartPolicy: Never
      # The trainer gets SIGTERM, writes a checkpoint and ends with 75.
      terminationGracePeriodSeconds: 120
      containers:
        - name: train
          image: IMAGE
          command: ["/bin/bash", "-c"]
          args: [{train}]
          env:
            - name: OMP_NUM_THREADS
              value: {threads}
          ports:
            - containerPort: {port}
          resources:
            requests:
              cpu: {cpus}
            limits:
              {gpus}
          volumeMounts:
            - name: shared
              mountPath: {folder}
            - name: memory
              mountPath: /dev/shm
      volumes:
        - name: shared
          persistentVolumeClaim:
            claimName: CLAIM
        - name: memory
          emptyDir:
            medium: Memory
"""
_RAY = '''\
"""Train a plan on a Ray cluster: ray job submit --working-dir . -- python ray_train.py

Every node has stepladder installed and sees plan, corpus and run folder under the paths below.
"""

import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PLAN, OUT = {plan!r}, {out!r}
NODES, GPUS, CPUS, PORT = {nodes}, {gpus}, {cpus}, {port}
RESUME = 75  # a checkpoint is written; the same command goes on from it


@ray.remote(num_cpus=CPUS, num_gpus=GPUS, max_restarts=-1, max_task_retries=-1)
class Node:
    """One node of the run."""

    def address(self) -> str:
        return ray.util.get_node_ip_address()

    def train(self, rank: int, master: str) -> int:
        words = [sys.executable, "-m", "stepladder", "train", PLAN, "--out", OUT]
        words += ["--node-rank", str(rank), "--master", master] if NODES > 1 else []
        return subprocess.run(words, check=False).returncode


def main() -> int:
    ray.init()
    strategy = "STRICT_SPREAD" if NODES > 1 else "STRICT_PACK"
    group = placement_group([{{"CPU": CPUS, "GPU": GPUS}}] * NODES, strategy=strategy)
    ray.get(group.ready())
    while True:
        nodes = [
            Node.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            ).remote()
            for rank in range(NODES)
        ]
        master = f"{{ray.get(nodes[0].address.remote())}}:{{PORT}}"
        codes = ray.get([node.train.remote(rank, master) for rank, node in enumerate(nodes)])
        for node in nodes:
            ray.kill(node)
        if RESUME not in codes:
            return max(codes)


if __name__ == "__main__":
    sys.exit(main())
'''
