import math
from pathlib import Path

import pytest

from stepladder.errors import TrainError
from stepladder.train.metrics import MetricsWriter, last_line, read_metrics


def test_lines_come_back_and_nan_is_null(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "m.jsonl") as writer:
        writer.write({"step": 1, "loss": 2.5})
        writer.write({"step": 2, "loss": math.nan})
    assert list(read_metrics(tmp_path / "m.jsonl")) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert ([line["step"] for line in read_metrics(path)], last_line(path)) == ([1, 2], {"step": 2})


def test_damage_inside_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(TrainError, match="line 2"):
        list(read_metrics(path))


def test_resume_cuts_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    with MetricsWriter(path, keep_bytes=24) as writer:
        writer.write({"step": 3, "again": 1})
    assert list(read_metrics(path)) == [{"step": 1}, {"step": 2}, {"step": 3, "again": 1}]


def test_a_file_that_lost_its_tail_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste')
    with MetricsWriter(path, keep_bytes=24) as writer:
        assert writer.sync() == 12


def test_nothing_there_is_an_empty_record(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none.jsonl") == {}
