"""A plan in; the configuration of another trainer for the same shape, batch, schedule and layout out.

torchtitan 0.2.2 (TOML; its model "qwen3" is built as ours) and Megatron-LM, core 0.13 or later. What they
cannot say is refused or stands in a comment.
"""

import json
import math

from stepladder.errors import PlanError
from stepladder.plan.layout import mesh_sizes
from stepladder.plan.rates import recipe_for
from stepladder.records import SWITCHES, Plan
from stepladder.units import format_count

_SCHEDULES = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved": "Interleaved1F1B",
    "zero_bubble": "ZBVZeroBubble",
}
_MODULE, _FLAVOUR = "stepladder_shape", "planned"


def torchtitan_files(plan: Plan) -> dict[str, str]:
    """config.toml, the module that names the shape, and the command."""
    _refuse_switches(plan)
    sizes, layout, recipe = mesh_sizes(plan.layout), plan.layout, plan.recipe
    if not plan.shape.causal:
        raise PlanError("torchtitan trains decoders only", got='objective = "masked"')
    local = recipe.batch_tokens // plan.shape.context_tokens // sizes.data
    tables: dict[str, dict[str, object]] = {
        "job": {"dump_folder": "outputs", "description": plan.name},
        "metrics": {"log_freq": 10},
        "model": {"name": "qwen3", "flavor": _FLAVOUR, "hf_assets_path": "TOKENIZER_FOLDER"},
        "optimizer": {
            "name": "AdamW",
            "lr": _adamw_rate(plan),
            "beta1": recipe.beta1,
            "beta2": recipe.beta2,
            "weight_decay": recipe.weight_decay,
        },
        "lr_scheduler": {
            "warmup_steps": math.ceil(recipe.warmup_share * plan.steps),
            "decay_ratio": recipe.decay_share,
            "decay_type": "linear",
            "min_lr_factor": 0.0,
        },
        "training": {
            "dataset": "c4",
            "local_batch_size": local if sizes.pipeline > 1 else layout.micro_batch_sequences or local,
            "global_batch_size": recipe.batch_tokens // plan.shape.context_tokens,
            "seq_len": plan.shape.context_tokens,
            "max_norm": recipe.grad_clip,
            "steps": plan.steps,
            "mixed_precision_param": "bfloat16" if layout.precision == "bf16" else "float32",
        },
        "parallelism": {
            "data_parallel_replicate_degree": sizes.replicate,
            "data_parallel_shard_degree": sizes.shard,
            "tensor_parallel_degree": sizes.tensor,
            "context_parallel_degree": sizes.context,
            "pipeline_parallel_degree": sizes.pipeline,
            **_pipeline(plan),
        },
        "checkpoint": {"enable": True, "interval": _interval(plan), "last_save_model_only": False},
        "activation_checkpoint": {
            "mode": layout.recompute,
            **({"selective_ac_option": "op"} if layout.recompute == "selective" else {}),
        },
        "compile": {"enable": True},
        "debug": {"seed": plan.seed},
        "experimental": {"custom_import": _MODULE},
    }
    return {
        "config.toml": _TITAN_HEAD.format(**_facts(plan)) + _toml(tables),
        f"{_MODULE}.py": _titan_module(plan),
        "run.sh": _run("-m torchtitan.train --job.config_file config.toml", plan, "PYTHONPATH=. "),
    }


def megatron_files(plan: Plan) -> dict[str, str]:
    """arguments.txt, one argument a line, and the command that hands them to pretrain_gpt.py."""
    _refuse_switches(plan)
    if not plan.shape.causal:
        raise PlanError("pretrain_gpt.py trains decoders only", got='objective = "masked"')
    lines = [
        *_megatron_model(plan),
        *_megatron_recipe(plan),
        *_megatron_layout(plan),
        "--data-path DATA_PREFIX",
        "--tokenizer-type HuggingFaceTokenizer",
        "--tokenizer-model TOKENIZER_FOLDER",
        "--save checkpoints",
        "--load checkpoints",
        f"--save-interval {_interval(plan)}",
        f"--seed {plan.seed}",
        "--log-interval 10",
        "--log-throughput",
    ]
    command = "pretrain_gpt.py $(cat arguments.txt)"
    return {
        "arguments.txt": "\n".join(lines) + "\n",
        "run.sh": _run(command, plan, "", _facts(plan)["rates"]),
    }


