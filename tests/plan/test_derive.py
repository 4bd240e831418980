"""Products and sums keep their intervals; chains can be walked."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.errors import PlanError
from stepladder.models.shape import shape_for_width
from stepladder.plan.derive import exact, log_sd, plus, probability_above, times, within
from stepladder.plan.why import explain, show
from stepladder.records import Derived, Layout, Plan, Recipe


@given(st.floats(1.01, 5), st.floats(1.01, 5), st.floats(1e-6, 1e6))
@settings(max_examples=100, deadline=None)
def test_relative_widths_add_in_quadrature(first, second, value):
    product = times("", within(value, first, "", "prior"), within(3.0, second, "", "measured"), scale=2)
    assert product.value == pytest.approx(6 * value)
    assert log_sd(product) == pytest.approx(
        math.hypot(math.log(first), math.log(second)) / 1.2815515655446004
    )
    if abs(first - second) > 1e-6:
        assert product.source == ("prior" if first > second else "measured")


def test_zero_and_exact_numbers_stay_exact():
    zero = times("", exact(0, ""), within(2, 2, "", "prior"))
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)
    assert log_sd(exact(5, "")) == 0
    assert probability_above(exact(5, ""), 4) == 1
    assert probability_above(zero, 0) == 0


def test_probabilities_follow_the_interval():
    number = within(10, 1.5, "", "prior")
    assert probability_above(number, 10) == pytest.approx(0.5)
    assert probability_above(number, 15) == pytest.approx(0.1)
    assert probability_above(number, 10 / 1.5) == pytest.approx(0.9)


def test_sums_add_their_ends_in_quadrature():
    total = plus("", within(10, 1.2, "", "prior"), exact(5, ""))
    assert (total.value, total.high) == (15, pytest.approx(17))


def small_plan() -> Plan:
    numbers = {
        "seconds": within(100, 1.2, "`tokens` x `pace`", "measured"),
        "tokens": exact(1e6, "chosen so that `seconds` fit"),
        "pace": within(1e-4, 1.2, "three runs", "measured"),
        "kwh": within(0.1, 1.4, "`seconds` x `watts`", "prior"),
        "watts": within(16, 2, "a guess", "prior"),
    }
    return Plan(
        name="p",
        corpus="c",
        shape=shape_for_width(64, 2, vocab_size=512, context_tokens=64),
        recipe=Recipe(batch_tokens=64, embed_lr=1e-2, head_lr=1e-2, hidden_lr=1e-3),
        layout=Layout(),
        seed=0,
        numbers=numbers,
    )


def test_why_prints_the_chain_once_and_ends_in_circles():
    assert explain(small_plan(), "kwh") == [
        "kwh = 0.1 (0.0714 to 0.14)  [prior]  `seconds` x `watts`",
        "  seconds = 100 (83.3 to 120)  [measured]  `tokens` x `pace`",
        "    tokens = 1,000,000  [rule]  chosen so that `seconds` fit",
        "      seconds: as above",
        "    pace = 0.0001 (8.33e-05 to 0.00012)  [measured]  three runs",
        "  watts = 16 (8 to 32)  [prior]  a guess",
        "its spread comes from power 94%, pace 6%",
    ]


def test_why_of_an_unknown_name_shows_near_ones():
    with pytest.raises(PlanError) as caught:
        explain(small_plan(), "second")
    assert str(caught.value) == (
        'the plan has no number "second" (did you mean "seconds"?)\n'
        "  allowed: seconds, tokens, pace, kwh, watts\n"
        "  next:    stepladder plan --why seconds"
    )


def test_show_is_short():
    number = Derived(value=12345.6, low=10000, high=20000, how="")
    assert show(number) == "12,346 (10,000 to 20,000)"
