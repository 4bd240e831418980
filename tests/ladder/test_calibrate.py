"""A layout that cannot win any more is not waited for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder.data.options import Cleaning, CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.ladder import calibrate
from stepladder.models.shape import shape_for_width
from stepladder.plan.rates import recipe_for
from stepladder.records import Layout
from stepladder.train.metrics import read_metrics


def test_a_layout_far_behind_the_best_is_stopped_and_still_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "text").mkdir()
    for number in range(40):
        words = ["".join(map(chr, 97 + draw.integers(0, 26, 5))) for _ in range(800)]
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(words))
    out = tmp_path / "out"
    corpus = prepare_corpus(
        [str(tmp_path / "text")],
        out / "corpus",
        CorpusOptions(vocab_size=512, cleaning=Cleaning(quality=False)),
        quiet=True,
    )
    shape = shape_for_width(64, vocab_size=corpus.vocab_size, context_tokens=64)
    recipe = replace(recipe_for(shape, 1e6), batch_tokens=1024)
    bench = calibrate.Bench(
        folder=out / "trial",
        corpus=str(out / "corpus"),
        corpus_fingerprint=corpus.fingerprint,
        quiet=True,
    )
    # The second is as fast as the first, but nothing is waited for once the first has set a mark.
    monkeypatch.setattr(calibrate, "_PATIENCE", 0.0)
    monkeypatch.setattr(calibrate, "_GRACE_SECONDS", 0.1)
    layouts = {"first": Layout(), "second": Layout(micro_batch_sequences=1)}
    best, seconds = calibrate.choose_layout(shape, recipe, layouts, bench)
    assert set(seconds) == {"first", "second"}
    assert seconds[best] == min(seconds.values())
    steps = {name: read_metrics(out / "trial" / f"layout-{name}@1" / "metrics.jsonl") for name in layouts}
    assert len(list(steps["first"])) == 36
    assert len(list(steps["second"])) < 36
    assert seconds["second"] > 0
