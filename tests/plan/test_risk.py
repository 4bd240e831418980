"""Where the spread of a number comes from, and the chance of breaking limits that rise together."""

import math

import pytest

from stepladder.plan.derive import exact, plus, times, within
from stepladder.plan.risk import broken, shares, variances
from stepladder.records import Derived

PRICE = within(3.0, 2.0, "a quote", "catalogue")
PACE = within(10.0, 1.5, "a guess", "prior")


def numbers(usd: Derived | None = None) -> dict[str, Derived]:
    seconds = times("`tokens` x `seconds_per_token`", exact(5, "chosen"), PACE)
    return {
        "tokens": exact(5, "so that `seconds` fit"),
        "seconds_per_token": PACE,
        "seconds": seconds,
        "usd_per_device_hour": PRICE,
        "usd": usd or times("`usd_per_device_hour` x `seconds`", PRICE, seconds),
    }


def test_a_product_shares_its_variance_by_its_factors():
    ends = variances(numbers(), "usd")
    assert {"usd_per_device_hour", "seconds_per_token"} == set(ends)
    found = shares(numbers(), "usd")
    parts = math.log(2.0) ** 2, math.log(1.5) ** 2
    assert {"price": parts[0] / sum(parts), "speed": parts[1] / sum(parts)} == pytest.approx(found)
    assert ["price", "speed"] == list(found)
    assert {} == shares(numbers(), "tokens")


def test_what_parts_do_not_explain_is_its_own():
    wide = within(150.0, 4.0, "`usd_per_device_hour` x `seconds`, and who knows what", "prior")
    found = shares(numbers(wide), "usd")
    assert pytest.approx(1.0) == sum(found.values())
    assert "usd" == next(iter(found))


def test_a_sum_is_shared_by_what_it_is_the_sum_of():
    total = plus("`usd_per_device_hour` + `seconds`", PRICE, numbers()["seconds"])
    assert pytest.approx(1.0) == sum(shares(numbers(total), "usd").values())


def test_limits_that_share_a_source_break_together():
    alone = broken(numbers(), {"seconds": 50.0})
    assert {"seconds": pytest.approx(0.5)} == alone
    both = broken({**numbers(), "kwh": numbers()["seconds"]}, {"seconds": 75.0, "kwh": 75.0})
    # The same number twice is one risk, not two.
    assert both["any"] == pytest.approx(both["kwh"], abs=0.01)
    apart = broken(numbers(), {"usd_per_device_hour": 6.0, "seconds_per_token": 15.0})
    assert apart["any"] == pytest.approx(1 - 0.9**2, abs=0.01)
