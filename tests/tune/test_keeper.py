"""Early stopping: what is learned after the end of patience does not count, nor look like a stop."""

import json
import threading

import pytest

torch = pytest.importorskip("torch")

from stepladder.models.export import read_tensors  # noqa: E402
from stepladder.tune.adapters import DevScore  # noqa: E402
from stepladder.tune.objective import BestKeeper  # noqa: E402


def test_a_better_score_after_the_end_of_patience_does_not_count(tmp_path):
    stop, model = threading.Event(), torch.nn.Linear(1, 1)
    keeper, lines, kept = BestKeeper(tmp_path, 2, stop), [], []
    for step, score in enumerate((0.5, 0.4, 0.5, 0.9), start=1):
        model.weight.data.fill_(step)
        figures = keeper.judge(model, DevScore(score, -1.0))
        lines.append(json.dumps({"step": step, **{k: v for k, v in figures.items() if v == v}}))
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        kept.append(read_tensors(tmp_path / "best")["weight"]["data"])
        assert stop.is_set() == (step > 2)
        assert keeper.is_exhausted() == (step > 2)
    assert kept == [kept[0]] * 4
    assert keeper.restore(model).score == 0.5
    assert model.weight.item() == 1.0
