"""Layouts of a model, and steps that were measured on the same device, in; what these say of them out.

Seconds: the Gaussian posterior of `plan/stepcalibrate.py`, in which steps of any model move the constants
that their terms depend on. Bytes: errors of peaks of the same model, less the further apart two layouts are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepladder.plan.derive import Z80, within
from stepladder.plan.hardware import Device
from stepladder.plan.layoutcost import GridCost, grid_cost
from stepladder.plan.layouts import PRECISIONS, RECOMPUTES, SCHEDULES, Grid
from stepladder.plan.measured import MEASURED_FILE, MeasuredStep
from stepladder.plan.memory import MemoryNeed, memory_need
from stepladder.plan.rowmemory import FORGET
from stepladder.plan.stepcalibrate import SPREAD, Z90, Kin, posterior, slopes, weighed
from stepladder.plan.steptime import FITTED, step_seconds
from stepladder.records import Layout, Recipe, Shape

# Measuring moves the order of so many of the fastest layouts; the rest move as these do on average.
_MOST = 4_000
# 1 sigma of log bytes after a measured peak of the same layout: bench/plan/memory.py, "one measured peak".
_NEAR_LOG_SD = 0.073


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """Steps that were measured on a device, logarithms of how far each was off, and what makes them alike."""

    device: Device
    steps: tuple[MeasuredStep, ...]
    off: np.ndarray
    kin: Kin

    @property
    def words(self) -> str:
        """For reasons: how many, and which."""
        names = ", ".join(dict.fromkeys(step.name for step in self.steps[:4]))
        more = ", ..." if len(self.steps) > 4 else ""
        return f"{len(self.steps)} measured configurations of {MEASURED_FILE} ({names}{more})"

    def moved(self, grid: Grid, cost: GridCost, shape: Shape, recipe: Recipe) -> np.ndarray:
        """Seconds of every layout with what was measured."""
        order = np.argsort(cost.seconds, kind="stable")[:_MOST]
        shift = self.posterior(grid.take(order.tolist()), shape, recipe)[0]
        whole = np.full(len(grid), shift.mean())
        whole[order] = shift
        return cost.seconds * np.exp(whole)

    def is_measured(self, grid: Grid, shape: Shape, recipe: Recipe) -> np.ndarray:
        """Whether each layout is one of those that were timed, with this model and batch."""
        found = np.zeros(len(grid), bool)
        for step in self.steps:
            if _same_model(step.shape, shape):
                found |= _apart(grid, step, recipe) == 0
        return found

    def posterior(self, grid: Grid, shape: Shape, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
        """Shift of log seconds, and half-width of their 90 % interval."""
        cost = grid_cost(grid, shape, recipe, self.device)
        # How far this trainer and this device are off is common to all that was measured here.
        both = math.hypot(SPREAD.accelerator, cost.unlike)
        spread = replace(SPREAD, accelerator=both)
        shift, variance = posterior(_kin(cost, grid, shape), self.kin, self.off, spread)
        return shift, Z90 * np.sqrt(variance)


def learnt_from(steps: Sequence[MeasuredStep], device: Device) -> Learnt | None:
    """What was measured on this device; None where nothing was."""
    here = tuple(step for step in steps if step.hw == device.id and step.seconds > 0)
    if not here:
        return None
    costs = [grid_cost(_one(step), step.shape, step.recipe, device) for step in here]
    parts = [_kin(cost, _one(step), step.shape) for step, cost in zip(here, costs, strict=True)]
    return Learnt(
        device=device,
        steps=here,
        off=np.array(
            [math.log(step.seconds / cost.seconds[0]) for step, cost in zip(here, costs, strict=True)]
        ),
        kin=Kin(**{name: np.concatenate([getattr(one, name) for one in parts]) for name in Kin.__slots__}),
    )


def _kin(cost: GridCost, grid: Grid, shape: Shape) -> Kin:
    columns, ones = grid.columns, np.ones(len(grid))
    model = f"{shape.num_layers}|{shape.width}|{shape.num_heads}|{shape.experts.count}|"
    return Kin(
        slopes=slopes(cost.config, FITTED, np.log(step_seconds(cost.config))),
        site=ones,
        accelerator=ones,
        model=np.array([model + PRECISIONS[at] for at in columns["precision"]]),
        layout=weighed(
            tp=columns["tensor"],
            mbs=columns["micro"],
            seq=shape.context_tokens * ones,
            pp=columns["pipeline"],
            dp=columns["data"],
            ga=grid.micro_batches,
            cp=columns["context"],
        ),
    )


def factor_on_bytes(
    steps: Sequence[MeasuredStep], grid: Grid, shape: Shape, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """What measured peaks of this model say of layouts: a factor, and the weight of the nearest (0 to 1)."""
    total, most, error = np.zeros(len(grid)), np.zeros(len(grid)), np.zeros(len(grid))
    for step in steps:
        if not step.peak_bytes > 0 or not _same_model(step.shape, shape):
            continue
        weight = np.exp(-_apart(grid, step, recipe) / FORGET)
        forecast = _as_read(memory_need(step.shape, step.recipe, step.layout, math.inf), step.layout)
        error += weight * math.log(step.peak_bytes / forecast)
        total, most = total + weight, np.maximum(most, weight)
    return np.exp(error / np.maximum(total, 1.0)), most


def corrected(need: MemoryNeed, layout: Layout, factor: float, weight: float) -> MemoryNeed:
    """The need with its tensors by this factor, and an interval that is as much narrower."""
    if not weight:
        return need
    sd = math.log(need.total.high / need.total.value) / Z80
    sd += weight * (min(_NEAR_LOG_SD, sd) - sd)
    terms = {name: amount * (1 if name in _around(layout) else factor) for name, amount in need.terms.items()}
    how = f"{need.total.how}; tensors times {factor:.3g}, what measured peaks of this model show"
    total = within(sum(terms.values()), math.exp(Z80 * sd), how, "measured")
    return replace(need, terms=terms, total=total)


def measured_need(
    steps: Sequence[MeasuredStep], run: tuple[Shape, Recipe], layout: Layout, available: float
) -> MemoryNeed:
    """`memory_need` with what was measured on a device of the same kind."""
    need = memory_need(*run, layout, available)
    factor, weight = factor_on_bytes(steps, Grid.of(layout, *run), *run)
    return corrected(need, layout, float(factor[0]), float(weight[0]))


def _around(layout: Layout) -> tuple[str, ...]:
    """Terms that a reading of torch's own memory does not have; a process on a CPU is read whole."""
    return () if layout.device == "cpu" else ("allocator", "context")


