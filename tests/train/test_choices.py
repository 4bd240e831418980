"""Choices of a run: from rules, from measurements, kept for its resume; compiled blocks against plain."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stepladder.models.fused import compile_blocks
from stepladder.models.transformer import Transformer
from stepladder.records import Degrees, Derived, Plan, from_json, to_json
from stepladder.train import choices as chosen
from stepladder.train import worker
from stepladder.train.choices import CHOICES_FILE, choice_lines, choose, kept_choices
from stepladder.verbs.train import train as train_verb

MakePlan = Callable[..., Path]
ROW = {"precision": "fp32", "context_tokens": 32, "explicit_seconds": 0.2, "sdpa_seconds": 0.1}
PRODUCTS = {
    "fp32": {"large_gflops": 60.0, "relative_error": 2e-7},
    "fp32_medium": {"large_gflops": 80.0, "relative_error": 4e-3},
}
PROBE = {"threads": {"1": {"attention": [ROW], "products": PRODUCTS}}}


def plan_of(path: Path, seconds: float, **layout: Any) -> Plan:
    plan = from_json(Plan, json.loads(path.read_text()))
    number = Derived(value=seconds, low=seconds, high=seconds, how="a test")
    return replace(plan, layout=replace(plan.layout, **layout), numbers={**plan.numbers, "seconds": number})


@pytest.mark.parametrize(("is_intel", "kernel"), [(False, "medium"), (True, "highest")])
def test_a_short_run_takes_the_rules(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, is_intel: bool, kernel: str
) -> None:
    monkeypatch.setattr(chosen, "is_intel_cpu", lambda: is_intel)
    plan = plan_of(make_plan(), 59.0)
    assert choose(plan, {}) == choose(plan, PROBE)
    values = {name: choice.value for name, choice in choose(plan, PROBE).items()}
    assert ("explicit", kernel, "off") == (values["attention"], values["fp32_products"], values["compile"])


def test_measurements_decide_a_longer_run(make_plan: MakePlan) -> None:
    found = choose(plan_of(make_plan(), 60.0), PROBE)
    assert ("sdpa", "measured") == (found["attention"].value, found["attention"].source)
    assert {"explicit": 200.0, "sdpa": 100.0} == found["attention"].alternatives
    # Faster, but not exact: a CPU that rounds to bf16.
    assert ("highest", "measured") == (found["fp32_products"].value, found["fp32_products"].source)
    lines = "\n".join(choice_lines(found))
    assert "attention: sdpa (measured)" in lines
    assert "explicit 200, sdpa 100" in lines


def test_an_exact_kernel_is_taken_only_where_it_is_faster(make_plan: MakePlan) -> None:
    plan, exact = plan_of(make_plan(), 60.0), {"large_gflops": 80.0, "relative_error": 2e-7}
    for other, value in ((60.0, "medium"), (90.0, "highest")):
        products = {"fp32": {"large_gflops": other, "relative_error": 2e-7}, "fp32_medium": exact}
        found = choose(plan, {"threads": {"1": {"products": products}}})["fp32_products"]
        assert (value, "measured") == (found.value, found.source)


def test_the_precision_stands_beside_the_rates_that_were_measured(make_plan: MakePlan) -> None:
    slow = {"bf16": {"large_gflops": 8.0, "relative_error": 4e-3}}
    probe = {"threads": {"1": {"products": PRODUCTS | slow}}}
    found = choose(plan_of(make_plan(), 60.0), probe)["precision"]
    assert ("fp32", "measured", {"bf16": 8.0, "fp32_medium": 80.0, "fp32": 60.0}) == (
        found.value,
        found.source,
        found.alternatives,
    )
    for seconds, known in ((60.0, PROBE), (59.0, probe)):  # no figure of bf16; a short run reads none
        found = choose(plan_of(make_plan(), seconds), known)["precision"]
        assert ("rule", {}) == (found.source, found.alternatives)


def test_a_row_of_another_precision_or_context_decides_nothing(make_plan: MakePlan) -> None:
    for change in ({"precision": "bf16"}, {"context_tokens": 64}):
        probe = {"threads": {"1": {"attention": [ROW | change]}}}
        assert "rule" == choose(plan_of(make_plan(), 60.0), probe)["attention"].source


def test_documents_on_a_gpu_take_the_fastest_of_three(make_plan: MakePlan) -> None:
    row = ROW | {"sdpa_masked_seconds": 0.3, "flex_seconds": 0.05}
    probe = {"gpus": [{"attention": [row]}]}
    plan = plan_of(make_plan(), 60.0, device="cuda")
    documents = replace(plan, order=replace(plan.order, packing="documents"))
    found = choose(documents, probe)["attention"]
    assert ("flex", {"explicit": 200.0, "sdpa": 300.0, "flex": 50.0}) == (found.value, found.alternatives)
    assert "sdpa" == choose(plan, probe)["attention"].value
    # A record from before FlexAttention was measured decides between the two that it has.
    assert "sdpa" == choose(documents, {"gpus": [{"attention": [ROW]}]})["attention"].value


def test_compile_waits_for_a_run_that_earns_it(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen.shutil, "which", lambda name: name)
    path = make_plan()
    # 11 % faster saves a tenth of the seconds; the wait is 45 s.
    assert "off" == choose(plan_of(path, 450.0), {})["compile"].value
    assert "blocks" == choose(plan_of(path, 460.0), {})["compile"].value
    for layout in ({"shard": "fsdp", "processes": 2}, {"recompute": "full"}):
        assert "blocks" == choose(plan_of(path, 1e6, **layout), {})["compile"].value
    assert "off" == choose(plan_of(path, 1e6, degrees=Degrees(tensor=2)), {})["compile"].value
    # Two processes of a CPU share the cores that they compile on; two with a GPU each do not.
    two = {"processes": 2, "shard": "ddp"}
    assert "off" == choose(plan_of(path, 460.0, **two), {})["compile"].value
    assert "blocks" == choose(plan_of(path, 460.0, device="cuda", **two), {})["compile"].value
    monkeypatch.setattr(chosen.shutil, "which", lambda name: None)
    assert "off" == choose(plan_of(path, 1e6), {})["compile"].value


def test_a_run_keeps_what_it_started_with(make_plan: MakePlan, tmp_path: Path) -> None:
    out = tmp_path / "run"
    worker.run_plan(make_plan(), out, threading.Event(), lambda *_: None)
    first = kept_choices(out)
    assert first is not None
    assert "explicit" == first["attention"].value
    # The other kernel rounds otherwise: what the file says is what is computed.
    other = tmp_path / "other"
    other.mkdir()
    changed = first | {"attention": replace(first["attention"], value="sdpa")}
    chosen.keep_choices(changed, other)
    worker.run_plan(make_plan(), other, threading.Event(), lambda *_: None)
    assert changed == kept_choices(other)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, other)]
    assert weights[0] != weights[1]


def test_explain_prints_every_choice(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_plan()
    assert 0 == train_verb(path, out=tmp_path / "run", dry_run=True, explain=True, json_output=True)
    told = json.loads(capsys.readouterr().out)["choices"]
    expected = choose(from_json(Plan, json.loads(path.read_text())), {})
    assert [to_json(choice) for choice in expected.values()] == told
    assert not (tmp_path / "run" / CHOICES_FILE).exists()


@pytest.mark.slow
# PyTorch 2.13's compiler warns of its own parts: a module that it deprecates, gradients that it looks up.
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_have_the_same_gradients(make_plan: MakePlan) -> None:
    plan = plan_of(make_plan(), 1.0)
    models = [worker.build_model(plan.shape, 0, "explicit") for _ in range(2)]
    compile_blocks(models[1])
    ids = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(0))
    draw = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(1))

    def gradients(model: Transformer) -> list[torch.Tensor]:
        return list(torch.autograd.grad((model.hidden(ids) * draw).sum(), list(model.layers.parameters())))

    plain, fast, again = gradients(models[0]), gradients(models[1]), gradients(models[1])
    torch.testing.assert_close(plain, fast, atol=1e-4, rtol=1e-4)
    for one, two in zip(fast, again, strict=True):
        assert torch.equal(one, two)
