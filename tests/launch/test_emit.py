"""Files of a job: they parse, they are right for the plan, and the torchrun command trains."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.launch.emit import emit_job
from stepladder.models.shape import shape_for_width
from stepladder.records import Degrees, Derived, Layout, Plan, from_json
from stepladder.store import read_json

CLUSTER = Layout(
    device="cuda",
    processes=64,
    nodes=8,
    precision="bf16",
    shard="hsdp",
    degrees=Degrees(tensor=2, pipeline=2, shard_group=8),
    micro_batch_sequences=2,
    recompute="full",
)


@pytest.fixture
def plan(make_plan) -> Plan:
    made = from_json(Plan, read_json(make_plan(steps=100)))
    return replace(
        made,
        name="My plan",
        shape=shape_for_width(1024, 16, vocab_size=32_000, context_tokens=2048),
        recipe=replace(made.recipe, batch_tokens=64 * 2048, optimiser="muon"),
        layout=CLUSTER,
        numbers=made.numbers
        | {
            "tokens": Derived(value=100 * 64 * 2048, low=1, high=1, how=""),
            "seconds": Derived(value=200, low=100, high=7200, how="a test"),
            "peak_bytes": Derived(value=3e9, low=3e9, high=4e9, how=""),
        },
    )


def bash_takes(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_every_kind_writes_the_plan_and_shell_that_parses(plan: Plan, tmp_path: Path) -> None:
    for kind in ("torchrun", "slurm", "kubernetes", "ray", "torchtitan", "megatron"):
        written = emit_job(kind, plan, tmp_path / kind)
        assert plan == from_json(Plan, read_json(written[0]))
        for path in written:
            if path.suffix in (".sh", ".sbatch"):
                bash_takes(path)
    lines = (tmp_path / "torchrun" / "train.sh").read_text().splitlines()
    assert 8 == sum("--nnodes 8" in line for line in lines)


def test_a_kubernetes_job_has_a_pod_for_each_node_and_goes_on_after_75(plan: Plan, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    _, path = emit_job("kubernetes", plan, tmp_path)
    service, job = yaml.safe_load_all(path.read_text())
    assert ("Service", "Job", "batch/v1") == (service["kind"], job["kind"], job["apiVersion"])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert ("Indexed", 8, 8) == (spec["completionMode"], spec["completions"], spec["parallelism"])
    assert service["metadata"]["name"] == pod["subdomain"] == "my-plan"
    rule = spec["podFailurePolicy"]["rules"][0]
    assert ("Ignore", [75]) == (rule["action"], rule["onExitCodes"]["values"])
    # The schema of 1.30 and later wants a status.
    condition = spec["podFailurePolicy"]["rules"][1]["onPodConditions"][0]
    assert {"type": "DisruptionTarget", "status": "True"} == condition
    container = pod["containers"][0]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert {"nvidia.com/gpu": 8} == container["resources"]["limits"]
    command = container["args"][0]
    assert f"--out {tmp_path}/run" in command
    assert command.endswith('--node-rank "$JOB_COMPLETION_INDEX" --master my-plan-0.my-plan:29500')


def test_a_job_of_one_node_names_none(make_plan, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    made = from_json(Plan, read_json(make_plan()))
    peak = Derived(value=3e9, low=3e9, high=4e9, how="")
    _, path = emit_job("kubernetes", replace(made, numbers={**made.numbers, "peak_bytes": peak}), tmp_path)
    container = list(yaml.safe_load_all(path.read_text()))[1]["spec"]["template"]["spec"]["containers"][0]
    assert "--node-rank" not in container["args"][0]
    assert {"memory": "3815Mi"} == container["resources"]["limits"]


def test_the_ray_program_is_python_with_a_bundle_for_each_node(plan: Plan, tmp_path: Path) -> None:
    _, path = emit_job("ray", plan, tmp_path)
    names = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            values = ast.literal_eval(node.value)
            names |= {target.id: value for target, value in zip(node.targets[0].elts, values, strict=True)}
    assert {
        "PLAN": f"{tmp_path}/plan.json",
        "OUT": f"{tmp_path}/run",
        "NODES": 8,
        "GPUS": 8,
        "CPUS": 8,
        "PORT": 29500,
    } == names


def test_torchtitan_gets_the_same_batch_schedule_and_mesh(plan: Plan, tmp_path: Path) -> None:
    _, module, run = emit_job("torchtitan", plan, tmp_path)
    said = {}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call):
            for word in node.keywords:
                if isinstance(word.value, ast.Constant):
                    said[word.arg] = word.value.value
    wanted = {
        "steps": 100,
        "global_batch_size": 64,
        "local_batch_size": 4,
        "data_parallel_replicate_degree": 2,
        "data_parallel_shard_degree": 8,
        "tensor_parallel_degree": 2,
        "context_parallel_degree": 1,
        "pipeline_parallel_degree": 2,
        "pipeline_parallel_schedule": "1F1B",
        "pipeline_parallel_microbatch_size": 2,
        "warmup_steps": 2,
        "decay_ratio": 0.3,
    }
    assert wanted == {key: said.get(key) for key in wanted}
    assert "activation_checkpoint=FullAC.Config()" in module.read_text()
    assert "LAYERS, WIDTH, VOCABULARY, CONTEXT = 16, 1024, 32000, 2048" in module.read_text()
    assert f"--module {module.stem} --config planned" in run.read_text()


def test_megatron_gets_the_same_shape_batch_and_layout(plan: Plan, tmp_path: Path) -> None:
    _, arguments, _ = emit_job("megatron", plan, tmp_path)
    said = dict((*line.split(maxsplit=1), "")[:2] for line in arguments.read_text().splitlines())
    wanted = {
        "--num-layers": "16",
        "--hidden-size": "1024",
        "--global-batch-size": "64",
        "--micro-batch-size": "2",
        "--train-iters": "100",
        "--lr-wsd-decay-iters": "30",
        "--tensor-model-parallel-size": "2",
        "--pipeline-model-parallel-size": "2",
        "--num-distributed-optimizer-instances": "2",
        "--data-parallel-sharding-strategy": "optim_grads_params",
        "--recompute-granularity": "full",
        "--sequence-parallel": "",
        "--bf16": "",
    }
    assert wanted == {key: said.get(key) for key in wanted}
    # Our Muon's rate would make AdamW diverge.
    assert float(said["--lr"]) < plan.recipe.hidden_lr / 2


@pytest.mark.dist
@pytest.mark.timeout(300)
def test_the_torchrun_command_trains_on_two_processes(make_plan, tmp_path: Path) -> None:
    made = from_json(Plan, read_json(make_plan(steps=4, layout=Layout(processes=2, shard="ddp"))))
    emit_job("torchrun", made, tmp_path / "job")
    subprocess.run(
        ["bash", str(tmp_path / "job" / "train.sh")], check=True, capture_output=True, cwd=tmp_path
    )
    lines = (tmp_path / "job" / "run" / "metrics.jsonl").read_text().splitlines()
    assert (4, made.tokens) == (len(lines), json.loads(lines[-1])["tokens"])


@pytest.mark.parametrize("version", ["1.30", "1.32", "1.35"])
def test_the_kubernetes_files_are_what_the_schema_asks(version: str, plan: Plan, tmp_path: Path) -> None:
    yaml, schema = pytest.importorskip("yaml"), pytest.importorskip("kubernetes_validate")
    _, path = emit_job("kubernetes", plan, tmp_path)
    for document in yaml.safe_load_all(path.read_text()):
        schema.validate(document, version, strict=True)


_TWO_NODES = """
import os, subprocess, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
done = subprocess.run([sys.executable, sys.argv[1]], env={**os.environ, "RAY_ADDRESS": cluster.address})
cluster.shutdown()
sys.exit(done.returncode)
"""


@pytest.mark.slow
def test_the_ray_program_trains_on_two_nodes(make_plan, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    made = from_json(Plan, read_json(make_plan(steps=6)))
    two = replace(made, layout=Layout(processes=2, nodes=2, shard="ddp"))
    _, path = emit_job("ray", two, tmp_path / "job")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([sys.executable, "-c", _TWO_NODES, path], env=environment, check=True, timeout=300)
    run = read_json(tmp_path / "job" / "run" / "run.json")
    assert 6 * made.recipe.batch_tokens == run["tokens"]