def _as_read(need: MemoryNeed, layout: Layout) -> float:
    return sum(amount for name, amount in need.terms.items() if name not in _around(layout))


def _one(step: MeasuredStep) -> Grid:
    return Grid.of(step.layout, step.shape, step.recipe)


def _apart(grid: Grid, step: MeasuredStep, recipe: Recipe) -> np.ndarray:
    """Sum of log ratios by which layouts differ from the measured one, and what is done otherwise."""
    columns, one = grid.columns, _one(step)
    names = ("tensor", "pipeline", "context", "data", "expert", "micro")
    apart = sum(np.abs(np.log(columns[name] / one.columns[name][0])) for name in names)
    other = (columns["recompute"] != RECOMPUTES.index(step.layout.recompute)).astype(float)
    other += columns["shard"] != one.columns["shard"][0]
    other += np.array([name for name, _ in SCHEDULES])[columns["schedule"]] != step.layout.degrees.schedule
    return apart + other + abs(math.log(recipe.batch_tokens / step.recipe.batch_tokens))


def _same_model(one: Shape, other: Shape) -> bool:
    names = ("num_layers", "width", "num_heads", "ffn_width", "context_tokens")
    mixtures = [
        (shape.experts.count, shape.experts.active, shape.experts.ffn_width) for shape in (one, other)
    ]
    return mixtures[0] == mixtures[1] and all(getattr(one, name) == getattr(other, name) for name in names)
