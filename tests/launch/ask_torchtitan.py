"""A folder with a stepladder_planned.py in; what torchtitan itself makes of it out, as JSON on one line."""

import json
import sys

import torch
from torchtitan.config import ConfigManager
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.pipeline_parallel import _get_pipeline_metadata

folder, processes = sys.argv[1], int(sys.argv[2])
sys.path.insert(0, folder)
config = ConfigManager().parse_args(["--module", "stepladder_planned", "--config", "planned"])
with torch.device("meta"):
    model = config.model_spec.model.build()
dims = ParallelDims.from_config(config.parallelism, processes)
said = {name: getattr(dims, name) for name in ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep")}
said["params"] = sum(each.numel() for each in {id(p): p for p in model.parameters()}.values())
said["stages"] = 1
if dims.pp > 1:
    said["stages"] = _get_pipeline_metadata(dims, config.parallelism, config.model_spec.model)[0]
training = config.training
said["accumulation"] = training.global_batch_size // (
    training.local_batch_size * dims.dp_replicate * dims.dp_shard
)
said["micro"] = training.local_batch_size
if dims.pp > 1:
    said["micro"] = config.parallelism.pipeline_parallel_microbatch_size
said["recompute"] = type(config.activation_checkpoint).__qualname__
print(json.dumps(said))
