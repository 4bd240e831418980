"""A plan in; Megatron-LM's arguments for the same shape, batch, schedule and layout out.

For Megatron-LM of core 0.19, whose own parser takes them; what it cannot say is refused or said in a comment.
"""

import math

from stepladder.errors import PlanError
from stepladder.launch.foreign import adamw_rate, check_family, checkpoint_interval, facts, run_script
from stepladder.plan.layout import mesh_sizes, micro_sequences
from stepladder.records import Plan


def megatron_files(plan: Plan) -> dict[str, str]:
    """arguments.txt, one argument a line, and the command that hands them to pretrain_gpt.py.

    Raises:
        PlanError: Megatron-LM has no such model or layout.
    """
    check_family(plan, "Megatron-LM")
    lines = [
        *_megatron_model(plan),
        *_megatron_experts(plan),
        *_megatron_recipe(plan),
        *_megatron_layout(plan),
        "--data-path DATA_PREFIX",
        "--split 99,1,0",
        "--tokenizer-type HuggingFaceTokenizer",
        "--tokenizer-model TOKENIZER_FOLDER",
        "--save checkpoints",
        "--load checkpoints",
        f"--save-interval {checkpoint_interval(plan)}",
        f"--seed {plan.seed}",
        "--log-interval 10",
        "--log-throughput",
    ]
    command = "pretrain_gpt.py $(cat arguments.txt)"
    return {
        "arguments.txt": "\n".join(lines) + "\n",
        "run.sh": run_script(command, plan, _environment(plan), facts(plan)["rates"]),
    }


def _environment(plan: Plan) -> str:
    """One queue to the device, as its tensor and context parallelism ask; its own FSDP wants several."""
    shared = plan.layout.degrees.tensor * plan.layout.degrees.context > 1
    return "CUDA_DEVICE_MAX_CONNECTIONS=1 " if shared and plan.layout.shard not in ("fsdp", "hsdp") else ""


def _megatron_model(plan: Plan) -> list[str]:
    shape = plan.shape
    return [
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


def _megatron_experts(plan: Plan) -> list[str]:
    """Its softmax over the chosen ones is Qwen3's rule; no token is dropped unless it is told to."""
    experts = plan.shape.experts
    if not experts.count:
        return []
    return [
        f"--num-experts {experts.count}",
        f"--moe-router-topk {experts.active}",
        f"--moe-ffn-hidden-size {experts.ffn_width}",
        "--moe-router-load-balancing-type aux_loss",
        f"--moe-aux-loss-coeff {experts.balance:g}",
        "--moe-router-dtype fp32",
        "--moe-token-dispatcher-type alltoall",
        "--moe-grouped-gemm",
        f"--expert-model-parallel-size {mesh_sizes(plan.layout).expert}",
    ]


def _megatron_recipe(plan: Plan) -> list[str]:
    recipe, layout, sizes = plan.recipe, plan.layout, mesh_sizes(plan.layout)
    sequences = recipe.batch_tokens // plan.shape.context_tokens
    return [
        f"--micro-batch-size {micro_sequences(layout, sequences // sizes.data)}",
        f"--global-batch-size {sequences}",
        f"--train-iters {plan.steps}",
        "--optimizer adam",
        f"--lr {adamw_rate(plan):.6g}",
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
    stages = sizes.pipeline * degrees.stages
    if plan.shape.num_layers % stages:
        raise PlanError(
            f"Megatron-LM cuts blocks into equal stages, and {plan.shape.num_layers} into {stages} it cannot",
            allowed="a multiple of the stages, or a layout of fewer stages",
        )
    if degrees.schedule == "interleaved" and degrees.stages > 1:
        each = plan.shape.num_layers // stages
        lines.append(f"--num-layers-per-virtual-pipeline-stage {each}")
    elif degrees.schedule not in ("1f1b", "gpipe", "interleaved") and sizes.pipeline > 1:
        raise PlanError(
            f"Megatron-LM has no pipeline schedule {degrees.schedule}", allowed="1f1b or interleaved"
        )
    if layout.shard in ("fsdp", "hsdp"):
        # Its own sharding of weights, gradients and moments; hsdp: each group holds one copy of them.
        lines += ["--use-megatron-fsdp", "--use-distributed-optimizer"]
        lines += ["--data-parallel-sharding-strategy optim_grads_params"]
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
