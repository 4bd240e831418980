"""The catalogue: each trap of published figures is a test."""

import csv
import math
import statistics
from datetime import date
from pathlib import Path

import pytest

from stepladder.errors import PlanError
from stepladder.plan.derive import log_sd
from stepladder.plan.hardware import (
    catalogue,
    device_of_name,
    failure_rate,
    find_device,
    grid_of,
    price_of,
)

DATA = Path(__file__).parents[2] / "src" / "stepladder" / "plan" / "data"
TODAY = date(2025, 4, 1)


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["hardware.csv", "nodes.csv", "prices.csv", "grid.csv", "failures.csv"])
def test_every_row_says_when_whence_and_how_sure(name):
    for row in rows(name):
        assert row["as_of"][:2] == "20"
        assert row["source"]
        assert row["confidence"] in ("A", "B", "C")
    assert "Boavizta" not in (DATA / name).read_text(encoding="utf-8")
    assert "skypilot" not in (DATA / name).read_text(encoding="utf-8")


def test_peaks_are_dense_not_sparse():
    dense = {"h100-sxm": 989.4, "a100-sxm-80": 312, "l40s": 362, "mi300x": 1307.4}
    assert {name: find_device(name).peaks["bf16"] for name in dense} == dense
    for device in catalogue().values():
        if "fp8" in device.peaks and "bf16" in device.peaks:
            assert device.peaks["fp8"] <= 2.1 * device.peaks["bf16"]


def test_geforce_peaks_are_with_fp32_accumulation():
    halved = {"rtx-4080": 97.5, "rtx-4090": 165.2, "rtx-3090": 71.2, "rtx-5090": 209.5}
    assert {name: find_device(name).peaks["bf16"] for name in halved} == halved


def test_one_mi250x_is_two_devices_to_pytorch():
    device = find_device("mi250x")
    assert device.peaks["bf16"] == 383 / 2
    assert (device.mem_bytes, device.tdp_watts, device.node.devices) == (0.99 * 64 * 2**30, 250, 8)
    assert (device.links.memory, device.links.domain_devices) == (3277e9 / 2, 8)


def test_links_are_one_way_and_data_sheets_add_both():
    found = {
        name: find_device(name).links.scale_up / 1e9
        for name in ("a100-sxm-80", "h100-sxm", "h800-sxm", "b200-sxm", "mi300x", "rtx-4090")
    }
    one_way = {"a100-sxm-80": 300, "h100-sxm": 450, "h800-sxm": 200, "b200-sxm": 900, "mi300x": 448}
    assert found == one_way | {"rtx-4090": 32}
    assert find_device("h100-sxm").links.network == 50e9
    assert find_device("h100-sxm").links.memory == 3352e9


def test_domains_are_not_always_nodes():
    domains = {
        name: find_device(name).links.domain_devices for name in ("h100-sxm", "gb200", "trainium2", "t4")
    }
    assert domains == {"h100-sxm": 8, "gb200": 72, "trainium2": 64, "t4": 1}
    assert find_device("trainium2").node.devices == 16


def test_every_node_is_of_a_known_device():
    assert {row["id"] for row in rows("nodes.csv")} <= set(catalogue())


def test_an_a10g_is_not_an_a10():
    assert find_device("a10g").peaks["bf16"] * 1.7 < find_device("a10").peaks["bf16"]
    assert device_of_name("NVIDIA A10G", 24e9).id == "a10g"
    assert device_of_name("NVIDIA A10", 24e9).id == "a10"


@pytest.mark.parametrize("name", ["v100-sxm2-16", "v100-sxm2-32", "t4", "p100-sxm2"])
def test_cards_before_ampere_have_no_bf16(name):
    device = find_device(name)
    assert "bf16" not in device.peaks
    assert device.peaks["fp16"] > 0
    with pytest.raises(PlanError) as caught:
        device.peak("bf16")
    assert f"{device.name} has no bf16\n  allowed: fp32, fp16" in str(caught.value)


def test_late_tpus_have_no_tdp_and_v4_has_measured_watts():
    for name in ("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7"):
        assert math.isnan(find_device(name).tdp_watts)
    assert find_device("tpu-v4").measured_watts == 378.5


