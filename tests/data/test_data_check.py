"""Evaluation sets from end to end: their examples go out of training text, later ones are found."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepladder.cli import main
from stepladder.data import prepare, steps
from stepladder.data.contamination import ngrams
from stepladder.data.contamination.evaluation_sets import read_evaluations
from stepladder.data.options import Cleaning, CorpusOptions
from stepladder.data.prepare import load_corpus, prepare_corpus
from stepladder.data.tokens.shards import open_split
from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.errors import DataError, FingerprintError

MakeText = Callable[[int, int], str]
FRESH = 30


def write_set(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"question": text, "label": "x"}) + "\n" for text in texts))
    return path


def documents(out: Path, split: Any) -> list[str]:
    tokenizer, tokens = load_tokenizer(out), open_split(out, split)
    pairs = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [tokenizer.decode(tokens.tokens[start:stop]) for start, stop in pairs]


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file but the marks and the one that holds seconds."""
    skipped = ("corpus.json", "croissant.json")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in skipped and not path.name.startswith(".")
    }


def options(place: Path, workers: int = 1) -> CorpusOptions:
    return CorpusOptions(
        vocab_size=300,
        held_out=str(place / "held"),
        cleaning=Cleaning(evaluation_sets=(str(place / "sets"),)),
        workers=workers,
    )


