"""A prepared corpus and minutes in; a small model and a length that fit, and runs of it on mixtures, out.

All runs of a trial have one shape, one length and one held-out text; only what they read differs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.tokens.shards import open_split
from stepladder.errors import TrainError
from stepladder.ladder.budget import PACKING
from stepladder.ladder.calibrate import Bench, calibrate_shapes
from stepladder.ladder.design import Rung
from stepladder.ladder.run import rung_plans, train_side_by_side
from stepladder.models.count import count_params
from stepladder.models.shape import shape_for_params
from stepladder.plan.machine import Machine
from stepladder.plan.rates import MIN_STEPS, recipe_for
from stepladder.records import Corpus, Layout, Order, Shape, from_json, to_json
from stepladder.store import read_json, write_json
from stepladder.train.source import DOCUMENTS_FILE

CONTEXT_TOKENS = 128
# Tokens for each parameter that multiplies, the ratio at which the compute of a size is best spent
# (arXiv:2203.15556); and the least and largest such size of a trial.
_RATIO, _SMALLEST, _LARGEST = 20.0, 20_000, 20_000_000
# A first guess of a worker's speed; the calibration then measures it.
_FLOPS_PER_SECOND = 4e10


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One size and length for all runs."""

    shape: Shape
    tokens: int
    layout: Layout
    workers: int
    fingerprint: str
    seconds: float


def plan_trial(
    folder: Path, corpus: Corpus, machine: Machine, runs: int, seconds: float, *, quiet: bool
) -> Trial:
    """Choose a size for `runs` runs in `seconds` and measure its speed; kept in folder/trial.json.

    Raises:
        TrainError: the time is too short for runs of `MIN_STEPS` steps: they would measure their own start.
    """
    path = folder / "trial.json"
    if path.exists():
        return from_json(Trial, read_json(path))
    workers = os.cpu_count() or 1
    layout = Layout(precision="bf16" if machine.has_bf16 else "fp32")
    each = seconds * PACKING * workers / runs
    multiplying = (each * _FLOPS_PER_SECOND / (6 * _RATIO)) ** 0.5
    multiplying = min(max(multiplying, _SMALLEST), _LARGEST, corpus.train.tokens / 4)
    shape = shape_for_params(
        multiplying + corpus.vocab_size * 64, vocab_size=corpus.vocab_size, context_tokens=CONTEXT_TOKENS
    )
    recipe = recipe_for(shape, _RATIO * count_params(shape).nonembed)
    bench = Bench(
        folder=folder / "calibration",
        corpus="../../corpus",
        corpus_fingerprint=corpus.fingerprint,
        quiet=quiet,
    )
    seen = calibrate_shapes([(shape, recipe)] * workers, bench, layout, workers)
    per_token = max(row.seconds / row.tokens for row in seen)
    fixed = max(float(row.notes["fixed_seconds"]) for row in seen)
    tokens = int(max(each - fixed, 0.0) / per_token)
    batch = recipe_for(shape, max(tokens, 1)).batch_tokens
    if tokens < MIN_STEPS * batch:
        needed = (MIN_STEPS * batch * per_token + fixed) * runs / workers / PACKING / 60
        raise TrainError(
            f"the time is too short: runs of fewer than {MIN_STEPS} steps measure their own start",
            got=f"{seconds / 60:g} minutes for {runs} runs of {count_params(shape).total:,} parameters",
            allowed=f"about {needed:.1f} minutes or more",
            next_command=f"the same with --minutes {needed * 1.1:.1f}",
        )
    trial = Trial(
        shape=shape,
        tokens=tokens,
        layout=layout,
        workers=workers,
        fingerprint=corpus.fingerprint,
        seconds=fixed + tokens * per_token,
    )
    write_json(path, to_json(trial))
    return trial


def run_trial(
    trial: Trial, folder: Path, orders: Mapping[str, tuple[Order, int]], *, quiet: bool
) -> dict[str, Path]:
    """Train one run for each name on its order and seed, in folder/runs; the folders of the runs."""
    rung = Rung(shape=trial.shape, tokens=trial.tokens, seed=0, seconds=trial.seconds)
    (plain,) = rung_plans(
        [rung],
        recipe_for,
        corpus="../../corpus",
        corpus_fingerprint=trial.fingerprint,
        layout=trial.layout,
    )
    plans = [replace(plain, name=name, order=order, seed=seed) for name, (order, seed) in orders.items()]
    folder = folder / "runs"
    failed = train_side_by_side(plans, folder, trial.workers, quiet=quiet)
    missing = [name for name in orders if not (folder / f"{name}@1" / DOCUMENTS_FILE).exists()]
    if missing:
        raise TrainError(
            "some runs of the trial failed",
            got="; ".join(f"{name}: {failed.get(name, 'it diverged')}" for name in missing),
            next_command="the same command runs them again",
        )
    return {name: folder / f"{name}@1" for name in orders}


def scores_of(run: Path) -> dict[str, Any]:
    """What the run left of the held-out documents."""
    with np.load(run / DOCUMENTS_FILE) as found:
        return {name: found[name] for name in found.files}


def source_tokens(corpus: Path) -> dict[str, int]:
    """Training tokens of each source."""
    split = open_split(corpus, "train")
    counts = np.bincount(split.sources, np.diff(split.offsets), minlength=len(split.source_names))
    return {name: int(count) for name, count in zip(split.source_names, counts, strict=True)}


def epochs_of(trial: Trial, weights: Mapping[str, float], tokens: Mapping[str, int]) -> dict[str, float]:
    """How often a run reads each source."""
    total = sum(weights.values())
    return {name: trial.tokens * weight / total / tokens[name] for name, weight in weights.items() if weight}


def domain_names(corpus: Path) -> Sequence[str]:
    """Names of the domains by number."""
    return open_split(corpus, "heldout").domain_names
