"""The phases of a step: on a CPU by its clock, on CUDA by events that are read later."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder.models.count import train_flops_per_token
from stepladder.records import Layout, Shape
from stepladder.train.clock import PHASES, RATES_VARIABLE, StepClock, Work, work_of
from stepladder.train.metrics import read_metrics

SHAPE = Shape(
    num_layers=2,
    width=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    ffn_width=48,
    vocab_size=64,
    context_tokens=32,
)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on when it is told to: a busy machine must not decide what a test says."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def test_time_goes_to_the_phase_that_was_marked(pass_time: Callable[[float], None]) -> None:
    clock = StepClock()
    for _ in range(3):
        clock.mark("data")
        pass_time(0.01)
        clock.mark("forward")
        pass_time(0.03)
        clock.end(100)
        pass_time(0.02)  # an evaluation: part of no step
    found = clock.take(Work(flops_per_token=2.0, peak_flops_per_second=1e4, source="a test"))
    shares = {"data": 0.25, "forward": 0.75}
    expected = {f"{phase}_share": shares.get(phase, 0.0) for phase in PHASES}
    expected |= {"step_seconds": 0.04, "tokens_per_second": 2500.0, "mfu": 0.5}
    assert found.pop("mfu_peak") == "a test"
    assert pytest.approx(expected) == found
    assert clock.take(Work()) == {}


def test_phases_that_come_again_are_added(pass_time: Callable[[float], None]) -> None:
    """Micro-batches go forward and backward in turn."""
    clock = StepClock()
    for _ in range(2):
        clock.mark("forward")
        pass_time(1.0)
        clock.mark("backward")
        pass_time(3.0)
    clock.end(1)
    found = clock.take(Work())
    assert (found["forward_share"], found["backward_share"], found["step_seconds"]) == (0.25, 0.75, 8.0)


class Stream:
    """A device that has passed the first `done` of its events; one event every 2 ms."""

    def __init__(self) -> None:
        self.recorded, self.done, self.waited = 0, 0, 0

    def event(self) -> "Place":
        return Place(self)


class Place:
    def __init__(self, stream: Stream) -> None:
        self.stream, self.at = stream, -1

    def record(self) -> None:
        self.at = self.stream.recorded
        self.stream.recorded += 1

    def query(self) -> bool:
        return self.at < self.stream.done

    def synchronize(self) -> None:
        self.stream.waited += 1
        self.stream.done = self.at + 1

    def elapsed_time(self, end_event: "Place") -> float:
        assert end_event.query()
        return 2.0 * (end_event.at - self.at)


def test_events_are_read_when_the_device_has_passed_them_and_no_step_waits() -> None:
    """The order of calls only; `test_cuda_events` reads a real device."""
    stream = Stream()
    clock = StepClock(stream.event)

    def step() -> None:
        clock.mark("forward")
        clock.mark("backward")
        clock.end(10)

    step()
    assert clock.take(Work()) == {}
    stream.done = 3
    step()
    assert clock.take(Work())["step_seconds"] == 0.004
    assert stream.waited == 0
    step()
    assert clock.take(Work(), wait=True)["step_seconds"] == 0.004
    assert stream.waited == 2


@pytest.mark.gpu
def test_cuda_events() -> None:
    torch = pytest.importorskip("torch")
    clock = StepClock(lambda: torch.cuda.Event(enable_timing=True))
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(5):
        clock.mark("forward")
        matrix @ matrix
        clock.mark("backward")
        for _ in range(4):
            matrix @ matrix
        clock.end(1)
    found = clock.take(Work(), wait=True)
    assert float(found["backward_share"]) > 2 * float(found["forward_share"])


def test_the_peak_is_what_doctor_measured_with_these_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"fp32_medium": {"1": 100.0, "2": 180.0}, "bf16": {"1": 400.0}}
    monkeypatch.setenv(RATES_VARIABLE, json.dumps(rates))
    found = work_of(SHAPE, Layout(threads=2, processes=2, shard="ddp"), fp32_key="fp32_medium")
    assert found == Work(
        flops_per_token=train_flops_per_token(SHAPE),
        peak_flops_per_second=360e9,
        source="measured by doctor: 180 GFLOP/s in fp32_medium on 2 threads, 2 processes",
    )
    scaled = work_of(SHAPE, Layout(threads=4, precision="bf16"), fp32_key="fp32")
    assert scaled.peak_flops_per_second == 1600e9
    assert scaled.source == "measured by doctor: 400 GFLOP/s in bf16 on 1 threads, times 4/1"


def test_an_unmeasured_peak_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RATES_VARIABLE, "{}")
    found = work_of(SHAPE, Layout(), fp32_key="fp32")
    assert (found.peak_flops_per_second, found.source) == (0.0, "unknown; type: stepladder doctor")


def test_a_gpu_has_the_peak_of_the_catalogue() -> None:
    layout = Layout(device="cuda", precision="bf16", processes=8, shard="fsdp", threads=1)
    h100 = ("NVIDIA H100 80GB HBM3", 85_000_000_000)
    found = work_of(SHAPE, layout, fp32_key="fp32_medium", gpu=h100)
    assert found.source.startswith("catalogue: 989")
    assert found.source.endswith("TFLOP/s in bf16 for H100 SXM5 80GB, 8 processes")
    other = work_of(SHAPE, layout, fp32_key="fp32", gpu=("Some card", 1))
    assert other.source == "unknown; no bf16 peak of Some card in the catalogue"


def test_a_run_writes_shares_every_tenth_step_and_at_its_end(
    make_plan: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from stepladder.train import worker

    monkeypatch.setenv(RATES_VARIABLE, json.dumps({"fp32": {"1": 100.0}, "fp32_medium": {"1": 100.0}}))
    worker.run_plan(make_plan(steps=12), tmp_path / "run", threading.Event(), lambda *_: None)
    lines = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    timed = [line["step"] for line in lines if "step_seconds" in line]
    assert timed == [10, 12]
    last = lines[-1]
    assert sum(last[f"{phase}_share"] for phase in PHASES) == pytest.approx(1.0)
    assert min(last["forward_share"], last["backward_share"], last["optimiser_share"]) > 0
    expected = train_flops_per_token(SHAPE) * last["tokens_per_second"] / 100e9
    assert last["mfu"] == pytest.approx(expected)
    assert last["peak_bytes"] > 0
