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
from stepladder.plan.memory import FITTED as MEMORY
from stepladder.plan.memory import (
    GIB,
    HELDOUT_TOKENS,
    LOGIT_BYTES,
    MUON_VALUES,
    UNEVEN,
    head_rows,
    muon_values,
    shape_facts,
)
from stepladder.plan.stepcalibrate import MIXTURE_LOG_SD, SPREAD, UNLIKE_LOG_SD, Z90, Kin, slopes, spread_of
from stepladder.plan.steptime import FITTED, Config, Kernels, Mixture, Rates, step_seconds, step_terms
from stepladder.records import Recipe, Shape

# Where a data sheet says nothing: 300 FLOP for each byte of memory (A100 164, H100 295, MI300X 247), PCIe 4
# inside a node, 100 Gbit/s for each device outside.
_FLOPS_PER_BYTE, _SCALE_UP, _NETWORK = 300.0, 25e9, 12.5e9
# Forward passes done again, and what the zero-bubble schedules leave of 1f1b's bubble (arXiv:2401.10241: a
# third with the memory of 1f1b; zbv has none where the three passes take the same time, which they do not).
_AGAIN = np.array([0.0, 0.1, 1.0])
_BUBBLE = np.array([{"zero_bubble": 1 / 3, "zbv": 1 / 3}.get(name, 1.0) for name, _ in SCHEDULES])
# Our own trainer is none of the fitted frameworks; a device that no fitted row has, and each link that no
# data sheet states, count as much again (UNLIKE_LOG_SD of plan/stepcalibrate.py): judgements.
_SEEN = {"v100", "a100", "a800", "h100", "b200", "gb200", "gb300"}


@dataclass(frozen=True, kw_only=True)
class GridCost:
    """Seconds of a step by term and in all, the half-width of their log interval, and bytes, of a grid.

    `unlike` is the standard deviation of log seconds that fitted rows do not speak for.
    """

    config: Config
    unlike: float
    terms: dict[str, np.ndarray]
    num_bytes: np.ndarray

    @cached_property
    def seconds(self) -> np.ndarray:
        """Of one optimiser step."""
        return np.sum(list(self.terms.values()), axis=0)

    @cached_property
    def log90(self) -> np.ndarray:
        """Half-width of the 90 % interval of log seconds before anything was measured."""
        effects = slopes(self.config, FITTED, np.log(step_seconds(self.config)))
        none = np.zeros(len(effects))
        kin = Kin(slopes=effects, site=none, accelerator=none, model=none, layout=none)
        return Z90 * np.sqrt(spread_of(kin, SPREAD) + self.unlike**2)


def grid_cost(grid: Grid, shape: Shape, recipe: Recipe, device: Device) -> GridCost:
    """All layouts at once."""
    config = _config(grid, shape, device)
    return GridCost(
        config=config,
        unlike=math.hypot(
            UNLIKE_LOG_SD * math.sqrt(_unlike(device, grid.base.processes)),
            MIXTURE_LOG_SD if shape.experts.count else 0.0,
        ),
        terms=_seconds(grid, shape, device, config),
        num_bytes=grid_bytes(grid, shape, recipe),
    )


def _unlike(device: Device, processes: int) -> int:
    links = device.links
    used = [links.memory] + ([links.scale_up] if processes > 1 else [])
    used += [links.network] if processes > links.domain_devices else []
    seen = any(part in _SEEN for part in device.id.split("-"))
    return 1 + (not seen) + sum(math.isnan(link) for link in used)


