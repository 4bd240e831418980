"""Every layout against one process: real gloo processes, the same losses. One torchrun trains many plans."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.errors import TrainError
from stepladder.records import Degrees, Experts, Layout, Order, Plan, from_json, to_json
from stepladder.train.choices import choose, keep_choices
from stepladder.train.metrics import read_metrics
from stepladder.train.worker import run_plan

pytestmark = pytest.mark.dist
MakePlan = Callable[..., Path]
_SCRIPT = Path(__file__).with_name("run_plans.py")

TWO = {
    "ddp": Layout(processes=2, shard="ddp"),
    "tensor": Layout(processes=2, degrees=Degrees(tensor=2)),
    "context": Layout(processes=2, degrees=Degrees(context=2)),
    "1f1b": Layout(processes=2, degrees=Degrees(pipeline=2)),
    "gpipe": Layout(processes=2, degrees=Degrees(pipeline=2, schedule="gpipe")),
    "interleaved": Layout(processes=2, degrees=Degrees(pipeline=2, stages=2, schedule="interleaved")),
    "zero_bubble": Layout(processes=2, degrees=Degrees(pipeline=2, stages=2, schedule="zero_bubble")),
    "zbv": Layout(processes=2, degrees=Degrees(pipeline=2, stages=2, schedule="zbv")),
}
FOUR = {
    "hsdp": Layout(processes=4, shard="hsdp", degrees=Degrees(shard_group=2)),
    "fsdp x tensor": Layout(processes=4, shard="fsdp", degrees=Degrees(tensor=2)),
    "ddp x tensor": Layout(processes=4, shard="ddp", degrees=Degrees(tensor=2)),
    "fsdp x pipeline": Layout(processes=4, shard="fsdp", degrees=Degrees(pipeline=2)),
    "tensor x pipeline": Layout(processes=4, degrees=Degrees(tensor=2, pipeline=2)),
    "fsdp x context": Layout(processes=4, shard="fsdp", degrees=Degrees(context=2)),
    "context x tensor": Layout(processes=4, degrees=Degrees(context=2, tensor=2)),
    "context x zbv": Layout(processes=4, degrees=Degrees(context=2, pipeline=2, stages=2, schedule="zbv")),
    "fsdp x tensor, recomputed, two micro-batches": Layout(
        processes=4, shard="fsdp", degrees=Degrees(tensor=2), recompute="full", micro_batch_sequences=2
    ),
}
# What is trained in every run of the tests; the others are slow.
OFTEN = ("hsdp", "fsdp x pipeline", "context x tensor", "fsdp x tensor, recomputed, two micro-batches")
SHAPE = {"num_layers": 4, "num_heads": 4, "num_kv_heads": 2}


@pytest.fixture
def write_plan(make_plan: MakePlan, mixed: Path) -> Callable[..., Path]:
    def write(
        name: str,
        layout: Layout,
        *,
        documents: bool = False,
        shape: Mapping[str, Any] = SHAPE,
        steps: int = 20,
        **recipe: Any,
    ) -> Path:
        path = make_plan(name.replace(" ", "_"), steps=steps, layout=layout, **recipe)
        plan = from_json(Plan, json.loads(path.read_text()))
        plan = replace(plan, shape=replace(plan.shape, **shape))
        if documents:
            vocab = load_tokenizer(mixed).vocab_size
            plan = replace(
                plan,
                corpus=str(mixed),
                shape=replace(plan.shape, vocab_size=vocab),
                order=Order(packing="documents"),
            )
        path.write_text(json.dumps(to_json(plan)))
        return path

    return write


def train_all(plans: Mapping[Path, Path | str], processes: int, *before: str) -> None:
    """Train plan -> folder in turn, by the processes of one torchrun or here; words `before` the plans."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(_SCRIPT)]
    ended = subprocess.run(
        [*command, *before, *(f"{plan}={out}" for plan, out in plans.items())],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in ended.stderr.splitlines() if line.startswith("[rank")]
    assert ended.returncode == 0, "\n".join(said or ended.stderr.splitlines())[-4000:]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


