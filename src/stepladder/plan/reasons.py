"""A problem and the run chosen for it in; every number of the plan, with the reason for it, out."""

import math
from dataclasses import replace

from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.derive import exact, times
from stepladder.plan.prior import useful_tokens
from stepladder.plan.search import Candidate, Problem, seconds_per_token
from stepladder.plan.spot import on_the_calendar, training_share
from stepladder.records import Derived, Shape

# Where in the package the figures at the ends of a chain are written down.
_FILES = {
    "watts": "hardware.csv, row {device}",
    "flops_per_second": "hardware.csv, row {device}",
    "usd_per_device_hour": "prices.csv, row {device}",
    "kg_co2e_per_kwh": "grid.csv, row {region}",
    "goodput": "failures.csv",
}


def numbers_of(problem: Problem, best: Candidate, sizes: int, loss: Derived) -> dict[str, Derived]:
    """All numbers of the plan; `loss` is the law's forecast with its reason."""
    shape, recipe = best.shape, best.recipe
    flops = train_flops_per_token(shape)
    params, active = count_params(shape).total, count_params(shape).active
    passed = "multiplying parameter"
    passed += " that a token passes (`active_params`)" if shape.experts.count else ""
    each = seconds_per_token(problem, shape, recipe.batch_tokens, recompute=best.layout.recompute == "full")
    numbers = {
        "params": _params_number(problem, params, sizes),
        "tokens": _tokens_number(problem, best),
        "batch_tokens": _batch_number(problem, recipe.batch_tokens, shape.context_tokens),
        "learning_rate": _rate_number(problem, recipe.hidden_lr),
        "seconds": best.seconds,
        **best.costs,
        "loss": loss,
        "flops": exact(flops * best.tokens, "`flops_per_token` x `tokens`"),
        "flops_per_token": exact(flops, f"6 for each {passed}, and attention; counted from the shape"),
        "steps": exact(best.tokens // recipe.batch_tokens, "`tokens` / `batch_tokens`"),
        "tokens_per_param": exact(best.tokens / params, "`tokens` / `params`"),
        "seconds_per_token": each,
        "step_seconds": times("`seconds_per_token` x `batch_tokens`", each, scale=recipe.batch_tokens),
        "peak_bytes": best.memory.total,
    }
    if shape.experts.count:
        numbers["active_params"] = exact(active, f"`params` without {_idle_experts(shape)}")
    if not problem.throughput.points:
        numbers["flops_per_second"] = problem.site.flops_per_second
    if best.layout.device != "cpu":
        numbers["goodput"] = training_share(best.layout.nodes, problem.brief.override)
        numbers |= on_the_calendar(best.seconds, problem.brief.override)
    if math.isfinite(problem.unique_tokens):
        numbers["epochs"] = _epochs_number(problem, best.tokens)
    if "hours" in problem.left:
        how = f"[budget] hours = {problem.brief.budget.hours:g} without what the ladder used"
        numbers["seconds_left"] = exact(problem.left["hours"] * 3600, how, "user")
    numbers |= _use_numbers(problem, best)
    return {name: _placed(name, number, problem) for name, number in numbers.items()}


def _idle_experts(shape: Shape) -> str:
    experts = shape.experts
    each = 3 * shape.width * experts.ffn_width
    return (
        f"the {experts.count - experts.active} of {experts.count} experts in each of {shape.num_layers} "
        f"layers that a token is not sent to, {each:,} parameters each"
    )


def _use_numbers(problem: Problem, best: Candidate) -> dict[str, Derived]:
    """Money and energy with the model's use: a token read or written costs two of training's six FLOPs."""
    use = problem.brief.goal.inference_tokens
    if not use:
        return {}
    how = f"x (1 + {use:.3g} tokens of use / 3 / `tokens`), at the speed and price of training"
    factor = 1 + use / 3 / best.tokens
    return {
        f"{name}_with_use": times(f"`{name}` {how}", best.costs[name], scale=factor)
        for name in ("usd", "kwh", "kg_co2e")
    }


def _placed(name: str, number: Derived, problem: Problem) -> Derived:
    """The number with the file and row of the catalogue that its figure is from."""
    if number.source != "catalogue" or "plan/data/" in number.how or name not in _FILES:
        return number
    hardware = problem.brief.hardware
    device = hardware.device if hardware.device != "this" else "of this device"
    place = _FILES[name].format(device=device, region=hardware.region)
    return replace(number, how=f"{number.how} (plan/data/{place})")


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