@pytest.fixture(scope="module")
def small_tasks() -> Any:
    """Several read tasks and several ranges of n-grams, without a large corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_TASK_FILES", 30)
        patch.setattr(ngrams, "_RANGE_KEYS", 1000)
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, make_text: MakeText, small_tasks: None) -> Path:
    """in/, held/, sets/ and out/: a corpus in which examples of the set `quiz` stood."""
    place = tmp_path_factory.mktemp("planted")
    examples = [make_text(1000 + number, 40) for number in range(FRESH)]
    texts = [make_text(number, 150) for number in range(90)]
    texts[10] += examples[0]
    words = examples[1].split()
    for at in (5, 25):
        words[at] = "otherwise"
    texts[20] += " ".join(words).upper() + "\n"
    texts[30] += " ".join(examples[2].split()[:14]) + "\n"
    held = [make_text(number, 150) for number in range(200, 206)]
    held[0] += examples[4]
    for folder, own in (("in", texts), ("held", held)):
        (place / folder).mkdir()
        for number, text in enumerate(own):
            (place / folder / f"{number:03d}.txt").write_text(text)
    (place / "sets").mkdir()
    write_set(place / "sets" / "quiz.jsonl", examples)
    (place / "sets" / "short.txt").write_text("only four words here\nand six words in this line\n")
    prepare_corpus([str(place / "in")], place / "out", options(place), quiet=True)
    return place


def test_training_documents_with_examples_go_and_others_stay(planted: Path) -> None:
    out = planted / "out"
    corpus, audit = load_corpus(out), json.loads((out / "audit.json").read_text())
    assert {"contaminated": 2} == dict(corpus.removed)
    assert 96 == corpus.input_documents == corpus.kept_documents + 2
    names = ("kept", "removed", "quarantined", "normalised", "boilerplate")
    assert audit["totals"]["input_bytes"] == sum(audit["totals"][f"{name}_bytes"] for name in names)
    sources = [(planted / "in" / f"{number:03d}.txt").read_text() for number in range(90)]
    gone = {10, 20}
    assert sorted(text for number, text in enumerate(sources) if number not in gone) == sorted(
        documents(out, "train")
    )
    assert (planted / "held" / "000.txt").read_text() in documents(out, "heldout")


def test_audit_card_and_croissant_name_the_sets(planted: Path) -> None:
    out = planted / "out"
    audit = json.loads((out / "audit.json").read_text())
    quiz, short = audit["contamination"]["quiz"], audit["contamination"]["short"]
    assert [FRESH, 0, 3, 2, 2] == [
        quiz[name] for name in ("examples", "unchecked", "with_overlap", "contaminated", "removed")
    ]
    assert ["010.txt", "020.txt", "030.txt"] == [one["document"] for one in quiz["worst"]]
    assert [2, 1, 1, 0] == [short[name] for name in ("examples", "unchecked", "short", "removed")]
    examples = audit["removed"]["contaminated"]["examples"]
    assert {"010.txt": 1.0, "020.txt": round(19 / 33, 3)} == {
        one["source"]: one["similarity"] for one in examples
    }
    card = (out / "DATA_CARD.md").read_text()
    section = card.split("## Text shared with evaluation sets")[1].split("\n## ")[0]
    for words in (
        "| `quiz` | 30 | 0 | 0 | 3 | 2 | 2 |",
        "`quiz`, example 1, 100% in `010.txt`",
        "not compared",
        "reworded",
    ):
        assert words in section
    assert "No evaluation set was compared" not in card
    protocol = json.loads((out / "croissant.json").read_text())["rai:dataPreprocessingProtocol"]
    assert any("30 examples of the evaluation set quiz" in step for step in protocol)


def test_two_processes_and_an_interrupted_run_give_the_same_bytes(
    planted: Path, small_tasks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digests(planted / "out")
    assert {"ngrams/00000.npz", "ngrams/00001.npz", "ngrams/index.json"} < set(expected)
    prepare_corpus([str(planted / "in")], tmp_path / "two", options(planted, workers=2), quiet=True)
    assert expected == digests(tmp_path / "two")

    ran: list[tuple[str, int]] = []

    def stopping(name: str, last: int) -> dict[str, Any]:
        def step(arguments: Any) -> Any:
            if arguments["index"] > last:
                raise KeyboardInterrupt
            ran.append((name, arguments["index"]))
            return known[name](arguments)

        return {**known, name: step}

    known = dict(steps.STEPS)
    for name in ("contamination", "ngrams"):
        monkeypatch.setattr(steps, "STEPS", stopping(name, 0))
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus([str(planted / "in")], tmp_path / "again", options(planted), quiet=True)
    monkeypatch.setattr(steps, "STEPS", stopping("ngrams", 99))
    prepare_corpus([str(planted / "in")], tmp_path / "again", options(planted), quiet=True)
    assert expected == digests(tmp_path / "again")
    assert len(ran) == len(set(ran))


def test_what_the_sets_say_is_part_of_the_corpus_and_where_they_lie_is_not(
    planted: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(planted / "sets", moved / "sets")
    (moved / "held").symlink_to(planted / "held")
    source = [str(planted / "in")]
    assert load_corpus(planted / "out") == prepare_corpus(source, planted / "out", options(moved), quiet=True)
    write_set(moved / "sets" / "quiz.jsonl", ["another example of words that were not asked before"])
    with pytest.raises(FingerprintError, match="evaluation: "):
        prepare_corpus(source, planted / "out", options(moved), quiet=True)


def test_faults_of_the_sets_come_before_the_folder(
    planted: Path, tmp_path: Path, make_text: MakeText
) -> None:
    (tmp_path / "held").symlink_to(planted / "held")
    (tmp_path / "sets").mkdir()
    for content, wrong in (
        (None, "holds no evaluation set"),
        ("too short\n", "no example of the evaluation"),
    ):
        if content:
            (tmp_path / "sets" / "a.txt").write_text(content)
        with pytest.raises(DataError, match=wrong):
            prepare_corpus([str(planted / "in")], tmp_path / "out", options(tmp_path), quiet=True)
        assert not (tmp_path / "out").exists()
    texts = [(path.read_text()) for path in sorted((planted / "in").glob("*"))]
    write_set(tmp_path / "sets" / "all.jsonl", texts)
    with pytest.raises(DataError, match="no training text is left"):
        prepare_corpus([str(planted / "in")], tmp_path / "out", options(tmp_path), quiet=True)


def test_sets_of_one_name_are_told_apart_and_a_file_counts_once(tmp_path: Path) -> None:
    for name in ("arc/test.jsonl", "boolq/test.jsonl", "boolq/test.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "one"}\n')
    (tmp_path / "README.md").write_text("no set")
    (tmp_path / "boolq" / "test.csv").write_text("text\none\n")
    found = read_evaluations([tmp_path, tmp_path / "arc" / "test.jsonl"])
    assert ["arc/test.jsonl", "boolq/test.csv", "boolq/test.jsonl"] == [one.name for one in found]
    assert ["test"] == [one.name for one in read_evaluations([tmp_path / "arc"])]


def test_sets_are_named_on_the_command_line(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", str(planted / "in"), "--out", str(tmp_path / "out"), "--vocab-size", "300"]
    words += ["--held-out", str(planted / "held")]
    for name in ("quiz.jsonl", "short.txt"):
        words += ["--evaluation", str(planted / "sets" / name)]
    assert 0 == main(words)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [["2"]] == [row[1:2] for row in rows if row[0] == "contaminated"]
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert {"quiz", "short"} == set(audit["contamination"])


def test_a_later_set_is_checked_from_the_command_line(
    planted: Path, tmp_path: Path, make_text: MakeText, capsys: pytest.CaptureFixture[str]
) -> None:
    known = (planted / "in" / "050.txt").read_text().split()
    later = write_set(tmp_path / "later.jsonl", [" ".join(known[20:80]), make_text(5000, 60), "too short"])
    fresh = write_set(tmp_path / "fresh.jsonl", [make_text(6000 + number, 60) for number in range(9)])
    words = ["data", "check", str(planted / "out"), "--against", str(later), str(fresh)]
    assert 0 == main(words)
    lines = capsys.readouterr().out.splitlines()
    assert ["later", "3", "2", "50.0%", "50.0%"] == lines[1].split()
    assert ["fresh", "9", "9", "0.0%", "0.0%"] == lines[2].split()
    assert "of 60 words of later, example 1: " in lines[3]
    assert "13 words are always found" in " ".join(lines[4:])
    assert max(map(len, lines)) <= 110

    # What was removed is not found again; what stayed (14 words) and what is held out are told apart.
    assert 0 == main([*words[:3], "--against", str(planted / "sets" / "quiz.jsonl"), "--json"])
    (report,) = json.loads(capsys.readouterr().out)["sets"]
    assert [2] == [one["example"] for one in report["worst"]]
    assert 0 == report["share_half"]


def test_errors_of_a_check_say_what_to_do(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_set(tmp_path / "good.jsonl", ["eight words or more stand in this one example"])
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "older").mkdir()
    shutil.copy(planted / "out" / "corpus.json", tmp_path / "older")
    for folder, path, words in (
        (tmp_path / "none", good, "is not a prepared corpus"),
        (tmp_path / "older", good, "holds no n-gram index"),
        (planted / "out", tmp_path / "absent.jsonl", "absent.jsonl cannot be read"),
        (planted / "out", tmp_path / "empty.jsonl", "no example in it"),
    ):
        assert 2 == main(["data", "check", str(folder), "--against", str(path)])
        assert words in capsys.readouterr().err
    assert 2 == main(["data", "check", str(planted / "out")])
    assert "against" in capsys.readouterr().err.lower()
