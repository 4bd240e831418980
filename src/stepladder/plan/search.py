"""A problem (law, speed, site, limits) in; the sizes and lengths that keep the limits out, with costs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import shape_for_params, shape_for_width, usual_widths, with_experts
from stepladder.plan.costs import cost_numbers
from stepladder.plan.derive import exact, times
from stepladder.plan.memory import MemoryNeed, memory_need
from stepladder.plan.prior import LossLaw, useful_tokens
from stepladder.plan.rates import MIN_STEPS, RecipeRule, shortest_run
from stepladder.plan.site import Site
from stepladder.plan.spot import on_the_calendar, training_share
from stepladder.plan.throughput import Throughput
from stepladder.records import Brief, Derived, Interval, Layout, Recipe, Shape

LIMITS = ("hours", "usd", "kwh", "kg_co2e")
# A plan keeps a limit when the 80 % interval of its cost does: one run in ten would break it.
KEEP = 0.1
# The dense size that a mixture is like, where no runs of it were seen: the geometric mean of active and total
# parameters, a rule of thumb; of a dense model its own size.
LIKE_DENSE = "active_and_total"
# Full recompute runs the forward pass twice: 4 thirds of the arithmetic.
RECOMPUTE = 4 / 3
_MOST_TOKENS, _MOST_WIDTHS = 1e16, 90
# Shorter runs, down to an eighth, for those who want to pay less, each of so many sizes.
_HALVINGS, _MOST_SIZES = range(1, 7), 8
# A family with a fixed head count ends where its heads are wider than any published decoder's.
_WIDEST_HEAD = 256
# Where neither money nor time ends the run, 20 tokens a parameter (arXiv:2203.15556) set its size.
_USUAL_RATIO = 20.0


# A shape, the tokens of its run, and the limit that ends them.
End = tuple[Shape, float, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is to be chosen from. `left` holds what the ladder has left of each limit of the brief; `near` is
    .01 nats per token in the unit of the law."""

    brief: Brief
    site: Site
    throughput: Throughput
    predict_loss: LossLaw
    recipe_for: RecipeRule
    size_column: str
    unique_tokens: float
    max_epochs: float
    largest_flops: float
    left: Mapping[str, float]
    shapes: tuple[Shape, ...]
    near: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A run that could be done in `region`. `binds` names the limit that ended its tokens."""

    shape: Shape
    tokens: int
    recipe: Recipe
    layout: Layout
    loss: Interval
    seconds: Derived
    costs: Mapping[str, Derived]
    memory: MemoryNeed
    binds: str
    region: str


def candidate_shapes(
    override: Mapping[str, float | int | str | bool],
    *,
    vocab_size: int,
    context_tokens: int,
    like: Shape | None,
    causal: bool,
    max_params: float,
) -> tuple[Shape, ...]:
    """Shapes to choose from: one when the brief fixes it, else a family from narrow to wide.

    `like` fixes depth and heads, as a ladder needs it (docs/log.md).
    """
    layers = override.get("num_layers", like.num_layers if like else None)
    heads = override.get("num_heads", like.num_heads if like else None)
    fixed = {
        "num_layers": None if layers is None else int(layers),
        "num_heads": None if heads is None else int(heads),
        "vocab_size": vocab_size,
        "context_tokens": context_tokens,
        "tied_head": bool(override.get("tied_head", like.tied_head if like else False)),
        "causal": causal,
    }
    if "params" in override:
        return (_mixed(shape_for_params(float(override["params"]), **fixed), override),)  # pyrefly: ignore
    if "width" in override:
        return (_mixed(shape_for_width(int(override["width"]), **fixed), override),)  # pyrefly: ignore
    heads_fixed = fixed["num_heads"]
    most = 16_384 if heads_fixed is None else _WIDEST_HEAD * heads_fixed
    widths = usual_widths(heads_fixed, most=most)
    widths = widths[:: max(len(widths) // _MOST_WIDTHS, 1)] if like is None else widths
    shapes = [_mixed(shape_for_width(width, **fixed), override) for width in widths]  # pyrefly: ignore
    if like is not None:
        shapes = [replace(shape, variant=like.variant) for shape in shapes]
    kept = tuple(shape for shape in shapes if count_params(shape).total <= max_params)
    if not kept:
        least = count_params(shapes[0]).total
        raise PlanError(
            "[goal] max_params is below the smallest model",
            got=f"{max_params:,.0f}",
            allowed=f"at least {least:,} with a vocabulary of {vocab_size:,}",
            next_command="raise max_params, or lower vocab_size in [override]",
        )
    return kept


def _mixed(shape: Shape, override: Mapping[str, float | int | str | bool]) -> Shape:
    """With the experts that the brief asks for; `params` are those of the dense shape that it starts from."""
    if "num_experts" not in override:
        return shape
    active, width = int(override.get("experts_active", 2)), int(override.get("expert_ffn_width", 0))
    return with_experts(shape, int(override["num_experts"]), active, width)


def most_tokens(problem: Problem, shape: Shape) -> tuple[float, str]:
    """The longest run of this shape that keeps every limit, and the limit that ends it."""
    tokens, binds = _longest(problem, shape, math.inf)
    # The batch, and with it the time of a token, depends on the length that is asked for.
    for _ in range(4 if math.isfinite(tokens) and problem.throughput.per_step else 0):
        tokens, binds = _longest(problem, shape, problem.recipe_for(shape, tokens).batch_tokens)
    return tokens, binds


def _longest(problem: Problem, shape: Shape, batch_tokens: float) -> tuple[float, str]:
    if "tokens" in problem.brief.override:
        return float(problem.brief.override["tokens"]), "tokens"
    ends = _ends_per_token(problem, shape, batch_tokens)
    caps = {name: left / ends[name] for name, left in problem.left.items() if ends[name] > 0}
    if math.isfinite(problem.unique_tokens):
        caps["text"] = problem.unique_tokens * problem.max_epochs
    if "horizon" in problem.brief.override and problem.largest_flops > 0:
        most = float(problem.brief.override["horizon"]) * problem.largest_flops
        caps["horizon"] = most / train_flops_per_token(shape)
    binds = min(caps, key=lambda name: caps[name], default="none")
    return min(caps.get(binds, _MOST_TOKENS), _MOST_TOKENS), binds


def _ends_per_token(problem: Problem, shape: Shape, batch_tokens: float) -> dict[str, float]:
    """P90 of what a token costs, in the unit of each limit."""
    each = seconds_per_token(problem, shape, batch_tokens, recompute=False)
    return _ends(problem, wall_seconds(problem, exact(1, ""), each))


def _ends(problem: Problem, seconds: Derived) -> dict[str, float]:
    costs = cost_numbers(seconds, problem.site)
    calendar = on_the_calendar(seconds, problem.brief.override).get("calendar_seconds", seconds)
    return {"hours": calendar.high / 3600, **{name: costs[name].high for name in LIMITS[1:]}}


def seconds_per_token(problem: Problem, shape: Shape, batch_tokens: float, *, recompute: bool) -> Derived:
    """Forecast of the whole site."""
    forecast = problem.throughput.seconds_per_token(train_flops_per_token(shape), batch_tokens)
    if not recompute or problem.throughput.has_recompute:
        return forecast
    return times(f"{forecast.how}; x 4/3 for recomputing the forward pass", forecast, scale=RECOMPUTE)


def evaluate(problem: Problem, shape: Shape, tokens: float, binds: str) -> Candidate | None:
    """The run of `tokens` (rounded down to whole steps); None when it has no 400 steps or does not fit.

    A run whose length the user fixed may be shorter.
    """
    recipe = whole_batch(problem.recipe_for(shape, tokens), shape, problem.site.layout)
    steps = math.floor(tokens / recipe.batch_tokens)
    if steps < (1 if "tokens" in problem.brief.override else MIN_STEPS):
        return None
    fitted = fit_layout(problem, shape, recipe)
    if fitted is None:
        return None
    layout, memory = fitted
    if layout.recompute == "full" and binds in problem.left:
        steps = max(math.floor(steps / RECOMPUTE), 1)
    whole = steps * recipe.batch_tokens
    each = seconds_per_token(problem, shape, recipe.batch_tokens, recompute=layout.recompute == "full")
    seconds = wall_seconds(problem, exact(whole, "tokens"), each)
    return Candidate(
        shape=shape,
        tokens=whole,
        recipe=recipe,
        layout=layout,
        loss=predicted(problem, shape, whole),
        seconds=seconds,
        costs=cost_numbers(seconds, problem.site),
        memory=memory,
        binds=binds,
        region=problem.brief.hardware.region,
    )


def wall_seconds(problem: Problem, tokens: Derived, each: Derived) -> Derived:
    """Seconds of a run; on rented or shared nodes with what failures and checkpoints cost."""
    if problem.site.layout.device == "cpu":
        return times("`tokens` x `seconds_per_token`", tokens, each, source=each.source)
    share = training_share(problem.site.layout.nodes, problem.brief.override)
    inverse = Derived(
        value=1 / share.value, low=1 / share.high, high=1 / share.low, how=share.how, source=share.source
    )
    how = "`tokens` x `seconds_per_token` / `goodput`"
    return times(how, tokens, each, inverse, source=each.source)


def predicted(problem: Problem, shape: Shape, tokens: float) -> Interval:
    """The law's loss, with tokens beyond the first pass at what they are worth."""
    count = count_params(shape)
    sizes = {"nonembed_params": count.nonembed, LIKE_DENSE: math.sqrt(count.active * count.total)}
    size = sizes.get(problem.size_column, count.total)
    return problem.predict_loss(size, useful_tokens(tokens, problem.unique_tokens))


