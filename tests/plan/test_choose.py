"""The choice: least loss within the limits, or the cheapest run that reaches a loss."""

import json
import math
from dataclasses import replace

import pytest

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import narrower, shape_for_width
from stepladder.plan.choose import ChooseOptions, choose_plan
from stepladder.plan.machine import Machine
from stepladder.plan.prior import prior_loss_for, useful_tokens
from stepladder.plan.rates import recipe_rule
from stepladder.records import (
    Brief,
    BudgetBrief,
    Corpus,
    DataBrief,
    GoalBrief,
    HardwareBrief,
    Interval,
    Observation,
    Plan,
    Split,
    from_json,
    to_json,
)

LIKE = shape_for_width(96, 3, vocab_size=2048, context_tokens=128, num_heads=2)
OPTIONS = ChooseOptions(like=LIKE, spent_seconds=0)
UNMEASURED = ChooseOptions(loss_source="prior", loss_unit="nats per token", spent_seconds=0)
MACHINE = Machine(
    cpu="test",
    cores=2,
    memory_bytes=8 * 2**30,
    disk_bytes=2**40,
    has_bf16=False,
    gpus=(),
    system="Linux",
    versions={},
    gemm_gflops={"fp32": {"1": 100.0, "2": 190.0}, "bf16": {"1": 110.0, "2": 200.0}},
    allreduce_gbps=0.0,
    missing=(),
)
SECONDS_PER_FLOP, OVERHEAD = 2e-11, 4e-6


def small_law(params: float, tokens: float) -> Interval:
    value = 1.0 + 20 / params**0.3 + 60 / tokens**0.35
    return Interval(
        value=value, low80=value * 0.98, high80=value * 1.02, low95=value * 0.97, high95=value * 1.03
    )


def brief(**tables) -> Brief:
    return Brief(
        name="t",
        data=DataBrief(sources=("a",)),
        budget=tables.get("budget", BudgetBrief(hours=0.1)),
        goal=tables.get("goal", GoalBrief()),
        hardware=tables.get("hardware", HardwareBrief()),
        override=tables.get("override", {}),
    )


def rungs(noise: float = 0.0) -> list[Observation]:
    rows = []
    for index, width in enumerate((24, 32, 48, 64, 80, 96)):
        shape, tokens = narrower(LIKE, width), 500_000 * (index + 1)
        per_token = OVERHEAD + SECONDS_PER_FLOP * train_flops_per_token(shape)
        per_token *= 1 + noise * (-1) ** index
        rows.append(
            Observation(
                run=f"r{index}",
                params=count_params(shape).total,
                tokens=tokens,
                loss=2.0,
                flops=train_flops_per_token(shape) * tokens,
                seconds=per_token * tokens,
                notes={"threads": 2},
            )
        )
    return rows


def corpus(tokens: int) -> Corpus:
    split = Split(documents=10, tokens=tokens, num_bytes=4 * tokens)
    return Corpus(
        input_bytes=1,
        input_documents=10,
        kept_documents=10,
        quarantined_documents=0,
        removed={},
        train=split,
        heldout=split,
        vocab_size=2048,
        seconds=1.0,
        cpu_seconds=1.0,
        fingerprint="f" * 16,
    )


def choose(given: Brief, observations=(), text=None, options=OPTIONS, law=small_law) -> Plan:
    return choose_plan(given, law, observations, MACHINE, text, recipe_rule(given.override), options)


def test_the_plan_beats_every_other_width_within_the_time():
    plan = choose(brief(), rungs())
    left = 0.1 * 3600
    assert plan.numbers["seconds"].high <= left * 1.0001
    assert plan.numbers["seconds"].high > left * 0.98
    per_token = plan.numbers["seconds"].high / plan.tokens
    for width in (32, 64, 128, 192, 256):
        shape = narrower(LIKE, width)
        other = OVERHEAD + SECONDS_PER_FLOP * train_flops_per_token(shape)
        slack = per_token / (OVERHEAD + SECONDS_PER_FLOP * train_flops_per_token(plan.shape))
        loss = small_law(count_params(shape).total, left / other / slack).value
        assert plan.numbers["loss"].value <= loss * 1.002


def test_depth_heads_and_vocabulary_are_those_of_the_ladder():
    shape = choose(brief(), rungs()).shape
    assert (shape.num_layers, shape.num_heads, shape.vocab_size, shape.context_tokens) == (3, 2, 2048, 128)


