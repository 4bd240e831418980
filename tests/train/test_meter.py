from pathlib import Path

import pytest

from stepladder.records import Energy, Run, from_json, to_json
from stepladder.train import meter
from stepladder.train.meter import EnergyMeter, peak_rss_bytes, reset_peak


def package(folder: Path, name: str, microjoules: int) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")
    (folder / name / "max_energy_range_uj").write_text("10000000\n")


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(meter, "_POWERCAP", tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return tmp_path


def read(energy: EnergyMeter) -> Energy:
    return energy.energy(**energy.state())


@pytest.mark.usefixtures("powercap")
def test_without_counters_it_is_an_estimate_and_says_so() -> None:
    energy = EnergyMeter()
    sum(range(2_000_000))
    found = read(energy)
    assert found.joules > 0
    assert found.source == "estimate: CPU seconds x 5 W a core"
    assert not found.is_measured


def test_counters_are_summed_over_packages_and_wrap(powercap: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        package(powercap, name, 9_000_000)
    energy = EnergyMeter()
    package(powercap, "intel-rapl:0", 9_500_000)
    package(powercap, "intel-rapl:1", 1_000_000)
    # 0.5 J, and 2 J through the wrap; the sub-zone of a package is part of it.
    found = read(energy)
    assert (found.joules, found.source) == (2.5, "RAPL package counters, whole machine")
    assert found.is_measured


def test_a_counter_that_wraps_twice_is_followed_where_ticks_come_often(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(powercap, "intel-rapl:0", 0)
    energy = EnergyMeter()
    # 36 J in steps of 6 J against a range of 10 J: only reading at each tick sees all of it.
    for total in range(6, 42, 6):
        package(powercap, "intel-rapl:0", total * 1_000_000 % 10_000_000)
        energy.tick()
    assert energy.state()["joules"] == 6.0
    monkeypatch.setattr(meter, "READ_SECONDS", 0.0)
    for total in range(42, 78, 6):
        package(powercap, "intel-rapl:0", total * 1_000_000 % 10_000_000)
        energy.tick()
    assert energy.state()["joules"] == 42.0


def test_only_the_first_process_of_a_node_reads_the_packages(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(powercap, "intel-rapl:0", 0)
    meters = []
    for local_rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        meters.append(EnergyMeter())
    package(powercap, "intel-rapl:0", 3_000_000)
    assert [energy.state()["joules"] for energy in meters] == [3.0, 0.0]


@pytest.mark.parametrize("before", [{"joules": 8.0, "estimated_joules": 8.0}, {"joules": 8.0}])
def test_a_resumed_run_adds_up_and_an_estimate_stays_one(powercap: Path, before: dict[str, float]) -> None:
    package(powercap, "intel-rapl:0", 0)
    energy = EnergyMeter(before)
    package(powercap, "intel-rapl:0", 2_000_000)
    found = read(energy)
    assert found.joules == 10.0
    assert found.source == (
        "estimate: CPU seconds x 5 W a core + 20% measured (RAPL package counters, whole machine)"
    )


@pytest.mark.usefixtures("powercap")
def test_a_gpu_without_a_counter_is_told() -> None:
    energy = EnergyMeter(gpu=99)
    assert read(energy).source.endswith("; the GPU is not counted (pip install 'stepladder[energy]')")


def test_the_source_is_kept_in_run_json_and_older_runs_are_read() -> None:
    run = Run(
        name="r",
        params=1,
        tokens=1,
        steps=1,
        loss=1.0,
        heldout_loss=1.0,
        heldout_bits_per_byte=1.0,
        in_context_score=0.0,
        seconds=1.0,
        energy=Energy(joules=2.0, source="NVML"),
        peak_bytes=1,
    )
    value = to_json(run)
    assert (value["joules"], value["energy_source"]) == (2.0, "NVML")
    assert from_json(Run, value) == run
    del value["energy_source"]
    older = from_json(Run, value)
    assert (older.joules, older.energy.source, older.energy.is_measured) == (2.0, "", False)


def test_a_counter_is_not_read_at_each_tick(powercap: Path) -> None:
    package(powercap, "intel-rapl:0", 0)
    energy = EnergyMeter()
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    energy.tick()
    with pytest.raises(FileNotFoundError):
        energy.state()


def test_peak_starts_anew() -> None:
    block = bytearray(64 * 2**20)
    high = peak_rss_bytes()
    del block
    reset_peak()
    assert high >= 64 * 2**20
    assert 0 < peak_rss_bytes() <= high
