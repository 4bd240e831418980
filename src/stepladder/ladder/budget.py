"""A brief, a corpus and this machine in; measured speed, and the rungs that the budget pays for, out."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from stepladder.errors import PlanError
from stepladder.ladder.calibrate import Bench, calibrate_shapes, choose_layout
from stepladder.ladder.design import DesignRules, Rung, design_ladder
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import narrower, shape_for_params
from stepladder.plan.layout import switched
from stepladder.plan.machine import Machine, usual_precision
from stepladder.plan.rates import MIN_RUNG_STEPS, recipe_rule, shortest_run
from stepladder.plan.throughput import fit_throughput
from stepladder.records import Brief, Corpus, Derived, Layout, Observation, Shape

# The target has this many times the compute of the largest rung unless [override] horizon says otherwise.
HORIZON = 10.0
# Share of the wall time that all workers are busy: the last rungs end one after the other.
PACKING = 0.92
# The size of the target is first guessed at 20 tokens for each parameter that multiplies (arXiv:2203.15556).
_GUESSED_RATIO = 20.0
_MOST_RUNGS = 16
# Widths of the rungs as shares of the guessed target's.
# Widths below two fifths of the target's left the law of the others by 1 % (docs/log.md).
_RUNG_WIDTHS = (0.4, 0.55, 0.75, 1.0)
# Narrower ones join only where the ratios of tokens to parameters would not span enough without them: a
# ladder with six of ten rungs at 0.3 was 2.7 % too high (docs/log.md).
_NARROWER = (0.3, 0.2)
# A target ran 8 % slower to 13 % faster than its rungs' speed minutes before (docs/log.md): 80 % of the time.
_DRIFT = 1.15
# What a patient climb tries in turn: a machine that is busy now needs more of its slow seconds.
_STRETCHES = (1.0, 1.5, 2.0, 3.0, 5.0)
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What the calibration runs measured.

    `shape` is the first guess of the target; `speedup` what `layout` is worth against one rung beside others.
    """

    shape: Shape
    rung_layout: Layout
    layout: Layout
    workers: int
    speedup: Derived
    trials: tuple[Observation, ...]


def measure_speed(brief: Brief, machine: Machine, corpus: Corpus, bench: Bench) -> Speed:
    """A few dozen steps of real training: the speed of two sizes, and the best layout for the target."""
    precision = str(brief.override.get("precision", usual_precision(machine)))
    device = "cuda" if machine.gpus else "cpu"
    plain = Layout(device=device, precision=precision)  # pyrefly: ignore[bad-argument-type]
    rung_layout = switched(brief.override, plain)
    workers = int(brief.override.get("workers", 1 if machine.gpus else machine.cores))
    rates = recipe_rule(brief.override)
    guess = guess_shape(brief, corpus, assumed_flops_per_second(machine) * workers)
    small = narrower(guess, rung_widths(guess)[0])
    usual = _GUESSED_RATIO * count_params(guess).total
    # Two sizes and two batches tell a step's fixed time from that of its tokens and FLOPs; all workers are
    # kept busy, as in the ladder.
    pairs = [(shape, tokens) for shape in (small, guess) for tokens in (usual / 16, usual)]
    copies = max(math.ceil(workers / len(pairs)), 1)
    trials = [(shape, rates(shape, tokens)) for shape, tokens in pairs for _ in range(copies)]
    seen = calibrate_shapes(trials, bench, rung_layout, workers)
    layouts = {"1 process": rung_layout} if machine.gpus else _cpu_layouts(rung_layout, machine.cores)
    best, seconds = choose_layout(guess, rates(guess, usual), layouts, bench)
    alone = seen[-1].seconds / seen[-1].tokens
    ratio = alone / seconds[best]
    tried = ", ".join(f"{name}: {1 / value:,.0f} tokens/s" for name, value in seconds.items())
    how = f"{tried} at {count_params(guess).total:,} parameters; one rung beside others {1 / alone:,.0f}"
    return Speed(
        shape=guess,
        rung_layout=rung_layout,
        layout=layouts[best],
        workers=workers,
        speedup=Derived(value=ratio, low=ratio / _DRIFT, high=ratio * _DRIFT, how=how, source="measured"),
        trials=tuple(seen),
    )


def affordable(attempt: Callable[[float], _Made], *, patient: bool) -> _Made:
    """What `attempt` makes of the budget; a patient climb stretches that, no more than a slow machine needs.

    Raises:
        PlanError: what the attempt raises for the budget as it is.
    """
    for stretch in _STRETCHES if patient else ():
        with contextlib.suppress(PlanError):
            return attempt(stretch)
    return attempt(1.0)


