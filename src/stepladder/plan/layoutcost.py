"""A grid of layouts and a device in; seconds of a step by term and bytes of a process for all of them, out.

Terms that published rows have are those of `plan/steptime.py`, the others are in docs/plan/layout-search.md.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stepladder.models.count import count_params
from stepladder.plan.hardware import Device
from stepladder.plan.layouts import PRECISIONS, RECOMPUTES, SCHEDULES, SHARDS, Grid
from stepladder.plan.memory import CHUNK_BYTES, GIB, HELDOUT_TOKENS, MUON_VALUES, shape_facts
from stepladder.plan.memory import FITTED as MEMORY
from stepladder.plan.steptime import FITTED, LEFT_OUT_LOG90, Config, step_terms
from stepladder.records import Recipe, Shape

# Where a data sheet says nothing: 300 FLOP for each byte of memory (A100 164, H100 295, MI300X 247), PCIe 4
# inside a node, 100 Gbit/s for each device outside.
_FLOPS_PER_BYTE, _SCALE_UP, _NETWORK = 300.0, 25e9, 12.5e9
# Forward passes done again, and what the zero-bubble schedules leave of 1f1b's bubble (arXiv:2401.10241: a
# third with the memory of 1f1b; zbv has none where the three passes take the same time, which they do not).
_AGAIN = np.array([0.0, 0.1, 1.0])
_BUBBLE = np.array([{"zero_bubble": 1 / 3, "zbv": 1 / 3}.get(name, 1.0) for name, _ in SCHEDULES])
# A device that no row of the fit has, and each link that no data sheet states: judgements.
_UNSEEN_LOG90, _UNSTATED_LOG90 = 0.35, 0.3
# Sharded state is sent while layers compute; plain data parallel sends all gradients after the last one.
_FELT_FSDP = math.exp(FITTED.data)
_SEEN = {"v100", "a100", "a800", "h100", "b200", "gb200", "gb300"}


@dataclass(frozen=True, kw_only=True)
class GridCost:
    """Seconds of a step by term and in all, with the half-width of their log interval, and bytes."""

    terms: dict[str, np.ndarray]
    log90: float
    num_bytes: np.ndarray

    @cached_property
    def seconds(self) -> np.ndarray:
        """Of one optimiser step."""
        return np.sum(list(self.terms.values()), axis=0)


def grid_cost(grid: Grid, shape: Shape, recipe: Recipe, device: Device) -> GridCost:
    """All layouts at once."""
    return GridCost(
        terms=_seconds(grid, shape, recipe, device),
        log90=spread_of(device, grid.base.processes),
        num_bytes=grid_bytes(grid, shape, recipe),
    )


def spread_of(device: Device, processes: int) -> float:
    """Half-width of the 90 % interval of log seconds before anything was measured."""
    links = device.links
    used = [links.memory] + ([links.scale_up] if processes > 1 else [])
    used += [links.network] if processes > links.domain_devices else []
    unstated = sum(math.isnan(link) for link in used)
    seen = any(part in _SEEN for part in device.id.split("-"))
    return math.sqrt(LEFT_OUT_LOG90**2 + (0 if seen else _UNSEEN_LOG90**2) + unstated * _UNSTATED_LOG90**2)


def _seconds(grid: Grid, shape: Shape, recipe: Recipe, device: Device) -> dict[str, np.ndarray]:
    columns, links = grid.columns, device.links
    tensor, pipeline, context, data = (columns[n] for n in ("tensor", "pipeline", "context", "data"))
    peak, slow = device.peak("bf16" if "bf16" in device.peaks else "fp32"), device.peak("fp32")
    memory = _stated(links.memory, peak / _FLOPS_PER_BYTE)
    scale_up, network = _stated(links.scale_up, _SCALE_UP), _stated(links.network, _NETWORK)
    domain = max(links.domain_devices, 1)
    layer = count_params(shape).nonembed / shape.num_layers
    # Positions are shared like sequences, except that each process meets every key.
    config = Config(
        shape=(shape.num_layers, shape.width, layer, shape.vocab_size, shape.num_heads),
        sequence=shape.context_tokens,
        batch=recipe.batch_tokens / shape.context_tokens,
        micro_batch=columns["micro"] / context,  # pyrefly: ignore[bad-argument-type]
        accumulation=grid.micro_batches,  # pyrefly: ignore[bad-argument-type]
        degrees=(data, tensor, pipeline, grid.stages / _BUBBLE[columns["schedule"]]),  # pyrefly: ignore
        devices=(grid.base.processes, domain),
        accelerator="H100" if "h" in device.id[:1] else "A100",
        fp8=False,
        flash=True,
        zero=np.where(columns["shard"] >= 2, 3, 0),  # pyrefly: ignore[bad-argument-type]
        recompute=_AGAIN[columns["recompute"]],  # pyrefly: ignore[bad-argument-type]
    )
    terms = {
        name: np.asarray(value)
        for name, value in step_terms(config, FITTED, (peak, memory, scale_up, network)).items()
    }
    terms["matrices"] = terms["matrices"] * np.where(
        columns["precision"] == PRECISIONS.index("fp32"), peak / slow, 1
    )
    width = np.where(columns["precision"] == PRECISIONS.index("bf16"), 2, 4)
    each = shape.num_layers / pipeline * grid.micro_batches
    tokens = columns["micro"] * shape.context_tokens / context
    keys = 2 * shape.num_kv_heads * shape.head_dim / tensor
    near = tensor * context <= domain
    terms["context_parallel"] = (
        each
        * tokens
        * (context - 1)
        * keys
        * width
        * (2 + _AGAIN[columns["recompute"]])
        / np.where(near, scale_up, network)
    )
    terms["pipeline_sends"] = np.where(
        pipeline > 1,
        2
        * grid.micro_batches
        * grid.stages
        * tokens
        * shape.width
        * width
        / tensor
        / (network if grid.base.processes > domain else scale_up),
        0.0,
    )
    terms["data_parallel"] = _data_seconds(grid, shape, (scale_up, network, domain), width)
    return terms


def _data_seconds(grid: Grid, shape: Shape, links: tuple[float, float, int], width: np.ndarray) -> np.ndarray:
    """Gradients summed once (ddp), or weights gathered and gradients scattered (fsdp), and the sum between
    groups of shards (hsdp). FSDP2 gathers each block's weights for both passes of each micro-batch."""
    columns, (scale_up, network, domain) = grid.columns, links
    tensor, pipeline, context, data = (columns[n] for n in ("tensor", "pipeline", "context", "data"))
    held = count_params(shape).total / (tensor * pipeline)
    inner = tensor * context
    together = np.where(columns["shard"] == SHARDS.index("hsdp"), columns["group"], data) * context
    link = np.where(inner * together / context <= domain, scale_up, network)
    whole = 2 * 4 * held * (data * context - 1) / (data * context)
    parts = held * (2 * width * grid.micro_batches + 4) * (together - 1) / np.maximum(together, 1)
    groups = np.maximum(data * context / together, 1)
    between = 2 * 4 * held / together * (groups - 1) / groups
    sharded = _FELT_FSDP * parts / link + between / (network if grid.base.processes > domain else scale_up)
    return np.select(
        [columns["shard"] == SHARDS.index("none"), columns["shard"] == SHARDS.index("ddp")],
        [0.0 * held, whole / link],
        sharded,
    )


