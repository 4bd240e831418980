"""The share of the peak that published runs reached, and the FLOPs of a run."""

import math

import pytest

from stepladder.plan.hardware import catalogue, find_device
from stepladder.plan.utilisation import Workload, device_hours, peak16, utilisation

A100, H100 = find_device("a100-sxm-80"), find_device("h100-sxm")


def run(active: float, **more) -> Workload:
    return Workload(**{"active": active, "total": active, "tokens": 1e12, **more})


def test_flops_count_attention_and_what_is_recomputed():
    work = run(7e9, layers=32, width=4096, context=8192)
    attention = 6 * 32 * 4096 * 8192
    assert work.flops == (42e9 + attention) * 1e12
    again = run(7e9, layers=32, width=4096, context=8192, recomputed=1.0)
    assert again.flops == pytest.approx(work.flops * 4 / 3)
    # The usual shape of 7B is near that of Llama 7B: 32 layers of 4,096.
    assert run(6.7e9).flops == pytest.approx(run(6.7e9, layers=32, width=4096, context=4096).flops, rel=0.01)


def test_large_models_fill_fast_devices_and_small_ones_do_not():
    shares = [utilisation(H100, run(size)).value for size in (8e9, 70e9, 405e9)]
    assert shares == sorted(shares)
    # Llama 3 and 3.1 reached .14 to .16 at 8B and .26 to .28 at 70B (model cards), attention not counted.
    assert shares[0] == pytest.approx(0.17, abs=0.02)
    assert shares[1] == pytest.approx(0.28, abs=0.03)
    assert utilisation(A100, run(8e9)).value == utilisation(A100, run(70e9)).value


@pytest.mark.parametrize("size", [1e8, 1e9, 1e10, 1e11, 1e12])
def test_more_arithmetic_never_takes_longer(size):
    devices = sorted((one for one in catalogue().values() if set(one.peaks) & {"bf16", "fp16"}), key=peak16)
    hours = [device_hours(device, run(size)).value for device in devices]
    assert hours == sorted(hours, reverse=True)


def test_runs_before_2023_and_in_fp16_are_slower():
    now, old, half = run(7e9), run(7e9, started="2022-05"), run(7e9, precision="fp16")
    assert device_hours(A100, old).value == device_hours(A100, half).value > device_hours(A100, now).value
    assert "begun before 2023 or in fp16" in device_hours(A100, old).how


def test_a_mixture_counts_between_its_active_and_its_total_parameters():
    dense, mixture, large = run(20e9), run(20e9, total=200e9), run(200e9)
    shares = [utilisation(H100, one).value for one in (dense, mixture, large)]
    assert shares == sorted(shares)


def test_devices_without_published_runs_get_wider_intervals():
    seen, unseen = utilisation(H100, run(7e9)), utilisation(find_device("mi300x"), run(7e9))
    assert math.log(seen.high / seen.low) < math.log(unseen.high / unseen.low)
    assert "on other devices" in unseen.how
