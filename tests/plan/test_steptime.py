"""Terms of a step: arrays agree with single configurations, and each lever moves the term that it should."""

from dataclasses import replace

import numpy as np
import pytest

from stepladder.plan.stepcalibrate import SPREAD, forecast
from stepladder.plan.steprows import config_of
from stepladder.plan.steptime import CONSTANTS, FITTED, step_seconds, step_terms

ROW = {
    "hw": "A100",
    "gpus": "64",
    "gpn": "8",
    "layers": "32",
    "hidden": "4096",
    "heads": "32",
    "seq": "2048",
    "gbs": "512",
    "vocab": "32000",
    "dp": "8",
    "tp": "8",
    "pp": "1",
    "mbs": "4",
    "ga": "16",
    "zero": "1",
    "flash": "1",
    "dtype": "bf16",
    "framework": "megatron-lm",
}
PIPED = {**ROW, "tp": "2", "pp": "4"}
SHARDED = {**ROW, "dp": "64", "tp": "1", "ga": "2", "zero": "3"}


def test_arrays_agree_with_single_configurations():
    together = step_seconds(config_of([ROW, PIPED, SHARDED]))
    alone = [float(step_seconds(config_of([row]))[0]) for row in (ROW, PIPED, SHARDED)]
    assert together.tolist() == pytest.approx(alone)


def test_plain_numbers_do_as_well_as_arrays():
    config = config_of([PIPED])
    degrees = tuple(float(degree[0]) for degree in config.degrees)
    assert float(step_seconds(replace(config, degrees=degrees))[0]) == pytest.approx(
        float(step_seconds(config)[0])
    )


def test_terms_are_named_and_none_is_negative():
    for row in (ROW, PIPED, SHARDED):
        terms = step_terms(config_of([row]))
        assert all(float(np.min(seconds)) >= 0 for seconds in terms.values())
        assert sum(terms.values()) == pytest.approx(step_seconds(config_of([row])))
    assert float(step_terms(config_of([PIPED]))["bubble"][0]) > 0
    assert float(step_terms(config_of([ROW]))["bubble"][0]) == 0
    assert float(step_terms(config_of([SHARDED]))["tensor_parallel"][0]) == 0


def test_tensor_parallelism_across_nodes_costs_more():
    inside = step_terms(config_of([ROW]))["tensor_parallel"][0]
    across = step_terms(config_of([{**ROW, "tp": "16", "dp": "4", "ga": "32"}]))["tensor_parallel"][0]
    assert across > 3 * inside


def test_small_steps_wait_for_the_host():
    small = {**ROW, "hidden": "512", "heads": "8", "mbs": "1", "ga": "64"}
    terms = {name: float(np.asarray(value).flat[0]) for name, value in step_terms(config_of([small])).items()}
    assert max(terms, key=terms.__getitem__) == "launches"
    large = {name: float(np.asarray(value).flat[0]) for name, value in step_terms(config_of([ROW])).items()}
    assert large["launches"] < 0.1 * large["matrices"]


def test_every_constant_is_felt_somewhere():
    rows = [
        ROW,
        PIPED,
        {**SHARDED, "hw": "H100", "dtype": "fp8", "hidden": "4100"},
        {**ROW, "tp": "16", "dp": "4", "ga": "32", "extra": "ckpt_in_cpu=1"},
        {**SHARDED, "experts": "64", "topk": "4", "moe_ffn": "1024", "ep": "16", "seq": "512"},
    ]
    plain = step_seconds(config_of(rows))
    for name in CONSTANTS:
        moved = step_seconds(config_of(rows), {**FITTED, name: FITTED[name] + 0.3})
        assert not np.allclose(moved, plain), name


def test_a_measured_step_is_believed_by_how_near_it_is():
    plain, wide = forecast([PIPED])
    same = {**PIPED, "step_s": str(float(np.exp(plain[0])) * 1.3)}
    other = {**ROW, "step_s": str(float(np.exp(forecast([ROW])[0][0])) * 1.3)}
    near, narrow = forecast([PIPED], [same])
    far, between = forecast([PIPED], [other])
    assert 0.15 < far[0] - plain[0] < near[0] - plain[0] < np.log(1.3)
    assert SPREAD.noise < narrow[0] < between[0] < wide[0]


def test_what_no_row_was_like_widens():
    known = forecast([ROW])[1][0]
    for change in ({"framework": "own"}, {"hw": "MI300X"}, {"extra": "ib=slow"}):
        assert forecast([{**ROW, **change}])[1][0] > 1.1 * known


def test_a_seen_adapter_sets_the_network():
    slow = config_of([{**ROW, "extra": "ib=4x100GbRoCE/node"}])
    assert slow.rates.network.tolist() == [4 * 100e9 / 8 / 8]