def grid_bytes(grid: Grid, shape: Shape, recipe: Recipe) -> np.ndarray:
    """Bytes of one GPU's process at the busiest moment: `memory_terms` for all layouts at once."""
    columns, facts = grid.columns, _FactColumns(grid, shape)
    tensor, pipeline, context = (columns[n] for n in ("tensor", "pipeline", "context"))
    layers = -(-shape.num_layers // (pipeline * grid.stages)) * grid.stages
    vocabulary = shape.vocab_size * shape.width
    ends = np.where((pipeline > 1) | shape.tied_head, 1, 2) * vocabulary / tensor
    params = layers * facts.layer / tensor + ends
    is_sharded = columns["shard"] >= SHARDS.index("fsdp")
    shards = np.where(is_sharded, columns["group"] * context, 1)
    is_muon = recipe.optimiser == "muon"
    state = (12 * params - 4.0 * is_muon * layers * facts.matrices / tensor) / shards
    gathered = 4 * facts.value * facts.layer / tensor + 12 * ends
    copies = np.where(facts.value == 2, 2 * (params - ends + vocabulary / tensor), 0)
    copies = np.where(shards > 1, gathered, copies)
    gradients = 4 * params / shards
    backward = _backward_bytes(grid, shape, facts, layers) + copies
    backward += np.where(columns["micro"] < grid.sequences, gradients, 0)
    update = gradients + np.where(columns["shard"] == SHARDS.index("ddp"), 4 * params, 0)
    if is_muon:
        one = float(shape.width * shape.ffn_width)
        update += 16 * np.minimum(2 * layers * one, max(MUON_VALUES, one))
    states = np.where(tensor > 1, 16.0 * shape.width, 0)
    heldout = HELDOUT_TOKENS / context * (facts.forward / tensor + states) + copies
    used = state + np.maximum(np.maximum(backward, update), heldout)
    return used * MEMORY.allocator + MEMORY.around(grid.base.nodes) * GIB


def _backward_bytes(grid: Grid, shape: Shape, facts: "_FactColumns", layers: np.ndarray) -> np.ndarray:
    """Activations in flight, the layer at work and the head."""
    columns = grid.columns
    tensor, context = columns["tensor"], columns["context"]
    positions = columns["micro"] * shape.context_tokens
    tokens = positions / context
    keys = 2 * facts.value * shape.num_heads * shape.head_dim * (positions - tokens)
    kept = tokens * (facts.split / tensor + facts.whole) + keys
    matrix = 4 * shape.vocab_size * shape.width / tensor
    head = tokens * (facts.head + 4 * shape.width) + matrix + CHUNK_BYTES["cuda"]
    return _flying(grid) * layers * kept + tokens * (facts.again + facts.gradient) / tensor + head


def _flying(grid: Grid) -> np.ndarray:
    """Micro-batches whose activations the first stage holds (`memory.in_flight`; gpipe holds all)."""
    pipeline, count = grid.columns["pipeline"], grid.micro_batches
    name = np.array([name for name, _ in SCHEDULES])[grid.columns["schedule"]]
    chunks = np.where(name == "zbv", 1, grid.stages)
    held = pipeline + np.where(chunks > 1, (pipeline - 1) / chunks, 0.0)
    return np.where(pipeline == 1, 1.0, np.minimum(np.where(name == "gpipe", count, held), count))


class _FactColumns:
    """`memory.shape_facts` of each layout's precision and recompute."""

    def __init__(self, grid: Grid, shape: Shape) -> None:
        known = [[shape_facts(shape, "cuda", name, way) for way in RECOMPUTES] for name in PRECISIONS]
        place = grid.columns["precision"], grid.columns["recompute"]

        def column(name: str) -> np.ndarray:
            return np.array([[getattr(one, name) for one in row] for row in known])[place]

        self.split, self.whole, self.again = column("split"), column("whole"), column("again")
        self.head, self.value, self.gradient = column("head"), column("value"), column("gradient")
        self.forward = column("forward")
        self.layer, self.matrices = known[0][0].layer, known[0][0].matrices


def _stated(rate: float, otherwise: float) -> float:
    return otherwise if math.isnan(rate) or rate <= 0 else rate
