"""A ladder keeps its rules, spends its budget where the target's variance falls, and refuses else."""

import math
from dataclasses import replace

import pytest

from stepladder.errors import PlanError
from stepladder.ladder.budget import affordable
from stepladder.ladder.design import DesignRules, Rung, design_ladder, variance_at_target
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.records import Shape

WIDTHS = (24, 32, 48, 64, 96)
FLOPS_PER_SECOND = 5e10


def shape(width: int) -> Shape:
    return shape_for_width(width, 3, vocab_size=2048, context_tokens=128, num_heads=2)


def cost_seconds(of: Shape, tokens: int) -> float:
    return 1.0 + train_flops_per_token(of) * tokens / FLOPS_PER_SECOND


SHAPES = [shape(width) for width in WIDTHS]
TARGET = (shape(96), 9e6)
TARGET_FLOPS = train_flops_per_token(TARGET[0]) * TARGET[1]
RULES = DesignRules(budget_seconds=400.0, largest_flops=TARGET_FLOPS / 10, min_tokens=409_600)


def design(rules: DesignRules = RULES) -> tuple[Rung, ...]:
    return design_ladder(SHAPES, TARGET, cost_seconds, rules)


def test_the_ladder_keeps_its_rules() -> None:
    rungs = design()
    ratios = sorted(rung.ratio for rung in rungs)
    assert len(rungs) >= 10
    assert ratios[-1] / ratios[0] >= 16
    assert len({round(math.log2(ratio)) for ratio in ratios}) >= 3
    assert sum(rung.seconds for rung in rungs) <= RULES.budget_seconds
    assert all(rung.flops <= RULES.largest_flops * 1.001 for rung in rungs)
    assert all(rung.tokens >= RULES.min_tokens for rung in rungs)
    assert all(rung.ratio >= RULES.min_tokens_per_param * 0.95 for rung in rungs)


def test_one_small_rung_has_two_seeds() -> None:
    first, second, *others = design()
    assert (first.shape, first.tokens) == (second.shape, second.tokens)
    assert first.seed != second.seed
    assert first.seconds <= min(rung.seconds for rung in others)


def test_each_rung_narrows_the_forecast() -> None:
    widths = [rung.half_width80 for rung in design()]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0] / 2


def test_the_choice_beats_cheap_runs_for_the_same_seconds() -> None:
    rungs = design()
    scale = (float(count_params(TARGET[0]).total), TARGET[1])
    cheap = rungs[0]
    repeats = math.floor(sum(rung.seconds for rung in rungs) / cheap.seconds)
    many_cheap = [replace(cheap, seed=seed) for seed in range(repeats)]
    assert variance_at_target(rungs, scale, 0.005) < variance_at_target(many_cheap, scale, 0.005) / 4


def test_more_budget_never_makes_the_forecast_wider() -> None:
    poor = design(replace(RULES, budget_seconds=250.0))[-1].half_width80
    rich = design(replace(RULES, budget_seconds=800.0))[-1].half_width80
    assert rich < poor


def test_too_small_a_budget_is_refused_with_a_way_out() -> None:
    with pytest.raises(PlanError, match="does not fit its share of the budget") as caught:
        design(replace(RULES, budget_seconds=20.0))
    assert "ladder_share" in str(caught.value)
    with pytest.raises(PlanError, match="too few runs that are long enough"):
        design(replace(RULES, largest_flops=TARGET_FLOPS / 1000))


def test_one_shape_with_a_narrow_range_is_refused() -> None:
    narrow = replace(RULES, min_ratio_span=200.0)
    with pytest.raises(PlanError, match="nearly equal tokens per parameter"):
        design(narrow)


@pytest.mark.parametrize("patient", [True, False])
def test_a_patient_climb_takes_the_least_stretch_that_will_do(patient: bool) -> None:
    tried = []

    def attempt(stretch: float) -> str:
        tried.append(stretch)
        if stretch < 1.9:
            raise PlanError("the budget is too small")
        return f"{stretch:g} times"

    if patient:
        assert affordable(attempt, patient=True) == "2 times"
        assert tried == sorted(tried)
    else:
        with pytest.raises(PlanError, match="too small"):
            affordable(attempt, patient=False)
        assert tried == [1.0]


def test_the_shortest_run_allowed_is_among_those_that_are_weighed() -> None:
    """A span that the ends have and steps of √2 from the top would miss (a demo on a Zen 3 ended so)."""
    smallest, count = shape(24), count_params(shape(24)).total
    most = 16.3 * 1.5 * count * train_flops_per_token(smallest)
    rules = replace(RULES, largest_flops=most, min_tokens=1_000, budget_seconds=1e6)
    ratios = [rung.ratio for rung in design_ladder([smallest], TARGET, cost_seconds, rules)]
    assert 16 <= max(ratios) / min(ratios) <= 16.4
