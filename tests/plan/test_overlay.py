"""hardware.toml: what a user knows better than the catalogue."""

import json
from datetime import date
from pathlib import Path

import pytest

from stepladder.errors import PlanError
from stepladder.plan.hardware import find_device
from stepladder.plan.machine import Machine
from stepladder.plan.overlay import NONE, load_overlay, overlay_in
from stepladder.plan.site import Site, site_for
from stepladder.records import Brief, BudgetBrief, DataBrief, HardwareBrief, Observation
from stepladder.verbs.climb import keep_brief
from stepladder.verbs.plan import plan

TODAY = date(2025, 4, 1)
MACHINE = Machine(
    cpu="test",
    cores=4,
    memory_bytes=8 * 2**30,
    disk_bytes=2**40,
    has_bf16=True,
    gpus=(),
    system="Linux",
    versions={},
    gemm_gflops={},
    allreduce_gbps=0.0,
    missing=(),
)


def brief(override=None, **hardware) -> Brief:
    return Brief(
        name="t",
        data=DataBrief(sources=("a",)),
        hardware=HardwareBrief(**hardware),
        budget=BudgetBrief(hours=1),
        override=override or {},
    )


def overlay(tmp_path: Path, text: str):
    (tmp_path / "hardware.toml").write_text(text)
    return overlay_in(tmp_path, TODAY)


def site(tmp_path: Path, text: str, override=None, observations=(), **hardware) -> Site:
    return site_for(brief(override, **hardware), MACHINE, observations, TODAY, overlay(tmp_path, text))


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(PlanError) as caught:
        overlay(tmp_path, text)
    return str(caught.value).replace(str(tmp_path), "X")


def test_no_file_changes_nothing(tmp_path):
    assert overlay_in(tmp_path) is NONE
    assert site_for(brief(), MACHINE, (), TODAY) == site_for(brief(), MACHINE, (), TODAY, NONE)


def test_what_is_given_wins_by_id_and_is_named(tmp_path):
    text = """pue = 1.12
        usd_per_kwh = 0.11
        [device.h100-sxm]
        usd_per_hour = 2.1
        mfu = 0.41
        watts = 800
        source = "our contract"
        [grid.se]
        kg_co2e_per_kwh = 0.02
    """
    found = site(tmp_path, text, device="h100-sxm", count=8, region="SE")
    numbers = {
        "usd_per_device_hour": found.usd_per_device_hour,
        "watts": found.watts,
        "pue": found.pue,
        "usd_per_kwh": found.usd_per_kwh,
        "kg_co2e_per_kwh": found.kg_co2e_per_kwh,
    }
    assert [number.value for number in numbers.values()] == [2.1, 800, 1.12, 0.11, 0.02]
    assert found.flops_per_second.value == pytest.approx(0.41 * 8 * 989.4e12)
    for number in (*numbers.values(), found.flops_per_second):
        assert "hardware.toml" in number.how
        assert number.source == "user"
    assert found.usd_per_device_hour.how == "price of hardware.toml: our contract"
    assert found.notes[-1].startswith("hardware.toml gives usd_per_device_hour, watts, flops_per_second")
    assert "hardware.toml" not in " ".join(site(tmp_path, text[:10], device="a10").watts.how)


def test_other_devices_and_regions_keep_the_catalogue(tmp_path):
    text = "[device.h100-sxm]\nusd_per_hour = 2.1\n[grid.SE]\nkg_co2e_per_kwh = 0.02\n"
    plain, found = site(tmp_path, "", device="l40s"), site(tmp_path, text, device="l40s")
    assert found == plain


def test_override_of_the_brief_wins_over_the_overlay(tmp_path):
    text = "pue = 1.12\n[device.h100-sxm]\nusd_per_hour = 2.1\nwatts = 800\n"
    found = site(tmp_path, text, {"usd_per_device_hour": 1.0, "pue": 1.5}, device="h100-sxm")
    assert (found.usd_per_device_hour.value, found.pue.value) == (1.0, 1.5)
    row = Observation(run="r", params=1, tokens=1, loss=1, seconds=10, joules=500)
    assert site(tmp_path, text, observations=[row], device="h100-sxm").watts.value == 800


def test_a_device_of_ones_own(tmp_path):
    text = """[device.our-card]
        like = "a100-sxm-80"
        bf16_tflops = 400
        node_devices = 4
        node_max_w = 3000
        network_gbit = 100
    """
    device = find_device("our-card", overlay(tmp_path, text).devices)
    assert (device.peaks["bf16"], device.mem_bytes, device.node.devices) == (400, 0.99 * 80 * 2**30, 4)
    assert device.links.network == 12.5e9
    assert device.links.domain_devices == 4
    assert device.links.scale_up == 300e9
    assert device.source == "device of hardware.toml, the rest as a100-sxm-80"
    found = site(tmp_path, text, device="our-card")
    assert found.peak_flops == 400e12
    assert found.notes[-1] == "hardware.toml gives device"
    assert found.watts.value == pytest.approx(0.76 * 3000 / 4)


def test_a_device_from_nothing_needs_memory_and_a_peak(tmp_path):
    new = overlay(tmp_path, "[device.x1]\nmem_gb = 48\nfp32_tflops = 20\nbf16_tflops = 100\n").devices["x1"]
    assert new.peaks == {"fp32": 20, "bf16": 100}
    text = refused(tmp_path, "[device.x1]\nmem_gb = 48\n")
    assert "[device.x1] is not in the catalogue; a new device needs mem_gb and a peak" in text


