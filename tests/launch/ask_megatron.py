"""A folder with an arguments.txt in; what Megatron-LM itself makes of it out, as JSON on one line.

Its parser asks for the device's generation, which is not there; nothing else of it is replaced. Parameters
are those of its own GPTModel, built whole on the CPU from parts without CUDA or Transformer Engine.
"""

import contextlib
import io
import json
import os
import sys
import types
import typing

if not hasattr(typing, "override"):  # Python 3.11
    import typing_extensions

    typing.override = typing_extensions.override  # type: ignore[attr-defined]
import torch

torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(major=9, minor=0, name="H100")
folder, processes = sys.argv[1], sys.argv[2]
os.environ |= {"WORLD_SIZE": processes, "RANK": "0"}
from megatron.core import parallel_state  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.training.argument_utils import core_transformer_config_from_args  # noqa: E402
from megatron.training.arguments import parse_args, validate_args  # noqa: E402

LAYOUT = (
    "--tensor-model",
    "--pipeline-model",
    "--context-par",
    "--expert-model",
    "--sequence",
    "--num-layers-",
)
LAYOUT += ("--use-megatron-fsdp", "--data-parallel-sh", "--num-distributed", "--ckpt-format")
NEEDS_CUDA = ("--moe-grouped", "--transformer-impl", "--moe-token-disp")
PLAIN = "--transformer-impl local --moe-token-dispatcher-type allgather --use-cpu-initialization "
PLAIN += "--no-rope-fusion --no-persist-layer-norm --no-gradient-accumulation-fusion "
PLAIN += "--no-masked-softmax-fusion"


def parsed(words):
    sys.argv = ["pretrain_gpt.py", *words]
    with contextlib.redirect_stdout(io.StringIO()):
        arguments = parse_args()
        return validate_args(arguments) or arguments


with open(f"{folder}/arguments.txt") as file:
    lines = file.read().splitlines()
arguments = parsed(" ".join(lines).split())
names = ("data_parallel_size", "micro_batch_size", "global_batch_size", "expert_model_parallel_size")
names += ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
names += ("virtual_pipeline_model_parallel_size", "num_distributed_optimizer_instances", "use_megatron_fsdp")
names += ("train_iters", "lr_wsd_decay_iters", "recompute_granularity", "sequence_parallel", "num_layers")
said = {name: getattr(arguments, name) for name in names}

os.environ |= {"WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
store = torch.distributed.TCPStore("localhost", 0, 1, is_master=True)
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
parallel_state.initialize_model_parallel()
whole = [line for line in lines if not line.startswith(LAYOUT + NEEDS_CUDA)]
one = parsed(" ".join([*whole, PLAIN]).split())
config = core_transformer_config_from_args(one)
config.perform_initialization = False
model = GPTModel(
    config,
    get_gpt_layer_local_spec(
        num_experts=one.num_experts, qk_layernorm=one.qk_layernorm, normalization=one.normalization
    ),
    vocab_size=one.vocab_size,
    max_sequence_length=one.max_position_embeddings,
    share_embeddings_and_output_weights=not one.untie_embeddings_and_output_weights,
    position_embedding_type=one.position_embedding_type,
    rotary_base=one.rotary_base,
)
said["params"] = sum(weight.numel() for weight in model.parameters())
print(json.dumps(said))
