"""A problem or a chosen run in; the same with the speed or the layout that the search gives out."""

from collections.abc import Mapping
from dataclasses import replace

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.cpusteps import fastest, fit_prices, speedup
from stepladder.plan.derive import times, within
from stepladder.plan.hardware import Device
from stepladder.plan.layoutsearch import ALIKE, LayoutChoice, Place, describe, rank_layouts
from stepladder.plan.measured import MeasuredStep
from stepladder.plan.near import measured_need
from stepladder.plan.rates import MIN_STEPS, shortest_run
from stepladder.plan.search import RECOMPUTE, Candidate, Problem, search, whole_batch
from stepladder.plan.site import usual_speed
from stepladder.plan.throughput import assumed_throughput
from stepladder.records import Derived, Layout, Recipe, Shape

Steps = tuple[MeasuredStep, ...]
_MOST_GUESSES = 4


def place_of(problem: Problem, device: Device | None, measured: Steps = ()) -> Place | None:
    """Where GPUs train; None for a CPU, whose speed comes from its own runs, and for other devices."""
    layout = problem.site.layout
    if device is None or device.kind != "gpu" or layout.device != "cuda":
        return None
    device = replace(device, mem_bytes=problem.site.memory_bytes)
    given = problem.brief.override.get("precision")
    known = (layout.precision,) if given else ("bf16", "fp32")
    return Place(base=layout, device=device, precisions=known, measured=measured)


def with_layout_speed(problem: Problem, device: Device | None, measured: Steps = ()) -> Problem:
    """Where no whole run was measured, the speed of the best layout of the best size instead of a usual share
    of the peak; what the user gave stays."""
    place = place_of(problem, device, measured)
    is_known = problem.throughput.points or problem.site.flops_per_second.source == "user"
    if is_known or device is None or problem.site.layout.device == "cpu":
        return problem
    seen = set()
    for _ in range(_MOST_GUESSES):
        # The best size hangs on the speed, and the speed on the size: until it is the one that was costed.
        shape, recipe = _first_guess(problem)
        if (shape, recipe) in seen:
            break
        seen.add((shape, recipe))
        number = _speed_of(problem, shape, recipe, place, device)
        problem = replace(
            problem,
            site=replace(problem.site, flops_per_second=number),
            throughput=assumed_throughput(number),
        )
    return problem


def _speed_of(problem: Problem, shape: Shape, recipe: Recipe, place: Place | None, device: Device) -> Derived:
    """FLOP/s of the site: of the best layout, or a published share of the peak where none can be costed."""
    count = count_params(shape)
    usual = usual_speed(device, problem.site.peak_flops, count.active, count.total)
    if place is None:
        return usual
    try:
        best = rank_layouts(shape, recipe, place).top[0]
    except PlanError:
        return usual
    flops = train_flops_per_token(shape) * recipe.batch_tokens
    again = RECOMPUTE if best.layout.recompute == "full" else 1.0
    how = f"{describe(best.layout)}: {best.step.how}"
    return within(again * flops / best.step.value, best.step.high / best.step.value, how, best.step.source)


def with_cpu_layout(problem: Problem, had: Layout, cores: int, measured: Steps = ()) -> Problem:
    """The fastest processes x threads of this CPU, unless the user said which, and what they are worth.

    `had` is the layout that speed is known of.
    """
    prices = fit_prices([step for step in measured if step.hw == "cpu"])
    run, site = _first_guess(problem), problem.site
    best = site.layout
    if not {"processes", "threads"} & problem.brief.override.keys():
        best = fastest(run, best, cores, site.memory_bytes, prices)
    speed = replace(problem.throughput, speedup=speedup(run, had, best, prices))
    return replace(problem, site=replace(site, layout=best), throughput=speed)


def _first_guess(problem: Problem) -> tuple[Shape, Recipe]:
    """The best run at the usual share of the peak; the smallest model's shortest where limits allow none."""
    try:
        first = min(search(problem), key=lambda one: one.loss.value)
        return first.shape, first.recipe
    except PlanError:
        shape, layout = problem.shapes[0], problem.site.layout

        def recipe(tokens: float) -> Recipe:
            return whole_batch(problem.recipe_for(shape, tokens), shape, layout)

        return shape, recipe(shortest_run(lambda tokens: recipe(tokens).batch_tokens, MIN_STEPS))


def with_best_layout(
    problem: Problem, best: Candidate, device: Device | None, measured: Steps = ()
) -> tuple[Candidate, LayoutChoice | None]:
    """The run in the fastest layout that fits, and the choice; a layout whose speed was measured stays."""
    place = place_of(problem, device, measured)
    if place is None or problem.throughput.points:
        here = [step for step in measured if step.hw == ("cpu" if best.layout.device == "cpu" else "")]
        need = measured_need(here, (best.shape, best.recipe), best.layout, problem.site.memory_bytes)
        return replace(best, memory=need), None
    try:
        choice = rank_layouts(best.shape, best.recipe, place)
    except PlanError:
        return best, None
    top = choice.top[0]
    ways = [one.recompute == "full" for one in (best.layout, top.layout)]
    scale = RECOMPUTE ** (ways[1] - ways[0])
    seconds = times(best.seconds.how, best.seconds, scale=scale) if scale != 1 else best.seconds
    return replace(best, layout=top.layout, memory=top.memory, seconds=seconds), choice


def layout_numbers(choice: LayoutChoice | None) -> Mapping[str, Derived]:
    """`step_seconds`, whose reason names the layout, the runners-up and what would tell them apart."""
    if choice is None:
        return {}
    top = choice.top[0]
    how = f"{'; '.join(layout_lines(choice))}; {top.step.how}"
    return {"step_seconds": replace(top.step, how=how)}


def layout_lines(choice: LayoutChoice) -> list[str]:
    """For people: the first three, how the simple rule does, and the next measurement."""
    lines = [
        f"{place}. {describe(one.layout)}: {one.step.value:.3g} s ({one.step.low:.3g} to "
        f"{one.step.high:.3g}), {one.binds.replace('_', ' ')} binds, {one.head_room_gib:.1f} GiB free"
        + (f", loses {one.loses}" if one.loses else "")
        for place, one in enumerate(choice.top, start=1)
    ]
    lines[0] += f" (the simplest within {ALIKE - 1:.0%} of the fastest; {choice.fitting:,} layouts fit, "
    lines[0] += f"of {choice.legal:,})"
    return [*lines, choice.rule, *([choice.next_measurement] if choice.next_measurement else [])]
