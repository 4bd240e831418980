"""Runs of a trial whose size does not depend on how fast this machine is."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.ladder.trial import Trial
from stepladder.models.shape import shape_for_width
from stepladder.records import Layout, to_json
from stepladder.store import write_json

ChooseSize = Callable[[Sequence[str], Path, CorpusOptions, int], None]


@pytest.fixture
def choose_size() -> ChooseSize:
    """Prepares the corpus in a folder and sets the tokens of the runs on it."""

    def choose(sources: Sequence[str], out: Path, options: CorpusOptions, tokens: int) -> None:
        corpus = prepare_corpus(sources, out / "corpus", options, quiet=True)
        trial = Trial(
            shape=shape_for_width(16, vocab_size=corpus.vocab_size, context_tokens=128),
            tokens=tokens,
            layout=Layout(),
            workers=2,
            fingerprint=corpus.fingerprint,
            seconds=2.0,
        )
        write_json(out / "trial.json", to_json(trial))

    return choose