def _refuse_switches(plan: Plan) -> None:
    if on := [name for name in SWITCHES if getattr(plan.layout, name)]:
        raise PlanError(
            f"{' and '.join(on)} of other trainers is not written out: their recipes differ",
            allowed="a plan without",
            next_command=f"set {on[0]} = false in [override] and plan again",
        )


def _megatron_model(plan: Plan) -> list[str]:
    shape = plan.shape
    return [
        "--use-mcore-models",
        "--transformer-impl transformer_engine",
        f"--num-layers {shape.num_layers}",
        f"--hidden-size {shape.width}",
        f"--ffn-hidden-size {shape.ffn_width}",
        f"--num-attention-heads {shape.num_heads}",
        *(["--group-query-attention"] if shape.num_kv_heads != shape.num_heads else []),
        *([f"--num-query-groups {shape.num_kv_heads}"] if shape.num_kv_heads != shape.num_heads else []),
        f"--kv-channels {shape.head_dim}",
        f"--seq-length {shape.context_tokens}",
        f"--max-position-embeddings {shape.context_tokens}",
        f"--vocab-size {shape.vocab_size}",
        "--make-vocab-size-divisible-by 1",
        "--position-embedding-type rope",
        f"--rotary-base {shape.variant.rope_theta:.0f}",
        "--normalization RMSNorm",
        f"--norm-epsilon {shape.variant.norm_eps:g}",
        "--qk-layernorm",
        "--swiglu",
        "--disable-bias-linear",
        "--attention-dropout 0",
        "--hidden-dropout 0",
        *([] if shape.tied_head else ["--untie-embeddings-and-output-weights"]),
    ]


def _megatron_recipe(plan: Plan) -> list[str]:
    recipe, layout, sizes = plan.recipe, plan.layout, mesh_sizes(plan.layout)
    sequences = recipe.batch_tokens // plan.shape.context_tokens
    return [
        f"--micro-batch-size {layout.micro_batch_sequences or max(sequences // sizes.data, 1)}",
        f"--global-batch-size {sequences}",
        f"--train-iters {plan.steps}",
        "--optimizer adam",
        f"--lr {_adamw_rate(plan):.6g}",
        "--min-lr 0",
        "--lr-decay-style WSD",
        "--lr-wsd-decay-style linear",
        f"--lr-decay-iters {plan.steps}",
        f"--lr-wsd-decay-iters {max(round(recipe.decay_share * plan.steps), 1)}",
        f"--lr-warmup-iters {math.ceil(recipe.warmup_share * plan.steps)}",
        f"--adam-beta1 {recipe.beta1:g}",
        f"--adam-beta2 {recipe.beta2:g}",
        f"--weight-decay {recipe.weight_decay:g}",
        f"--clip-grad {recipe.grad_clip:g}",
        *(["--bf16"] if layout.precision == "bf16" else []),
    ]