def fit_layout(problem: Problem, shape: Shape, recipe: Recipe) -> tuple[Layout, MemoryNeed] | None:
    """The first layout that fits the memory."""
    for layout in layouts(problem.site.layout, shape, recipe):
        need = memory_need(shape, recipe, layout, problem.site.memory_bytes)
        if need.probability_too_much <= KEEP:
            return layout, need
    return None


def layouts(base: Layout, shape: Shape, recipe: Recipe) -> Iterator[Layout]:
    """From the fastest to the leanest: whole batch, smaller micro-batches, sharding, recompute."""
    sequences = max(recipe.batch_tokens // shape.context_tokens // base.processes, 1)
    shards = ("ddp", "fsdp") if base.shard == "ddp" else (base.shard,)
    for recompute in ("none", "full"):
        for shard in shards:
            for halvings in range(sequences.bit_length()):
                micro = sequences // 2**halvings
                if sequences % micro:
                    continue
                yield replace(
                    base,
                    shard=shard,
                    recompute=recompute,
                    micro_batch_sequences=0 if micro == sequences else micro,
                )


def search(problem: Problem) -> list[Candidate]:
    """For each shape its longest run within the limits, and shorter ones.

    Raises:
        PlanError: none keeps them; the text says which limit binds and what would make a run possible.
    """
    shapes: Sequence[Shape] = problem.shapes
    if not problem.left and problem.brief.goal.target_loss is None and len(shapes) > 1:
        tokens = most_tokens(problem, shapes[0])[0]
        usual = [shape for shape in shapes if count_params(shape).total <= tokens / _USUAL_RATIO]
        shapes = usual[-1:] or shapes[:1]
    ends = [(shape, *most_tokens(problem, shape)) for shape in shapes]
    longest = [evaluate(problem, *end) for end in ends]
    possible = [end for end, candidate in zip(ends, longest, strict=True) if candidate is not None]
    found = [*longest, *(evaluate(problem, *end) for end in _shorter(problem, possible))]
    kept = [candidate for candidate in found if candidate is not None]
    if not kept:
        raise _impossible(problem)
    # A length that the user fixed ends no run within the limits: sizes have to.
    within = [one for one in kept if one.binds != "tokens" or _is_within(problem, one)]
    return within or kept


def _shorter(problem: Problem, ends: Sequence[End]) -> Iterator[End]:
    """Shorter runs, of the sizes that do best in each share of the cost; and what just reaches the target."""
    free = [end for end in ends if end[2] != "tokens"]
    for at in _HALVINGS:
        share = [(shape, tokens / 2 ** (at / 2), binds) for shape, tokens, binds in free]
        yield from sorted(share, key=lambda end: predicted(problem, end[0], end[1]).value)[:_MOST_SIZES]
    target = problem.brief.goal.target_loss
    for shape, tokens, binds in free if target is not None else ():
        reached = _tokens_for_loss(problem, shape, float(target or 0), tokens)
        if reached:
            yield shape, reached, binds


def _is_within(problem: Problem, one: Candidate) -> bool:
    highest = _ends(problem, one.seconds)
    return all(highest[name] <= left * 1.0001 for name, left in problem.left.items())


def _tokens_for_loss(problem: Problem, shape: Shape, target: float, most: float) -> float | None:
    """Fewest tokens whose forecast is at or below the target; None when `most` are not enough."""
    if predicted(problem, shape, most).value > target:
        return None
    low, high = math.log(shape.context_tokens), math.log(most)
    for _ in range(30):
        middle = (low + high) / 2
        if predicted(problem, shape, math.exp(middle)).value > target:
            low = middle
        else:
            high = middle
    # Half a per cent more, so that rounding to whole steps does not end just short of the target.
    return min(math.exp(high) * 1.005 + 4 * problem.recipe_for(shape, math.exp(high)).batch_tokens, most)


def whole_batch(recipe: Recipe, shape: Shape, layout: Layout) -> Recipe:
    """The batch rounded up to the same number of sequences for each process."""
    unit = shape.context_tokens * layout.processes
    return replace(recipe, batch_tokens=math.ceil(recipe.batch_tokens / unit) * unit)


def _impossible(problem: Problem) -> PlanError:
    shape = problem.shapes[0]
    recipe = whole_batch(problem.recipe_for(shape, 1.0), shape, problem.site.layout)
    if fit_layout(problem, shape, recipe) is None:
        *_, leanest = layouts(problem.site.layout, shape, recipe)
        need = memory_need(shape, recipe, leanest, problem.site.memory_bytes).total
        what = "the model" if len(problem.shapes) == 1 else "the smallest model"
        return PlanError(
            f"{what} does not fit the memory of {problem.site.name}",
            got=f"{problem.site.memory_bytes / 2**30:.3g} GiB for each device",
            allowed=f"at least {need.high / 2**30:.3g} GiB ({need.how})",
            next_command="more devices, or a lower vocab_size, context_tokens or size in [override]",
        )
    tokens, binds = most_tokens(problem, shape)
    least = shortest_run(
        lambda amount: (
            whole_batch(problem.recipe_for(shape, amount), shape, problem.site.layout).batch_tokens
        ),
        MIN_STEPS,
    )
    got, allowed = f"{tokens:,.0f} tokens", f"{least:,} tokens ({MIN_STEPS} steps) at the least"
    if binds in problem.left:
        budget = problem.brief.budget
        spent = getattr(budget, binds) - problem.left[binds]
        got = f"{binds} = {getattr(budget, binds):g}, of which {spent:.3g} is spent"
        allowed = f"{_enough(problem, shape, least, tokens)} for the smallest model, of "
        allowed += f"{count_params(shape).total:,} parameters"
    return PlanError(
        f"no run of {MIN_STEPS} steps keeps the limits: {binds} binds first",
        got=got,
        allowed=allowed,
        next_command=f"raise {binds} in stepladder.toml"
        if binds in problem.left
        else "add text to [data] sources, or raise max_epochs or horizon in [override]",
    )


def _enough(problem: Problem, shape: Shape, least: float, tokens: float) -> str:
    """Every limit that `least` tokens break, with what would be enough of it, the one that binds first."""
    ends = _ends_per_token(problem, shape, problem.recipe_for(shape, max(tokens, 1.0)).batch_tokens)
    over = {name: least * ends[name] / max(left, 1e-12) for name, left in problem.left.items()}
    said = []
    for name in sorted((name for name in over if over[name] > 1), key=lambda name: -over[name]):
        spent = getattr(problem.brief.budget, name) - problem.left[name]
        said.append(f"{name} = {_round_up(least * ends[name] + spent)}")
    return " and ".join(said)


def _round_up(value: float) -> str:
    """Two significant digits, upwards."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / scale) * scale:.2g}"