def test_a_plan_is_whole_steps_and_survives_json():
    plan = choose(brief(), rungs())
    assert plan.tokens % plan.recipe.batch_tokens == 0
    assert plan.steps == plan.numbers["steps"].value
    assert from_json(Plan, json.loads(json.dumps(to_json(plan)))) == plan
    needed = {"params", "tokens", "batch_tokens", "learning_rate", "seconds", "usd", "kwh", "kg_co2e", "loss"}
    assert needed <= set(plan.numbers)
    assert all(number.low <= number.value <= number.high for number in plan.numbers.values())
    assert all(number.how for number in plan.numbers.values())


def test_measured_runs_narrow_the_seconds():
    guessed, measured = choose(brief()), choose(brief(), rungs(noise=0.02))
    assert guessed.numbers["seconds"].source == "prior"
    assert measured.numbers["seconds"].source == "measured"

    def width(plan: Plan) -> float:
        return plan.numbers["seconds"].high / plan.numbers["seconds"].low

    assert width(measured) < 1.2 < width(guessed)


def test_what_the_ladder_used_is_taken_off():
    plan = choose(brief(), rungs(), options=replace(OPTIONS, spent_seconds=180))
    assert plan.numbers["seconds_left"].value == pytest.approx(180)
    assert plan.numbers["seconds"].high <= 180.01
    with pytest.raises(PlanError, match=r"nothing is left of \[budget\] hours"):
        choose(brief(), rungs(), options=replace(OPTIONS, spent_seconds=400))


@pytest.mark.parametrize(("name", "limit"), [("usd", 1e-5), ("kwh", 1e-4), ("kg_co2e", 1e-4)])
def test_every_limit_binds(name, limit):
    plan = choose(brief(budget=BudgetBrief(**{name: limit})), rungs())
    assert plan.numbers[name].high == pytest.approx(limit, rel=0.01)
    assert plan.limits[name] == pytest.approx(0.1, abs=0.01)
    assert f"[budget] {name}" in plan.numbers["tokens"].how


def test_text_is_repeated_at_most_four_times_and_the_penalty_is_said():
    small = GoalBrief(max_params=200_000)
    plan = choose(brief(budget=BudgetBrief(hours=5), goal=small), rungs(), corpus(1_000_000))
    assert plan.numbers["epochs"].value <= 4
    assert "4 passes over 1,000,000 tokens" in plan.numbers["tokens"].how
    worth = useful_tokens(4e6, 1e6) / 4e6
    assert f"worth {worth:.1%}" in plan.numbers["epochs"].how
    free = choose(brief(budget=BudgetBrief(hours=5), goal=small), rungs(), corpus(10**12))
    assert free.numbers["loss"].value < plan.numbers["loss"].value


def test_horizon_caps_the_compute():
    plan = choose(brief(budget=BudgetBrief(hours=50), override={"horizon": 10}), rungs())
    largest = max(row.flops for row in rungs())
    assert 9.5 * largest < plan.numbers["flops"].value <= 10 * largest
    assert "10x the compute of the largest rung" in plan.numbers["tokens"].how


def test_max_params_is_kept():
    plan = choose(brief(goal=GoalBrief(max_params=200_000), budget=BudgetBrief(hours=2)), rungs())
    assert plan.numbers["params"].value <= 200_000
    with pytest.raises(PlanError, match="max_params is below the smallest model"):
        choose(brief(goal=GoalBrief(max_params=2_000)), rungs())


def test_overrides_appear_with_their_source():
    over = {"width": 64, "tokens": 2_000_000, "batch_tokens": 2048, "learning_rate": 1e-3, "seed": 7}
    plan = choose(brief(override=over), rungs())
    assert (plan.shape.width, plan.tokens, plan.seed) == (64, 1_998_848, 7)
    assert (plan.recipe.batch_tokens, plan.recipe.hidden_lr) == (2048, 1e-3)
    sources = {
        name: plan.numbers[name].source for name in ("params", "tokens", "batch_tokens", "learning_rate")
    }
    assert set(sources.values()) == {"user"}


def test_the_cheapest_run_that_reaches_a_loss():
    target = choose(brief(), rungs()).numbers["loss"].value * 1.05
    goal = GoalBrief(minimise="usd", target_loss=target)
    plan = choose(brief(goal=goal), rungs())
    assert plan.numbers["loss"].value <= target
    assert plan.numbers["loss"].value > target * 0.99
    assert plan.numbers["usd"].value < choose(brief(), rungs()).numbers["usd"].value
    assert 0.3 < plan.limits["target_loss"] < 0.55


