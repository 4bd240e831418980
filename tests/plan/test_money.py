"""What a run costs, with what is around it."""

import math

import pytest

from stepladder.errors import PlanError
from stepladder.plan.derive import exact, within
from stepladder.plan.money import (
    Storage,
    bill,
    break_even_hours,
    running_usd,
    worth_buying_at,
)

RUN = within(2_000, 1.5, "the run", "catalogue")


def test_the_parts_add_up_and_development_is_stated():
    found = bill(RUN, Storage(gigabytes=1_000, months=3))
    parts = [found[name].value for name in ("usd_storage", "usd_development")]
    assert parts == pytest.approx([69, 2_000])
    assert found["usd_project"].value == pytest.approx(2_000 + sum(parts))
    assert "development and failed runs of published projects" in found["usd_development"].how
    assert found["usd_development"].source == "prior"


def test_without_storage_nothing_is_stored():
    assert bill(RUN)["usd_storage"].value == 0
    for wrong in (Storage(gigabytes=-1, months=1), Storage(gigabytes=1, months=math.nan)):
        with pytest.raises(PlanError, match="storage cannot be negative"):
            bill(RUN, wrong)


def test_a_card_pays_for_itself_after_price_over_what_an_hour_saves():
    run = running_usd(exact(500, "watts"), exact(1.0, "pue"), exact(0.2, "price"))
    assert run.value == pytest.approx(0.1)
    found = break_even_hours(exact(2_000, "card"), exact(0.5, "rent"), run)
    assert found.value == found.low == found.high == pytest.approx(5_000)
    assert "0.6 years at full use, 1.1 at half" in found.how
    unsure = break_even_hours(exact(2_000, "card"), within(0.5, 1.3, "rent", "catalogue"), run)
    assert unsure.low < 5_000 < unsure.high
    # So many hours are worth the card, no more.
    assert worth_buying_at(exact(5_000, "hours"), exact(0.5, "rent"), run).value == pytest.approx(2_000)


def test_buying_never_pays_where_running_costs_more_than_rent():
    for rent, run in ((0.1, 0.1), (0.1, 0.2)):
        with pytest.raises(PlanError, match="buying never pays"):
            break_even_hours(exact(2_000, "card"), exact(rent, "rent"), exact(run, "run"))
