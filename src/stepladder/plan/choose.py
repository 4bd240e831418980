"""A brief, a loss law, measured runs and a machine in; the plan to run and its alternatives out.

The law is any callable (parameters, tokens) -> Interval, so that this file does not know its form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stepladder.errors import PlanError
from stepladder.models.count import count_params
from stepladder.plan.around import numbers_around
from stepladder.plan.conflicts import reject_conflicts
from stepladder.plan.costs import cost_numbers
from stepladder.plan.derive import Z80, exact, within
from stepladder.plan.front import alternatives
from stepladder.plan.machine import Machine
from stepladder.plan.measured import MEASURED_FILE, MeasuredStep, observation_of
from stepladder.plan.moredata import data_numbers
from stepladder.plan.overlay import NONE, Overlay
from stepladder.plan.prior import USUAL_EPOCHS, LossLaw
from stepladder.plan.rates import RecipeRule
from stepladder.plan.reasons import numbers_of
from stepladder.plan.risk import broken
from stepladder.plan.search import LIKE_DENSE, LIMITS, Candidate, Problem, candidate_shapes, search
from stepladder.plan.settle import layout_numbers, with_best_layout, with_cpu_layout, with_layout_speed
from stepladder.plan.site import Site, device_at, site_for
from stepladder.plan.spot import priced
from stepladder.plan.throughput import Throughput, assumed_throughput, fit_throughput
from stepladder.records import Brief, Corpus, Derived, Layout, Observation, Plan, Shape

# Without corpus and override: what the measured small ladders used (docs/log.md), and what is usual on GPUs.
_CPU_CONTEXT, _GPU_CONTEXT, _CPU_VOCABULARY, _GPU_VOCABULARY = 128, 2_048, 4_096, 32_768
# Speed of a device changes by 6 % (1 sigma) with the root of the doublings of their number, and by 30 % from
# one device to another at the same share of the peak: published steps, bench/plan_transfer.py.
_DOUBLING_SD, _DEVICE_SD = 0.06, 0.30
# Bytes that a token spells where no corpus says: English with the vocabularies of large models.
_USUAL_BYTES = 4.4


@dataclass(frozen=True, kw_only=True, slots=True)
class ChooseOptions:
    """What surrounds the choice.

    `corpus_folder` goes into the plan. `like` fixes depth, heads and context (the ladder's). `layout` and
    `speedup` replace the rule for where the target runs and how much faster that is than the rungs were.
    `spent_seconds` is wall time that the ladder used; negative: added up from the observations. `shape`
    fixes the model; `loss_from` says where the law came from. `overlay` wins over the catalogue.
    """

    corpus_folder: str = "corpus"
    name: str = "target"
    loss_unit: str = "bits per byte"
    loss_source: Literal["law", "prior"] = "law"
    size_column: str = "params"
    like: Shape | None = None
    layout: Layout | None = None
    speedup: Derived | None = None
    spent_seconds: float = -1.0
    shape: Shape | None = None
    loss_from: str = ""
    overlay: Overlay = NONE


def choose_plan(
    brief: Brief,
    predict_loss: LossLaw,
    observations: Sequence[Observation],
    machine: Machine,
    corpus: Corpus | None,
    rates: RecipeRule,
    options: ChooseOptions,
) -> Plan:
    """The plan with the least loss within the limits, or the cheapest one that reaches `target_loss`.

    With `[override] regions`, the best of them too. Without observations, speed is that of the catalogue and
    intervals are wide; without a corpus any amount of new text is taken for granted.

    Raises:
        PlanError: nothing keeps the limits, an id is unknown, or keys of the brief contradict each other.
    """
    reject_conflicts(brief, options.overlay)
    device = device_at(brief, machine, options.overlay)
    steps = options.overlay.steps
    problems = [
        _with_speed(
            pose(one, predict_loss, observations, machine, corpus, rates, options),
            _timed(observations),
            machine,
            options,
        )
        for one in in_each_region(brief)
    ]
    found = _search_all(problems)
    best = _best(problems[0], found)
    problem = next(one for one in problems if one.brief.hardware.region == best.region)
    settled, choice = with_best_layout(problem, best, device, steps)
    loss = _loss_number(settled, options)
    numbers = numbers_of(problem, settled, len(problem.shapes), loss) | data_numbers(problem, settled)
    numbers |= layout_numbers(choice)
    numbers |= numbers_around(problem, settled, numbers, device)
    return Plan(
        name=options.name,
        corpus=options.corpus_folder,
        shape=best.shape,
        recipe=best.recipe,
        layout=settled.layout,
        seed=int(brief.override.get("seed", 0)),
        numbers=numbers,
        alternatives=alternatives(found, best, problem.near),
        limits=_risks(problem, settled, numbers),
        objective=brief.objective,
        corpus_fingerprint=corpus.fingerprint if corpus else "",
    )


def in_each_region(brief: Brief) -> list[Brief]:
    """The brief for each of `[override] regions`, or as it is."""
    names = [name.strip() for name in str(brief.override.get("regions", "")).split(",") if name.strip()]
    places = names or [brief.hardware.region]
    return [replace(brief, hardware=replace(brief.hardware, region=place)) for place in dict.fromkeys(places)]


def _search_all(problems: Sequence[Problem]) -> list[Candidate]:
    """What can be done in any region; the first region's error where nothing can be done in any."""
    found: list[Candidate] = []
    errors = []
    for problem in problems:
        try:
            found += search(problem)
        except PlanError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def pose(
    brief: Brief,
    predict_loss: LossLaw,
    observations: Sequence[Observation],
    machine: Machine,
    corpus: Corpus | None,
    rates: RecipeRule,
    options: ChooseOptions,
) -> Problem:
    """The problem that `choose_plan` solves."""
    rows = [row for row in observations if not row.notes.get("excluded")]
    site = site_for(brief, machine, rows, overlay=options.overlay)
    over, like = brief.override, options.like
    if options.layout is not None:
        site = replace(site, layout=options.layout)
    site = priced(site, over)
    if "memory_gib" in over:
        site = replace(site, memory_bytes=min(site.memory_bytes, float(over["memory_gib"]) * 2**30))
    is_cpu = site.layout.device == "cpu"
    context = int(
        over.get("context_tokens")
        or (like.context_tokens if like else _CPU_CONTEXT if is_cpu else _GPU_CONTEXT)
    )
    vocabulary = vocabulary_of(brief, corpus, options, is_cpu=is_cpu)
    return Problem(
        brief=brief,
        site=site,
        throughput=_throughput(rows, site, options),
        predict_loss=predict_loss,
        recipe_for=rates,
        size_column=options.size_column,
        unique_tokens=float(over.get("unique_tokens", corpus.tokens if corpus else math.inf)),
        max_epochs=float(over.get("max_epochs", USUAL_EPOCHS)),
        largest_flops=max((row.flops for row in rows if math.isfinite(row.flops)), default=0.0),
        left=_left(brief, site, _spent(rows, machine, site, options)),
        near=_near(corpus, options.loss_unit),
        shapes=(options.shape,)
        if options.shape
        else candidate_shapes(
            over,
            vocab_size=vocabulary,
            context_tokens=context,
            like=like,
            causal=brief.objective == "causal",
            max_params=float(brief.goal.max_params or math.inf),
        ),
    )


def vocabulary_of(brief: Brief, corpus: Corpus | None, options: ChooseOptions, *, is_cpu: bool) -> int:
    """Entries: the corpus's, the brief's, the ladder's, or what is usual on such a device."""
    like = options.shape or options.like
    given = corpus.vocab_size if corpus else brief.override.get("vocab_size")
    if given and brief.objective == "masked":
        return int(given) + 1  # the mask, which is no token of a text
    return int(given or (like.vocab_size if like else _CPU_VOCABULARY if is_cpu else _GPU_VOCABULARY))


def _throughput(rows: Sequence[Observation], site: Site, options: ChooseOptions) -> Throughput:
    timed = _timed(rows)
    elsewhere = [row for row in timed if _is_number(row.notes.get("peak_flops"))]
    if site.layout.device != "cpu" and site.peak_flops > 0:
        # Seconds of a CPU say nothing of a GPU.
        if not elsewhere:
            return assumed_throughput(site.flops_per_second)
        moved = [_at_site(row, site) for row in elsewhere]
        return replace(fit_throughput(moved, _transfer(elsewhere, site)), has_recompute=True)
    timed = [row for row in timed if row not in elsewhere]
    alike = _measured_alike(options.overlay.steps, rows, site)
    if not timed:
        if not alike:
            return assumed_throughput(site.flops_per_second)
        names = ", ".join(one.run for one in alike)
        return replace(fit_throughput(alike), source=f"steps of {MEASURED_FILE} ({names})")
    speedup = options.speedup or (_measured_speedup(timed, alike) if alike else None)
    return fit_throughput(timed, speedup)


def _timed(rows: Sequence[Observation]) -> list[Observation]:
    return [row for row in rows if row.seconds > 0 and row.flops > 0 and not row.notes.get("excluded")]


def _with_speed(
    problem: Problem, timed: Sequence[Observation], machine: Machine, options: ChooseOptions
) -> Problem:
    """The problem with the layout's speed: of the best one of GPUs, or of this CPU's against the runs'."""
    steps, site = options.overlay.steps, problem.site
    problem = with_layout_speed(problem, device_at(problem.brief, machine, options.overlay), steps)
    is_known = options.layout or options.speedup or _measured_alike(steps, timed, site)
    if site.layout.device != "cpu" or problem.brief.hardware.device != "this" or is_known:
        return problem
    here = [row for row in timed if not _is_number(row.notes.get("peak_flops"))]
    had = site.layout
    if here:
        count = int(_note(here, "processes"))
        had = replace(
            had,
            processes=count,
            threads=int(_note(here, "threads")),
            shard="ddp" if count > 1 else "none",
        )
    return with_cpu_layout(problem, had, machine.cores, steps)


def _note(rows: Sequence[Observation], name: str) -> float:
    values = sorted(float(row.notes[name]) for row in rows if _is_number(row.notes.get(name)))
    return values[len(values) // 2] if values else 1.0


def _measured_alike(
    steps: Sequence[MeasuredStep], rows: Sequence[Observation], site: Site
) -> list[Observation]:
    """Steps timed on this CPU in the layout of the site, as runs; rungs, which ran side by side, are not."""
    names, wanted = {row.run for row in rows}, site.layout
    return [
        observation_of(step)
        for step in steps
        if step.hw == "cpu"
        and (step.layout.processes, step.layout.threads) == (wanted.processes, wanted.threads)
        and step.layout.precision == wanted.precision
        and step.name not in names
    ]


def _measured_speedup(rows: Sequence[Observation], alike: Sequence[Observation]) -> Derived:
    """How much faster than the runs the same work was in the layout of the target."""
    runs = fit_throughput(rows)
    logs = []
    for one in alike:
        forecast = runs.seconds_per_token(one.flops / one.tokens, one.tokens)
        logs.append(math.log(forecast.value * one.tokens / one.seconds))
    sd = max(math.sqrt(sum((log - sum(logs) / len(logs)) ** 2 for log in logs) / len(logs)), 0.03)
    names = ", ".join(one.run for one in alike)
    how = f"the layout of the target against that of the runs, as {names} of {MEASURED_FILE} show"
    return within(math.exp(sum(logs) / len(logs)), math.exp(Z80 * sd), how, "measured")


def _at_site(row: Observation, site: Site) -> Observation:
    """The run as if it had been done at the site at the same share of the peak."""
    return replace(row, seconds=row.seconds * float(row.notes["peak_flops"]) / site.peak_flops)


def _transfer(rows: Sequence[Observation], site: Site) -> Derived:
    """What is not known of a share of the peak where it was not measured."""
    away = []
    for row in rows:
        doublings = abs(math.log2(float(row.notes["processes"]) / site.devices))
        each = float(row.notes["peak_flops"]) / float(row.notes["processes"])
        is_same = math.isclose(each * site.devices, site.peak_flops, rel_tol=0.01)
        away.append(math.hypot(_DOUBLING_SD * math.sqrt(doublings), 0.0 if is_same else _DEVICE_SD))
    sd, count = min(away), len(rows)
    runs = "the runs" if count > 1 else "the run"
    if sd == 0:
        return exact(1.0, f"{runs} had the devices of this plan", "measured")
    how = f"{runs} had other devices: taken at the same share of the peak"
    return within(1.0, math.exp(Z80 * sd), how, "measured")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _spent(rows: Sequence[Observation], machine: Machine, site: Site, options: ChooseOptions) -> float:
    if options.spent_seconds >= 0:
        return options.spent_seconds
    side_by_side = machine.cores if site.layout.device == "cpu" else 1
    return sum(row.seconds for row in rows if row.seconds > 0 and "past" not in row.notes) / side_by_side


def _left(brief: Brief, site: Site, spent_seconds: float) -> dict[str, float]:
    spent = cost_numbers(exact(spent_seconds, "spent", "measured"), site)
    used = {"hours": spent_seconds / 3600, **{name: spent[name].value for name in LIMITS[1:]}}
    given = {name: getattr(brief.budget, name) for name in LIMITS}
    left = {name: limit - used[name] for name, limit in given.items() if limit is not None}
    for name, amount in left.items():
        if amount <= 0:
            raise PlanError(
                f"nothing is left of [budget] {name}",
                got=f"{used[name]:.3g} spent on the ladder",
                allowed=f"a limit above that (now {given[name]:g})",
                next_command=f"raise {name}, or lower ladder_share, in stepladder.toml",
            )
    return left


def _best(problem: Problem, found: Sequence[Candidate]) -> Candidate:
    goal = problem.brief.goal
    if goal.target_loss is None:
        return min(found, key=_by_loss)
    reaching = [one for one in found if one.loss.value <= goal.target_loss]
    if not reaching:
        best = min(found, key=lambda one: one.loss.value)
        raise PlanError(
            "no run within the limits is forecast to reach [goal] target_loss",
            got=f"{best.loss.value:.4g} with {count_params(best.shape).total:,} parameters and "
            f"{best.tokens:,} tokens ({best.binds} binds)",
            allowed=f"target_loss = {best.loss.value * 1.001:.4g} or more, or wider limits",
            next_command="edit stepladder.toml",
        )
    if goal.minimise == "loss":
        return min(reaching, key=_by_loss)
    return min(reaching, key=lambda one: (_cost(problem, one, goal.minimise), *_by_loss(one)))


def _by_loss(one: Candidate) -> tuple[float, float, float]:
    """Of equal losses, as of one run in several regions, the one with less carbon and money."""
    return one.loss.value, one.costs["kg_co2e"].value, one.costs["usd"].value


def _cost(problem: Problem, one: Candidate, name: str) -> float:
    """What is to be small, with the use of the model afterwards: two of its six FLOPs a parameter."""
    amount = one.seconds.value if name == "seconds" else one.costs[name].value
    return amount * (1 + problem.brief.goal.inference_tokens / 3 / one.tokens)


def _loss_number(best: Candidate, options: ChooseOptions) -> Derived:
    is_prior = options.loss_source == "prior"
    at = "`params`"
    if best.shape.experts.count and options.size_column == LIKE_DENSE:
        at = "the root of `params` x `active_params` (a rule of thumb for mixtures)"
    law = options.loss_from or ("what is known before measuring" if is_prior else "the fitted law")
    return Derived(
        value=best.loss.value,
        low=best.loss.low80,
        high=best.loss.high80,
        how=f"{law} at {at} and `tokens`, in {options.loss_unit}",
        source="prior" if is_prior else "law",
    )


def _near(corpus: Corpus | None, loss_unit: str) -> float:
    """A hundredth of a nat per token in the unit of the law."""
    if loss_unit != "bits per byte":
        return 0.01
    bytes_each = corpus.train.num_bytes / corpus.tokens if corpus and corpus.tokens else _USUAL_BYTES
    return 0.01 / math.log(2) / bytes_each


def _risks(problem: Problem, best: Candidate, numbers: Mapping[str, Derived]) -> dict[str, float]:
    """Probability of breaking each limit of the brief, and the memory."""
    time = "calendar_seconds" if "calendar_seconds" in numbers else "seconds"
    limits = {
        (time if name == "hours" else name): left * (3600 if name == "hours" else 1)
        for name, left in problem.left.items()
    }
    limits["peak_bytes"] = best.memory.available / best.memory.processes_sharing
    if problem.brief.goal.target_loss is not None:
        limits["loss"] = problem.brief.goal.target_loss
    words = {time: "hours", "peak_bytes": "memory", "loss": "target_loss"}
    return {words.get(name, name): round(risk, 4) for name, risk in broken(numbers, limits).items()}