@pytest.mark.parametrize(
    ("driver_name", "memory", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 85.5e9, "h100-sxm"),
        ("NVIDIA A100-SXM4-40GB", 42.5e9, "a100-sxm-40"),
        ("NVIDIA A100-SXM4-80GB", 85.9e9, "a100-sxm-80"),
        ("NVIDIA A100 80GB PCIe", 85.9e9, "a100-pcie-80"),
        ("NVIDIA H100 PCIe", 85.5e9, "h100-pcie"),
        ("NVIDIA H100 NVL", 100.0e9, "h100-nvl"),
        ("NVIDIA A100-PCIE-40GB", 42.4e9, "a100-pcie-40"),
        ("NVIDIA RTX 6000 Ada Generation", 51.5e9, "rtx-6000-ada"),
        ("NVIDIA RTX A5000", 25.4e9, "rtx-a5000"),
        ("NVIDIA L40", 48.3e9, "l40"),
        ("NVIDIA H200", 150.7e9, "h200-sxm"),
        ("NVIDIA GeForce RTX 4090", 25.7e9, "rtx-4090"),
        ("NVIDIA GeForce RTX 3060", 12.8e9, "rtx-3060"),
        ("NVIDIA L4", 24.1e9, "l4"),
        ("NVIDIA L40S", 48.3e9, "l40s"),
        ("Tesla T4", 16.1e9, "t4"),
        ("Tesla V100-SXM2-32GB", 34.4e9, "v100-sxm2-32"),
        ("NVIDIA RTX A6000", 51.5e9, "rtx-a6000"),
    ],
)
def test_names_of_drivers_are_recognised(driver_name, memory, expected):
    assert device_of_name(driver_name, memory).id == expected


def test_an_unknown_card_is_not_taken_for_a_known_one():
    assert device_of_name("NVIDIA GeForce GTX 1080", 8.6e9) is None
    assert device_of_name("NVIDIA A100-SXM4-80GB", 20e9) is None


def test_unknown_ids_get_near_names():
    with pytest.raises(PlanError) as caught:
        find_device("h100_sxm")
    text = str(caught.value)
    assert text.startswith('device "h100_sxm" is not in the catalogue (did you mean "h100-sxm"?)\n')
    assert 'next:    set device = "this" in [hardware]' in text


def test_prices_name_their_source_and_widen_with_age():
    device = find_device("h100-sxm")
    fresh, old = price_of(device, TODAY), price_of(device, date(2029, 4, 1))
    assert fresh.value == old.value == 3.95
    assert "Epoch AI, Hardware prices (CC BY 4.0)" in fresh.how
    assert "widened for 4.0 years of age" in old.how
    assert old.high > 1.3 * fresh.high
    assert price_of(find_device("mi300x"), TODAY) is None


def test_dollars_for_a_teraflop_are_the_median_of_the_catalogue():
    each = [
        price_of(device, TODAY).value / max(device.peaks.get("bf16", 0), device.peaks.get("fp16", 0))
        for device in catalogue().values()
        if price_of(device, TODAY)
    ]
    assert statistics.median(each) == pytest.approx(0.0045, rel=0.25)


def test_regions_by_two_or_three_letters():
    assert grid_of("SE") == grid_of("swe")
    assert grid_of("SE").value == pytest.approx(0.0407)
    assert grid_of("PL").value > 15 * grid_of("SE").value
    assert "Ember" in grid_of("US").how
    world = grid_of("world")
    assert world.low < grid_of("FR").value < grid_of("IN").value < world.high
    with pytest.raises(PlanError, match='region "sweden" is not in the catalogue'):
        grid_of("sweden")


def test_every_region_is_a_plausible_grid():
    for row in rows("grid.csv"):
        low, value, high = (float(row[name]) for name in ("low", "kg_co2e_per_kwh", "high"))
        assert 0.005 < low < value < high < 1.3


def test_cleaner_grids_are_known_less_well():
    for row in rows("grid.csv"):
        low, value, high = (float(row[name]) for name in ("low", "kg_co2e_per_kwh", "high"))
        factor = 1.25 if value >= 0.2 else 1.5 if value >= 0.06 else 2.0
        if row["id"] != "world":
            assert (value / low, high / value) == pytest.approx((factor, factor), rel=0.02)


def test_intervals_of_grids_hold_what_other_tools_say():
    path = Path(__file__).parents[2].parent / "shared/reference/compute/grid_intensity_tool_comparison.csv"
    if not path.exists():
        pytest.skip("needs ../shared/reference/compute")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    said = [
        (grid_of(row["iso3"]), float(value))
        for row in rows
        for name, value in row.items()
        if name not in ("iso3", "spread_max_min") and value
    ]
    inside = [grid.low <= value / 1000 <= grid.high for grid, value in said]
    assert len(said) > 40
    assert sum(inside) / len(inside) > 0.85


def test_failures_are_those_of_eight_clusters():
    rate = failure_rate()
    assert rate.value == pytest.approx(4.25, abs=0.1)
    assert log_sd(rate) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("device", "gib"),
    # What torch names as the total capacity of a card when memory runs out.
    [
        ("a100-sxm-80", 79.3),
        ("a100-sxm-40", 39.5),
        ("h100-sxm", 79.2),
        ("v100-sxm2-16", 15.8),
        ("rtx-4090", 23.68),
        ("a30", 23.5),
        ("t4", 14.75),
        ("l40s", 44.5),
        ("a10g", 22.2),
    ],
)
def test_gigabytes_of_a_card_are_gibibytes_less_what_it_keeps(device, gib):
    assert find_device(device).mem_bytes / 2**30 == pytest.approx(gib, rel=0.012)
