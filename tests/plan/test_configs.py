"""Step time and memory of configurations, beside published measurements."""

import csv
import math
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from stepladder.errors import PlanError
from stepladder.plan.configs import predict_configs, write_configs

CONFIGS = Path(__file__).parents[2].parent / "shared" / "reference" / "layout" / "configs_public.csv"
ROW = {
    "id": "a",
    "hw": "A100",
    "gpu_mem_gb": "80",
    "gpus": "64",
    "gpn": "8",
    "layers": "32",
    "hidden": "4096",
    "heads": "32",
    "seq": "2048",
    "gbs": "512",
    "vocab": "32000",
    "dp": "64",
    "tp": "1",
    "pp": "1",
    "mbs": "1",
    "ga": "8",
    "zero": "1",
    "recompute": "full",
    "flash": "1",
    "dtype": "bf16",
    "framework": "megatron-lm",
}


def write(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def predict(tmp_path: Path, *rows: dict[str, str], measured: Path | None = None):
    return predict_configs(write(tmp_path / "configs.csv", *rows), measured)


def test_the_efficiency_of_a_plain_configuration_is_plausible(tmp_path):
    found = predict(tmp_path, ROW)[0]
    flops = 6 * 6.6e9 * 512 * 2048
    assert 0.3 < flops / found.step / 64 / 312e12 < 0.6
    assert 15 < found.memory < 60


def test_more_devices_are_faster_and_bubbles_cost(tmp_path):
    more = {**ROW, "gpus": "128", "dp": "128", "ga": "4"}
    piped = {**ROW, "pp": "8", "dp": "8", "ga": "64"}
    few = {**piped, "gbs": "64", "ga": "8"}
    base, faster, deep, starved = (predict(tmp_path, row)[0].step for row in (ROW, more, piped, few))
    assert faster < base
    assert starved / 64 > deep / 512


def test_sharding_and_recompute_need_less_memory(tmp_path):
    def memory(**change: str) -> float:
        return predict(tmp_path, {**ROW, **change})[0].memory

    assert memory(zero="3") < memory(zero="2") < memory(zero="1") < memory(zero="0")
    assert memory(recompute="full") < memory(recompute="selective") < memory(recompute="none", flash="0")


def test_a_measured_row_moves_and_narrows_its_kin_most(tmp_path):
    plain = predict(tmp_path, ROW)[0]
    measured = write(tmp_path / "m.csv", {**ROW, "step_s": str(plain.step * 1.5), "mem_gib": "50"})
    other = {**ROW, "id": "b", "hidden": "8192"}
    near, far = predict(tmp_path, ROW, other, measured=measured)
    assert 1.35 * plain.step < near.step < 1.5 * plain.step
    assert near.memory == pytest.approx(50)
    # Another model of the same machine learns less.
    assert near.step_log90 < far.step_log90 < plain.step_log90


def test_what_the_constants_do_not_cover_is_refused(tmp_path):
    rows = predict(
        tmp_path,
        {**ROW, "hw": "TPUv4"},
        {**ROW, "experts": "8"},
        {**ROW, "layers": ""},
        {**ROW, "gbs": "-1"},
        ROW,
        {**ROW, "dp": "32"},
        {**ROW, "gbs": "600"},
        {**ROW, "mbs": "nan"},
        {**ROW, "gpus": "1e300"},
        {**ROW, "dtype": "fp8"},
        {**ROW, "dtype": "int4"},
        {**ROW, "recompute": "some"},
        {**ROW, "dp": "1", "tp": "64"},
    )
    refused = [row.reason for row in rows]
    assert refused[4] == ""
    assert "TPUv4" in refused[0]
    assert "experts" in refused[1]
    assert refused[2].startswith("layers: not a positive number")
    assert refused[3].startswith("gbs: not a positive number")
    assert refused[5] == "dp x tp x pp x cp is 32, gpus 64"
    assert refused[6] == "dp x mbs x ga is 512, gbs 600"
    assert refused[7].startswith("mbs: not a positive number")
    assert refused[8].startswith("gpus: not a positive number")
    assert refused[9] == 'accelerator "A100" has no fp8'
    assert refused[10] == 'dtype "int4" is not among fp16, bf16, fp8'
    assert refused[11] == 'recompute "some" is not among none, full, selective, selective_layer, unknown'
    assert refused[12] == "tp 64 is more than heads 32"
    write_configs(tmp_path / "out.csv", rows)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "id,step_s,step_low90,step_high90,mem_gib,mem_low90,mem_high90,fits,status"
    assert lines[1] == "a,,,,,,,,refused"
    assert lines[5].endswith(",1,ok")


def test_files_that_are_no_tables_give_one_error(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,hw\na,A100\n")
    with pytest.raises(PlanError, match="lacks columns"):
        predict_configs(path)


def test_steps_of_published_tables():
    if not CONFIGS.exists():
        pytest.skip("needs ../shared/reference/layout")
    with CONFIGS.open(encoding="utf-8", newline="") as file:
        truth = {row["id"]: row for row in csv.DictReader(file)}
    errors: dict[str, list[float]] = defaultdict(list)
    for found in predict_configs(CONFIGS):
        row = truth[found.id]
        if row["step_s"] and not row["trap"] and not found.reason and row["status"] == "ok":
            errors[row["group"]].append(math.log(found.step / float(row["step_s"])))
    medians = [statistics.median(abs(math.expm1(error)) for error in each) for each in errors.values()]
    assert len(errors) == 16
    # In-sample; bench/plan/steps.py has the figures with each source left out.
    assert statistics.mean(medians) < 0.11


def test_rows_that_cannot_be_meant_are_named_by_line_in_one_error(tmp_path):
    path = write(tmp_path / "configs.csv", ROW, {**ROW, "tp": "2.5", "dp": "25.6"}, {**ROW, "ga": "7.5"})
    with path.open("a") as file:
        file.write(",".join([*ROW.values(), "1", "2"]) + "\n")
    with pytest.raises(PlanError) as told:
        predict_configs(path)
    text = str(told.value)
    assert "line 3: dp = 25.6; line 3: tp = 2.5; line 5: 2 cells more than columns" in text
    assert "line 2" not in text
    assert "line 4" not in text
