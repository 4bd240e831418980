"""Passes from fixed buffers give the bits of plain ones; what cannot be captured is refused."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stepladder.errors import TrainError
from stepladder.records import Experts, Layout, Order, Plan, from_json
from stepladder.train import graphs, loop, worker
from stepladder.train.choices import choose
from stepladder.train.graphs import Run, StaticPasses
from stepladder.train.metrics import read_metrics

MakePlan = Callable[..., Path]


def read(path: Path) -> Plan:
    return from_json(Plan, json.loads(path.read_text()))


def train_here(plan: Path, out: Path) -> list[float]:
    worker.run_plan(plan, out, threading.Event(), lambda *_: None)
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def repeated(captured: list[Run]) -> Callable[[Run], Run]:
    """What capturing does, without a GPU: run to warm up, and hand back what runs again."""

    def capture(run: Run) -> Run:
        run()
        captured.append(run)
        return run

    return capture


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_passes_over_buffers_have_the_bits_of_plain_ones(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    # Micro-batches of 3, 3 and 2 sequences: a pass for each of two shapes.
    layout = Layout(micro_batch_sequences=3, precision=precision)  # type: ignore[arg-type]
    path, captured = make_plan(layout=layout), []
    plain = train_here(path, tmp_path / "plain")

    def static(model: Any, objective: Any, layout: Layout, expect: Any) -> StaticPasses:
        return StaticPasses(model, objective, layout, repeated(captured))

    monkeypatch.setattr(loop, "passes_of", static)
    assert plain == train_here(path, tmp_path / "static")
    assert 2 == len(captured)
    assert weights(tmp_path / "plain") == weights(tmp_path / "static")


def test_without_the_switch_passes_are_plain(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, heard = read(make_plan()), []
    model = worker.build_model(plan.shape, 0, "explicit")
    monkeypatch.setattr(graphs, "forward_backward", lambda *given: heard.append(given) or 1.5)
    assert 1.5 == graphs.passes_of(model, object(), plan.layout)(["batch"], 0.5, print)  # type: ignore[arg-type]
    assert [["batch"], 0.5, print] == [heard[0][at] for at in (2, 4, 5)]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"device": "cpu"}, {}, "cuda_graphs on a CPU"),
    ({"processes": 2, "shard": "ddp"}, {}, "cuda_graphs with 2 processes is not built: 1 process"),
    ({"recompute": "full"}, {}, "cuda_graphs with recompute = full is not built: recompute = none"),
    ({"float8": True, "precision": "bf16"}, {}, "cuda_graphs with float8 is not built: float8 = false"),
    ({}, {"shape": Experts(count=4, active=2, ffn_width=16)}, "cuda_graphs with a mixture of experts"),
    ({}, {"order": Order(packing="documents")}, "cuda_graphs with masked tokens, packed documents"),
    ({}, {"order": Order(weights={"a": 1.0})}, "or mixed sources: passes differ from step to step"),
    ({}, {"objective": "masked"}, "cuda_graphs with masked tokens"),
]


@pytest.mark.parametrize(("layout", "change", "text"), REFUSED)
def test_what_cannot_be_captured_is_refused(
    make_plan: MakePlan, layout: dict[str, Any], change: dict[str, Any], text: str
) -> None:
    plan, layout = read(make_plan()), {"device": "cuda", "cuda_graphs": True} | layout
    if "shape" in change:
        change = {"shape": replace(plan.shape, experts=change["shape"])}
    plan = replace(plan, layout=Layout(**layout), **change)
    with pytest.raises(TrainError) as caught:
        worker.check_plan(plan)
    assert text in str(caught.value)
    assert "cuda_graphs = false" in str(caught.value)


def test_explain_says_whether_it_is_on_and_why(make_plan: MakePlan) -> None:
    plan = read(make_plan())

    def told(**layout: Any) -> tuple[str, str]:
        found = choose(replace(plan, layout=Layout(**layout)), {})
        return found["cuda_graphs"].value, found["cuda_graphs"].why

    assert ("off", "graphs are captured on a GPU") == told()
    assert "its speed was not measured; [override] cuda_graphs = true turns it on" in told(device="cuda")[1]
    assert "cuda_graphs with recompute = full is not built" == told(device="cuda", recompute="full")[1]
    packed = replace(plan, layout=Layout(device="cuda"), order=Order(packing="documents"))
    assert "passes differ from step to step" in choose(packed, {})["cuda_graphs"].why
    assert "on" == told(device="cuda", cuda_graphs=True)[0]
    assert "off" == choose(replace(plan, layout=Layout(device="cuda", cuda_graphs=True)), {})["compile"].value


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_passes_have_the_losses_of_plain_ones(
    make_plan: MakePlan, tmp_path: Path, precision: str
) -> None:
    for name in ("plain", "graphs"):
        layout = Layout(device="cuda", precision=precision, micro_batch_sequences=3)  # type: ignore[arg-type]
        layout = replace(layout, cuda_graphs=name == "graphs")
        train_here(make_plan(name, steps=30, layout=layout), tmp_path / name)
    pairs = zip(
        read_metrics(tmp_path / "plain" / "metrics.jsonl"),
        read_metrics(tmp_path / "graphs" / "metrics.jsonl"),
        strict=True,
    )
    for one, other in pairs:
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5 if precision == "fp32" else 1e-3)
