"""The whole chain on real files: totals, determinism, resume, disjoint splits, bad inputs."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data import prepare, steps
from stepladder.data.options import CorpusOptions, Dedup
from stepladder.data.prepare import load_corpus, prepare_corpus
from stepladder.data.sources.streams import open_packed
from stepladder.data.tokens.shards import open_split
from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.errors import DataError, FingerprintError, StepladderError
from stepladder.records import Corpus

MakeText = Callable[[int, int], str]
SAME_FILES = ("tokenizer.json", "index.json", "audit.json", "DATA_CARD.md", "quarantine.jsonl.zst")


def quarantine(out: Path) -> list[str]:
    """The lines of the quarantine."""
    with open_packed(str(out / "quarantine.jsonl.zst")) as stream:
        return stream.read().decode().splitlines()


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must be equal for equal inputs."""
    paths = [out / name for name in SAME_FILES] + sorted(out.glob("*/*.bin")) + sorted(out.glob("*/*.i64"))
    paths += sorted((out / "ngrams").iterdir())
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def documents(out: Path, split: Any) -> list[str]:
    tokenizer, tokens = load_tokenizer(out), open_split(out, split)
    pairs = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [tokenizer.decode(tokens.tokens[start:stop]) for start, stop in pairs]


def check_totals(out: Path, corpus: Corpus) -> None:
    totals = json.loads((out / "audit.json").read_text())["totals"]
    assert corpus.input_documents == (
        corpus.kept_documents + sum(corpus.removed.values()) + corpus.quarantined_documents
    )
    assert totals["input_bytes"] == sum(
        totals[name]
        for name in (
            *("kept_bytes", "removed_bytes", "quarantined_bytes"),
            *("normalised_bytes", "boilerplate_bytes"),
        )
    )
    assert corpus.kept_documents == corpus.train.documents + corpus.heldout.documents
    assert corpus.quarantined_documents == len(quarantine(out))
    for split, record in (("train", corpus.train), ("heldout", corpus.heldout)):
        texts = documents(out, split)
        assert record.documents == len(texts)
        assert record.num_bytes == sum(len(text.encode()) for text in texts)
        assert record.tokens == len(open_split(out, split))  # pyrefly: ignore


def test_what_came_in_is_kept_removed_or_quarantined(prepared: tuple[Path, Corpus]) -> None:
    out, corpus = prepared
    check_totals(out, corpus)
    assert corpus.input_documents == 66
    assert dict(corpus.removed) == {"empty": 1, "exact_duplicate": 2, "near_duplicate": 1}
    reasons = [json.loads(line)["reason"] for line in quarantine(out)]
    assert reasons == ["not utf-8: byte 0xfc at offset 0", "NUL byte at offset 4: not text"]
    assert corpus == load_corpus(out)
    assert not (out / ".work").exists()


def test_every_document_ends_with_end_of_text_and_only_there(prepared: tuple[Path, Corpus]) -> None:
    out, _ = prepared
    split = open_split(out, "train")
    assert np.flatnonzero(np.asarray(split.tokens) == 0).tolist() == (split.offsets[1:] - 1).tolist()


def test_held_out_documents_are_not_in_training(prepared: tuple[Path, Corpus], sources: Path) -> None:
    out, corpus = prepared
    train, held = (documents(out, split) for split in ("train", "heldout"))
    assert corpus.heldout.documents >= 2
    assert not {hashlib.sha256(t.encode()).digest() for t in train} & {
        hashlib.sha256(t.encode()).digest() for t in held
    }
    originals = {
        path.read_text() for path in sources.rglob("*.txt") if path.name not in ("latin.txt", "nul.txt")
    }
    assert set(held) <= originals | {(sources / "near.rst").read_text()}


