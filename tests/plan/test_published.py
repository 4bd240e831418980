"""Hours and energy of published runs, and the traps among them."""

import csv
import statistics
from pathlib import Path

import pytest

from stepladder.errors import PlanError
from stepladder.plan.published import predict_published, write_published

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "compute"
HEADER = "id,params_active,tokens,hw_id,acc_hours,energy_scope,pue,grid_kg_per_kwh\n"


def reference(name: str) -> Path:
    if not REFERENCE.exists():
        pytest.skip("needs ../shared/reference/compute")
    return REFERENCE / name


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def forecast(tmp_path: Path, text: str) -> dict[str, dict[str, str]]:
    (tmp_path / "runs.csv").write_text(HEADER + text)
    write_published(tmp_path / "out.csv", predict_published(tmp_path / "runs.csv"))
    return table(tmp_path / "out.csv")


def test_a_run_by_hand(tmp_path):
    rows = forecast(tmp_path, "x,9.7e9,1e12,a100-sxm-80,,gpu*pue,1.1,0.4\n")
    hours = 6 * 9.7e9 * 1e12 / (0.317 * 312e12 * 3600)
    assert float(rows["x"]["acc_hours"]) == pytest.approx(hours, rel=1e-4)
    energy = 0.68 * 400 * hours * 1.1 / 1e6
    assert float(rows["x"]["energy_mwh"]) == pytest.approx(energy, rel=1e-4)
    assert float(rows["x"]["tco2e"]) == pytest.approx(0.4 * energy, rel=1e-4)
    assert float(rows["x"]["low90"]) < hours < float(rows["x"]["high90"])
    assert rows["x"]["status"] == "ok"


def test_given_hours_narrow_the_energy_and_are_not_copied(tmp_path):
    rows = forecast(
        tmp_path,
        "a,9.7e9,1e12,a100-sxm-80,,gpu,,\nb,9.7e9,1e12,a100-sxm-80,150000,gpu,,\nc,,,h100-sxm,1000,,,\n",
    )
    assert rows["a"]["acc_hours"] == rows["b"]["acc_hours"]

    def width(row: dict[str, str]) -> float:
        return float(row["energy_high90"]) / float(row["energy_low90"])

    assert width(rows["b"]) < width(rows["a"])
    assert (rows["c"]["acc_hours"], rows["c"]["status"]) == ("", "ok")
    assert float(rows["c"]["energy_mwh"]) == pytest.approx(1000 * 0.72 * 10_200 / 8 * 1.15 / 1e6, rel=1e-4)


def test_rows_that_say_too_little_are_refused(tmp_path):
    rows = forecast(tmp_path, "a,,1e12,h100-sxm,,,,\nb,1e9,1e12,abacus,,,,\nc,x,nan,h100-sxm,,,,\n")
    assert {row["status"] for row in rows.values()} == {"refused"}


def test_files_that_are_no_tables_give_one_error(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("name,size\nx,1\n")
    with pytest.raises(PlanError, match="lacks columns"):
        predict_published(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read as CSV"):
        predict_published(path)
    path.write_text("")
    with pytest.raises(PlanError, match="an empty file"):
        predict_published(path)


def test_every_trap_is_refused_and_no_sound_row_is():
    assert all(row.reason for row in predict_published(reference("runs_traps.csv")))
    refused = {row.id for row in predict_published(reference("runs_public.csv")) if row.reason}
    assert refused == set()


def test_hours_of_published_runs():
    truth = table(reference("runs_public.csv"))
    rows = [row for row in predict_published(REFERENCE / "runs_public.csv") if row.hours]
    scored = [(row, float(truth[row.id]["acc_hours"])) for row in rows if truth[row.id]["arch"] != "encdec"]
    scored = [(row, hours) for row, hours in scored if truth[row.id]["kind"] != "energy_power"]
    errors = [abs(row.hours.value / hours - 1) for row, hours in scored]
    assert len(scored) >= 40
    # In-sample: left-out figures stand in plan/published.py.
    assert statistics.median(errors) < 0.20


def test_energy_of_measured_runs_given_hours_and_not_power(tmp_path):
    truth = table(reference("runs_public.csv"))
    measured = [row for row in truth.values() if row["energy_kind"].startswith("measured")]
    blind = [{**row, "power_w_per_acc": "", "power_kind": "", "energy_mwh": ""} for row in measured]
    with (tmp_path / "blind.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, blind[0])
        writer.writeheader()
        writer.writerows(blind)
    found = {row.id: row.energy_mwh.value for row in predict_published(tmp_path / "blind.csv")}
    errors = [abs(found[row["id"]] / float(row["energy_mwh"]) - 1) for row in measured]
    print(f"{len(errors)} measured runs: median error {statistics.median(errors):.1%}")
    assert statistics.median(errors) < 0.39
