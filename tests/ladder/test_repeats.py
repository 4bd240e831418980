"""What repeating text costs, by real runs; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepladder.cli import main
from stepladder.data.options import CorpusOptions


@pytest.mark.slow
def test_a_text_read_many_times_teaches_less_than_fresh_text(
    tmp_path: Path, choose_size: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    words = np.array(["".join(chr(97 + (n >> 4 * k & 15)) for k in range(3)) for n in range(3000)])
    # Each word is followed by one of three: there are pairs to be learnt, too many for a short text.
    after = draw.integers(0, len(words), (len(words), 3))
    (tmp_path / "text").mkdir()
    for number in range(150):
        at, lines = 0, []
        for _ in range(60):
            line = []
            for _ in range(12):
                at = after[at, draw.integers(3)]
                line.append(words[at])
            lines.append("# " + " ".join(line))
        (tmp_path / "text" / f"{number:03d}.py").write_text("\n".join(lines))
    choose_size([str(tmp_path / "text")], tmp_path / "out", CorpusOptions(vocab_size=1024), 100_000)
    asked = ["data", "repeats", str(tmp_path / "text"), "--vocab-size", "1024", "--json"]
    assert main([*asked, "--epochs", "8", "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["runs"] == 4
    (row,) = result["repeats"]
    assert row["difference"] > 0
    assert row["difference"] == pytest.approx(row["without"] - row["with_it"])


@pytest.mark.parametrize("wrong", [["--epochs", "1,4"], ["--seeds", "1"], ["--epochs", "two"]])
def test_repeats_that_cannot_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    (tmp_path / "a.txt").write_text("some text")
    words = ["data", "repeats", str(tmp_path / "a.txt"), *wrong, "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "epochs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