def test_the_card_tells_what_was_removed_and_why(prepared: tuple[Path, Corpus]) -> None:
    out, _ = prepared
    card = (out / "DATA_CARD.md").read_text()
    for word in ("`near_duplicate`", "like `near.rst`", "not utf-8", "| train |", "licences", "languages"):
        assert word in card
    assert str(out) not in card
    example = json.loads((out / "audit.json").read_text())["removed"]["near_duplicate"]["examples"][0]
    assert example["like"] == "near.rst"
    assert example["similarity"] >= 0.8


def test_two_processes_another_folder_and_a_second_run_give_the_same_bytes(
    prepared: tuple[Path, Corpus], sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, corpus = prepared
    moved = tmp_path / "elsewhere" / sources.name
    moved.parent.mkdir()
    subprocess.run(["cp", "-r", str(sources), str(moved)], check=True)
    again = prepare_corpus(
        [str(moved)], tmp_path / "again", CorpusOptions(vocab_size=512, workers=2), quiet=True
    )
    first = digests(out)
    second = digests(tmp_path / "again")
    assert first == second
    assert corpus.fingerprint == again.fingerprint

    monkeypatch.setattr(steps, "STEPS", {})  # a finished corpus runs no task
    assert again == prepare_corpus(
        [str(moved)], tmp_path / "again", CorpusOptions(vocab_size=512), quiet=True
    )


def test_other_inputs_or_options_are_refused(prepared: tuple[Path, Corpus], sources: Path) -> None:
    out, _ = prepared
    with pytest.raises(FingerprintError, match="vocab_size: 512 there, 600 now"):
        prepare_corpus([str(sources)], out, CorpusOptions(vocab_size=600), quiet=True)
    with pytest.raises(FingerprintError, match="contents"):
        prepare_corpus([str(sources / "deep")], out, CorpusOptions(vocab_size=512), quiet=True)


def many_files(folder: Path, make_text: MakeText, count: int, suffix: str = "txt") -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04d}.{suffix}").write_text(make_text(number, 30))
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, make_text: MakeText) -> tuple[Path, dict[str, str]]:
    """A folder of 2,100 texts (three read tasks, five chunks) and what an undisturbed run makes of it."""
    place = tmp_path_factory.mktemp("many")
    folder = many_files(place / "in", make_text, 2100)
    prepare_corpus([str(folder)], place / "out", CorpusOptions(vocab_size=400, workers=1), quiet=True)
    return folder, digests(place / "out")


