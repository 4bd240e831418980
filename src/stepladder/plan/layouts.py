"""A shape, a recipe and so many processes in; every layout that the trainer can run, as columns, out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepladder.plan.layout import layout_problems, mesh_sizes, micro_sequences
from stepladder.records import Degrees, Layout, Recipe, Shape

SCHEDULES = (
    ("1f1b", 1),
    ("gpipe", 1),
    ("interleaved", 2),
    ("interleaved", 4),
    ("zero_bubble", 2),
    ("zbv", 2),
)
SHARDS = ("none", "ddp", "fsdp", "hsdp")
RECOMPUTES = ("none", "selective", "full")
PRECISIONS = ("bf16", "fp32")
# Gathered keys and values of more chunks than this cost more than they save at any context in the catalogue.
_MOST_CONTEXT = 64
_COLUMNS = (
    "tensor",
    "pipeline",
    "context",
    "schedule",
    "data",
    "shard",
    "group",
    "expert",
    "micro",
    "recompute",
    "precision",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Freedom:
    """What may vary. `tensor` is the largest degree (the scale-up domain, unless told otherwise);
    `is_short` leaves out rarer ways: other schedules than 1f1b, hsdp, selective recompute."""

    tensor: int
    precisions: tuple[str, ...]
    is_short: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Layouts as columns of whole numbers; schedule, shard, recompute and precision are places in the tuples
    above. `sequences` is what a data replica reads in one step."""

    base: Layout
    columns: dict[str, np.ndarray]
    sequences: np.ndarray

    @classmethod
    def of(cls, layout: Layout, shape: Shape, recipe: Recipe) -> "Grid":
        """One layout alone."""
        sizes, degrees = mesh_sizes(layout), layout.degrees
        sequences = recipe.batch_tokens // shape.context_tokens // sizes.data
        ways = {known: at for at, known in enumerate(SCHEDULES)}
        way = (degrees.schedule, degrees.stages)
        nearest = next(known for known in ways if known[0] == degrees.schedule)
        cell = {
            "tensor": degrees.tensor,
            "pipeline": degrees.pipeline,
            "context": degrees.context,
            "schedule": ways.get(way, ways[nearest]),
            "data": sizes.data,
            "shard": SHARDS.index(layout.shard),
            "group": sizes.shard,
            "expert": sizes.expert,
            "micro": micro_sequences(layout, sequences),
            "recompute": RECOMPUTES.index(layout.recompute),
            "precision": PRECISIONS.index(layout.precision),
        }
        columns = {name: np.array([cell[name]]) for name in _COLUMNS}
        return cls(base=layout, columns=columns, sequences=np.array([sequences]))

    def take(self, at: Sequence[int]) -> "Grid":
        """Some of the layouts."""
        columns = {name: column[list(at)] for name, column in self.columns.items()}
        return Grid(base=self.base, columns=columns, sequences=self.sequences[list(at)])

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def stages(self) -> np.ndarray:
        """Stages that a process runs."""
        return np.array([stages for _, stages in SCHEDULES])[self.columns["schedule"]]

    @property
    def micro_batches(self) -> np.ndarray:
        """Micro-batches of a step."""
        return self.sequences // self.columns["micro"]

    def layout(self, at: int) -> Layout:
        """The layout in one place."""
        cell = {name: int(column[at]) for name, column in self.columns.items()}
        schedule, stages = SCHEDULES[cell["schedule"]]
        is_whole = cell["pipeline"] == 1 and cell["micro"] == self.sequences[at]
        return replace(
            self.base,
            precision=PRECISIONS[cell["precision"]],  # pyrefly: ignore[bad-argument-type]
            shard=SHARDS[cell["shard"]],  # pyrefly: ignore[bad-argument-type]
            degrees=Degrees(
                tensor=cell["tensor"],
                pipeline=cell["pipeline"],
                context=cell["context"],
                expert=cell["expert"],
                shard_group=cell["group"] if SHARDS[cell["shard"]] == "hsdp" else 1,
                schedule=schedule,  # pyrefly: ignore[bad-argument-type]
                stages=stages,
            ),
            micro_batch_sequences=0 if is_whole else cell["micro"],
            recompute=RECOMPUTES[cell["recompute"]],  # pyrefly: ignore[bad-argument-type]
        )


