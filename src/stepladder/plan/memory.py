"""A shape, recipe and layout in; bytes of each process by term, and whether they fit, out.

Of our own trainer; `rowmemory` has other frameworks' configurations. Equations: docs/plan/memory.md.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.models.count import (
    autocast_copy_bytes,
    count_params,
    head_activation_bytes,
    layer_activation_bytes,
)
from stepladder.plan.derive import Z80, probability_above
from stepladder.plan.layout import MeshSizes, mesh_sizes, micro_sequences
from stepladder.records import Derived, Layout, Recipe, Shape
from stepladder.units import format_bytes

Numbers = float | np.ndarray
GIB = 2.0**30


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRule:
    """Fitted: reserved over used bytes, GiB of context and libraries, and GiB for each doubling of nodes.

    The last stands for buffers of communicators, which grow with the places that a device talks to.
    """

    allocator: float = 1.09
    context: float = 2.41
    links: float = 1.15

    def around(self, nodes: float) -> float:
        """GiB that a device of `nodes` computers has in use beside tensors."""
        return self.context + self.links * math.log2(nodes)


# Least squares of log GiB over 98 published rows of five sources of the same weight (bench/plan/memory.py).
FITTED = MemoryRule()


@dataclass(frozen=True, kw_only=True, slots=True)
class HeapRule:
    """Of a process on a CPU: bytes of Python and torch, more in a group of them; resident over used bytes.

    What comes and goes leaves holes: glibc before 2.38 puts no aligned block into one of its own size.
    """

    process: float = 345e6
    group: float = 24e6
    slack: float = 1.26


# Least squares of log bytes over runs of 64 to 384 wide models (bench/plan/own_memory.py).
CPU = HeapRule()
# A pipeline brings torch's tracing along (train/parallel.py).
_TRACING_BYTES = 28e6
# Logits in hand at once (`head_rows`): in fp32, as probabilities and as a product.
LOGIT_BYTES = 12.0
# On a CPU they stay in cache, 2 MiB in fp32: on one Zen 4 core, 1,024 rows of a 32-wide model with 2,048
# tokens of vocabulary take 5.3 ms in bf16 (5.9 with half, 10.7 through F.cross_entropy on whole logits).
# On a GPU each chunk adds to the gradient of the whole matrix, 12 bytes a weight: beside the chunk's products
# that takes about 300 / rows of an H100's time (990 TFLOP/s at one half, 3.3 TB/s); reckoned, not measured.
_CPU_LOGITS, _CUDA_LOGITS, _CUDA_ROWS, _LEAST_ROWS = 2**19, 2**27, 4096, 64
# Values of matrices that go through Muon together (train/optim.py), 256 MiB gathered.
MUON_VALUES = 2**26
# Held-out passes read so many tokens at once (train/objective.py).
HELDOUT_TOKENS = 8192
# Scores are written out up to this context on a CPU (train/choices.py).
_EXPLICIT_UP_TO = {"bf16": 512, "fp32": 128}
# 1 sigma of log bytes: of runs on a CPU that the constants were not fitted to, and of published GPU rows of a
# source that was left out.
LOG_SD = {"cpu": 0.05, "cuda": 0.128}
# Of mixtures no peak was measured on a GPU: as much again. Rows of the busiest process over an even share
# where experts are shared out: a judgement; `expert_load` of metrics.jsonl says it of a run.
MIXTURE_LOG_SD, UNEVEN = 0.128, 1.2


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes of one process; `processes_sharing` of them share the memory they are checked against.

    `host` is what a process on a GPU pins in its machine's memory: copies of the state for checkpoints.
    """

    terms: dict[str, float]
    total: Derived
    available: float
    processes_sharing: int
    host: float = 0.0

    @property
    def probability_too_much(self) -> float:
        """That it does not fit."""
        return probability_above(self.total, self.available / self.processes_sharing)