@pytest.mark.parametrize("moment", ["read/00001.json", "trim/00001.json", "encode/00001.json"])
def test_after_a_kill_only_what_is_missing_is_done(
    tmp_path: Path, many: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder, undisturbed = many
    out = tmp_path / "out"
    words = ["data", str(folder), "--out", str(out), "--vocab-size", "400", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stepladder", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (out / ".work" / moment).exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "corpus.json").exists()
    with pytest.raises(DataError, match="not finished"):
        load_corpus(out)
    done = {
        (step, int(path.stem))
        for step in ("read", "trim", "encode")
        for path in (out / ".work" / step).glob("0*.json")
    }
    every = {(step, n) for step in ("read", "trim", "encode") for n in range(3)}

    ran: list[tuple[str, int]] = []

    def counted(name: str, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def step(arguments: Any) -> Any:
            ran.append((name, arguments["index"]))
            return run(arguments)

        return step

    monkeypatch.setattr(steps, "STEPS", {name: counted(name, run) for name, run in steps.STEPS.items()})
    prepare_corpus([str(folder)], out, CorpusOptions(vocab_size=400), quiet=True)
    assert every - done == {(name, n) for name, n in ran if name in ("read", "trim", "encode")}
    assert undisturbed == digests(out)


def test_a_worker_that_dies_is_replaced(tmp_path: Path, many: tuple[Path, dict[str, str]]) -> None:
    folder, undisturbed = many
    out = tmp_path / "out"
    words = ["data", str(folder), "--out", str(out), "--vocab-size", "400", "--workers", "2", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stepladder", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    victim = None
    while victim is None:
        assert process.poll() is None
        children = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
        listed = subprocess.run(children, capture_output=True, text=True)
        victim = next((int(pid) for pid in listed.stdout.split()), None)
    os.kill(victim, signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == 0
    assert json.loads(output)["input_documents"] == 2100
    assert undisturbed == digests(out)


@settings(max_examples=12, deadline=None)
@given(
    files=st.lists(
        st.one_of(
            st.integers(0, 30).map(lambda seed: ("t.txt", seed)),
            st.binary(max_size=60).map(lambda raw: ("b.txt", raw)),
            st.lists(
                st.one_of(st.integers(0, 9), st.sampled_from([b"{", b"[]", b'{"text": 1}'])), max_size=6
            ).map(lambda records: ("r.jsonl", records)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_totals_add_up_for_any_mixture(
    tmp_path_factory: pytest.TempPathFactory, make_text: MakeText, files: list[tuple[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    for number, (name, content) in enumerate(files):
        if isinstance(content, int):
            raw = make_text(content, 60).encode()
        elif isinstance(content, list):
            lines = [
                json.dumps({"text": make_text(c, 60)}).encode() if isinstance(c, int) else c for c in content
            ]
            raw = b"\n".join(lines)
        else:
            raw = content
        (folder / f"{number:02d}{name}").write_bytes(raw)
    out = folder / "out"
    corpus, refusal = None, ""
    try:
        corpus = prepare_corpus([str(folder)], out, CorpusOptions(vocab_size=300, workers=1), quiet=True)
    except DataError as error:
        refusal = error.wrong
    if corpus is None:
        assert re.match("no document is left|no held-out text can be chosen", refusal)
    else:
        check_totals(out, corpus)


def test_licence_headers_go_and_overlapping_held_out_files_are_dropped(
    tmp_path: Path, make_text: MakeText
) -> None:
    """Every file shares its last third of long lines with a sister that is alike in nothing else."""
    folder = tmp_path / "in"
    folder.mkdir()
    header = "This text may be copied by everybody who keeps this very line of it in every single copy.\n"
    for number in range(60):
        shared = make_text(1000 + number // 2, 80)
        (folder / f"{number:02d}.txt").write_text(header + make_text(number, 100) + shared)
    for number in range(60, 120):
        (folder / f"{number:02d}.txt").write_text(header + make_text(number, 180))
    out = tmp_path / "out"
    options = CorpusOptions(vocab_size=300, held_out=0.2, workers=1)
    corpus = prepare_corpus([str(folder)], out, options, quiet=True)
    check_totals(out, corpus)
    assert corpus.removed["heldout_overlap"] >= 1
    texts = documents(out, "train") + documents(out, "heldout")
    assert sum(header in text for text in texts) <= 3
    train_lines = {line for text in documents(out, "train") for line in text.splitlines() if len(line) >= 60}
    for text in documents(out, "heldout"):
        lines = [line for line in text.splitlines() if len(line) >= 60]
        assert sum(line in train_lines for line in lines) < 0.3 * len(lines)


def test_held_out_text_that_training_has_leaves_nothing_to_hold_out(
    tmp_path: Path, make_text: MakeText
) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(make_text(number, 300))
    held = tmp_path / "held.md"
    held.write_text(make_text(0, 100) + make_text(50, 100))
    options = CorpusOptions(vocab_size=300, held_out=str(held), workers=1)
    with pytest.raises(DataError, match="no held-out text is left") as caught:
        prepare_corpus([str(tmp_path / "*.txt")], tmp_path / "out", options, quiet=True)
    assert "1 held-out documents shared 30% or more of their lines" in str(caught.value)


def test_held_out_text_of_its_own_wins_over_its_copies(tmp_path: Path, make_text: MakeText) -> None:
    for name in ("in", "held"):
        (tmp_path / name).mkdir()
    for number in range(20):
        (tmp_path / "in" / f"{number:02d}.txt").write_text(make_text(number, 200))
    (tmp_path / "held" / "own.txt").write_text(make_text(500, 200))
    (tmp_path / "held" / "copy.txt").write_text(make_text(3, 200))
    options = CorpusOptions(vocab_size=300, held_out=str(tmp_path / "held"), workers=1)
    corpus = prepare_corpus([str(tmp_path / "in")], tmp_path / "out", options, quiet=True)
    assert sorted([make_text(500, 200), make_text(3, 200)]) == sorted(documents(tmp_path / "out", "heldout"))
    assert dict(corpus.removed) == {"exact_duplicate": 1}
    assert corpus.train.documents == 19


@pytest.mark.parametrize("kind", ["text", "records"])
def test_a_single_large_file_is_split_by_its_pieces_or_records(
    tmp_path: Path, make_text: MakeText, kind: str
) -> None:
    path = tmp_path / ("all.txt" if kind == "text" else "all.jsonl")
    if kind == "text":
        path.write_text("\n".join(make_text(number, 400) for number in range(100)))
    else:
        path.write_text("".join(json.dumps({"text": make_text(n, 400)}) + "\n" for n in range(100)))
    corpus = prepare_corpus(
        [str(path)], tmp_path / "out", CorpusOptions(vocab_size=300, workers=1), quiet=True
    )
    check_totals(tmp_path / "out", corpus)
    assert 0.02 < corpus.heldout.num_bytes / corpus.train.num_bytes < 0.3
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["held_out_unit"] == "document"


def test_literal_end_of_text_in_a_document_gives_no_control_token(
    tmp_path: Path, make_text: MakeText
) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(make_text(number, 100) + "<|endoftext|>\n")
    prepare_corpus(
        [str(tmp_path / "*.txt")], tmp_path / "out", CorpusOptions(vocab_size=300, workers=1), quiet=True
    )
    for split in ("train", "heldout"):
        tokens = open_split(tmp_path / "out", split)  # pyrefly: ignore
        assert int((np.asarray(tokens.tokens) == 0).sum()) == len(tokens.offsets) - 1
        assert all("<|endoftext|>" in text for text in documents(tmp_path / "out", split))


def test_nothing_left_names_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.txt").write_text("tiny")
    with pytest.raises(DataError) as caught:
        prepare_corpus([str(tmp_path)], tmp_path / "out", CorpusOptions(), quiet=True)
    assert "1 read, all removed (too_short); 1 quarantined: a.txt: not utf-16" in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "wrong"), [("py", "cannot write"), ("txt", "cannot unpack the language model")]
)
def test_a_full_disk_is_one_error_and_the_run_goes_on_afterwards(
    tmp_path: Path, make_text: MakeText, suffix: str, wrong: str
) -> None:
    folder = many_files(tmp_path / "in", make_text, 300, suffix)
    words = [sys.executable, "-m", "stepladder", "data", str(folder), "--out", str(tmp_path / "out")]
    words += ["--vocab-size", "300", "--workers", "1"]
    limited = subprocess.run(
        words,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert limited.returncode == 2
    assert limited.stderr.splitlines()[-3].startswith(f"error: {wrong}")
    assert subprocess.run(words, capture_output=True).returncode == 0


def test_the_cap_takes_whole_files(sources: Path, tmp_path: Path) -> None:
    options = CorpusOptions(vocab_size=300, max_bytes=40_000, workers=1)
    corpus = prepare_corpus([str(sources)], tmp_path / "out", options, quiet=True)
    assert 30_000 < corpus.input_bytes <= 40_000
    with pytest.raises(DataError, match="no source file fits"):
        prepare.list_inputs([str(sources / "deep")], CorpusOptions(max_bytes=10))


def test_options_out_of_range_are_all_named() -> None:
    with pytest.raises(StepladderError) as caught:
        CorpusOptions(vocab_size=10, held_out=0.9, dedup=Dedup(jaccard=0.1), max_bytes=-1)
    for word in ("vocab_size 10", "held_out 0.9", "dedup_jaccard 0.1", "max_bytes -1"):
        assert word in str(caught.value)