def assert_same(one: Path, other: Path) -> None:
    pairs = zip(losses(one), losses(other), strict=True)
    largest = max(abs(theirs - ours) / ours for ours, theirs in pairs)
    print(f"{other.name}: largest relative difference of a step's loss {largest:.1e}")
    assert largest <= 1e-5
    last, found = (list(read_metrics(out / "metrics.jsonl"))[-1] for out in (one, other))
    assert pytest.approx(last["heldout_loss"], rel=1e-5) == found["heldout_loss"]
    assert pytest.approx(last["in_context_score"], abs=1e-4) == found["in_context_score"]
    assert last["tokens"] == found["tokens"]
    expected, actual = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    assert expected.keys() == actual.keys()
    assert all(np.abs(expected[name] - actual[name]).max() < 2e-3 for name in expected)
    params = [json.loads((out / "run.json").read_text())["params"] for out in (one, other)]
    assert params[0] == params[1]


@pytest.mark.parametrize(
    ("processes", "layouts"),
    [
        pytest.param(2, TWO, id="two"),
        pytest.param(4, {name: FOUR[name] for name in OFTEN}, id="four"),
        pytest.param(
            4,
            {name: layout for name, layout in FOUR.items() if name not in OFTEN},
            id="four, the others",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_layout_trains_as_one_process(
    write_plan: Callable[..., Path], tmp_path: Path, processes: int, layouts: Mapping[str, Layout]
) -> None:
    train_all({write_plan("one", Layout()): tmp_path / "one"}, 1)
    train_all({write_plan(name, layout): tmp_path / name for name, layout in layouts.items()}, processes)
    for name in layouts:
        assert_same(tmp_path / "one", tmp_path / name)


def test_gradients_that_leave_in_many_buckets_are_those_of_one(
    write_plan: Callable[..., Path], tmp_path: Path
) -> None:
    """Sums of two do not hang on the order, so that losses and weights have the same bits."""
    layout = Layout(processes=2, shard="ddp", micro_batch_sequences=2)
    outs = [tmp_path / "one", tmp_path / "many"]
    for out, before in zip(outs, ((), ("--bucket-bytes", "6000")), strict=True):
        train_all({write_plan("plan", layout, steps=6): out}, 2, *before)
    one, many = outs
    assert losses(one) == losses(many)
    files = [(out / "model" / "model.safetensors").read_bytes() for out in outs]
    assert files[0] == files[1]


@pytest.mark.slow
def test_compiled_blocks_train_as_plain_ones_in_shards(
    write_plan: Callable[..., Path], tmp_path: Path
) -> None:
    kinds = {
        "fsdp": ({"shard": "fsdp"}, 1e-6),
        "fsdp, recomputed": ({"shard": "fsdp", "recompute": "full"}, 1e-6),
        "fsdp, attention recomputed": ({"shard": "fsdp", "recompute": "selective"}, 1e-6),
        "fsdp, bf16": ({"shard": "fsdp", "precision": "bf16"}, 2e-3),
        "ddp": ({"shard": "ddp"}, 1e-6),
    }
    plans = {}
    for name, (layout, _) in kinds.items():
        path = write_plan(name, Layout(processes=2, **layout), steps=8)
        choices = choose(from_json(Plan, json.loads(path.read_text())), {})
        for way in ("off", "blocks"):
            copy, out = path.with_stem(f"{path.stem}-{way}"), tmp_path / f"{name}-{way}"
            copy.write_bytes(path.read_bytes())
            out.mkdir()
            # A run goes on with what its folder says.
            keep_choices(choices | {"compile": replace(choices["compile"], value=way)}, out)
            plans[copy] = out
    train_all(plans, 2)
    for name, (_, most) in kinds.items():
        plain, compiled = (losses(tmp_path / f"{name}-{way}") for way in ("off", "blocks"))
        assert plain != compiled, "nothing was compiled"
        assert plain == pytest.approx(compiled, rel=most), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "fsdp x pipeline"])
def test_a_checkpoint_may_follow_an_evaluation(
    write_plan: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """Held-out passes have no backward pass, after which FSDP2 would shard its root again."""
    layout = FOUR.get(name, Layout(processes=2, shard="fsdp"))
    plan, out = write_plan("plan", layout, steps=270), tmp_path / "run"
    train_all({plan: f"{out}@135"}, layout.processes)
    evaluated = [line["step"] for line in read_metrics(out / "metrics.jsonl") if "heldout_loss" in line]
    assert [135] == evaluated
    train_all({plan: out}, layout.processes)
    assert list(range(1, 271)) == [line["step"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.mark.slow
def test_packed_documents_in_every_kind_of_layout(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    """Masks of documents, an optimiser that needs whole matrices, and losses by source."""
    kinds = ["fsdp x tensor", "fsdp x pipeline", "tensor x pipeline", "context x tensor", "context x zbv"]
    common = {"documents": True, "optimiser": "muon"}
    train_all({write_plan("one", Layout(), **common): tmp_path / "one"}, 1)
    train_all({write_plan(name, FOUR[name], **common): tmp_path / name for name in kinds}, 4)
    for name in kinds:
        assert_same(tmp_path / "one", tmp_path / name)
        expected, actual = (
            json.loads((tmp_path / run / "heldout_sources.json").read_text()) for run in ("one", name)
        )
        for source, figures in expected.items():
            assert pytest.approx(figures, rel=1e-5) == actual[source]


@pytest.mark.slow
def test_bf16_weights_gathered_as_such(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    kinds = {name: replace(FOUR[name], precision="bf16") for name in ("fsdp x tensor", "fsdp x pipeline")}
    train_all({write_plan("one", Layout(precision="bf16")): tmp_path / "one"}, 1)
    train_all({write_plan(name, layout): tmp_path / name for name, layout in kinds.items()}, 4)
    for name in kinds:
        assert pytest.approx(losses(tmp_path / "one"), rel=3e-3) == losses(tmp_path / name)


@pytest.mark.slow
def test_a_tied_head_is_split_once(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    tied = {"shape": SHAPE | {"tied_head": True}}
    train_all({write_plan("one", Layout(), **tied): tmp_path / "one"}, 1)
    kinds = ["fsdp x tensor", "context x tensor"]
    train_all({write_plan(name, FOUR[name], **tied): tmp_path / name for name in kinds}, 4)
    for name in kinds:
        assert_same(tmp_path / "one", tmp_path / name)


RESHARDED = {
    "4 to 2": (Layout(processes=4, shard="fsdp"), Layout(processes=2, shard="fsdp")),
    "fsdp to tensor": (Layout(processes=2, shard="fsdp"), TWO["tensor"]),
    "pipeline to fsdp": (TWO["1f1b"], Layout(processes=2, shard="fsdp")),
    "one to fsdp x tensor": (Layout(), FOUR["fsdp x tensor"]),
    "fsdp x tensor to zbv": (FOUR["fsdp x tensor"], TWO["zbv"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_checkpoint_goes_on_in_any_other_layout(
    write_plan: Callable[..., Path], tmp_path: Path, optimiser: str
) -> None:
    """Stopped at step 10 under one layout, finished under another: losses as if never stopped."""
    train_all({write_plan("one", Layout(), optimiser=optimiser): tmp_path / "one"}, 1)
    for turn in (0, 1):
        for processes in (1, 2, 4):
            plans = {}
            for name, layouts in RESHARDED.items():
                if layouts[turn].processes == processes:
                    plan = write_plan(f"{name} {turn}", layouts[turn], optimiser=optimiser)
                    (tmp_path / name / "plan.json").unlink(missing_ok=True)
                    plans[plan] = f"{tmp_path / name}@10" if turn == 0 else tmp_path / name
            if plans:
                train_all(plans, processes)
    for name in RESHARDED:
        steps = [line["step"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
        assert steps == list(range(1, 21))
        assert pytest.approx(losses(tmp_path / "one"), rel=1e-6) == losses(tmp_path / name)


EXPERTS = SHAPE | {"experts": Experts(count=4, active=2, ffn_width=32, balance=0.05)}
SPREAD = {
    "ddp, experts": Layout(processes=4, shard="ddp", degrees=Degrees(expert=2)),
    "fsdp, experts": Layout(processes=4, shard="fsdp", degrees=Degrees(expert=2)),
    "hsdp, experts": Layout(processes=4, shard="hsdp", degrees=Degrees(expert=2, shard_group=2)),
    "pipeline, experts": Layout(processes=4, shard="ddp", degrees=Degrees(expert=2, pipeline=2)),
    "fsdp, parts of experts": Layout(processes=4, shard="fsdp", degrees=Degrees(expert=4)),
    "fsdp, experts not spread": Layout(processes=4, shard="fsdp"),
}


def test_spread_experts_train_as_one_process(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    train_all({write_plan("one", Layout(), shape=EXPERTS): tmp_path / "one"}, 1)
    kinds = ("ddp, experts", "fsdp, experts")
    train_all({write_plan(name, SPREAD[name], shape=EXPERTS): tmp_path / name for name in kinds}, 4)
    for name in kinds:
        assert_same(tmp_path / "one", tmp_path / name)
        rows = [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if "expert_load" in row]
        assert all(1 <= row["expert_load"] <= 2 for row in rows)
        assert rows


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_experts_in_every_kind_of_layout(
    write_plan: Callable[..., Path], tmp_path: Path, optimiser: str
) -> None:
    common = {"shape": EXPERTS, "optimiser": optimiser}
    train_all({write_plan("one", Layout(), **common): tmp_path / "one"}, 1)
    train_all({write_plan(name, layout, **common): tmp_path / name for name, layout in SPREAD.items()}, 4)
    for name in SPREAD:
        assert_same(tmp_path / "one", tmp_path / name)


@pytest.mark.slow
def test_experts_go_on_in_another_layout(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    train_all({write_plan("one", Layout(), shape=EXPERTS): tmp_path / "one"}, 1)
    names = ("ddp, experts", "fsdp, experts")
    plans = {write_plan(name, SPREAD[name], shape=EXPERTS): f"{tmp_path / name}@10" for name in names}
    train_all(plans, 4)
    shutil.copytree(tmp_path / "fsdp, experts", tmp_path / "same")
    train_all({write_plan("fsdp, experts", SPREAD["fsdp, experts"], shape=EXPERTS): tmp_path / "same"}, 4)
    for name in names:
        (tmp_path / name / "plan.json").unlink()
    train_all({write_plan(f"{name} one", Layout(), shape=EXPERTS): tmp_path / name for name in names}, 1)
    whole = losses(tmp_path / "one")
    for name in (*names, "same"):
        assert pytest.approx(whole, rel=1e-6) == losses(tmp_path / name)


def test_experts_that_cannot_be_shared_out_so(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    layout = Layout(processes=12, shard="ddp", degrees=Degrees(expert=3, tensor=2))
    with pytest.raises(TrainError) as caught:
        run_plan(
            write_plan("three", layout, shape=EXPERTS), tmp_path / "x", threading.Event(), lambda *_: None
        )
    for reason in (
        "tensor = 2 with experts is not built",
        "4 experts are not a multiple of expert 3",
    ):
        assert reason in str(caught.value)
    with pytest.raises(TrainError, match="expert = 2 without experts"):
        run_plan(
            write_plan("dense", Layout(processes=2, shard="ddp", degrees=Degrees(expert=2))),
            tmp_path / "y",
            threading.Event(),
            lambda *_: None,
        )


def test_impossible_layouts_say_all_reasons(write_plan: Callable[..., Path], tmp_path: Path) -> None:
    tall: dict[str, Any] = {"shape": {"num_layers": 3, "num_heads": 3, "num_kv_heads": 1, "tied_head": True}}
    layout = Layout(processes=16, degrees=Degrees(tensor=2, pipeline=4, schedule="zbv"))
    with pytest.raises(TrainError) as caught:
        run_plan(write_plan("tall", layout, **tall), tmp_path / "x", threading.Event(), lambda *_: None)
    for reason in (
        "shard = none with 2 data replicas",
        "num_heads = 3 is not a multiple of tensor 2",
        "a tied head would stand on two stages",
        "3 layers for 4 stages",
        "schedule = zbv with 1 stages a process, not 2",
    ):
        assert reason in str(caught.value)
