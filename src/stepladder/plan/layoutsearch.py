"""A shape, a recipe and a place in; the layouts to train it in, best first, with reasons, out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepladder.errors import PlanError
from stepladder.plan.derive import Z80, within
from stepladder.plan.hardware import Device
from stepladder.plan.layout import layout_problems
from stepladder.plan.layoutcost import GridCost, grid_cost
from stepladder.plan.layouts import SHARDS, Freedom, Grid, layout_grid
from stepladder.plan.measured import MeasuredStep
from stepladder.plan.memory import MemoryNeed, log_sd, memory_need
from stepladder.plan.near import factor_on_bytes, learnt_from, measured_need
from stepladder.records import SWITCHES, Derived, Layout, Recipe, Shape

# A layout fits when it does with a probability of 90 %.
KEEP = 0.1
# Log ratio of two layouts of one model on one machine: the forecast's error within which 90 % of published
# pairs lie (bench/plan/search.py); errors that both share cancel.
PAIR_LOG90 = 0.23
_MOST_DOUBLINGS = 12
_OF_MIXTURES = (
    " (constants of experts, dispatch and expert exchange are priors: 24 published steps of mixtures were "
    "forecast 25 % off on average, docs/plan/step-time.md)"
)
# Layouts within so much of the fastest are as fast (bench/plan/choice.py).
ALIKE = 1.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where: processes, nodes and precision of `base`; GPUs of one kind. `precisions` are allowed ones;
    `tensor` is the largest degree (0: the scale-up domain)."""

    base: Layout
    device: Device
    precisions: tuple[str, ...] = ("bf16", "fp32")
    tensor: int = 0
    measured: tuple[MeasuredStep, ...] = ()

    def freedom(self, *, is_short: bool) -> Freedom:
        """What may vary here."""
        known = tuple(name for name in self.precisions if name in self.device.peaks)
        domain = min(self.device.links.domain_devices, max(self.base.processes // self.base.nodes, 1))
        return Freedom(tensor=self.tensor or domain, precisions=known or ("fp32",), is_short=is_short)

    @property
    def measured_here(self) -> tuple[MeasuredStep, ...]:
        """Those of such a device."""
        return tuple(step for step in self.measured if step.hw == self.device.id)

    def need(self, run: tuple[Shape, Recipe], layout: Layout) -> MemoryNeed:
        """Bytes of a process, as measured peaks correct them."""
        return measured_need(self.measured_here, run, layout, self.device.mem_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedLayout:
    """One layout. `step` is in seconds; `binds` names its largest term besides the products of matrices;
    `loses` says what it has less than the first."""

    layout: Layout
    step: Derived
    terms: Mapping[str, float]
    binds: str
    memory: MemoryNeed
    loses: str

    @property
    def head_room_gib(self) -> float:
        """GiB of a device that stay free."""
        return (self.memory.available / self.memory.processes_sharing - self.memory.total.value) / 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutChoice:
    """The first is the choice. Of `legal` layouts `fitting` fit; `rule` says how the simple rule does,
    `next_measurement` what would tell the first two apart."""

    top: tuple[RankedLayout, ...]
    legal: int
    fitting: int
    rule: str
    next_measurement: str


def rank_layouts(
    shape: Shape, recipe: Recipe, place: Place, *, is_short: bool = False, most: int = 3
) -> LayoutChoice:
    """The fastest layouts that fit, no two alike in what they share.

    Raises:
        PlanError: no layout of so many processes is legal, or none fits; the text says what would.
    """
    grid = layout_grid(shape, recipe, place.base, place.freedom(is_short=is_short))
    if not len(grid):
        raise _none_legal(shape, recipe, place)
    cost = grid_cost(grid, shape, recipe, place.device)
    learnt = learnt_from(place.measured, place.device)
    seconds = learnt.moved(grid, cost, shape, recipe) if learnt else cost.seconds
    factor = factor_on_bytes(place.measured_here, grid, shape, recipe)[0]
    fits = cost.num_bytes * factor * _surely(shape, place) <= place.device.mem_bytes
    order = np.flatnonzero(fits)[np.argsort(seconds[fits], kind="stable")]
    is_known = learnt.is_measured(grid, shape, recipe) if learnt else np.zeros(len(grid), bool)
    order = _simplest_first(grid, seconds, order, is_known)
    kept = _distinct(grid, order, (shape, recipe), place, most)
    if not kept:
        raise _none_fits(grid, cost, (shape, recipe), place)
    few = grid.take(kept)
    log90 = grid_cost(few, shape, recipe, place.device).log90
    log90 = learnt.posterior(few, shape, recipe)[1] if learnt else log90
    words = learnt.words if learnt else ""
    needs = [place.need((shape, recipe), grid.layout(at)) for at in kept]
    top = tuple(
        _ranked(grid, (cost, seconds, float(width)), (at, kept[0]), need, words)
        for at, width, need in zip(kept, log90, needs, strict=True)
    )
    return LayoutChoice(
        top=top,
        legal=len(grid),
        fitting=len(order),
        rule=_rule_text(grid, seconds, order, kept[0]),
        next_measurement=_next_measurement(top),
    )


def _surely(shape: Shape, place: Place) -> float:
    """The factor within which a forecast of memory errs upwards in nine of ten cases."""
    return math.exp(Z80 * log_sd(shape, place.base))


def simplest(seconds: np.ndarray, *keys: np.ndarray, alike: float = ALIKE) -> int:
    """Place of the fastest, or, of those that no forecast tells from it, of the least by `keys` in turn."""
    near = np.flatnonzero(seconds <= alike * seconds.min())
    # The last key counts most.
    return int(near[np.lexsort([key[near] for key in (seconds, *reversed(keys))])[0]])


def by_rule(tensor: np.ndarray, pipeline: np.ndarray, micro: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys of what practitioners say: least tensor, least pipeline, largest micro-batch."""
    return tensor, pipeline, -micro


def _simplest_first(grid: Grid, seconds: np.ndarray, order: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """The simplest of the fastest first; one that was measured before all that were not."""
    if not len(order):
        return order
    columns = {name: column[order] for name, column in grid.columns.items()}
    tensor, pipeline, least = by_rule(*(columns[name] for name in ("tensor", "pipeline", "micro")))
    is_grouped = columns["shard"] == SHARDS.index("hsdp")
    # Shared contexts come before micro-batches: twice the sequences on twice the devices are no larger batch.
    rule = tensor, pipeline, columns["context"], least
    keys = (~is_known[order], *rule, columns["expert"], is_grouped, columns["schedule"])
    first = order[simplest(seconds[order], *keys)]
    return np.concatenate([[first], order[order != first]])


def _distinct(grid: Grid, order: np.ndarray, run: tuple[Shape, Recipe], place: Place, most: int) -> list[int]:
    """Places of the first layouts that differ in more than schedule, group or micro-batch."""
    names = ("tensor", "pipeline", "context", "expert", "shard", "recompute", "precision")
    seen: set[tuple[int, ...]] = set()
    kept: list[int] = []
    for at in order[:20_000]:
        family = tuple(int(grid.columns[name][at]) for name in names)
        if family in seen:
            continue
        layout = grid.layout(int(at))
        need = place.need(run, layout)
        if need.probability_too_much > KEEP or layout_problems(layout, *run):
            continue
        seen.add(family)
        kept.append(int(at))
        if len(kept) == most:
            break
    return kept


def _ranked(
    grid: Grid,
    costs: tuple[GridCost, np.ndarray, float],
    places: tuple[int, int],
    need: MemoryNeed,
    learnt: str,
) -> RankedLayout:
    (cost, seconds, log90), (at, first) = costs, places
    terms = {name: float(column[at]) for name, column in cost.terms.items() if column[at] > 0}
    rest = {name: value for name, value in terms.items() if name != "matrices"}
    binds = max(rest, key=lambda name: rest[name], default="matrices")
    whole, value = sum(terms.values()), float(seconds[at])
    said = ", ".join(
        f"{name.replace('_', ' ')} {amount / whole:.0%}"
        for name, amount in sorted(terms.items(), key=lambda item: -item[1])[:4]
    )
    factor = math.exp(log90 * Z80 / 1.645)
    how = f"terms of plan/steptime.py: {said}"
    how += _OF_MIXTURES if "experts" in terms else ""
    how += f"; times {value / whole:.3g}, what {learnt} show" if learnt else ""
    loses = ""
    if at != first:
        lost = value / float(seconds[first]) - 1
        loses = f"{lost:.1%} of time" if lost > 0 else "nothing but simplicity"
        worse = {name: amount - float(cost.terms[name][first]) for name, amount in terms.items()}
        most = max(worse, key=lambda name: worse[name])
        if lost > 0 and worse[most] > 0:
            loses += f", most of it in {most.replace('_', ' ')}"
    return RankedLayout(
        layout=grid.layout(at),
        step=within(value, factor, how, "measured" if learnt else "prior"),
        terms=terms,
        binds=binds,
        memory=need,
        loses=loses,
    )


def _rule_text(grid: Grid, seconds: np.ndarray, order: np.ndarray, best: int) -> str:
    """Beside the rule of thumb: least tensor, least pipeline, least recomputed, largest micro-batch."""
    columns = grid.columns
    keys = ("micro", "recompute", "expert", "context", "pipeline", "tensor")
    values = [-columns["micro"][order], *(columns[name][order] for name in keys[1:])]
    at = int(order[np.lexsort([seconds[order], *values])[0]])
    if at == best:
        return "the simple rule (least tensor, least pipeline, largest micro-batch) chooses the same"
    ratio = max(float(seconds[at] / seconds[best]), 1.0)
    text = f"the simple rule would take {describe(grid.layout(at))}: {ratio - 1:.1%} slower by the forecast"
    if math.log(ratio) <= PAIR_LOG90:
        text += f", which is within its noise (a factor of {math.exp(PAIR_LOG90):.2f} for two layouts)"
    return text


def _next_measurement(top: Sequence[RankedLayout]) -> str:
    if len(top) < 2:
        return ""
    gap = abs(math.log(top[1].step.value / top[0].step.value))
    names = f"{describe(top[0].layout)} and {describe(top[1].layout)}"
    if gap > PAIR_LOG90:
        return f"none needed: {names} are further apart than the forecast errs"
    return (
        f"the forecasts of {names} overlap ({gap:.1%} apart): twenty steps of each would tell "
        "(stepladder calibrate, with each of them in a plan.json)"
    )


def describe(layout: Layout) -> str:
    """In a few words."""
    degrees = layout.degrees
    data = layout.processes // degrees.model
    parts = [
        f"{name} {value}"
        for name, value in (
            ("tensor", degrees.tensor),
            ("context", degrees.context),
            ("expert", degrees.expert),
        )
        if value > 1
    ]
    if degrees.pipeline > 1:
        stages = f" x {degrees.stages}" if degrees.stages > 1 else ""
        parts.append(f"pipeline {degrees.pipeline} ({degrees.schedule}{stages})")
    if layout.shard != "none":
        group = f" in groups of {degrees.shard_group}" if layout.shard == "hsdp" else ""
        parts.append(f"{layout.shard} {data}{group}")
    micro = layout.micro_batch_sequences
    parts.append(f"micro-batch {micro}" if micro else "whole batch")
    if layout.recompute != "none":
        parts.append(f"{layout.recompute} recompute")
    parts += [layout.precision, *(name.replace("_", " ") for name in SWITCHES if getattr(layout, name))]
    return ", ".join(parts)


def step_seconds(shape: Shape, recipe: Recipe, layout: Layout, device: Device) -> float:
    """Forecast of one layout before anything was measured."""
    cost = grid_cost(Grid.of(layout, shape, recipe), shape, recipe, device)
    return float(cost.seconds[0])


def _none_legal(shape: Shape, recipe: Recipe, place: Place) -> PlanError:
    count = place.base.processes
    sequences = recipe.batch_tokens // shape.context_tokens
    fitting = max(n for n in range(1, count + 1) if sequences % n == 0)
    plain = replace(place.base, shard="ddp" if count > 1 else "none")
    return PlanError(
        f"no layout of {count} devices is legal for this model",
        got="; ".join(layout_problems(plain, shape, recipe)) or "no precision that the device has",
        allowed=f"{fitting} devices with this batch, or a batch in multiples of {count} sequences",
        next_command=f"set batch_tokens = {math.ceil(sequences / count) * count * shape.context_tokens} "
        "in [override], or change count or nodes",
    )


def _none_fits(grid: Grid, cost: GridCost, run: tuple[Shape, Recipe], place: Place) -> PlanError:
    """The leanest layout, what it needs, and how many devices would do."""
    shape, recipe = run
    leanest = grid.layout(int(np.argmin(cost.num_bytes)))
    need = memory_need(shape, recipe, leanest, place.device.mem_bytes)
    more = ""
    for doubling in range(1, _MOST_DOUBLINGS + 1):
        times = 2**doubling
        wider = replace(
            place,
            base=replace(place.base, processes=place.base.processes * times, nodes=place.base.nodes * times),
        )
        larger = replace(recipe, batch_tokens=recipe.batch_tokens * times)
        more_grid = layout_grid(shape, larger, wider.base, wider.freedom(is_short=True))
        more_cost = grid_cost(more_grid, shape, larger, place.device)
        if len(more_grid) and more_cost.num_bytes.min() * _surely(shape, place) <= place.device.mem_bytes:
            more = f"{wider.base.processes} such devices, or "
            break
    return PlanError(
        f"no layout of the model fits {place.base.processes} x {place.device.name}",
        got=f"{place.device.mem_bytes / 2**30:.3g} GiB each; the leanest of {len(grid):,} layouts "
        f"({describe(leanest)}) needs {need.total.high / 2**30:.3g} GiB: {need.total.how}",
        allowed=f"{more}devices of {need.total.high / 2**30:.3g} GiB",
        next_command="raise count or nodes, or lower context_tokens, vocab_size or size in [override]",
    )
