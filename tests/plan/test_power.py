"""Watts of nodes, and carbon and water of their kWh."""

import math

import pytest

from stepladder.errors import PlanError
from stepladder.plan.derive import exact, times, within
from stepladder.plan.hardware import catalogue, find_device, grid_of
from stepladder.plan.power import (
    carbon_levers,
    device_watts,
    embodied_carbon,
    market_carbon,
    most_watts,
    system_watts,
    water_litres,
)

H100 = find_device("h100-sxm")
KWH = within(1_000.0, 1.3, "a test", "prior")


def test_a_busy_h100_node_draws_what_was_measured():
    # arXiv:2506.14551: intense training at 76 % of 10.2 kW; arXiv:2412.08602: at most 8.4 kW.
    assert 8 * system_watts(H100).value == pytest.approx(0.76 * 10_200)
    assert 8 * system_watts(H100).value < 8_400


def test_small_models_leave_a_device_half_empty():
    watts = [system_watts(H100, size).value for size in (1e6, 1e8, 1e10, math.inf)]
    assert watts == sorted(watts)
    assert 0.2 * 10_200 / 8 < watts[0] < 0.3 * 10_200 / 8


def test_power_is_never_tdp_alone():
    node, alone = system_watts(H100), device_watts(H100)
    assert node.value > H100.tdp_watts > alone.value
    assert "TDP" not in node.how
    assert "host, whose power is unpublished" in system_watts(find_device("l40s")).how


def test_chips_without_tdp_have_measured_watts_or_a_wide_guess():
    assert system_watts(find_device("tpu-v4")).value == 378.5
    assert device_watts(find_device("tpu-v5p")) is None
    guess = system_watts(find_device("tpu-v5p"))
    assert guess.source == "prior"
    assert guess.high / guess.low == pytest.approx(4)


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_every_device_draws_less_than_its_node_may(name):
    device = catalogue()[name]
    found = system_watts(device, 1e9)
    assert 0 < found.low < found.value < found.high
    assert found.value * device.node.devices <= device.node.max_watts or math.isnan(device.node.max_watts)


def test_no_device_may_be_said_to_draw_more_than_its_computer_can():
    assert most_watts(H100) == pytest.approx(1.1 * 10_200 / 8)
    assert most_watts(find_device("rtx-4090")) > find_device("rtx-4090").tdp_watts
    assert all(system_watts(each).value < most_watts(each) for each in catalogue().values())


def test_carbon_by_contract_is_the_buyers_and_must_be_named():
    assert market_carbon(KWH, 0.0, "wind farm, hourly matched").value == 0
    assert market_carbon(KWH, 0.1, "supplier's mix").value == pytest.approx(100)
    assert market_carbon(KWH, 0.1, "supplier's mix").source == "user"
    for factor, contract in ((-0.1, "x"), (0.1, " "), (math.nan, "x")):
        with pytest.raises(PlanError, match="needs the contract's name and its factor"):
            market_carbon(KWH, factor, contract)


def test_making_the_hardware_counts_by_hours_of_its_life():
    hours = exact(1_000_000, "given")
    found = embodied_carbon(find_device("a100-sxm-80"), hours)
    # (150 + 2500 / 8) kg over 6 years at 85 %: .0104 kg an hour.
    assert found.value == pytest.approx((150 + 312.5) / (6 * 8_766 * 0.85) * 1e6)
    assert found.source == "catalogue"
    single = embodied_carbon(find_device("rtx-4090"), hours)
    assert "unpublished for this one" in single.how
    # Between the card alone and a half of a server, and an A100 stands in: a factor of two either way.
    assert "that of a desktop is unpublished" in single.how
    assert single.low == pytest.approx(150 / 2 / (6 * 8_766 * 0.85) * 1e6)
    assert single.high == pytest.approx((150 + 1_250) * 2 / (6 * 8_766 * 0.85) * 1e6)
    assert "desktop" not in found.how


def test_bloom_embodied_share_is_near_its_report():
    # arXiv:2211.02001: 11.2 t for 1,082,990 device-hours.
    found = embodied_carbon(find_device("a100-sxm-80"), exact(1_082_990, "given"))
    assert found.low < 11_200 < found.high


def test_water_has_no_default_on_site():
    pue = exact(1.1, "given")
    assert water_litres(KWH, pue, 0.0).value == pytest.approx(3_100)
    assert water_litres(KWH, pue, 1.1).value == pytest.approx(4_100)
    for wrong in (-1.0, math.nan):
        with pytest.raises(PlanError, match="water needs the litres"):
            water_litres(KWH, pue, wrong)


def test_the_region_is_the_largest_lever_and_waiting_the_smallest():
    here = times("`kwh` x grid", KWH, grid_of("PL"))
    levers = carbon_levers(KWH, here)
    region, cap, hours = (
        levers[f"kg_co2e_{name}"] for name in ("cleanest_region", "power_cap", "clean_hours")
    )
    now = here.value
    assert region.value < now / 15
    assert region.value < cap.value < hours.value < now
    assert "Iceland" in region.how
    cleanest = times("`kwh` x grid", KWH, grid_of("IS"))
    assert {"kg_co2e_power_cap", "kg_co2e_clean_hours"} == set(carbon_levers(KWH, cleanest))