def design_for(brief: Brief, corpus: Corpus, speed: Speed, *, stretch: float = 1.0) -> tuple[Rung, ...]:
    """The rungs that the ladder's share of the budget, times `stretch`, pays for."""
    throughput = fit_throughput(speed.trials)
    wall = _wall_seconds(brief)
    share = brief.budget.ladder_share
    target_seconds = (1 - share) * wall
    usual = _GUESSED_RATIO * count_params(speed.shape).total
    batch = recipe_rule(brief.override)(speed.shape, usual).batch_tokens
    per_token = throughput.seconds_per_token(train_flops_per_token(speed.shape), batch).value
    tokens = min(target_seconds * speed.speedup.value / per_token, float(corpus.tokens))
    flops = train_flops_per_token(speed.shape) * tokens
    rates = recipe_rule(brief.override)
    shortest = shortest_run(lambda amount: rates(speed.shape, amount).batch_tokens, MIN_RUNG_STEPS)
    rules = DesignRules(
        budget_seconds=stretch * share * wall * speed.workers * PACKING,
        largest_flops=flops / float(brief.override.get("horizon", HORIZON)),
        min_tokens=int(brief.override.get("rung_tokens", shortest)),
        max_rungs=int(brief.override.get("rungs", _MOST_RUNGS)),
    )
    shapes = _rung_shapes(speed.shape, rules)
    fixed = max(float(row.notes["fixed_seconds"]) for row in speed.trials)

    def cost(shape: Shape, tokens: int) -> float:
        batch = rates(shape, tokens).batch_tokens
        each = throughput.seconds_per_token(train_flops_per_token(shape), batch)
        return fixed + each.value * tokens

    return design_ladder(shapes, (speed.shape, tokens), cost, rules)


def _wall_seconds(brief: Brief) -> float:
    if brief.budget.hours is None:
        raise PlanError(
            "a climb needs to know how long it may take",
            got="no [budget] hours",
            allowed="hours = a number above zero, for ladder and target together",
            next_command="edit stepladder.toml",
        )
    return brief.budget.hours * 3600


def guess_shape(brief: Brief, corpus: Corpus, flops_per_second: float) -> Shape:
    """The target's shape at 20 tokens a parameter for its share of the time."""
    override = brief.override
    flops = flops_per_second * _wall_seconds(brief) * (1 - brief.budget.ladder_share)
    multiplying = min(math.sqrt(flops / (6 * _GUESSED_RATIO)), corpus.tokens / 2)
    layers, heads = override.get("num_layers"), override.get("num_heads")
    params = multiplying
    for _ in range(3):
        guess = shape_for_params(
            params,
            vocab_size=corpus.vocab_size + (brief.objective == "masked"),
            context_tokens=int(override.get("context_tokens", 128)),
            num_layers=int(layers) if layers else None,
            num_heads=int(heads) if heads else None,
            tied_head=bool(override.get("tied_head", False)),
            causal=brief.objective == "causal",
        )
        # The embedding is a look-up: it costs memory and no FLOPs.
        params = multiplying + guess.vocab_size * guess.width
    return narrower(guess, int(override["width"])) if "width" in override else guess


def rung_widths(guess: Shape, shares: Sequence[float] = _RUNG_WIDTHS) -> list[int]:
    """Widths of the rungs: multiples of 8 that the target's heads divide into even parts."""
    unit = math.lcm(8, 2 * guess.num_heads)
    return sorted({max(round(guess.width * share / unit), 1) * unit for share in shares})


def _rung_shapes(guess: Shape, rules: DesignRules) -> list[Shape]:
    """Shapes whose longest and shortest runs span the ratios that the rules ask for, as far as they can."""
    shares: tuple[float, ...] = _RUNG_WIDTHS
    for more in (*_NARROWER, None):
        shapes = [narrower(guess, width) for width in rung_widths(guess, shares)]
        counts = [count_params(shape).total for shape in shapes]
        highest = rules.largest_flops / train_flops_per_token(shapes[0]) / counts[0]
        lowest = min(max(rules.min_tokens / count, rules.min_tokens_per_param) for count in counts)
        if more is None or highest >= rules.min_ratio_span * lowest:
            break
        shares = (more, *shares)
    return shapes


def assumed_flops_per_second(machine: Machine) -> float:
    """A first guess of one worker's training speed, only used for the size of the calibration runs: small
    decoders reached 30 to 60 GFLOP/s on a thread with bf16 (docs/log.md), a tenth of a GPU's peak."""
    if machine.gpus:
        return 5e13
    return 4e10 if machine.has_bf16 else 2.5e10


def _cpu_layouts(base: Layout, cores: int) -> dict[str, Layout]:
    """Ways to use all cores for one run; the one that other programs disturb least comes first."""
    layouts = (
        {f"{cores} processes x 1 thread": replace(base, processes=cores, shard="ddp")} if cores > 1 else {}
    )
    return layouts | {f"1 process x {cores} threads": replace(base, threads=cores)}
