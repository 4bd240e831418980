"""Masked language modelling, from windows to a folder that transformers computes equally."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stepladder.errors import TrainError
from stepladder.models import export, hf
from stepladder.models.shape import shape_for_width
from stepladder.records import Layout, Plan, from_json, to_json
from stepladder.train.masked import mask_windows, masked_count
from stepladder.train.metrics import read_metrics
from stepladder.train.worker import check_plan, main

MakePlan = Callable[..., Path]


def make_masked(make_plan: MakePlan, steps: int) -> Path:
    path = make_plan("masked", steps=steps)
    plan = from_json(Plan, json.loads(path.read_text()))
    shape = shape_for_width(32, 2, vocab_size=65, context_tokens=32, num_heads=2, causal=False)
    path.write_text(json.dumps(to_json(replace(plan, shape=shape, objective="masked"))))
    return path


def test_masks_are_a_function_of_seed_and_place() -> None:
    windows = np.arange(10 * 33).reshape(10, 33)
    whole = mask_windows(windows, np.arange(10), 999, 3)
    part = mask_windows(windows[6:], np.arange(6, 10), 999, 3)
    np.testing.assert_array_equal(whole.ids[6:], part.ids)
    assert {masked_count(32)} == set((whole.targets >= 0).sum(1))
    np.testing.assert_array_equal(whole.ids == 999, whole.targets >= 0)
    np.testing.assert_array_equal(np.where(whole.targets >= 0, whole.targets, whole.ids), windows[:, :-1])
    other = mask_windows(windows, np.arange(10), 999, 4)
    assert (other.ids != whole.ids).any()
    many = mask_windows(np.zeros((4_000, 33), dtype=np.int64), np.arange(4_000), 999, 3)
    # Each place of a window is masked as often: 6 standard deviations of a share of 4,000.
    shares = (many.targets >= 0).mean(0)
    assert np.abs(shares - masked_count(32) / 32).max() < 6 * 0.5 / 4_000**0.5


def test_an_encoder_learns_and_transformers_computes_the_same(
    make_plan: MakePlan, tmp_path: Path, words: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    assert 0 == main(["--plan", str(make_masked(make_plan, 400)), "--out", str(tmp_path / "run")])
    lines = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    # Steps of 1 to 3 between 64 ids: from its neighbours a token is known to within a few.
    assert lines[-1]["heldout_loss"] < 0.8 * lines[0]["loss"]
    assert 400 * 8 * 32 == lines[-1]["tokens"]
    folder = export.export_folder(tmp_path / "run", tmp_path / "out", words)
    # Logits reach 10, and transformers' own kernels differ by 1.05e-5: take the one that writes out scores.
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert "ModernBertForMaskedLM" == type(theirs).__name__
    ids = torch.randint(0, 65, (3, 32), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        difference = (hf.load_folder(tmp_path / "run")(ids) - theirs(ids).logits).abs().max().item()
    assert difference <= 1e-5
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert 64 == tokenizer.mask_token_id


def test_what_a_masked_run_cannot_do_is_refused(make_plan: MakePlan) -> None:
    plan = from_json(Plan, json.loads(make_masked(make_plan, 4).read_text()))
    with pytest.raises(TrainError, match="'causal' of a shape with causal = False"):
        check_plan(replace(plan, objective="causal"))
    layout = Layout(processes=2, degrees=replace(plan.layout.degrees, tensor=2))
    with pytest.raises(TrainError, match="only the Qwen3 layout is split"):
        check_plan(replace(plan, layout=layout))
