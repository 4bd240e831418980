"""A plan in; the configuration of torchtitan for the same shape, batch, schedule and layout out.

For torchtitan 0.3.0, whose configuration is a Python function (0.2 read TOML). Its model "qwen3" is built as
ours, of one part for each block; what it cannot say is refused or stands in a comment.
"""

import math

from stepladder.errors import PlanError
from stepladder.launch.foreign import adamw_rate, check_family, checkpoint_interval, facts, run_script
from stepladder.plan.layout import mesh_sizes, micro_sequences
from stepladder.records import Plan

MODULE, FUNCTION = "stepladder_planned", "planned"
_SCHEDULES = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved": "Interleaved1F1B",
    "zero_bubble": "InterleavedZeroBubble",
    "zbv": "ZBVZeroBubble",
}


def torchtitan_files(plan: Plan) -> dict[str, str]:
    """The module whose function is the configuration, and the command.

    Raises:
        PlanError: torchtitan has no such model or layout.
    """
    check_family(plan, "torchtitan")
    _check_layout(plan)
    model = _MIXTURE if plan.shape.experts.count else _DENSE
    text = _HEAD + _SHAPE + model + _MODEL + _CONFIG
    words = f"-m torchtitan.train --module {MODULE} --config {FUNCTION}"
    return {
        f"{MODULE}.py": text.format(**facts(plan), **_shape(plan), **_settings(plan)),
        "run.sh": run_script(words, plan, environment="PYTHONPATH=. "),
    }


def _check_layout(plan: Plan) -> None:
    """What torchtitan 0.3.0 refuses when it starts, said now."""
    sizes = mesh_sizes(plan.layout)
    if sizes.expert > sizes.shard * sizes.context * sizes.tensor:
        raise PlanError(
            "torchtitan shares out experts among processes that shard the state",
            got=f"expert {sizes.expert}, shard {plan.layout.shard}",
            allowed="expert degrees up to the group that shards the state",
        )


def _shape(plan: Plan) -> dict[str, object]:
    shape = plan.shape
    return {
        "layers": shape.num_layers,
        "width": shape.width,
        "heads": shape.num_heads,
        "kv_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "ffn_width": shape.ffn_width,
        "vocab": shape.vocab_size,
        "context": shape.context_tokens,
        "eps": shape.variant.norm_eps,
        "theta": shape.variant.rope_theta,
        "tied": shape.tied_head,
        "experts": shape.experts.count,
        "active": shape.experts.active,
        "expert_width": shape.experts.ffn_width,
    }


