"""Evaluation files, planted copies of examples, and the n-grams that a corpus leaves behind."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data import wordkeys
from stepladder.data.contamination import ngrams
from stepladder.data.contamination.coverage import check, coverage
from stepladder.data.contamination.decontaminate import (
    INDEX_FOLDER,
    SHORT_DOCUMENT_WORDS,
    TEMPLATE_EXAMPLES,
    EvaluationIndex,
    contaminated,
    hits,
    merge,
    summary,
    tally,
)
from stepladder.data.contamination.evaluation_sets import EvaluationSet, read_evaluation
from stepladder.data.contamination.ngrams import (
    LARGEST_FALSE_SHARE,
    NGRAM,
    STEP,
    merge_parts,
    open_corpus_index,
    words_of,
    write_part,
)
from stepladder.errors import DataError, StoreError

MakeText = Callable[[int, int], str]


def index_of(*texts: str, name: str = "set") -> EvaluationIndex:
    return EvaluationIndex.build([EvaluationSet(name=name, texts=texts)])


def verdict(documents: list[str], index: EvaluationIndex, share: float = 0.5) -> tuple[Any, Any, Any]:
    found = hits(pl.Series(documents, dtype=pl.String), index)
    goes, example, best = contaminated(found, index, share)
    return goes.tolist(), example.tolist(), np.round(best, 3).tolist()


def keys_of(text: str, n: int = 1) -> list[int]:
    keys = [words.keys(words.first_words(n), n) for _, words in words_of(pl.Series([text]))]
    return np.concatenate(keys).tolist()


def numbered(start: int, count: int) -> str:
    """Words that no other text has."""
    return " ".join(f"w{number}" for number in range(start, start + count))


def corpus(folder: Path, texts: list[str], parts: int = 1) -> Path:
    names = [folder / "parts" / str(number) for number in range(parts)]
    for number, name in enumerate(names):
        write_part(name, pl.Series(texts[number::parts], dtype=pl.String))
    merge_parts(names, folder / INDEX_FOLDER)
    return folder


# Words and keys.


def test_a_key_depends_on_the_words_alone() -> None:
    plain = keys_of("the cat sat on a_mat 42 times", 3)
    assert plain == keys_of("  The CAT -- sat,\n\ton 'a_mat' (42) times!?\n", 3)
    assert len(set(plain)) == 5
    assert set(plain).isdisjoint(keys_of("the cats at on a_mat42 times", 3))
    assert keys_of("ÉCOLE… straße — ПРИВЕТ") == keys_of("école straße привет")


def test_scripts_without_blanks_have_a_word_a_character() -> None:
    assert keys_of("漢 字 で す") == keys_of("漢字です")
    assert len(keys_of("नमस्ते दुनिया")) == 2


def test_keys_do_not_change_between_releases() -> None:
    # An index on disk is asked by later versions: whoever changes a key raises the format of the index.
    assert [6082162034821713178] == keys_of("one two three four five six seven eight", 8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="aB_1 .\n-éÉ漢ß\u0301🙂\u2028", max_size=40), max_size=8))
def test_words_are_those_of_the_slow_way(texts: list[str]) -> None:
    expected = []
    for text in texts:
        letters = (
            pl.Series([text])
            .str.replace_all(r"(\p{Han})", " $1 ")
            .str.to_lowercase()
            .str.replace_all(r"[^\p{L}\p{N}\p{M}_]+", " ")
            .item()
        )
        expected.append(letters.split())
    counts, keys, places = [], [], []
    for _, words in words_of(pl.Series(texts, dtype=pl.String)):
        counts += words.counts().tolist()
        keys += words.keys(words.first_words(1), 1).tolist()
        places += words.place.tolist()
    assert [len(words) for words in expected] == counts
    assert [place for words in expected for place in range(len(words))] == places
    flat = [word for words in expected for word in words]
    assert len(set(flat)) == len(set(keys)) == len(set(zip(flat, keys, strict=True)))


def test_batches_are_cut_without_a_change(monkeypatch: pytest.MonkeyPatch, make_text: MakeText) -> None:
    texts = pl.Series([make_text(seed, 30 * seed) for seed in range(12)] + ["", None, "two words"])
    index = index_of(make_text(5, 150), "two words of this set are here")
    whole = hits(texts, index)
    monkeypatch.setattr(wordkeys, "_TOGETHER_BYTES", 500)
    assert sum(1 for _ in words_of(texts)) > 5
    cut = hits(texts, index)
    for name in ("document", "example", "shared", "grams"):
        assert getattr(whole, name).tolist() == getattr(cut, name).tolist()
    assert (5, 0) in zip(whole.document.tolist(), whole.example.tolist(), strict=True)


# Files.


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "a", "label": "x", "id": "7"}\n\n{"text": "b\u2028"}', ["a", "b\u2028"]),
        ("b.jsonl", '{"context": "c", "question": "q", "answers": {"text": ["a", "b"]}}', ["c\nq\na\nb"]),
        ("c.json", '[{"source": "Ei", "target": "egg"}, {"source": "web", "text": "t"}]', ["Ei\negg", "t"]),
        ("d.json", '{"version": 1, "rows": [{"text": "t", "summary": "s", "a_url": "u"}]}', ["t\ns"]),
        ("e.csv", 'id,text,label\n1,"a, ""b""\nc",pos\n', ['a, "b"\nc']),
        ("f.tsv", "source\ttarget\neins\tone\n\nzwei\ttwo\n", ["eins\none", "zwei\ntwo"]),
        ("g.txt", "\ufeffone\n\n  \ntwo\r\n", ["one", "two\r"]),
        ("h.jsonl", '"a string"\n["b", ["c", 3, null]]', ["a string", "b\nc"]),
        ("i.jsonl", '{"translation": {"de": "eins", "en": "one"}}', ["eins\none"]),
    ],
)  # fmt: skip
def test_each_kind_of_file(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    found = read_evaluation(path)
    assert expected == list(found.texts)
    assert path.stem == found.name
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert found == read_evaluation(packed)


def test_squad_gives_an_example_a_question(tmp_path: Path) -> None:
    answers = [{"text": "blue", "answer_start": 3}, {"text": "blue", "answer_start": 3}]
    paragraph = {
        "context": "The sky is blue.",
        "qas": [{"id": "1", "question": "Colour?", "answers": answers}, {"id": "2", "question": "Where?"}],
    }
    value = {"version": "1.1", "data": [{"title": "Sky", "paragraphs": [paragraph]}]}
    (tmp_path / "dev.json").write_text(json.dumps(value))
    found = read_evaluation(tmp_path / "dev.json")
    assert ("The sky is blue.\nColour?\nblue", "The sky is blue.\nWhere?") == found.texts


def test_only_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "meta": {"label": "kept", "text": "t"}, "answer": ["a", "b"]}\n')
    assert ("kept\na\nb",) == read_evaluation(path, ["label", "answer"]).texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"label": "y"}\n', "line 2: "),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "not UTF-8 in line 2: byte 0xff"),
        ("a.json", b'[{"text": "x"},\n{"text"}]', "not JSON from line 2 on"),
        ("a.json", b'{"a": [], "b": []}', "2 lists"),
        ("a.json", b'"text"', "neither a list"),
        ("a.json", b'{"data": [{"paragraphs": [3]}]}', "article 1, paragraph 1, question 1"),
        ("a.csv", b"text,label\na,b,c\n", "line 2 has 3 fields, the header 2"),
        ("a.txt", b"\n \n", "no example in it"),
        ("a.csv", b"", "no example in it"),
        ("a.parquet", b"PAR1", 'the ending ".parquet"'),
        ("a.txt.gz", b"no gzip", "gzip"),
    ],
)
def test_faults_name_the_file_and_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_evaluation(tmp_path / name)
    assert name in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_evaluation(tmp_path / "none.jsonl")


# Copies in training text.


def test_copies_are_found_whatever_their_case_and_punctuation(make_text: MakeText) -> None:
    example = make_text(1, 40)
    index = index_of(make_text(2, 40), example)
    loud = "; ".join(example.upper().split())
    documents = [
        example,
        f"{make_text(3, 400)}{loud} {make_text(4, 400)}",
        make_text(5, 400),
        "",
    ]
    assert ([True, True, False, False], [1, 1, -1, -1], [1, 1, 0, 0]) == verdict(documents, index)


def test_half_a_copy_and_other_words() -> None:
    index = index_of(numbered(0, 40))  # 33 n-grams
    words = numbered(0, 40).split()
    most = " ".join(words[:25])  # 18 n-grams
    half = " ".join(words[:20])  # 13
    paraphrase = " ".join(word if place % 7 else "else" for place, word in enumerate(words))
    around = numbered(1000, 200)
    documents = [f"{around} {copy} {around}" for copy in (most, half, paraphrase)]
    goes, example, share = verdict(documents, index)
    assert [True, False, False] == goes
    # What was put in other words shares no n-gram: it is not found, and nothing here claims to.
    assert [0, 0, -1] == example
    assert [round(18 / 33, 3), round(13 / 33, 3), 0] == share
    assert [True, True, False] == verdict(documents, index, 0.3)[0]


def test_a_short_piece_of_a_long_example_goes() -> None:
    index = index_of(numbered(0, 2000))
    inside, outside = numbered(500, 60), numbered(5000, 60)
    documents = [inside, f"{inside} {outside}", f"{outside} {inside} {outside}", numbered(500, 9)]
    # 53 of 53, of 113 and of 173 n-grams; and two n-grams are too few.
    assert [True, False, False, False] == verdict(documents, index)[0]


def test_long_documents_and_long_examples() -> None:
    index = index_of(numbered(0, 4000))
    documents = [numbered(1000, 9000), numbered(2500, 9000)]
    assert [True, False] == verdict(documents, index)[0]


def test_few_n_grams_of_an_example_are_not_enough_unless_they_are_all() -> None:
    around = numbered(1000, 300)
    index = index_of(numbered(0, 8), numbered(100, 9), numbered(200, 12))
    copies = [numbered(0, 8), numbered(100, 9), numbered(100, 8), numbered(200, 9), numbered(200, 10)]
    goes, example, _ = verdict([f"{around} {copy}" for copy in copies], index)
    assert [True, True, False, False, True] == goes
    assert [0, 1, 1, 2, 2] == example


def test_short_examples_are_matched_whole_in_short_documents() -> None:
    index = index_of("Is this a short one?", "four words are few", numbered(0, 20))
    assert [1, 0, 13] == index.grams.tolist()
    filled = f"yes: is this a SHORT one {numbered(50, SHORT_DOCUMENT_WORDS - 6)}"
    documents = ["is this a short one", filled, filled + " more", "is this a short two", "four words are few"]
    assert [True, True, False, False, False] == verdict(documents, index)[0]
    totals = summary(merge([tally(hits(pl.Series(documents), index), index, np.arange(5))]), index)
    assert (3, 1, 1, 1) == tuple(
        totals["set"][name] for name in ("examples", "unchecked", "short", "with_overlap")
    )


def test_what_all_examples_share_says_nothing_about_one() -> None:
    template = numbered(0, 30)
    texts = [f"{template} {numbered(1000 * number, 20)}" for number in range(1, TEMPLATE_EXAMPLES + 2)]
    index = index_of(*texts)
    # Left are the 20 n-grams that end in words of its own.
    assert {20} == set(index.grams.tolist())
    documents = [template + " " + numbered(500, 100), texts[3]]
    assert ([False, True], [-1, 3], [0, 1]) == verdict(documents, index)


def test_examples_that_share_their_context_are_all_named() -> None:
    context = numbered(0, 60)
    index = index_of(f"{context} who was it", f"{context} where was it")
    found = hits(pl.Series([context]), index)
    assert [[0, 0], [0, 1], [53, 53]] == [
        found.document.tolist(),
        found.example.tolist(),
        found.shared.tolist(),
    ]


def test_held_out_documents_are_an_evaluation_set(make_text: MakeText) -> None:
    held = [make_text(seed, 300) for seed in range(5)]
    index = index_of(*held, name="held_out")
    training = [make_text(seed, 300) for seed in range(4, 30)]
    assert [True] + [False] * 25 == verdict(training, index)[0]


def test_what_cannot_be_looked_for_is_said(make_text: MakeText) -> None:
    with pytest.raises(DataError, match="no example"):
        index_of("too short")
    one = EvaluationSet(name="a", texts=(make_text(1, 20),))
    with pytest.raises(DataError, match="same name"):
        EvaluationIndex.build([one, one])
    with pytest.raises(DataError, match="share"):
        verdict(["x"], EvaluationIndex.build([one]), 0.0)


def test_an_index_on_disk_is_the_same(tmp_path: Path, make_text: MakeText) -> None:
    first = EvaluationSet(name="é", texts=(make_text(1, 30), "is this a short one"))
    sets = [first, EvaluationSet(name="b", texts=(make_text(2, 9),))]
    index = EvaluationIndex.build(sets)
    index.save(tmp_path / "sets.npz")
    loaded = EvaluationIndex.load(tmp_path / "sets.npz")
    assert (index.names, index.heads, index.lengths) == (loaded.names, loaded.heads, loaded.lengths)
    documents = [make_text(1, 30), make_text(2, 9), "is this a short one"]
    assert verdict(documents, index) == verdict(documents, loaded)
    (tmp_path / "sets.npz").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="not an index"):
        EvaluationIndex.load(tmp_path / "sets.npz")


def test_counts_add_up_in_any_order(make_text: MakeText) -> None:
    rng = random.Random(3)
    sets = [
        EvaluationSet(name=name, texts=tuple(make_text(seed, 40) for seed in seeds))
        for name, seeds in (("a", range(6)), ("b", range(10, 14)))
    ]
    index = EvaluationIndex.build(sets)
    documents = [make_text(seed, 80) for seed in range(100, 130)]
    for place, copied in enumerate((0, 0, 1, 11, 12)):
        documents[3 * place] += make_text(copied, 40)
    documents[20] += make_text(2, 40) + make_text(13, 40)  # of both sets
    documents[25] += " ".join(make_text(3, 40).split()[:12])  # 5 of 33 n-grams
    order = rng.sample(range(30), 30)
    goes = verdict(documents, index)[0]
    tallies = []
    for low in range(0, 30, 7):
        rows = order[low : low + 7]
        found = hits(pl.Series([documents[row] for row in rows]), index)
        tallies.append(json.loads(json.dumps(tally(found, index, np.array(rows)))))
    total = merge(tallies)
    assert total == merge(reversed(tallies))
    assert (30, 6) == (total["documents"], total["removed"])
    assert sum(goes) == total["removed"]
    report = summary(total, index)
    assert {"a": 4, "b": 3} == {name: entry["removed"] for name, entry in report.items()}
    assert {"a": 6, "b": 4} == {name: entry["examples"] for name, entry in report.items()}
    assert {"a": 4, "b": 3} == {name: entry["with_overlap"] for name, entry in report.items()}
    assert {"a": 3, "b": 3} == {name: entry["contaminated"] for name, entry in report.items()}
    assert [(0, 1.0, 0), (1, 1.0, 6), (2, 1.0, 20)] == [
        (worst["example"], worst["share"], worst["document"]) for worst in report["a"]["worst"]
    ]


def test_nothing_in_common_gives_empty_totals(make_text: MakeText) -> None:
    index = index_of(make_text(1, 40))
    found = hits(pl.Series([make_text(2, 40)]), index)
    assert 0 == len(found.document)
    report = summary(merge([tally(found, index, np.arange(1))]), index)["set"]
    assert [1, 0, 0, 0, 0, 0, []] == list(report.values())


# The n-grams of a corpus.


def test_every_run_of_thirteen_words_is_found(tmp_path: Path) -> None:
    rng = random.Random(5)
    vocabulary = [f"v{number}" for number in range(3000)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 400))) for _ in range(60)]
    folder = corpus(tmp_path, texts, parts=3)
    run = NGRAM + STEP - 1
    planted = []
    for text in texts:
        words = text.split()
        for at in range(max(0, len(words) - run + 1)):
            planted.append(" ".join(["before", *words[at : at + run], "behind"]))
    words, covered, _ = coverage(folder, planted)
    assert {run + 2} == set(words.tolist())
    assert len(planted) > 5000
    assert int((covered >= NGRAM).sum()) == len(planted)
    # A whole document is covered but for less than a step at its end.
    words, covered, _ = coverage(folder, [text for text in texts if len(text.split()) >= NGRAM])
    assert ((words - covered) < STEP).all()


def test_false_hits_are_below_the_stated_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = np.unique(rng.integers(0, 1 << 64, 300_000, dtype=np.uint64))
    np.save(tmp_path / "a.key.npy", stored)
    meta = merge_parts([tmp_path / "a"], tmp_path / "index")
    index = open_corpus_index(tmp_path / "index")
    assert len(stored) == meta["keys"] == index.keys
    assert index.contains(stored).all()
    others = rng.integers(0, 1 << 64, 2_000_000, dtype=np.uint64)
    assert 0 < index.contains(others).mean() < LARGEST_FALSE_SHARE
    size = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    assert size / len(stored) < 2.2


def test_the_index_does_not_depend_on_parts_and_ranges(
    tmp_path: Path, make_text: MakeText, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [make_text(seed, 200) for seed in range(20)]
    names = []
    for number in range(4):
        names.append(tmp_path / "parts" / str(number))
        write_part(names[-1], pl.Series(texts[number::4]))
    merge_parts(names, tmp_path / "one")
    merge_parts(names[::-1], tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert ["00000.npz", "index.json"] == files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    monkeypatch.setattr(ngrams, "_RANGE_KEYS", 100)
    meta = merge_parts(names, tmp_path / "two")
    assert meta["partitions"] > 4
    asked = np.array(keys_of(texts[0], NGRAM) + keys_of(make_text(99, 200), NGRAM), dtype=np.uint64)
    one, two = (open_corpus_index(tmp_path / name).contains(asked) for name in ("one", "two"))
    assert 193 // STEP <= one[:193].sum() < 60
    assert one.tolist() == two.tolist()


def test_a_later_set_is_checked_without_the_text(tmp_path: Path, make_text: MakeText) -> None:
    texts = [make_text(seed, 500) for seed in range(6)]
    folder = corpus(tmp_path, texts)
    known = texts[2].split()
    later = EvaluationSet(
        name="later",
        texts=(
            "Quoted: " + " ".join(known[100:160]).upper(),
            " ".join(known[200:230]) + " " + make_text(50, 30),
            make_text(51, 60),
            "too short",
        ),
    )
    report = check(folder, later)
    assert (4, 1, 2) == (report["examples"], report["too_short"], report["with_overlap"])
    assert [0, 1] == [worst["example"] for worst in report["worst"]]
    first, second = (worst["coverage"] for worst in report["worst"])
    assert 1 - 2 * STEP / 61 <= first <= 60 / 61
    assert (30 - 2 * STEP) / 60 <= second <= 30 / 60
    assert round(1 / 3, 6) == round(report["share_most"], 6)
    assert 3 == sum(report["histogram"])
    assert report["words"] == 61 + 60 + 60
    assert 13 == report["certain_words"]


def test_a_corpus_without_text_and_one_without_an_index(tmp_path: Path, make_text: MakeText) -> None:
    folder = corpus(tmp_path / "empty", ["", "few words"])
    report = check(folder, EvaluationSet(name="a", texts=(make_text(1, 30),)))
    assert (0, [], [1, *[0] * 9]) == (report["with_overlap"], report["worst"], report["histogram"])
    with pytest.raises(DataError, match="below 8 words"):
        check(folder, EvaluationSet(name="a", texts=("few", "")))
    with pytest.raises(StoreError, match="holds no n-gram index"):
        check(tmp_path, EvaluationSet(name="a", texts=(make_text(1, 30),)))
    (folder / INDEX_FOLDER / "00000.npz").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="not a range"):
        check(folder, EvaluationSet(name="a", texts=(make_text(1, 30),)))
    (folder / INDEX_FOLDER / "index.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="format 99"):
        check(folder, EvaluationSet(name="a", texts=(make_text(1, 30),)))