def test_this_machine_can_have_a_price_and_watts(tmp_path):
    found = site(tmp_path, "[device.this]\nwatts = 35\nusd_per_hour = 0.05\n")
    assert (found.watts.value, found.usd_per_device_hour.value) == (35, 0.05)


def test_old_prices_of_ones_own_widen_too(tmp_path):
    fresh = overlay(tmp_path, '[device.l4]\nusd_per_hour = 0.5\nas_of = "2025-03"\n').usd_per_hour["l4"]
    old = overlay(tmp_path, '[device.l4]\nusd_per_hour = 0.5\nas_of = "2022-03"\n').usd_per_hour["l4"]
    assert fresh.low == fresh.high == 0.5
    assert old.high > 1.2 * 0.5
    assert "widened for 3.0 years of age" in old.how


def test_unknown_keys_get_near_names_all_at_once(tmp_path):
    text = refused(
        tmp_path, 'peu = 1.1\n[device.h100-sxm]\nusd_per_hours = 2\nmfu = "high"\n[grids.SE]\nx = 1\n'
    )
    assert text.startswith("X/hardware.toml has 4 problems\n")
    assert 'unknown key "peu" (did you mean "pue"?)' in text
    assert '[device.h100-sxm] unknown key "usd_per_hours" (did you mean "usd_per_hour"?)' in text
    assert "[device.h100-sxm] mfu = 'high'; allowed: a number" in text
    assert 'unknown key "grids" (did you mean "grid"?)' in text


def test_contradictions_are_all_listed(tmp_path):
    text = refused(
        tmp_path,
        """pue = 0.9
        usd_per_kwh = -1
        [device.h100-sxm]
        usd_per_hour = 0
        mfu = 41
        watts = 1400
        fp8_tflops = 900
        node_devices = 7.5
        as_of = "yesterday"
        [device.mine]
        like = "h100_sxm"
        kind = "gpus"
        [grid.SE]
        kg_co2e_per_kwh = 40
        """,
    )
    assert text.startswith("X/hardware.toml has 12 problems\n")
    for part in (
        "pue = 0.9: a site draws at least what its computers draw",
        "usd_per_kwh = -1",
        "[grid.SE] kg_co2e_per_kwh = 40; allowed: 0 to 1.3 (kilograms",
        "[device.h100-sxm] usd_per_hour = 0; allowed: above 0",
        "[device.h100-sxm] mfu = 41; allowed: a share of the dense peak",
        "watts = 1400 x 7.5 devices is above the node's 10200 W",
        "fp8 peak 900 is below bf16 peak 989.4 TFLOP/s",
        "node_devices = 7.5; allowed: a whole number",
        'as_of = "yesterday"; allowed: year and month',
        'like = "h100_sxm" is not in the catalogue (did you mean "h100-sxm"?)',
        'kind = "gpus" (did you mean "gpu"?)',
        "[device.mine] is not in the catalogue; a new device needs",
    ):
        assert part in text


@pytest.mark.parametrize("line", ["pue = nan", "usd_per_kwh = nan", "[device.l4]\nmfu = nan", "[grid.SE]\n"])
def test_numbers_that_are_none_are_refused(tmp_path, line):
    assert "has 1 problem\n" in refused(tmp_path, line)


@pytest.mark.parametrize("content", [b"pue = ", b"\xff\xfe", b"device = 3"])
def test_files_that_are_no_overlay_give_one_error(tmp_path, content):
    (tmp_path / "hardware.toml").write_bytes(content)
    with pytest.raises(PlanError, match=r"hardware\.toml"):
        load_overlay(tmp_path / "hardware.toml")


def test_the_example_of_the_docs_is_a_good_overlay(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "plan" / "hardware.md").read_text(encoding="utf-8")
    found = overlay(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    assert set(found.devices) == {"our-card"}
    assert set(found.usd_per_hour) == {"h100-sxm"}
    assert set(found.watts) == {"h100-sxm", "this"}


def test_the_plan_takes_it_and_names_it(tmp_path, capsys):
    (tmp_path / "hardware.toml").write_text(
        '[device.our-card]\nlike = "a100-sxm-80"\nnode_devices = 4\nnode_max_w = 3000\nusd_per_hour = 1.5\n'
        "[grid.lab]\nkg_co2e_per_kwh = 0.02\n"
    )
    (tmp_path / "stepladder.toml").write_text(
        'name = "t"\n[data]\nsources = ["a.txt"]\n[budget]\nhours = 20\n'
        '[hardware]\ndevice = "our-card"\ncount = 4\nregion = "lab"\n'
    )
    assert plan(tmp_path / "stepladder.toml", json_=True) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["usd_per_device_hour"]["value"] == 1.5
    assert made["kg_co2e_per_kwh"]["value"] == 0.02
    for name in ("usd_per_device_hour", "kg_co2e_per_kwh", "watts"):
        assert "hardware.toml" in made[name]["how"]
        assert "plan/data/" not in made[name]["how"]
        assert made[name]["source"] == "user"
    assert plan(tmp_path / "stepladder.toml") == 0
    assert f"read {tmp_path / 'hardware.toml'}" in capsys.readouterr().out


def test_a_climb_keeps_a_copy(tmp_path):
    (tmp_path / "stepladder.toml").write_text('name = "t"\n')
    (tmp_path / "hardware.toml").write_text("pue = 1.1\n")
    keep_brief(tmp_path / "stepladder.toml", tmp_path / "climb")
    assert overlay_in(tmp_path / "climb") == overlay_in(tmp_path)
    (tmp_path / "hardware.toml").write_text("pue = 0.1\n")
    with pytest.raises(PlanError, match="has 1 problem"):
        keep_brief(tmp_path / "stepladder.toml", tmp_path / "other")