def _settings(plan: Plan) -> dict[str, object]:
    recipe, layout, sizes = plan.recipe, plan.layout, mesh_sizes(plan.layout)
    sequences = recipe.batch_tokens // plan.shape.context_tokens
    micro = micro_sequences(layout, sequences // sizes.data)
    policy = {"none": "None", "selective": "SelectiveAC.Config()", "full": "FullAC.Config()"}
    return {
        "rate": adamw_rate(plan),
        "betas": (recipe.beta1, recipe.beta2),
        "decay": recipe.weight_decay,
        "warmup": math.ceil(recipe.warmup_share * plan.steps),
        "decay_ratio": recipe.decay_share,
        "local_batch": sequences // sizes.data if sizes.pipeline > 1 else micro,
        "global_batch": sequences,
        "clip": recipe.grad_clip,
        "steps": plan.steps,
        "dtype": "bfloat16" if layout.precision == "bf16" else "float32",
        "sizes": sizes,
        "more": _more(plan, micro),
        "policy": policy[layout.recompute],
        "interval": checkpoint_interval(plan),
        "seed": plan.seed,
    }


def _more(plan: Plan, micro: int) -> str:
    """Equal stages, as the plan counts them: neither embedding nor head takes a block's place."""
    degrees, layers = plan.layout.degrees, plan.shape.num_layers
    values: dict[str, object] = {}
    if degrees.context > 1:
        values["context_parallel_load_balancer"] = "ptrr"  # the one for its FlexAttention
    if degrees.pipeline > 1:
        values |= {
            "pipeline_parallel_schedule": _SCHEDULES[degrees.schedule],
            "pipeline_parallel_microbatch_size": micro,
            "pipeline_parallel_first_stage_less_layers": 0,
            "pipeline_parallel_last_stage_less_layers": 0,
        }
    if degrees.stages > 2:  # what it does by itself are one or two stages a process
        stages = degrees.pipeline * degrees.stages
        each = math.ceil(layers / stages)
        if math.ceil(layers / each) != stages:
            raise PlanError(
                f"torchtitan cannot cut {layers} blocks into {stages} stages",
                got=f"pipeline {degrees.pipeline}, {degrees.stages} stages a process",
                allowed="stages of which only the last is shorter",
            )
        values["pipeline_parallel_layers_per_stage"] = each
    return "".join(f"            {name}={value!r},\n" for name, value in values.items())


_HEAD = '''\
"""{name}: {size} parameters, {tokens} tokens on {processes} processes. For torchtitan 0.3.0.

Put your tokenizer's folder in place of TOKENIZER_FOLDER, and your data set in place of c4; {rates}.
"""

import dataclasses
from functools import partial

import torch.nn as nn
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.config.configs import DebugConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
from torchtitan.models.common import CosSinRoPE, Embedding, Linear
from torchtitan.models.common import config_utils as parts
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.models.qwen3 import Qwen3Model, model_registry
from torchtitan.models.qwen3.model import Qwen3TransformerBlock
from torchtitan.trainer import Trainer
'''
_SHAPE = """
LAYERS, WIDTH, VOCABULARY, CONTEXT = {layers}, {width}, {vocab}, {context}
HEADS, KV_HEADS, HEAD_DIM = {heads}, {kv_heads}, {head_dim}
TIED = {tied}
DRAW = partial(nn.init.normal_, std=0.02)
DRAW_LAST = partial(nn.init.normal_, std=0.02 / (2 * LAYERS) ** 0.5)  # what ends in the residual stream
INIT = {{"weight": DRAW, "bias": nn.init.zeros_}}
INIT_LAST = {{"weight": DRAW_LAST, "bias": nn.init.zeros_}}


def norm(size):
    return RMSNorm.Config(normalized_shape=size, eps={eps!r}, param_init={{"weight": nn.init.ones_}})

"""
_DENSE = """
def feed_forward():
    return {{
        "feed_forward": parts.make_ffn_config(
            dim=WIDTH, hidden_dim={ffn_width}, w1_param_init=INIT, w2w3_param_init=INIT
        )
    }}

"""
_MIXTURE = """
def feed_forward():
    # Tokens are spread over the experts by a bias of the router, not by an auxiliary loss as in the plan.
    router = parts.make_router_config(
        dim=WIDTH,
        num_experts={experts},
        gate_param_init=INIT,
        top_k={active},
        score_func="softmax",
        route_norm=True,
    )
    experts = parts.make_routed_experts_config(
        dim=WIDTH,
        hidden_dim={expert_width},
        num_experts={experts},
        top_k={active},
        param_init={{"w1_EFD": DRAW, "w2_EDF": DRAW_LAST, "w3_EFD": DRAW}},
        comm_backend="standard",
    )
    return {{"moe": parts.make_moe_config(num_experts={experts}, router=router, routed_experts=experts)}}

"""
_MODEL = """
def block():
    attention = parts.make_gqa_config(
        dim=WIDTH,
        n_heads=HEADS,
        n_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        wqkv_param_init=INIT,
        wo_param_init=INIT_LAST,
        inner_attention=parts.get_attention_config("flex"),
        fuse_qkv=True,
        rope=CosSinRoPE.Config(dim=HEAD_DIM, max_seq_len=CONTEXT, theta={theta!r}),
        qk_norm=norm(HEAD_DIM),
    )
    return Qwen3TransformerBlock.Config(
        attention_norm=norm(WIDTH), ffn_norm=norm(WIDTH), attention=attention, **feed_forward()
    )


def model():
    return Qwen3Model.Config(
        vocab_size=VOCABULARY,
        dim=WIDTH,
        norm=norm(WIDTH),
        enable_weight_tying=TIED,
        tok_embeddings=Embedding.Config(
            num_embeddings=VOCABULARY,
            embedding_dim=WIDTH,
            param_init={{"weight": skip_param_init if TIED else DRAW}},
        ),
        lm_head=Linear.Config(in_features=WIDTH, out_features=VOCABULARY, param_init=INIT),
        layers=[block() for _ in range(LAYERS)],
    )

"""
_CONFIG = """
def planned():
    return Trainer.Config(
        model_spec=dataclasses.replace(model_registry("debugmodel"), flavor="planned", model=model()),
        hf_assets_path="TOKENIZER_FOLDER",
        dump_folder="outputs",
        metrics=MetricsProcessor.Config(log_freq=10),
        dataloader=HuggingFaceTextDataLoader.Config(dataset="c4"),
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=VOCABULARY)),
        optimizer=default_adamw(lr={rate!r}, betas={betas!r}, weight_decay={decay!r}),
        lr_scheduler=LRSchedulersContainer.Config(
            warmup_steps={warmup}, decay_ratio={decay_ratio!r}, decay_type="linear", min_lr_factor=0.0
        ),
        training=TrainingConfig(
            local_batch_size={local_batch},
            global_batch_size={global_batch},
            seq_len=CONTEXT,
            max_norm={clip!r},
            steps={steps},
            mixed_precision_param={dtype!r},
            disable_cuda_graphs=True,  # their memory is not in the plan
        ),
        parallelism=ParallelismConfig(
            data_parallel_replicate_degree={sizes.replicate},
            data_parallel_shard_degree={sizes.shard},
            tensor_parallel_degree={sizes.tensor},
            context_parallel_degree={sizes.context},
            pipeline_parallel_degree={sizes.pipeline},
            expert_parallel_degree={sizes.expert},
{more}        ),
        checkpoint=CheckpointManager.Config(enable=True, interval={interval}, last_save_model_only=False),
        activation_checkpoint={policy},
        compile=CompileConfig(enable=True),
        debug=DebugConfig(seed={seed}),
    )
"""