def _megatron_layout(plan: Plan) -> list[str]:
    layout, sizes, degrees = plan.layout, mesh_sizes(plan.layout), plan.layout.degrees
    lines = [
        f"--tensor-model-parallel-size {sizes.tensor}",
        *(["--sequence-parallel"] if sizes.tensor > 1 else []),
        f"--pipeline-model-parallel-size {sizes.pipeline}",
        f"--context-parallel-size {sizes.context}",
    ]
    if degrees.schedule == "interleaved" and degrees.stages > 1:
        each = plan.shape.num_layers // (sizes.pipeline * degrees.stages)
        lines.append(f"--num-layers-per-virtual-pipeline-stage {each}")
    elif degrees.schedule not in ("1f1b", "gpipe", "interleaved") and sizes.pipeline > 1:
        raise PlanError(
            f"Megatron-LM has no pipeline schedule {degrees.schedule}", allowed="1f1b or interleaved"
        )
    if layout.shard in ("fsdp", "hsdp"):
        # Its own sharding of weights, gradients and moments; hsdp: each group holds one copy of them.
        lines += ["--use-megatron-fsdp", "--data-parallel-sharding-strategy optim_grads_params"]
        lines += ["--no-gradient-accumulation-fusion", "--ckpt-format fsdp_dtensor"]
    elif sizes.data > 1:
        lines += ["--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    if sizes.replicate > 1 and layout.shard == "hsdp":
        lines.append(f"--num-distributed-optimizer-instances {sizes.replicate}")
    if layout.recompute == "full":
        lines += ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
    elif layout.recompute == "selective":
        lines.append("--recompute-granularity selective")
    return lines


def _pipeline(plan: Plan) -> dict[str, object]:
    degrees = plan.layout.degrees
    if degrees.pipeline == 1:
        return {}
    return {
        "pipeline_parallel_schedule": "ZBVZeroBubble"
        if degrees.schedule == "zbv"
        else _SCHEDULES[degrees.schedule],
        "pipeline_parallel_microbatch_size": max(plan.layout.micro_batch_sequences, 1),
    }


def _titan_module(plan: Plan) -> str:
    shape = plan.shape
    return _TITAN_MODULE.format(
        flavour=_FLAVOUR,
        dim=shape.width,
        n_layers=shape.num_layers,
        n_heads=shape.num_heads,
        n_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        hidden_dim=shape.ffn_width,
        vocab_size=shape.vocab_size,
        max_seq_len=shape.context_tokens,
        norm_eps=shape.variant.norm_eps,
        rope_theta=shape.variant.rope_theta,
        tied=shape.tied_head,
    )


def _facts(plan: Plan) -> dict[str, str]:
    rates = "all matrices learn at AdamW's rate for the hidden ones"
    return {
        "name": plan.name.replace("\n", " "),
        "size": format_count(plan.numbers["params"].value),
        "tokens": format_count(plan.tokens),
        "processes": str(plan.layout.processes),
        "rates": rates,
    }


def _adamw_rate(plan: Plan) -> float:
    """The rate of the hidden matrices; under the plan's Muon, what the same rule gives AdamW."""
    if plan.recipe.optimiser == "adamw":
        return plan.recipe.hidden_lr
    return recipe_for(
        plan.shape, plan.tokens, optimiser="adamw", batch_tokens=plan.recipe.batch_tokens
    ).hidden_lr


def _interval(plan: Plan) -> int:
    """Steps between checkpoints: about half an hour, as far as the plan knows."""
    each = plan.numbers["seconds"].value / max(plan.steps, 1)
    return max(min(round(1_800 / each), plan.steps), 1) if each > 0 else 500


def _run(words: str, plan: Plan, environment: str, note: str = "") -> str:
    layout = plan.layout
    here = layout.processes // layout.nodes
    meeting = "--standalone"
    if layout.nodes > 1:
        meeting = f'--nnodes {layout.nodes} --node-rank "$NODE_RANK" '
        meeting += '--master-addr "$MASTER_ADDR" --master-port 29500'
    comment = f"# {note}\n" if note else ""
    start = f"{environment}torchrun {meeting} --nproc-per-node {here}"
    return f'#!/bin/bash\nset -eu\n{comment}cd "$(dirname "$0")"\n{start} {words}\n'


def _toml(tables: dict[str, dict[str, object]]) -> str:
    lines = []
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


_TITAN_HEAD = """\
# {name}: {size} parameters, {tokens} tokens on {processes} processes. For torchtitan 0.2.2.
# Put your tokenizer's folder in place of TOKENIZER_FOLDER, and your data set in place of c4; {rates}.
"""
_TITAN_MODULE = '''\
"""The planned shape as a flavour of torchtitan's qwen3 (0.2.2); config.toml imports this module."""

from torchtitan.models.qwen3 import qwen3_args
from torchtitan.models.qwen3.model.args import Qwen3ModelArgs

qwen3_args["{flavour}"] = Qwen3ModelArgs(
    dim={dim},
    n_layers={n_layers},
    n_heads={n_heads},
    n_kv_heads={n_kv_heads},
    head_dim={head_dim},
    hidden_dim={hidden_dim},
    vocab_size={vocab_size},
    max_seq_len={max_seq_len},
    norm_eps={norm_eps},
    rope_theta={rope_theta},
    qk_norm=True,
    enable_weight_tying={tied},
)
'''