def layout_grid(shape: Shape, recipe: Recipe, base: Layout, freedom: Freedom) -> Grid:
    """All legal layouts of `base`'s processes; the rules are those of `plan/layout.py`."""
    sequences = recipe.batch_tokens // shape.context_tokens
    precisions = [PRECISIONS.index(name) for name in freedom.precisions]
    parts = [
        _block(model, sequences, base.processes, shape.experts.count, (precisions, freedom.is_short))
        for model in _models(shape, recipe, base, freedom)
    ]
    whole = np.concatenate(
        [part for part in parts if part is not None] or [np.zeros((0, len(_COLUMNS)), int)]
    )
    columns = {name: whole[:, at] for at, name in enumerate(_COLUMNS)}
    kept = _switchable(columns, base)
    columns = {name: column[kept] for name, column in columns.items()}
    return Grid(base=base, columns=columns, sequences=sequences // np.maximum(columns["data"], 1))


def _switchable(columns: dict[str, np.ndarray], base: Layout) -> np.ndarray:
    """Rows that go with the switches of `base`, by the rules of `plan/layout.py`."""
    kept = np.ones(len(columns["data"]), bool)
    if base.float8:
        kept &= (columns["shard"] <= SHARDS.index("ddp")) & (columns["precision"] == PRECISIONS.index("bf16"))
    if base.cuda_graphs:
        kept &= columns["recompute"] == RECOMPUTES.index("none")
    return kept


def _models(shape: Shape, recipe: Recipe, base: Layout, freedom: Freedom) -> list[tuple[int, int, int, int]]:
    """(tensor, pipeline, context, schedule) of the processes that share a model, one legal example each."""
    sequences = recipe.batch_tokens // shape.context_tokens
    found = []
    for tensor in _divisors(math.gcd(base.processes, shape.num_heads), freedom.tensor):
        for pipeline in _divisors(base.processes // tensor, shape.num_layers):
            left = base.processes // (tensor * pipeline)
            for context in _divisors(left, min(_MOST_CONTEXT, shape.context_tokens // 2)):
                data = left // context
                if sequences % data:
                    continue
                schedules = range(1 if freedom.is_short or pipeline == 1 else len(SCHEDULES))
                for schedule in schedules:
                    name, stages = SCHEDULES[schedule]
                    example = replace(
                        base,
                        shard="ddp" if data * context > 1 else "none",
                        micro_batch_sequences=1,
                        degrees=Degrees(
                            tensor=tensor,
                            pipeline=pipeline,
                            context=context,
                            schedule=name,  # pyrefly: ignore[bad-argument-type]
                            stages=stages,
                        ),
                    )
                    if not layout_problems(example, shape, recipe):
                        found.append((tensor, pipeline, context, schedule))
    return found


def _block(
    model: tuple[int, int, int, int],
    sequences: int,
    processes: int,
    experts: int,
    options: tuple[list[int], bool],
) -> np.ndarray | None:
    """Rows of columns for one way to share the model: data, experts, micro-batches, recomputing."""
    tensor, pipeline, context, schedule = model
    precisions, is_short = options
    data = processes // (tensor * pipeline * context)
    each = sequences // data
    ways = [(SHARDS.index("none"), 1)]
    if data * context > 1:
        ways = [(SHARDS.index("ddp"), 1), (SHARDS.index("fsdp"), data)]
    if not is_short:
        ways += [(SHARDS.index("hsdp"), group) for group in _divisors(data, data - 1) if group > 1]
    # The data replicas that share state, or without shards all of them, may share out experts.
    whole = SHARDS.index("hsdp")
    ways = [
        (shard, group, expert)
        for shard, group in ways
        for expert in _divisors(math.gcd(max(experts, 1), group if shard == whole else data), data)
    ]
    micros = [micro for micro in _divisors(each, each) if each // micro >= (pipeline if pipeline > 1 else 1)]
    if not micros:
        return None
    recomputes = (0, 2) if is_short else range(3)
    way, micro, recompute, precision = (
        part.ravel()
        for part in np.meshgrid(np.arange(len(ways)), micros, list(recomputes), precisions, indexing="ij")
    )
    same = [np.full(len(way), value) for value in (tensor, pipeline, context, schedule, data)]
    kinds = np.array(ways)[way]
    return np.stack([*same, *kinds.T, micro, recompute, precision], axis=1)


def _divisors(number: int, most: int) -> list[int]:
    """Divisors up to `most`, ascending."""
    small = [value for value in range(1, math.isqrt(number) + 1) if number % value == 0]
    both = sorted({*small, *(number // value for value in small)})
    return [value for value in both if value <= most]
