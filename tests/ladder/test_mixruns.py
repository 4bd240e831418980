"""Shares of sources by real runs: what is written, and what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepladder.cli import main
from stepladder.data.options import CorpusOptions
from stepladder.laws.mixture import read_mixture

RIVER = "the old river ran past a quiet mill and its miller sold flour"


def write_source(folder: Path, words: str, seed: int) -> str:
    draw = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(40):
        lines = [" ".join(draw.choice(words.split(), 9)) for _ in range(30)]
        (folder / f"{number:02d}.py").write_text("\n".join(f"# {line}" for line in lines))
    return str(folder)


@pytest.mark.slow
def test_runs_on_mixtures_recommend_shares(
    tmp_path: Path, choose_size: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    river = write_source(tmp_path / "river", RIVER, 0)
    noise = write_source(tmp_path / "noise", "xz qj kv wyx jqz vvk zxq kjw qqy xkz", 1)
    words = ["data", "mixture", river, noise, "--vocab-size", "300", "--json"]
    words += ["--target", "river=1", "--out", str(tmp_path / "out")]
    choose_size([river, noise], tmp_path / "out", CorpusOptions(vocab_size=300), 30_000)
    assert main(words) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    shares = {name: entry["value"] for name, entry in best["shares"].items()}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["river"] > 0.6
    with (tmp_path / "out" / "mixture.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 7
    assert read_mixture(tmp_path / "out" / "mixture.csv").domains == ("noise", "river")


def test_one_source_is_no_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    river = write_source(tmp_path / "river", RIVER, 0)
    words = ["data", "mixture", river, "--vocab-size", "300", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 2
    assert "two sources or more" in capsys.readouterr().err