def _config(grid: Grid, shape: Shape, device: Device) -> Config:
    columns, links = grid.columns, device.links
    peak = device.peak("bf16" if "bf16" in device.peaks else "fp32")
    domain = max(links.domain_devices, 1)
    ones = np.ones(len(grid))
    rates = Rates(
        flops=peak,
        memory=_stated(links.memory, peak / _FLOPS_PER_BYTE),
        scale_up=_stated(links.scale_up, _SCALE_UP),
        network=_stated(links.network, _NETWORK),
        domain=domain,
        node=max(grid.base.processes // grid.base.nodes, 1),
        newer=float("fp8" in device.peaks),
        tuned=0.0,
    )
    experts = shape.experts
    layer = count_params(shape).nonembed / shape.num_layers
    layer -= 3 * experts.count * experts.ffn_width * shape.width
    chunks = grid.stages / _BUBBLE[columns["schedule"]]
    degrees = (columns["data"], columns["tensor"], columns["pipeline"], chunks, columns["context"])
    return Config(
        shape=(shape.num_layers, shape.width, layer, shape.vocab_size, shape.num_heads),
        sequence=shape.context_tokens * ones,
        micro_batch=columns["micro"],
        accumulation=grid.micro_batches,
        degrees=degrees,
        rates=rates,
        kernels=Kernels(fp8=0.0, flash=ones, recompute=_AGAIN[columns["recompute"]], sequence_parallel=ones),
        zero=np.where(columns["shard"] >= SHARDS.index("fsdp"), 3, 0),
        mixture=Mixture(
            count=experts.count, active=experts.active, width=experts.ffn_width, degree=columns["expert"]
        ),
        host=(0.0, 4.0),
    )


def _seconds(grid: Grid, shape: Shape, device: Device, config: Config) -> dict[str, np.ndarray]:
    columns, rates = grid.columns, config.rates
    tensor, pipeline, context = (columns[n] for n in ("tensor", "pipeline", "context"))
    terms = {name: np.asarray(value) * np.ones(len(grid)) for name, value in step_terms(config).items()}
    is_fp32 = columns["precision"] == PRECISIONS.index("fp32")
    for name in {"matrices", "attention", "head", "experts"} & terms.keys():
        terms[name] = terms[name] * np.where(is_fp32, rates.flops / device.peak("fp32"), 1)
    width = np.where(is_fp32, 4, 2)
    if "expert_exchange" in terms:
        terms["expert_exchange"] = terms["expert_exchange"] * width / 2
    each = shape.num_layers / pipeline * grid.micro_batches
    keys = 2 * shape.num_kv_heads * shape.head_dim / tensor
    gathered = each * config.tokens * (context - 1) * keys * width * (2 + config.kernels.recompute)
    near = tensor * context <= rates.domain
    terms["context_parallel"] = gathered / np.where(near, rates.scale_up, rates.network)
    link = rates.network if grid.base.processes > rates.domain else rates.scale_up
    sent = 2 * grid.micro_batches * grid.stages * config.tokens * shape.width * width / tensor
    terms["pipeline_sends"] = np.where(pipeline > 1, sent / link, 0.0)
    is_grouped = columns["shard"] == SHARDS.index("hsdp")
    names = {"matrices", "attention", "elementwise", "experts", "dispatch", "launches", "head"}
    compute = np.sum([seconds for name, seconds in terms.items() if name in names], axis=0)
    terms["data_parallel"] = np.where(
        is_grouped, _grouped_seconds(grid, config, compute), terms["data_parallel"]
    )
    return terms


def _grouped_seconds(grid: Grid, config: Config, compute: np.ndarray) -> np.ndarray:
    """hsdp: weights gathered and gradients scattered inside a group under computation, and the shards' sum
    between groups after it."""
    columns, rates = grid.columns, config.rates
    ranks = columns["group"] * columns["context"]
    near = columns["tensor"] * ranks <= rates.domain
    alike = ranks / columns["expert"]  # of a group, those that keep the same experts
    whole = config.held * (ranks - 1) / ranks + config.held_experts * (alike - 1) / alike
    once = 2 * whole / np.where(near, rates.scale_up, rates.network)
    inside = 3 * config.accumulation * once * math.exp(FITTED["gathers"])
    groups = columns["data"] / columns["group"]
    link = rates.network if grid.base.processes > rates.domain else rates.scale_up
    owned = config.held / ranks + config.held_experts / alike
    between = 2 * 4 * owned * (groups - 1) / groups / link * math.exp(FITTED["data"])
    return np.hypot(compute, inside) - compute + between


def grid_bytes(grid: Grid, shape: Shape, recipe: Recipe) -> np.ndarray:
    """Bytes of one GPU's process at the busiest moment: `memory_terms` for all layouts at once."""
    columns, facts = grid.columns, _FactColumns(grid, shape)
    tensor, pipeline, context = (columns[n] for n in ("tensor", "pipeline", "context"))
    layers = -(-shape.num_layers // (pipeline * grid.stages)) * grid.stages
    vocabulary = shape.vocab_size * shape.width
    ends = np.where((pipeline > 1) | shape.tied_head, 1, 2) * vocabulary / tensor
    one = (facts.layer - facts.experts) / tensor + facts.experts / columns["expert"]
    params = layers * one + ends
    is_sharded = columns["shard"] >= SHARDS.index("fsdp")
    shards = np.where(is_sharded, columns["group"] * context, 1)
    experts = layers * facts.experts / np.maximum(shards, columns["expert"])
    owned = (layers * (facts.layer - facts.experts) / tensor + ends) / shards + experts
    is_muon = recipe.optimiser == "muon"
    hidden = layers * (facts.matrices - facts.experts) / tensor / shards + experts
    state = 12 * owned - 4.0 * is_muon * hidden
    gathered = 4 * facts.value * one + 12 * ends
    copies = np.where(facts.value == 2, 2 * (params - ends + vocabulary / tensor), 0)
    copies = np.where(shards > 1, gathered, copies)
    gradients = 4 * owned
    backward = _backward_bytes(grid, shape, facts, layers) + copies
    backward += np.where(columns["micro"] < grid.sequences, gradients, 0)
    update = gradients + np.where(columns["shard"] == SHARDS.index("ddp"), 4 * params, 0)
    if is_muon:
        gate = muon_values(shape, shards, columns["expert"])
        update += 16 * np.minimum(2 * layers * gate, np.maximum(MUON_VALUES, gate))
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
    is_spread = columns["expert"] > 1
    row = facts.value * shape.experts.active * shape.width
    kept += is_spread * tokens * ((UNEVEN - 1) * facts.rows + row * (facts.rows > 0))
    travels = 2 * row * UNEVEN * is_spread
    matrix = 4 * shape.vocab_size * shape.width / tensor
    words = shape.vocab_size // tensor
    rows = np.minimum([head_rows(int(here), "cuda") for here in words], tokens)
    head = tokens * (facts.head + 4 * shape.width) + matrix + LOGIT_BYTES * words * rows
    work = tokens * ((facts.again + facts.gradient) / tensor + travels)
    return _flying(grid) * layers * kept + work + head


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
        self.forward, self.rows = column("forward"), column("rows")
        first = known[0][0]
        self.layer, self.matrices, self.experts = first.layer, first.matrices, first.experts


def _stated(rate: float, otherwise: float) -> float:
    return otherwise if math.isnan(rate) or rate <= 0 else rate
