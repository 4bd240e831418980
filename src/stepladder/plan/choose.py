"""A brief, a loss law, measured runs and a machine in; the plan to run and its alternatives out.

The law is any callable (parameters, tokens) -> Interval, so that this file does not know its form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.costs import cost_numbers
from stepladder.plan.derive import exact, probability_above, within
from stepladder.plan.machine import Machine
from stepladder.plan.prior import USUAL_EPOCHS, LossLaw, useful_tokens
from stepladder.plan.rates import RecipeRule
from stepladder.plan.reliability import goodput
from stepladder.plan.search import (
    LIMITS,
    Candidate,
    Problem,
    candidate_shapes,
    search,
    seconds_per_token,
)
from stepladder.plan.site import Site, site_for
from stepladder.plan.throughput import Throughput, assumed_throughput, fit_throughput
from stepladder.records import Brief, Corpus, Derived, Layout, Observation, Plan, Shape

# Without corpus and override: what the measured small ladders used (docs/log.md), and what is usual on GPUs.
_CPU_CONTEXT, _GPU_CONTEXT, _CPU_VOCABULARY, _GPU_VOCABULARY = 128, 2_048, 4_096, 32_768


@dataclass(frozen=True, kw_only=True, slots=True)
class ChooseOptions:
    """What surrounds the choice.

    `corpus_folder` goes into the plan. `like` fixes depth, heads and context (the ladder's). `layout` and
    `speedup` replace the rule for where the target runs and how much faster that is than the rungs were.
    `spent_seconds` is wall time that the ladder used; negative: added up from the observations.
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

    Without observations, speed is that of the catalogue and intervals are wide; without a corpus any
    amount of new text is taken for granted.

    Raises:
        PlanError: nothing keeps the limits, or an id is unknown.
    """
    problem = pose(brief, predict_loss, observations, machine, corpus, rates, options)
    found = search(problem)
    best = _best(problem, found)
    return Plan(
        name=options.name,
        corpus=options.corpus_folder,
        shape=best.shape,
        recipe=best.recipe,
        layout=best.layout,
        seed=int(brief.override.get("seed", 0)),
        numbers=_numbers(problem, best, len(problem.shapes), options),
        alternatives=_alternatives(problem, found, best),
        limits=_risks(problem, best),
        objective=brief.objective,
        corpus_fingerprint=corpus.fingerprint if corpus else "",
    )


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
    site = site_for(brief, machine, rows)
    if options.layout is not None:
        site = replace(site, layout=options.layout)
    over, like = brief.override, options.like
    is_cpu = site.layout.device == "cpu"
    context = int(
        over.get("context_tokens")
        or (like.context_tokens if like else _CPU_CONTEXT if is_cpu else _GPU_CONTEXT)
    )
    vocabulary = int(
        (corpus.vocab_size if corpus else over.get("vocab_size"))
        or (like.vocab_size if like else _CPU_VOCABULARY if is_cpu else _GPU_VOCABULARY)
    )
    return Problem(
        brief=brief,
        site=site,
        throughput=_throughput(rows, site, machine, options.speedup),
        predict_loss=predict_loss,
        recipe_for=rates,
        size_column=options.size_column,
        unique_tokens=float(corpus.tokens) if corpus else math.inf,
        max_epochs=float(over.get("max_epochs", USUAL_EPOCHS)),
        largest_flops=max((row.flops for row in rows if math.isfinite(row.flops)), default=0.0),
        left=_left(brief, site, _spent(rows, machine, site, options)),
        shapes=candidate_shapes(
            over,
            vocab_size=vocabulary,
            context_tokens=context,
            like=like,
            causal=brief.objective == "causal",
            max_params=float(brief.goal.max_params or math.inf),
        ),
    )


def _throughput(
    rows: Sequence[Observation], site: Site, machine: Machine, speedup: Derived | None
) -> Throughput:
    if not any(row.seconds > 0 and row.flops > 0 for row in rows):
        return assumed_throughput(site.flops_per_second)
    return fit_throughput(rows, speedup or _layout_speedup(rows, site, machine))


def _layout_speedup(rows: Sequence[Observation], site: Site, machine: Machine) -> Derived:
    """What more threads and processes than the runs had are worth, where nobody measured it."""
    had = max(_note(rows, "threads") * _note(rows, "processes"), 1.0)
    ratio = site.layout.threads * site.layout.processes / had
    if ratio <= 1 or site.layout.device != "cpu":
        return exact(1.0, "the target runs in the layout that was measured", "measured")
    value = ratio**0.6
    how = f"{ratio:g}x the threads that the runs had, taken as {ratio:g}^0.6; a run of one minute would tell"
    return within(value, ratio**0.3, how, "prior")


def _note(rows: Sequence[Observation], name: str) -> float:
    values = sorted(float(row.notes[name]) for row in rows if _is_number(row.notes.get(name)))
    return values[len(values) // 2] if values else 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _spent(rows: Sequence[Observation], machine: Machine, site: Site, options: ChooseOptions) -> float:
    if options.spent_seconds >= 0:
        return options.spent_seconds
    side_by_side = machine.cores if site.layout.device == "cpu" else 1
    return sum(row.seconds for row in rows if row.seconds > 0) / side_by_side


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
        return min(found, key=lambda one: one.loss.value)
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
        return min(reaching, key=lambda one: one.loss.value)
    return min(reaching, key=lambda one: _cost(problem, one, goal.minimise))


def _cost(problem: Problem, one: Candidate, name: str) -> float:
    """What is to be small, with the use of the model afterwards: two of its six FLOPs a parameter."""
    amount = one.seconds.value if name == "seconds" else one.costs[name].value
    return amount * (1 + problem.brief.goal.inference_tokens / 3 / one.tokens)


def _numbers(problem: Problem, best: Candidate, sizes: int, options: ChooseOptions) -> dict[str, Derived]:
    shape, recipe = best.shape, best.recipe
    flops = train_flops_per_token(shape)
    params = count_params(shape).total
    is_prior = options.loss_source == "prior"
    each = seconds_per_token(problem, shape, recipe.batch_tokens, recompute=best.layout.recompute == "full")
    numbers = {
        "params": _params_number(problem, params, sizes),
        "tokens": _tokens_number(problem, best),
        "batch_tokens": _batch_number(problem, recipe.batch_tokens, shape.context_tokens),
        "learning_rate": _rate_number(problem, recipe.hidden_lr),
        "seconds": best.seconds,
        **best.costs,
        "loss": Derived(
            value=best.loss.value,
            low=best.loss.low80,
            high=best.loss.high80,
            how=("what is known before measuring" if is_prior else "the fitted law")
            + f" at `params` and `tokens`, in {options.loss_unit}",
            source="prior" if is_prior else "law",
        ),
        "flops": exact(flops * best.tokens, "`flops_per_token` x `tokens`"),
        "flops_per_token": exact(
            flops, "6 for each multiplying parameter, and attention; counted from the shape"
        ),
        "steps": exact(best.tokens // recipe.batch_tokens, "`tokens` / `batch_tokens`"),
        "tokens_per_param": exact(best.tokens / params, "`tokens` / `params`"),
        "seconds_per_token": each,
        "peak_bytes": best.memory.total,
    }
    if not problem.throughput.points:
        numbers["flops_per_second"] = problem.site.flops_per_second
    if best.layout.device != "cpu":
        numbers["goodput"] = goodput(best.layout.nodes)
    if math.isfinite(problem.unique_tokens):
        numbers["epochs"] = _epochs_number(problem, best.tokens)
    if "hours" in problem.left:
        how = f"[budget] hours = {problem.brief.budget.hours:g} without what the ladder used"
        numbers["seconds_left"] = exact(problem.left["hours"] * 3600, how, "user")
    return numbers


def _params_number(problem: Problem, params: int, sizes: int) -> Derived:
    over, goal = problem.brief.override, problem.brief.goal
    for key in ("params", "width"):
        if key in over:
            return exact(params, f"[override] {key} = {over[key]:,}, counted from the shape", "user")
    aim = "the least `loss`"
    if goal.target_loss is not None and goal.minimise != "loss":
        aim = f"the least {goal.minimise} that reaches a loss of {goal.target_loss:g}"
        aim += f", {goal.inference_tokens:.2g} tokens of use included" if goal.inference_tokens else ""
    return exact(params, f"of {sizes} sizes the one with {aim} within the limits, embeddings included", "law")


def _tokens_number(problem: Problem, best: Candidate) -> Derived:
    if best.binds == "tokens":
        return exact(best.tokens, "[override] tokens, in whole steps", "user")
    reasons = {
        "hours": "`seconds_left` / `seconds_per_token`, in whole steps, kept with a probability of 90 %",
        "text": f"{problem.max_epochs:g} passes over {problem.unique_tokens:,.0f} tokens of text",
        "horizon": f"{problem.brief.override.get('horizon', 0):g}x the compute of the largest rung",
        "none": "what the target loss takes",
    }
    how = reasons.get(best.binds, f"what is left of [budget] {best.binds}, kept with a probability of 90 %")
    if problem.brief.goal.target_loss is not None:
        how = f"enough for the target loss; at most {how}"
    return exact(best.tokens, how, "law" if best.binds == "none" else "rule")


def _batch_number(problem: Problem, batch: int, context: int) -> Derived:
    given = problem.brief.override.get("batch_tokens")
    if given is not None:
        how = "[override] batch_tokens"
        if batch != given:
            how += f" = {given:,}, rounded up to whole sequences for each process"
        return exact(batch, how, "user")
    return exact(batch, f"rule of plan/rates.py for `tokens`, in sequences of {context}")


def _rate_number(problem: Problem, rate: float) -> Derived:
    if "learning_rate" in problem.brief.override:
        return exact(rate, "[override] learning_rate", "user")
    return exact(rate, "hidden matrices: rule of plan/rates.py for width, `steps` and `batch_tokens`")


def _epochs_number(problem: Problem, tokens: int) -> Derived:
    epochs = tokens / problem.unique_tokens
    how = f"`tokens` / {problem.unique_tokens:,.0f} tokens of text"
    if epochs > 1:
        worth = useful_tokens(tokens, problem.unique_tokens) / tokens
        how += f"; repeats make them worth {worth:.1%} of as many new ones (arXiv:2305.16264)"
    return exact(epochs, how)


def _risks(problem: Problem, best: Candidate) -> dict[str, float]:
    costs = {"hours": best.seconds, **best.costs}
    risks = {
        name: probability_above(costs[name], left * (3600 if name == "hours" else 1))
        for name, left in problem.left.items()
    }
    risks["memory"] = best.memory.probability_too_much
    target = problem.brief.goal.target_loss
    if target is not None:
        loss = Derived(value=best.loss.value, low=best.loss.low80, high=best.loss.high80, how="")
        risks["target_loss"] = probability_above(loss, target)
    return {name: round(risk, 4) for name, risk in risks.items()}


def _alternatives(
    problem: Problem, found: Sequence[Candidate], best: Candidate
) -> tuple[Mapping[str, Any], ...]:
    """The least loss at shares of the cost (loss against seconds; usd, kWh and CO2 follow seconds at one
    site), and two named choices."""
    chosen = []
    for share, reason in (
        (0.5, "half the time"),
        (0.25, "a quarter of the time"),
        (0.125, "an eighth of the time"),
    ):
        paid = [one for one in found if one.seconds.value <= 1.01 * share * best.seconds.value]
        if paid:
            chosen.append((min(paid, key=lambda one: one.loss.value), f"least loss in {reason}"))
    least = min(one.loss.value for one in found)
    near = [one for one in found if one.loss.value <= least + 0.01]
    chosen.append((min(near, key=lambda one: one.seconds.value), "cheapest within 0.01 of the least loss"))
    flops = 1.3 * best.tokens * train_flops_per_token(best.shape)
    small = [
        one
        for one in found
        if one.tokens * train_flops_per_token(one.shape) <= flops and one.loss.value <= best.loss.value * 1.01
    ]
    if small:
        smallest = min(small, key=lambda one: count_params(one.shape).total)
        chosen.append((smallest, "smallest within 1.3x the compute and 1 % of the loss"))
    rows: dict[int, dict[str, Any]] = {}
    for one, reason in chosen:
        if one is best:
            continue
        row = rows.setdefault(id(one), {"why": reason, **_row(one)})
        if row["why"] != reason:
            row["why"] += "; " + reason
    return tuple(sorted(rows.values(), key=lambda row: row["seconds"]))


def _row(one: Candidate) -> dict[str, float]:
    return {
        "params": count_params(one.shape).total,
        "width": one.shape.width,
        "tokens": one.tokens,
        "loss": one.loss.value,
        "loss_low80": one.loss.low80,
        "loss_high80": one.loss.high80,
        "seconds": one.seconds.value,
        "usd": one.costs["usd"].value,
        "kwh": one.costs["kwh"].value,
        "kg_co2e": one.costs["kg_co2e"].value,
    }
