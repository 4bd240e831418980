"""What stands around a run: in plan.json, on one line, behind --why, in --what-if; and refusals."""

import json

import pytest

from stepladder.cli import EXIT_USER_ERROR, main
from stepladder.records import Plan, from_json

RUN = ["--shape", "layers=24 width=2048 heads=16 vocab=32768 context=2048", "--tokens", "2e10"]
SITE = [*RUN, "--device", "h100-sxm", "--count", "8", "--region", "US"]
KNOWN = "usd_to_buy=30000 litres_per_kwh=0.3 market_kg_co2e_per_kwh=0.01 contract=wind"


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: str, code: int = 0) -> str:
        assert code == main(["plan", *words])
        told = capsys.readouterr()
        return told.err if code else told.out

    return run


def value_of(plan: Plan, name: str) -> float:
    return plan.numbers[name].value


def test_project_buying_making_and_levers_are_numbers_of_the_plan(said):
    plan = from_json(Plan, json.loads(said(*SITE, "--json")))
    parts = ("usd", "usd_storage", "usd_development")
    assert pytest.approx(sum(value_of(plan, name) for name in parts)) == value_of(plan, "usd_project")
    rent, own = value_of(plan, "usd_per_device_hour"), value_of(plan, "usd_of_own_hour")
    hours = value_of(plan, "usd_project") / rent / 8
    assert pytest.approx(hours * (rent - own)) == value_of(plan, "usd_buy_pays_below")
    assert pytest.approx(8 * value_of(plan, "seconds") / 3600) == value_of(plan, "device_hours")
    assert 0 < value_of(plan, "kg_co2e_embodied") < value_of(plan, "kg_co2e")
    levers = ("kg_co2e_cleanest_region", "kg_co2e_power_cap", "kg_co2e_clean_hours", "kg_co2e")
    found = [value_of(plan, name) for name in levers]
    assert found == sorted(found)
    # What was not stated is not made up.
    assert not {"kg_co2e_market", "water_litres", "hours_to_break_even"} & set(plan.numbers)


def test_what_only_the_user_knows_is_taken_from_them(said):
    plan = from_json(Plan, json.loads(said(*SITE, "--set", KNOWN, "--json")))
    kwh, pue = value_of(plan, "kwh"), value_of(plan, "pue")
    assert pytest.approx(0.01 * kwh) == value_of(plan, "kg_co2e_market")
    assert pytest.approx(kwh * (0.3 / pue + 3.1)) == value_of(plan, "water_litres")
    saved = value_of(plan, "usd_per_device_hour") - value_of(plan, "usd_of_own_hour")
    assert pytest.approx(30_000 / saved) == value_of(plan, "hours_to_break_even")


def test_one_line_says_it_and_why_walks_to_the_source(said):
    shown = said(*SITE, "--set", KNOWN)
    assert 1 == shown.count("around it")
    for words in ("the whole project $", "buying pays below $", "by contract", "litres", "cleanest region"):
        assert words in " ".join(shown.split())
    for name, source in (
        ("project", "published projects"),
        ("buy", "set usd_per_kwh in [override]"),
        ("hardware", "arXiv:2211.02001"),
        ("market", "by contract: wind"),
        ("water", "arXiv:2304.03271"),
        ("region", "Ember"),
        ("power_cap", "arXiv:2205.09646"),
        ("clean_hours", "arXiv:2306.06502"),
    ):
        assert source in said(*SITE, "--set", KNOWN, "--why", name), name


def test_changes_stand_side_by_side(said):
    rows = json.loads(said(*SITE, "--set", KNOWN, "--what-if", "region=SE usd_to_buy=15000", "--json"))
    names = ("usd_project", "kg_co2e_embodied", "kg_co2e_market", "water_litres")
    assert [1.0] * 4 == [rows[1]["times"][name] for name in names]
    assert pytest.approx(0.5) == rows[1]["times"]["hours_to_break_even"]
    assert "usd, project" in said(*SITE, "--what-if", "count=16")


def test_a_contract_without_a_name_is_refused(said):
    told = said(*SITE, "--set", "market_kg_co2e_per_kwh=0.01", code=EXIT_USER_ERROR)
    assert "needs the contract's name" in told
    assert "[override]" in told


def test_a_machine_of_ones_own_stores_for_nothing_and_has_no_rent(said):
    plan = from_json(
        Plan,
        json.loads(said("--shape", "layers=2 width=64", "--tokens", "1e7", "--device", "this", "--json")),
    )
    assert 0 == value_of(plan, "usd_storage")
    assert not {"usd_buy_pays_below", "kg_co2e_embodied"} & set(plan.numbers)
    assert pytest.approx(2 * value_of(plan, "usd")) == value_of(plan, "usd_project")
