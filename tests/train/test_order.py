"""What a run reads: documents packed, masked and mixed by source; and its held-out loss by source."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepladder.data.tokens.shards import open_split
from stepladder.errors import TrainError
from stepladder.launch.local import run_plan
from stepladder.models.transformer import Transformer
from stepladder.records import Layout, Order, Plan, Recipe, Shape, from_json, to_json
from stepladder.train import worker
from stepladder.train.head import HeadLoss
from stepladder.train.loop import Stopped
from stepladder.train.metrics import read_metrics
from stepladder.train.mixture import mix
from stepladder.train.objective import NextToken, inputs_of
from stepladder.train.packing import PackedSource, pack
from stepladder.train.parallel import Ranks
from stepladder.train.source import packed

CONTEXT, VOCAB = 32, 300
ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
MakePlan = Callable[..., Path]


def train_here(plan: Path, out: Path, on_step: Any = lambda *_: None) -> None:
    worker.run_plan(plan, out, threading.Event(), on_step)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_a_packed_batch_is_its_documents_one_by_one(mixed: Path, attention: Any) -> None:
    torch.set_num_threads(1)  # as runs do; two threads that wait for each other take ten times as long
    shape = Shape(
        num_layers=2,
        width=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        ffn_width=48,
        vocab_size=VOCAB,
        context_tokens=CONTEXT,
    )
    model = Transformer(shape, attention)
    model.reset_parameters(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.lm_head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    split = open_split(mixed, "heldout")
    # Short documents: several share a sample, and the last sample has padding.
    starts = np.cumsum([0, *np.random.default_rng(0).integers(2, 21, 40)])
    cut = replace(split, offsets=starts, tokens=split.tokens[: starts[-1]], sources=split.sources[:0])
    source = PackedSource(cut, pack(cut, CONTEXT, 0), 1, 0)
    batch = source.read(np.arange(len(source.packing)))
    assert (batch.document < 0).any()
    objective = NextToken(None, np.zeros(0), 1.0, ALONE)  # type: ignore[arg-type]
    total = objective.loss(model, batch)
    total.backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    count, alone = 0, torch.zeros(())
    for first, last in itertools.pairwise(starts):
        ids = torch.from_numpy(np.asarray(cut.tokens[first:last], dtype=np.int64))[None]
        hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
        alone = alone + HeadLoss.apply(hidden, model.lm_head.weight, ids[0, 1:])
        count += int(last - first) - 1
    alone.backward()
    assert objective.count(batch) == count
    torch.testing.assert_close(total, alone, rtol=1e-5, atol=1e-4)
    for parameter, expected in zip(model.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4)


def test_documents_that_fill_their_samples_need_no_mask(mixed: Path) -> None:
    split = open_split(mixed, "train")
    packing = pack(split, CONTEXT, 0)
    source = PackedSource(split, packing, 1, 0)
    whole = np.flatnonzero(np.diff(packing.first) == 1)[:3]
    assert inputs_of(source.read(whole), torch.device("cpu"))[2] is None
    mixed_up = np.flatnonzero(np.diff(packing.first) > 1)[:3]
    mask = inputs_of(source.read(mixed_up), torch.device("cpu"))[2]
    assert mask is not None
    assert mask.shape == (3, 1, CONTEXT, CONTEXT)


def test_weights_decide_what_is_learnt(make_mixed: MakePlan, mixed: Path, tmp_path: Path) -> None:
    only = {}
    for name in ("rivers", "letters"):
        plan = make_mixed(Order(packing="documents", weights={name: 1.0}), name, steps=60)
        train_here(plan, tmp_path / name)
        only[name] = json.loads((tmp_path / name / "heldout_sources.json").read_text())
    assert only["rivers"]["rivers"]["bits_per_byte"] < only["letters"]["rivers"]["bits_per_byte"] - 0.3
    assert only["letters"]["letters"]["bits_per_byte"] < only["rivers"]["letters"]["bits_per_byte"] - 0.3
    with np.load(tmp_path / "rivers" / "heldout_documents.npz") as scores:
        document, size, nats = scores["document"], scores["num_bytes"], scores["nats"]
        source = scores["source"]
    split = open_split(mixed, "heldout")
    assert document.tolist() == list(range(len(split.offsets) - 1))
    assert source.tolist() == split.sources.tolist()
    # All but the first token of each piece is counted, and what a token spells are its bytes.
    assert 0.9 * split.num_bytes < size.sum() < split.num_bytes
    own = source == split.source_names.index("rivers")
    bits = nats[own].sum() / np.log(2) / size[own].sum()
    assert bits == pytest.approx(only["rivers"]["rivers"]["bits_per_byte"])


def test_stopped_and_resumed_and_in_micro_batches_the_same(make_mixed: MakePlan, tmp_path: Path) -> None:
    order = Order(packing="documents", weights={"rivers": 0.7, "letters": 0.3})
    plan = make_mixed(order)
    train_here(plan, tmp_path / "whole")
    stop = threading.Event()
    with pytest.raises(Stopped):
        worker.run_plan(plan, tmp_path / "again", stop, lambda step, *_: stop.set() if step == 5 else None)
    train_here(plan, tmp_path / "again")
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")
    # A folder of before an order had all of its fields is still that of the plan.
    kept = json.loads((tmp_path / "again" / "plan.json").read_text())
    del kept["order"]["unique"]
    (tmp_path / "again" / "plan.json").write_text(json.dumps(kept))
    train_here(plan, tmp_path / "again")
    parts = make_mixed(order, "parts", layout=Layout(micro_batch_sequences=3))
    train_here(parts, tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


def test_killed_and_resumed_the_same_bits(make_mixed: MakePlan, tmp_path: Path) -> None:
    plan, killed = make_mixed(Order(packing="documents", weights={"rivers": 0.7, "letters": 0.3})), "killed"
    train_here(plan, tmp_path / "whole")
    code = (
        "import os, signal, sys\n"
        "from stepladder.train import loop, worker\n"
        "loop.Job.__init__.__kwdefaults__['checkpoint_seconds'] = 0.0\n"
        "worker._reporter = lambda *_: lambda step, *_: step == 7 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit(worker.main())\n"
    )
    words = [sys.executable, "-c", code, "--plan", str(plan), "--out", str(tmp_path / killed)]
    ended = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / killed / "run.json").exists()
    train_here(plan, tmp_path / killed)
    assert losses(tmp_path / killed) == losses(tmp_path / "whole")
    for name in ("model/model.safetensors", "heldout_documents.npz"):
        assert (tmp_path / killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_corpus_that_cannot_be_written_to(mixed: Path, tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("packing")))
    (corpus / "packing").touch()  # no folder can be made here, whoever runs the test
    split = open_split(corpus, "train")
    packing = packed(split, corpus, tmp_path / "run", CONTEXT)
    assert len(list((tmp_path / "run" / "packing").iterdir())) == 1
    assert np.array_equal(packing.starts, pack(split, CONTEXT, 0).starts)


@pytest.mark.dist
@pytest.mark.parametrize("shard", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_read_the_same(make_mixed: MakePlan, tmp_path: Path, shard: Any) -> None:
    order = Order(packing="documents", weights={"rivers": 0.7, "letters": 0.3})
    train_here(make_mixed(order, "one"), tmp_path / "one")
    layout = Layout(processes=2, shard=shard)
    run_plan(make_mixed(order, "two", layout=layout), tmp_path / "two", quiet=True)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    scores = [json.loads((tmp_path / name / "heldout_sources.json").read_text()) for name in ("one", "two")]
    for name in ("rivers", "letters"):
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-5)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (Order(weights={"rivers": 1.0}), "windows"),
        (Order(packing="documents", weights={"river": 1.0}), 'did you mean "rivers"'),
        (Order(packing="documents", weights={"rivers": 0.0}), "every weight is 0"),
    ],
)
def test_an_order_that_cannot_be_met(make_mixed: MakePlan, tmp_path: Path, order: Order, told: str) -> None:
    with pytest.raises(TrainError, match=told):
        train_here(make_mixed(order), tmp_path / "run")


def test_the_default_order_is_not_written_and_may_be_missing() -> None:
    plan = Plan(
        name="p",
        corpus="c",
        shape=Shape(
            num_layers=1,
            width=16,
            num_heads=1,
            num_kv_heads=1,
            head_dim=16,
            ffn_width=16,
            vocab_size=300,
            context_tokens=16,
        ),
        recipe=Recipe(batch_tokens=16, embed_lr=1.0, head_lr=1.0, hidden_lr=1.0),
        layout=Layout(),
        seed=0,
        numbers={},
    )
    value = to_json(plan)
    assert "order" not in value
    assert from_json(Plan, value) == plan
    other = replace(plan, order=Order(packing="documents", weights={"a": 0.5}))
    assert from_json(Plan, json.loads(json.dumps(to_json(other)))) == other


def test_a_share_of_the_text_is_read_again_and_again(mixed: Path) -> None:
    split = open_split(mixed, "train")
    packing = pack(split, CONTEXT, 0)
    counts = packing.samples_per_source(0.25)
    seen = []
    for seed in (0, 1):
        source = PackedSource(split, packing, 1, seed, mixture=mix(packing.source_names, counts))
        first = source.samples(np.arange(sum(counts)))
        assert sorted(first) == sorted(source.samples(np.arange(sum(counts), 2 * sum(counts))))
        assert len(set(first.tolist())) == sum(counts)
        seen.append(first.tolist())
    assert seen[0] != seen[1]
    assert sorted(seen[0]) == sorted(seen[1])
    # Drawn from all over the source, not its first samples.
    assert max(seen[0]) > 0.9 * len(packing)
