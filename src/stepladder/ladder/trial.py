"""A prepared corpus and minutes in; a small model and a length that fit, and runs of it on mixtures, out.

All runs of a trial have one shape, one length and one held-out text; only what they read differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.tokens.shards import open_split
from stepladder.errors import TrainError
from stepladder.ladder.budget import PACKING, assumed_flops_per_second
from stepladder.ladder.calibrate import Bench, calibrate_shapes
from stepladder.ladder.design import Rung
from stepladder.ladder.run import rung_plans, train_side_by_side
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import shape_for_params
from stepladder.plan.machine import Machine, usual_precision
from stepladder.plan.rates import MIN_STEPS, recipe_for
from stepladder.records import Corpus, Layout, Order, Shape, from_json, to_json
from stepladder.store import read_json, write_json
from stepladder.train.source import DOCUMENTS_FILE

CONTEXT_TOKENS = 128
# Tokens for each parameter that multiplies, the ratio at which the compute of a size is best spent
# (arXiv:2203.15556); and the least and largest such size of a trial.
_RATIO, _SMALLEST, _LARGEST = 20.0, 20_000, 20_000_000
# Shorter runs measure their own start (docs/log.md).
_LEAST_RATIO = 2.0


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
    workers = 1 if machine.gpus else machine.cores
    layout = Layout(
        device="cuda" if machine.gpus else "cpu",
        precision=usual_precision(machine),
    )
    each, flops_per_second = seconds * PACKING * workers / runs, assumed_flops_per_second(machine)
    bench = Bench(folder=folder, corpus="../../corpus", corpus_fingerprint=corpus.fingerprint, quiet=quiet)
    speed = _measure(_shape(each * flops_per_second, corpus), bench, layout, workers)
    if speed.tokens(each) < speed.least(each):
        # Slower than was guessed: once more with the size that this speed pays for.
        seen = train_flops_per_token(speed.shape) / speed.per_token
        shape = _shape(max(each - speed.fixed, 0.0) * seen, corpus)
        if shape != speed.shape:
            speed = _measure(shape, bench, layout, workers)
    tokens, least, params = speed.tokens(each), speed.least(each), count_params(speed.shape).total
    if tokens < least:
        needed = (least * speed.per_token + speed.fixed) * runs / workers / PACKING / 60
        raise TrainError(
            f"the time is too short: runs of fewer than {MIN_STEPS} steps, or of fewer than "
            f"{_LEAST_RATIO:g} tokens a parameter, measure their own start",
            got=f"{seconds / 60:g} minutes for {runs} runs of {params:,} parameters",
            allowed=f"about {needed:.1f} minutes or more",
            next_command=f"the same with --minutes {needed * 1.1:.1f}",
        )
    trial = Trial(
        shape=speed.shape,
        tokens=tokens,
        layout=layout,
        workers=workers,
        fingerprint=corpus.fingerprint,
        seconds=speed.fixed + tokens * speed.per_token,
    )
    write_json(path, to_json(trial))
    return trial


@dataclass(frozen=True, kw_only=True, slots=True)
class _Speed:
    """Seconds for each token, and `fixed` ones for each run, of one shape with all workers busy."""

    shape: Shape
    per_token: float
    fixed: float

    def tokens(self, seconds: float) -> int:
        """Tokens of a run of so many seconds."""
        return int(max(seconds - self.fixed, 0.0) / self.per_token)

    def least(self, seconds: float) -> int:
        """Tokens from which such a run measures more than its own start."""
        batch = recipe_for(self.shape, max(self.tokens(seconds), 1)).batch_tokens
        return max(MIN_STEPS * batch, int(_LEAST_RATIO * count_params(self.shape).total))


def _measure(shape: Shape, bench: Bench, layout: Layout, workers: int) -> _Speed:
    recipe = recipe_for(shape, _RATIO * count_params(shape).nonembed)
    # A folder for each size: other minutes may try another.
    bench = replace(bench, folder=bench.folder / f"calibration-{count_params(shape).total}")
    seen = calibrate_shapes([(shape, recipe)] * workers, bench, layout, workers)
    return _Speed(
        shape=shape,
        per_token=max(row.seconds / row.tokens for row in seen),
        fixed=max(float(row.notes["fixed_seconds"]) for row in seen),
    )


def _shape(flops: float, corpus: Corpus) -> Shape:
    """The shape whose run of `_RATIO` tokens for each parameter that multiplies takes so many FLOPs."""
    multiplying = min(max((flops / (6 * _RATIO)) ** 0.5, _SMALLEST), _LARGEST, corpus.train.tokens / 4)
    return shape_for_params(
        multiplying + corpus.vocab_size * 64, vocab_size=corpus.vocab_size, context_tokens=CONTEXT_TOKENS
    )


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


def split_names(corpus: Path, kind: str) -> Sequence[str]:
    """Names of the sources or domains (`kind`: "source" or "domain") by number."""
    split = open_split(corpus, "heldout")
    return split.source_names if kind == "source" else split.domain_names
