"""Test examples that stand in the training text of a prepared corpus, and scores without them."""

import json
import os
import random
import re
from pathlib import Path

import pytest

pytest.importorskip("polars")
pytest.importorskip("sklearn")

from stepladder.cli import main
from stepladder.data.contamination import ngrams
from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.errors import DataError, StoreError, TaskError
from stepladder.eval import table
from stepladder.eval.overlap import look_for
from stepladder.eval.predictions import write_predictions
from stepladder.models.words import find_corpus
from stepladder.store import write_json, write_text

SYLLABLES = ("ba", "den", "fi", "gor", "hul", "ki", "lo", "mer", "na", "pos", "ra", "sil", "tu", "ver", "zon")
DOCUMENTS, WORDS = 60, 160


def made(seed: int, count: int) -> list[str]:
    """Words of a made-up language; other seeds share no run of eight with these."""
    rng = random.Random(seed)
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))) for _ in range(count)]


def as_lines(words: list[str]) -> str:
    return "\n".join(" ".join(words[at : at + 10]) for at in range(0, len(words), 10)) + "\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Documents 0 to 59 are training text, 100 to 109 held out; several ranges of n-grams."""
    place = tmp_path_factory.mktemp("corpus")
    for name, seeds in (("in", range(DOCUMENTS)), ("held", range(100, 110))):
        (place / name).mkdir()
        for seed in seeds:
            (place / name / f"{seed}.txt").write_text(as_lines(made(seed, WORDS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "_RANGE_KEYS", 200)
        options = CorpusOptions(vocab_size=300, held_out=str(place / "held"), workers=1)
        prepare_corpus([str(place / "in")], place / "corpus", options, quiet=True)
    assert ngrams.open_corpus_index(place / "corpus" / "ngrams").partitions > 4
    return place / "corpus"


def write_set(folder: Path, kind: str, test: list[dict], said: list) -> Path:
    """A tuned folder with one method."""
    write_json(folder / "task.json", {"name": "demo", "kind": kind})
    answer = {"classification": "label", "summarisation": "summary"}[kind]
    few = [{"text": f"{word} and", answer: label} for word, label in zip("abcdefgh", "xyxyxyxy", strict=True)]
    for split, rows in (("train", few), ("dev", few), ("test", test)):
        write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_predictions(folder / "full-0", [row[answer] for row in test], said)
    write_json(folder / "full-0" / "done.json", {"method": table.TUNED, "seed": 0, "seconds": 1.0})
    return folder


def example(at: int) -> str:
    """20 copies, 10 half copies, 5 of held-out text, 5 short ones, the rest new."""
    document = made(at % DOCUMENTS, WORDS)
    if at < 20:
        return " ".join(document[50:90]).upper()
    if at < 30:
        return " ".join(document[50:69] + made(1000 + at, 21))
    if at < 35:
        return " ".join(made(100 + at - 30, WORDS)[50:90])
    return " ".join(document[50:55] if at < 40 else made(1000 + at, 40))


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Right on the copies, wrong on all others."""
    test = [{"text": example(at), "label": "xy"[at % 2]} for at in range(100)]
    said = [row["label"] if at < 20 else "yx"[at % 2] for at, row in enumerate(test)]
    return write_set(tmp_path / "tune" / "demo", "classification", test, said)


def value_of(rows, method=table.TUNED, metric="accuracy"):
    return next(row for row in rows if (row.method, row.metric) == (method, metric))


def test_copies_are_counted_and_scores_are_told_without_them(labelled, corpus):
    found = table.task_table(labelled, corpus=corpus)
    overlap = found.overlap
    assert (100, 5, 20, 20, 20) == (
        overlap.examples,
        overlap.too_short,
        overlap.by_prompt,
        overlap.by_whole,
        overlap.seen,
    )
    # A key is taken for a stored one with probability below 1 in 4,000, and there are 33 in an example.
    assert 30 <= overlap.any_run <= 33
    assert (8, 13, 0.5) == (overlap.ngram, overlap.certain_words, overlap.threshold)
    assert 0.2 == value_of(found.rows).value
    without = value_of(overlap.rows)
    assert (0.0, 80) == (without.value, without.examples)
    assert 0 < without.high < value_of(found.rows).high
    # The same numbers as of a set that never had the copies.
    test, methods = table.read_folder(labelled)
    rest = table.score(
        test.take(range(20, 100)),
        {name: [run.take(range(20, 100)) for run in m] for name, m in methods.items()},
    )
    assert rest.rows == overlap.rows
    text = table.format_table(found)
    assert "20 of 100 test examples (20.0%) stand in training text: 50% of their words" in text
    assert "5 below 8 words were not looked for" in text
    assert 2 == len(re.findall(r"^fine-tuned +0\.", text, re.MULTILINE))
    stored = json.loads((labelled / "results.json").read_text())["overlap"]
    assert (20, 80) == (stored["seen"], stored["rows"][0]["examples"])


def test_a_lower_threshold_counts_half_copies_too(labelled, corpus):
    overlap = table.task_table(labelled, corpus=corpus, threshold=0.2).overlap
    assert 30 == overlap.seen
    assert 70 == overlap.rows[0].examples


def test_an_answer_that_stands_in_training_text_counts(tmp_path, corpus):
    copied = " ".join(made(3, WORDS)[20:80])
    test = [
        {
            "text": " ".join(made(2000 + at, 20)),
            "summary": copied if at == 0 else " ".join(made(3000 + at, 60)),
        }
        for at in range(12)
    ]
    folder = write_set(tmp_path / "sums", "summarisation", test, [row["text"] for row in test])
    overlap = table.task_table(folder, corpus=corpus).overlap
    assert (0, 1, 1) == (overlap.by_prompt, overlap.by_whole, overlap.seen)
    assert {11} == {row.examples for row in overlap.rows}


def test_a_copy_is_met_from_thirteen_words_on_wherever_it_begins(corpus):
    document = made(7, WORDS)
    missed = set()
    for length in range(8, 50):
        copies = [(" ".join(document[at : at + length]), "") for at in range(60)]
        if look_for(corpus, copies)[0].seen < 60:
            missed.add(length)
    assert {8, 9, 10, 11, 12, 17, 18} == missed


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_few_examples_or_none_are_left(tmp_path, corpus, kept):
    texts = [" ".join(made(at, WORDS)[10:60]) for at in range(9)]
    texts += [" ".join(made(4000 + at, 50)) for at in range(kept)]
    test = [{"text": text, "label": "xy"[at % 2]} for at, text in enumerate(texts)]
    folder = write_set(tmp_path / "few", "classification", test, ["x"] * len(test))
    found = table.task_table(folder, corpus=corpus)
    assert 9 == found.overlap.seen
    assert {kept} - {0} == {row.examples for row in found.overlap.rows}
    assert (kept == 0) == ("No example is left without them." in table.format_table(found))


def test_without_overlap_the_table_stands_alone(tmp_path, corpus):
    test = [{"text": " ".join(made(5000 + at, 30)), "label": "xy"[at % 2]} for at in range(20)]
    folder = write_set(tmp_path / "new", "classification", test, ["x"] * 20)
    text = table.format_table(table.task_table(folder, corpus=corpus))
    assert "0 of 20 test examples (0.0%) stand in training text" in text
    assert "Without them" not in text
    short = write_set(tmp_path / "short", "classification", [{"text": "a b", "label": "x"}] * 3, ["x"] * 3)
    said = table.format_table(table.task_table(short, corpus=corpus))
    assert "cannot be told: all 3 test examples are below 8 words" in said


def test_bad_input_is_one_clear_error(labelled, corpus, tmp_path, capsys):
    with pytest.raises(DataError, match="is not a prepared corpus"):
        table.task_table(labelled, corpus=tmp_path / "none")
    with pytest.raises(DataError, match="threshold of overlap is out of range"):
        table.task_table(labelled, corpus=corpus, threshold=0)
    with pytest.raises(DataError, match="no test example"):
        look_for(corpus, [])
    write_text(tmp_path / "bare" / "corpus.json", (corpus / "corpus.json").read_text())
    with pytest.raises(StoreError, match="holds no n-gram index"):
        table.task_table(labelled, corpus=tmp_path / "bare")
    assert 2 == main(["eval", str(tmp_path), "--corpus", str(corpus), "--on", str(corpus)])
    assert "--corpus looks for test examples" in capsys.readouterr().err
    write_text(labelled / "test.jsonl", "")
    with pytest.raises(TaskError, match="holds no example"):
        table.task_table(labelled, corpus=corpus)


def test_the_corpus_of_a_models_run_is_found_and_named(labelled, corpus, tmp_path, capsys):
    assert 0 == main(["eval", str(labelled)])
    said = capsys.readouterr()
    assert "no record names the corpus (--corpus FOLDER)" in said.out
    write_json(labelled / "origin.json", {"model": "..", "corpus": os.path.relpath(corpus, labelled)})
    assert 0 == main(["eval", str(labelled), "--json"])
    said = capsys.readouterr()
    assert 1 == said.err.count("the model was trained on")
    printed = json.loads(said.out)
    assert 20 == printed["overlap"]["seen"]
    assert "With 100 test examples" in printed["limits"][0]
    assert json.loads((labelled / "results.json").read_text()) == {
        key: value for key, value in printed.items() if key != "folder"
    }
    # A corpus that has lost its n-grams does not keep anybody from scoring.
    write_text(tmp_path / "bare" / "corpus.json", (corpus / "corpus.json").read_text())
    write_json(labelled / "origin.json", {"model": "../run", "corpus": "../../bare"})
    assert 0 == main(["eval", str(labelled)])
    assert "was not counted" in capsys.readouterr().out


def test_where_a_corpus_is_looked_for(tmp_path, corpus):
    run = tmp_path / "climb" / "target@1"
    write_json(run / "plan.json", {"corpus": str(corpus)})
    probe = run / "tasks" / "demo@1"
    tuned = tmp_path / "tune" / "demo"
    write_json(probe / "task.json", {})
    write_json(tuned / "origin.json", {"model": "..", "corpus": str(corpus)})
    (tuned / "full-0").mkdir()
    assert [corpus] * 4 == [find_corpus(folder) for folder in (run, probe, tuned, tuned / "full-0")]
    write_json(run / "plan.json", {"corpus": "../gone"})
    assert [None] * 3 == [find_corpus(folder) for folder in (run, probe, tmp_path)]
