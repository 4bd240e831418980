from pathlib import Path

import pytest

from stepladder.train import meter
from stepladder.train.meter import EnergyMeter, peak_rss_bytes, reset_peak


def test_without_counters_it_is_an_estimate_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "_POWERCAP", tmp_path)
    energy = EnergyMeter()
    sum(range(2_000_000))
    assert energy.read().joules > 0
    assert energy.read().source == "estimate: CPU seconds x 5 W a core"


def test_counters_are_summed_over_packages_and_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_POWERCAP", tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("9000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    energy = EnergyMeter()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000\n")
    found = energy.read()
    # 0.5 J, and 2 J through the wrap; the sub-zone of a package is part of it.
    assert (found.joules, found.source) == (2.5, "RAPL package counters, whole machine")


def test_peak_starts_anew() -> None:
    block = bytearray(64 * 2**20)
    high = peak_rss_bytes()
    del block
    reset_peak()
    assert high >= 64 * 2**20
    assert 0 < peak_rss_bytes() <= high
