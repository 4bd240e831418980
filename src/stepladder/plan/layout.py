"""A layout in; the sizes of its mesh, and why it cannot be trained (no torch), out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepladder.records import SWITCHES, Layout, Recipe, Shape

# Outermost first: neighbours in the last dimensions talk most and should sit on one machine.
DIMENSIONS = ("pipeline", "replicate", "shard", "context", "expert", "tensor")
_ONE_STAGE = ("1f1b", "gpipe")
# Sides of a matrix in torch._scaled_mm (PyTorch 2.13, torch/_meta_registrations.py).
FLOAT8_MULTIPLE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshSizes:
    """Processes in each way of sharing the work.

    Those that share out experts are among the ones that share state, or, without shards, among replicas.
    """

    pipeline: int
    replicate: int
    shard: int
    context: int
    expert: int
    tensor: int

    @property
    def data(self) -> int:
        """Processes (or groups of them) that read different sequences."""
        return self.replicate * self.shard

    def as_tuple(self) -> tuple[int, ...]:
        """In the order of DIMENSIONS, whose product is the number of processes."""
        replicate, shard = self.replicate, self.shard
        if shard > 1:
            shard //= self.expert
        else:
            replicate //= self.expert
        return self.pipeline, replicate, shard, self.context, self.expert, self.tensor


def mesh_sizes(layout: Layout) -> MeshSizes:
    """The mesh of a layout; sizes mean nothing where `layout_problems` finds any."""
    degrees = layout.degrees
    data = max(layout.processes // degrees.model, 1)
    group = {"fsdp": data, "hsdp": max(degrees.shard_group, 1)}.get(layout.shard, 1)
    return MeshSizes(
        pipeline=degrees.pipeline,
        replicate=max(data // group, 1),
        shard=group,
        context=degrees.context,
        expert=degrees.expert,
        tensor=degrees.tensor,
    )


def layout_problems(layout: Layout, shape: Shape, recipe: Recipe) -> list[str]:
    """Every reason why a model of this shape cannot be trained so; empty when it can."""
    degrees, sizes = layout.degrees, mesh_sizes(layout)
    if min(layout.processes, degrees.model, degrees.expert) < 1:
        return ["processes and degrees start at 1"]
    if layout.processes % degrees.model:
        return [
            f"{layout.processes} processes are not a multiple of tensor {degrees.tensor} x pipeline "
            f"{degrees.pipeline} x context {degrees.context}"
        ]
    problems = _data_problems(layout, shape, recipe)
    problems += _tensor_problems(degrees.tensor, shape, degrees.context)
    if shape.context_tokens % (2 * degrees.context) and degrees.context > 1:
        problems.append(f"context_tokens = {shape.context_tokens} is not a multiple of 2 x context")
    if shape.experts.count or degrees.expert > 1:
        problems += _expert_problems(layout, shape)
    if degrees.pipeline > 1:
        problems += _pipeline_problems(
            layout, shape, recipe.batch_tokens // shape.context_tokens // sizes.data
        )
    if layout.float8:
        problems += _float8_problems(layout, shape)
    if layout.cuda_graphs:
        problems += _graph_problems(layout, shape)
    return problems


def switched(override: Mapping[str, object], layout: Layout) -> Layout:
    """The layout with what the user turned on."""
    return replace(layout, **{name: bool(override.get(name)) for name in SWITCHES})  # pyrefly: ignore


def _float8_problems(layout: Layout, shape: Shape) -> list[str]:
    """Sides of a product must divide by 16 (torch._scaled_mm); the rest is what no test has covered."""
    problems = [
        f"float8 with {what} is not tested: {instead}, or float8 = false"
        for what, instead in (*_splits(layout), *_experts(shape))
    ]
    problems += [
        f"float8 multiplies in steps of 16, and {name} = {size}: a multiple of 16, or float8 = false"
        for name, size in (("width", shape.width), ("context_tokens", shape.context_tokens))
        if size % FLOAT8_MULTIPLE
    ]
    if layout.device == "cuda" and layout.precision != "bf16":
        problems.append(f"float8 with precision = {layout.precision}: precision = bf16, or float8 = false")
    return problems


def _graph_problems(layout: Layout, shape: Shape) -> list[str]:
    """A captured pass repeats the same kernels on the same addresses: nothing in it may change."""
    whole = [(f"{layout.processes} processes", "1 process")] if layout.processes > 1 else []
    again = [(f"recompute = {layout.recompute}", "recompute = none")] if layout.recompute != "none" else []
    both = [("float8", "float8 = false")] if layout.float8 else []
    problems = [
        f"cuda_graphs with {what} is not built: {instead}, or cuda_graphs = false"
        for what, instead in (*whole, *again, *both, *_experts(shape))
    ]
    if layout.device != "cuda":
        problems.append("cuda_graphs on a CPU: graphs are captured on a GPU; cuda_graphs = false")
    return problems


def _splits(layout: Layout) -> list[tuple[str, str]]:
    """What shares a model out, and what to say instead."""
    degrees = layout.degrees
    sizes = (("tensor", degrees.tensor), ("pipeline", degrees.pipeline), ("context", degrees.context))
    found = [(f"{name} = {size}", f"{name} = 1") for name, size in sizes if size > 1]
    if layout.shard in ("fsdp", "hsdp"):
        found.append((f"shard = {layout.shard}", "shard = ddp"))
    return found


def _experts(shape: Shape) -> list[tuple[str, str]]:
    return [("a mixture of experts", "no num_experts")] if shape.experts.count else []


def _data_problems(layout: Layout, shape: Shape, recipe: Recipe) -> list[str]:
    replicas, group = layout.processes // layout.degrees.model, layout.degrees.shard_group
    sequences = recipe.batch_tokens // shape.context_tokens
    problems = []
    if layout.shard == "none" and replicas > 1:
        problems.append(f"shard = none with {replicas} data replicas: say ddp, fsdp or hsdp")
    if layout.shard != "none" and replicas * layout.degrees.context == 1:
        problems.append(f"shard = {layout.shard} with one data replica: say none")
    if layout.shard == "hsdp" and (replicas % group or not 1 < group < replicas):
        problems.append(f"shard_group = {group} does not part {replicas} data replicas into groups")
    if sequences < replicas or sequences % replicas:
        problems.append(f"a batch of {sequences} sequences cannot be shared by {replicas} data replicas")
    return problems


def _tensor_problems(tensor: int, shape: Shape, context: int) -> list[str]:
    parts = {
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "ffn_width": shape.ffn_width,
        "vocab_size": shape.vocab_size,
        "width": shape.width,
        "context_tokens of a process": shape.context_tokens // context,
    }
    return [
        f"{name} = {size} is not a multiple of tensor {tensor}"
        for name, size in parts.items()
        if size % tensor
    ]


def _expert_problems(layout: Layout, shape: Shape) -> list[str]:
    degrees, experts = layout.degrees, shape.experts
    if not experts.count:
        return [f"expert = {degrees.expert} without experts in the shape"]
    problems = [
        f"{name} = {size} with experts is not built: a mixture is shared out by experts"
        for name, size in (("tensor", degrees.tensor), ("context", degrees.context))
        if size > 1
    ]
    if experts.count % degrees.expert:
        problems.append(f"{experts.count} experts are not a multiple of expert {degrees.expert}")
    replicas = layout.processes // degrees.model
    group = degrees.shard_group if layout.shard == "hsdp" else replicas
    if group % degrees.expert:
        problems.append(
            f"{group} data replicas that share state are not a multiple of expert {degrees.expert}"
        )
    return problems


def _pipeline_problems(layout: Layout, shape: Shape, sequences: int) -> list[str]:
    degrees = layout.degrees
    stages = degrees.pipeline * degrees.stages
    micro = micro_sequences(layout, sequences)
    problems = []
    if shape.tied_head:
        problems.append("a tied head would stand on two stages: tied_head = false, or pipeline 1")
    if shape.num_layers < stages:
        problems.append(f"{shape.num_layers} layers for {stages} stages")
    wanted = 1 if degrees.schedule in _ONE_STAGE else 2
    if (degrees.stages != wanted) if degrees.schedule != "interleaved" else degrees.stages < wanted:
        problems.append(f"schedule = {degrees.schedule} with {degrees.stages} stages a process, not {wanted}")
    if sequences % micro or sequences // micro < degrees.pipeline:
        problems.append(
            f"{sequences} sequences a replica in micro-batches of {micro}: at least {degrees.pipeline} "
            "equal micro-batches are needed"
        )
    return problems


def micro_sequences(layout: Layout, sequences: int) -> int:
    """Sequences of one micro-batch: as the plan says, else all, or as many parts as the pipeline is long."""
    if layout.micro_batch_sequences:
        return min(layout.micro_batch_sequences, sequences)
    return max(sequences // layout.degrees.pipeline, 1)