def memory_need(shape: Shape, recipe: Recipe, layout: Layout, available: float) -> MemoryNeed:
    """Bytes of one process at the busiest moment of a run, with their interval.

    `available` is the memory of one GPU, or of the whole machine for processes on a CPU. Not counted: data
    pages that the system can drop, other programs. `memory_terms` is the quick part of it.
    """
    terms = memory_terms(shape, recipe, layout)
    is_cpu = layout.device == "cpu"
    return MemoryNeed(
        terms=terms,
        total=_total(terms, layout, recipe.batch_tokens // shape.context_tokens, log_sd(shape, layout)),
        available=available,
        processes_sharing=max(layout.processes // layout.nodes, 1) if is_cpu else 1,
        host=0.0 if is_cpu else terms["weights"] + terms["optimiser"],
    )


def memory_terms(
    shape: Shape, recipe: Recipe, layout: Layout, *, checkpoints: bool = True, heap: HeapRule = CPU
) -> dict[str, float]:
    """Bytes of the busiest process by term: resident on a CPU, in use as nvidia-smi tells on a GPU.

    For searches: 20 microseconds a layout. Without `checkpoints` the run is too short to write any.
    """
    facts = shape_facts(shape, layout.device, layout.precision, layout.recompute)
    part = _part(shape, facts, layout, recipe.optimiser)
    stays = {"weights": 4 * part.owned, "optimiser": part.optimiser}
    if checkpoints and layout.device == "cpu":
        stays["checkpoint_copy"] = 4 * part.owned + part.optimiser
    top = busiest(_moments(shape, recipe, layout, facts, part))
    used = {**stays, **top}
    if layout.device == "cpu":
        slack = (heap.slack - 1) * sum(used.values())
        process = heap.process + (heap.group if layout.processes > 1 else 0.0)
        process += _TRACING_BYTES if layout.degrees.pipeline > 1 else 0.0
        return {**used, "allocator": slack, "process": process}
    slack = (FITTED.allocator - 1) * sum(used.values())
    return {**used, "allocator": slack, "context": FITTED.around(layout.nodes) * GIB}


def busiest(moments: Sequence[dict[str, float]]) -> dict[str, float]:
    """The moment whose terms add up to most."""
    return max(moments, key=lambda moment: sum(moment.values()))


def in_flight(pipeline: float, chunks: float, micro_batches: float) -> tuple[float, float]:
    """Micro-batches whose activations the first and the last stage hold at once under 1F1B.

    With `chunks` stages a process (interleaved) a micro-batch counts as so many parts (arXiv:2205.05198).
    """
    if pipeline <= 1:
        return 1.0, 1.0
    first, last = float(pipeline), 1.0
    if chunks > 1:
        first += (pipeline - 1) / chunks
        last = ((chunks - 1) * pipeline + 1) / chunks
    return min(first, micro_batches), min(last, micro_batches)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """Of a shape on a device, whatever the layout: parameters of a layer, of its experts and of its matrices,
    and of a vocabulary matrix; bytes a token of a layer (split by a tensor group or not), of its rows for
    experts, of its work, and of the head.
    """

    layer: float
    experts: float
    matrices: float
    vocabulary: float
    split: float
    whole: float
    rows: float
    again: float
    gradient: float
    forward: float
    head: float
    value: int


def head_rows(vocabulary: int, device: str) -> int:
    """Rows of states whose logits are in hand at once when so many tokens of the vocabulary are here."""
    if device == "cuda":
        return max(min(_CUDA_LOGITS // vocabulary, _CUDA_ROWS), _LEAST_ROWS)
    return max(_CPU_LOGITS // vocabulary, _LEAST_ROWS)


@functools.lru_cache(maxsize=1024)
def shape_facts(shape: Shape, device: str, precision: str, recompute: str) -> _Facts:
    count, value = count_params(shape), 2 if precision == "bf16" else 4
    is_written_out = device == "cpu" and shape.context_tokens <= _EXPLICIT_UP_TO[precision]
    kept, again = layer_activation_bytes(
        shape,
        attention="explicit" if is_written_out else "sdpa",
        value_bytes=value,
        recompute=recompute,
    )
    scores = shape.context_tokens * shape.num_heads if is_written_out else 0
    # Matrices of a tensor group read whole states; the inputs are kept.
    whole = kept.get("matrix_inputs", 0)
    experts = shape.experts
    # Gate, up and product of an expert's rows, and the rows as they come and leave.
    inner = max(3 * shape.ffn_width, 2 * scores)
    if experts.count:
        inner = max(experts.active * (3 * experts.ffn_width + 2 * shape.width), 2 * scores)
    return _Facts(
        layer=count.nonembed / shape.num_layers,
        experts=3.0 * experts.count * experts.ffn_width * shape.width,
        matrices=(autocast_copy_bytes(shape) / 2 - count.embedding) / shape.num_layers,
        vocabulary=float(count.embedding),
        split=float(sum(kept.values()) - whole),
        whole=float(whole),
        rows=float(kept.get("feed_forward", 0)) if experts.count else 0.0,
        again=float(again),
        # Three gradients of the feed-forward's size in hand, or two of the scores'; without a gradient three
        # tensors of the larger beside the states.
        gradient=4.0 * inner,
        forward=4.0 * (3 * shape.width + max(inner, 3 * scores)),
        head=float(head_activation_bytes(shape, value)),
        value=value,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What the busiest process holds: layers, parameters, and bytes of its state.

    `shards` hold the state of what is not an expert; `owned` are the parameters of one of them.
    """

    sizes: MeshSizes
    shards: int
    layers: int
    params: float
    ends: float  # of them in the vocabulary's matrices
    owned: float
    optimiser: float


def _part(shape: Shape, facts: _Facts, layout: Layout, optimiser: str) -> _Part:
    degrees, sizes = layout.degrees, mesh_sizes(layout)
    layers = -(-shape.num_layers // (degrees.pipeline * degrees.stages)) * degrees.stages
    ends = (1 if shape.tied_head or degrees.pipeline > 1 else 2) * facts.vocabulary / degrees.tensor
    plain = layers * (facts.layer - facts.experts) / degrees.tensor + ends
    experts = layers * facts.experts / degrees.expert
    shards = sizes.shard * sizes.context if layout.shard in ("fsdp", "hsdp") else 1
    # Processes that share out experts hold other ones: fewer shards of each, and as much of all.
    owned = plain / shards + experts / max(shards / degrees.expert, 1)
    hidden = layers * (facts.matrices - facts.experts) / degrees.tensor / shards
    hidden += experts / max(shards / degrees.expert, 1)
    return _Part(
        sizes=sizes,
        shards=shards,
        layers=layers,
        params=plain + experts,
        ends=ends,
        owned=owned,
        # Two moments of each weight; under Muon one of the hidden matrices.
        optimiser=8 * owned - (4 * hidden if optimiser == "muon" else 0.0),
    )


def _moments(
    shape: Shape, recipe: Recipe, layout: Layout, facts: _Facts, part: _Part
) -> list[dict[str, float]]:
    """What comes and goes at the moments when it is most: backward, update, held-out pass."""
    sizes = part.sizes
    sequences = max(recipe.batch_tokens // shape.context_tokens // sizes.data, 1)
    micro = micro_sequences(layout, sequences)
    passed = _pass(shape, layout, facts, part, (micro, -(-sequences // micro)))
    gradients = 4 * part.owned
    # Without micro-batches gradients come as activations go.
    if micro < sequences:
        passed["gradients"] = gradients
    update = {"gradients": gradients}
    if layout.shard == "ddp":
        update["flat_gradients"] = 4 * part.params
    if recipe.optimiser == "muon":
        # Gates and ups, the most of one shape, are gathered whole. Six fp32 copies on a CPU, whose heap lays
        # them beside what backward left; two, and four in bf16, on a GPU.
        one = muon_values(shape, part.shards, layout.degrees.expert)
        alike = min(2 * part.layers * float(one), max(MUON_VALUES, float(one)))
        if layout.device == "cpu":
            passed["orthogonalised"] = 24 * alike
        else:
            update["orthogonalised"] = 16 * alike
    # A tensor group reads and writes whole states around attention and feed-forward.
    states = 16.0 * shape.width if sizes.tensor > 1 else 0.0
    heldout = {"heldout_pass": HELDOUT_TOKENS / sizes.context * (facts.forward / sizes.tensor + states)}
    heldout |= {name: passed[name] for name in ("gathered", "bf16_copies") if name in passed}
    return [passed, update, heldout]


def muon_values(shape: Shape, shards: Numbers, expert: Numbers) -> Numbers:
    """Values of a gate as Muon has it in hand: whole, and of a mixture the experts that a process owns."""
    experts = shape.experts
    if not experts.count:
        return float(shape.width * shape.ffn_width)
    owners = np.maximum(shards, expert)
    owners = np.where(experts.count % owners == 0, owners, expert)
    return shape.width * experts.ffn_width * experts.count / owners


def _pass(
    shape: Shape, layout: Layout, facts: _Facts, part: _Part, batches: tuple[int, int]
) -> dict[str, float]:
    """Bytes of forward and backward with (sequences of a micro-batch, micro-batches of a step)."""
    sizes, degrees, (micro, count) = part.sizes, layout.degrees, batches
    tokens = micro * shape.context_tokens / sizes.context
    kept = tokens * (facts.split / sizes.tensor + facts.whole)
    # Where experts are shared out, rows wait to leave and have come, and some processes have more of them.
    travels = 0.0
    if degrees.expert > 1:
        row = facts.value * shape.experts.active * shape.width
        kept += tokens * ((UNEVEN - 1) * facts.rows + (row if facts.rows else 0))
        travels = 2 * row * UNEVEN
    if sizes.context > 1:
        # Keys and values of all positions.
        heads = shape.num_heads * shape.head_dim
        kept += 2 * facts.value * heads * (micro * shape.context_tokens - tokens)
    flying = in_flight(sizes.pipeline, degrees.stages, count)[0]
    if sizes.pipeline > 1 and degrees.schedule in ("gpipe", "zbv"):
        flying = float(count if degrees.schedule == "gpipe" else min(sizes.pipeline, count))
    # A CPU's heap has no use for the holes of the layer before.
    again = facts.again * (2.5 if layout.device == "cpu" else 1.0)
    matrix = facts.vocabulary / sizes.tensor
    words = shape.vocab_size // sizes.tensor
    logits = LOGIT_BYTES * words * min(head_rows(words, layout.device), tokens)
    terms = {
        "activations": flying * part.layers * kept,
        "layer_at_work": tokens * ((again + facts.gradient) / sizes.tensor + travels),
        "head": tokens * (facts.head + 4 * shape.width) + 4 * matrix + logits,
    }
    if part.shards > 1:
        # Two layers, at work and fetched ahead, each as one buffer and as tensors. The root stays whole until
        # backward; its gradients are whole, too, and joined into one buffer to be reduced.
        layer = (facts.layer - facts.experts) / sizes.tensor + facts.experts / degrees.expert
        terms["gathered"] = 4 * facts.value * layer + 12 * part.ends
    elif facts.value == 2:
        terms["bf16_copies"] = 2 * (part.params - part.ends + matrix)
    return terms


def log_sd(shape: Shape, layout: Layout) -> float:
    """1 sigma of log bytes."""
    return math.hypot(LOG_SD[layout.device], MIXTURE_LOG_SD if shape.experts.count else 0.0)


def _total(terms: dict[str, float], layout: Layout, sequences: int, sd: float) -> Derived:
    value = sum(terms.values())
    largest = sorted(terms, key=lambda name: -terms[name])[:4]
    micro = micro_sequences(layout, max(sequences // mesh_sizes(layout).data, 1))
    parts = ", ".join(f"{name} {format_bytes(terms[name])}" for name in largest)
    how = f"each process, micro-batch of {micro} sequences: {parts}, and {len(terms) - len(largest)} more"
    factor = math.exp(Z80 * sd)
    return Derived(value=value, low=value / factor, high=value * factor, how=how, source="rule")