def test_use_afterwards_makes_the_cheapest_model_smaller():
    target = choose(brief(), rungs()).numbers["loss"].value * 1.03

    def params(inference_tokens: float) -> float:
        goal = GoalBrief(minimise="kwh", target_loss=target, inference_tokens=inference_tokens)
        return choose(brief(goal=goal), rungs()).numbers["params"].value

    assert params(1e10) < params(0)


def test_a_loss_out_of_reach_says_what_is_in_reach():
    with pytest.raises(PlanError) as caught:
        choose(brief(goal=GoalBrief(target_loss=1.01)), rungs())
    assert "no run within the limits is forecast to reach [goal] target_loss" in str(caught.value)
    assert "(hours binds)" in str(caught.value)


def test_an_impossible_budget_says_what_would_be_enough():
    with pytest.raises(PlanError) as caught:
        choose(brief(budget=BudgetBrief(hours=1e-4)), rungs())
    text = str(caught.value)
    assert text.startswith("no run of 400 steps keeps the limits: hours binds first\n")
    enough = float(text.split("allowed: hours = ")[1].split()[0])
    assert choose(brief(budget=BudgetBrief(hours=enough * 1.01)), rungs()).shape.width == 16


def test_alternatives_are_cheaper_and_lose_more_loss_or_are_named():
    plan = choose(brief(), rungs())
    seconds = [row["seconds"] for row in plan.alternatives]
    assert len(seconds) >= 3
    assert seconds == sorted(seconds)
    half = next(row for row in plan.alternatives if "half the time" in row["why"])
    assert half["seconds"] <= 0.51 * plan.numbers["seconds"].value
    assert half["loss"] > plan.numbers["loss"].value


def test_eight_gpus_without_any_measurement():
    hardware = HardwareBrief(device="h100-sxm", count=8, region="SE")
    given = brief(hardware=hardware, budget=BudgetBrief(usd=1000))
    plan = choose(given, options=UNMEASURED, law=prior_loss_for(32_768))
    assert (plan.layout.device, plan.layout.processes, plan.layout.precision) == ("cuda", 8, "bf16")
    assert 1e8 < plan.numbers["params"].value < 5e9
    assert plan.recipe.batch_tokens % (8 * plan.shape.context_tokens) == 0
    assert plan.limits["memory"] <= 0.1
    assert plan.numbers["loss"].source == "prior"
    assert plan.numbers["kg_co2e"].value < 10


def test_a_large_model_is_sharded_when_it_does_not_fit_whole():
    hardware = HardwareBrief(device="rtx-4090", count=8)
    given = brief(hardware=hardware, override={"params": 4e9, "tokens": 1e9})
    plan = choose(given, options=UNMEASURED, law=prior_loss_for(32_768))
    # Over PCIe a pipeline may be faster than gathering weights: either way no device holds all of the state.
    assert plan.layout.shard in ("fsdp", "hsdp") or plan.layout.degrees.model > 1
    assert plan.numbers["peak_bytes"].high < 24e9
    too_large = brief(hardware=hardware, override={"params": 4e11, "tokens": 1e9})
    with pytest.raises(PlanError, match="does not fit the memory of 8 x GeForce RTX 4090"):
        choose(too_large, options=UNMEASURED, law=prior_loss_for(32_768))


def test_repeats_are_worth_less_and_less():
    assert useful_tokens(5e5, 1e6) == 5e5
    assert useful_tokens(2e6, math.inf) == 2e6
    fresh = [useful_tokens(passes * 1e6, 1e6) / 1e6 for passes in (1, 2, 4, 16, 1000)]
    assert fresh == pytest.approx([1, 1.968, 3.726, 10.58, 16.39], rel=1e-3)


def test_a_batch_that_does_not_divide_is_rounded_up_and_said():
    plan = choose(brief(override={"batch_tokens": 1_000}), rungs())
    assert plan.recipe.batch_tokens == 1_024
    assert plan.numbers["batch_tokens"].how.endswith("1,000, rounded up to whole sequences for each process")


def test_failures_of_many_nodes_are_in_the_seconds():
    def plan(nodes: int) -> Plan:
        hardware = HardwareBrief(device="h100-sxm", count=8, nodes=nodes)
        given = brief(hardware=hardware, override={"params": 8e9, "tokens": 1e12, "mfu": 0.3})
        return choose(given, options=UNMEASURED, law=prior_loss_for(32_768))

    few, many = plan(1), plan(256)
    assert many.numbers["goodput"].value < 0.97 < few.numbers["goodput"].value
    ratio = few.numbers["seconds"].value / many.numbers["seconds"].value / 256
    assert ratio == pytest.approx(many.numbers["goodput"].value / few.numbers["goodput"].value, rel=1e-3)
