"""The texts by which a climb's tasks judge a model do not stand in its training text."""

import json
import random
from pathlib import Path

from stepladder import stages
from stepladder.records import Brief, DataBrief
from stepladder.tune.evaluation import evaluation_files
from stepladder.tune.tasks import read_task


def made_up(seed: int, count: int) -> str:
    """A text of its own, of words of a made-up language."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(["ba", "den", "fi", "gor", "hul", "mer"], k=3)) for _ in range(count)]
    return "\n".join(" ".join(words[at : at + 10]) for at in range(0, count, 10)) + "\n"


def write_task(path: Path, texts: list[str]) -> Path:
    rows = [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_climb_does_not_train_on_the_test_texts_of_its_tasks(tmp_path: Path) -> None:
    texts = [made_up(number, 60) for number in range(60)]
    task = write_task(tmp_path / "mood.jsonl", texts)
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts):
        around = made_up(1000 + number, 100)
        (tmp_path / "in" / f"{number:02d}.txt").write_text(around + text)
    brief = Brief(
        name="small",
        data=DataBrief(sources=(str(tmp_path / "in"),), held_out=0.1, tasks=(str(task), "example:text-kind")),
        override={"vocab_size": 300},
    )
    climb = stages.Climb(brief=brief, folder=tmp_path / "climb", quiet=True)
    corpus = stages.prepare(climb)
    audit = json.loads((climb.folder / "corpus" / "audit.json").read_text())
    split = read_task(task)
    judged = {example.text for example in (*split.dev, *split.test)}
    lines = (climb.folder / "evaluation" / "mood.jsonl").read_text().splitlines()
    held = [json.loads(line)["text"] for line in lines]
    assert judged == set(held)
    assert len(held) == audit["contamination"]["mood"]["examples"]
    # Those of held-out documents stay; of the texts that the task trains on all do.
    gone = corpus.removed["contaminated"]
    assert len(held) - audit["splits"]["heldout"]["documents"] <= gone <= len(held)
    assert corpus.kept_documents == 60 - gone
    assert corpus == stages.prepare(climb)


def test_a_task_of_short_texts_names_no_file(tmp_path: Path) -> None:
    short = write_task(tmp_path / "short.jsonl", [f"so good {number}" for number in range(40)])
    assert () == evaluation_files([str(short)], tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()
