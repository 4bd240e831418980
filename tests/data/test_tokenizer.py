"""The tokenizer: round trip, equal ids from both encoders, end-of-text, determinism."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.tokens.tokenizer import (
    END_ID,
    END_OF_TEXT,
    Tokenizer,
    check_equal,
    load_own_tokenizer,
    load_tokenizer,
    train_tokenizer,
)
from stepladder.errors import DataError, StoreError

TEXTS = [Path(module).read_text() for module in (json.__file__, subprocess.__file__)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(json.loads(train_tokenizer(TEXTS, 600)))


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
def test_any_text_comes_back_and_both_encoders_agree(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert text == tokenizer.decode(ids)
    assert ids == tokenizer.encode_array(text).tolist()
    assert check_equal(tokenizer, [text]) == 0


def test_real_code_and_blanks_get_equal_ids(tokenizer: Tokenizer) -> None:
    texts = [
        *TEXTS,
        " " * 2000,
        "\n" * 2000,
        "a" * 2000,
        "  x\n\t\ty\r\n  ",
        "don't I'LL 12345 ...",
        "日本語 テスト",
    ]
    assert tokenizer.is_fast
    assert check_equal(tokenizer, texts) == 0
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_a_million_blanks_are_encoded_too(tokenizer: Tokenizer) -> None:
    text = "x" + " " * 1_000_000 + "y"
    assert text == tokenizer.decode(tokenizer.encode(text))


def test_text_that_spells_end_of_text_stays_text(tokenizer: Tokenizer) -> None:
    text = f"before {END_OF_TEXT} after"
    for slow in (False, True):
        chosen = Tokenizer(tokenizer._definition)
        if slow:
            chosen.use_slow()
        assert chosen.is_fast != slow
        ids = chosen.encode(text)
        assert 0 not in ids
        assert text == chosen.decode(ids)
    assert tokenizer.decode([0, *tokenizer.encode("x"), 0]) == "x"


@pytest.mark.parametrize("is_slow", [False, True])
def test_many_texts_at_once_are_their_ids_with_an_end_behind_each(
    tokenizer: Tokenizer, is_slow: bool
) -> None:
    chosen = Tokenizer(tokenizer._definition)
    if is_slow:
        chosen.use_slow()
    texts = [*TEXTS, "", f"{END_OF_TEXT}", "x", "", "日本語 \U0001f600"]
    ids, lengths = chosen.encode_many(iter(texts))
    assert (np.uint32, np.int64) == (ids.dtype, lengths.dtype)
    assert [len(tokenizer.encode(text)) + 1 for text in texts] == lengths.tolist()
    assert [id for text in texts for id in [*tokenizer.encode(text), END_ID]] == ids.tolist()
    # No id of the text itself is the end-of-text id, also where the text spells it.
    assert (np.cumsum(lengths) - 1).tolist() == np.flatnonzero(ids == END_ID).tolist()
    nothing, none = chosen.encode_many([])
    assert (0, 0, np.uint32, np.int64) == (len(nothing), len(none), nothing.dtype, none.dtype)


@pytest.mark.parametrize(
    "text",
    [
        " " * 200_000 + "x",
        "\t\n" * 100_000,
        "\r\n" * 100_000,
        "a" * 200_000,
        "ab" * 100_000,
        "".join(np.random.default_rng(0).choice(list("abcdefghij+/"), 200_000)),
        "7" * 200_000,
        "=" * 200_000,
        "'" * 200_000,
        "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 10_000,
        "\u0301" * 100_000,
        "e\u0301" * 50_000,
        "\u4e2d\u6587" * 30_000,
        "\u3000\u00a0 " * 30_000,
        END_OF_TEXT * 15_000,
        "\x00\x1c\x85\u2028" * 30_000,
    ],
    ids=lambda text: repr(text[:6]),
)
def test_long_runs_get_equal_ids(tokenizer: Tokenizer, text: str) -> None:
    assert check_equal(tokenizer, [text]) == 0
    assert text == tokenizer.decode(tokenizer.encode(text))


def test_ids_are_dense_and_end_of_text_is_zero(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab[END_OF_TEXT] == 0
    assert sorted(tokenizer.vocab.values()) == list(range(600))
    assert tokenizer.vocab_size == 600


def test_the_file_is_what_hugging_face_reads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Theirs

    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer(TEXTS, 600))
    theirs = Theirs.from_file(str(path))
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text).ids
        assert text == theirs.decode(theirs.encode(text).ids)
    assert tokenizer.vocab == load_tokenizer(tmp_path).vocab


def test_training_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    script = (
        "import json, subprocess, sys\nfrom pathlib import Path\n"
        "from stepladder.data.tokens.tokenizer import train_tokenizer\n"
        "texts = [Path(m).read_text() for m in (json.__file__, subprocess.__file__)] * 3\n"
        "sys.stdout.write(train_tokenizer(texts, 600))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": parallel},
            capture_output=True,
            check=True,
        ).stdout
        for threads, parallel in (("1", "false"), ("2", "true"), ("5", "true"))
    ]
    assert outputs[0] == outputs[1] == outputs[2]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        load_own_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece", "vocab": {}}}')
    with pytest.raises(DataError, match="is not a tokenizer of stepladder data"):
        load_own_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(DataError):
        load_own_tokenizer(tmp_path)


def test_offsets_are_characters_and_a_pair_has_those_of_the_second(tokenizer: Tokenizer) -> None:
    text = "naïve 🙂 import json\r\n"
    ids, spans = tokenizer.encode_with_offsets(text)
    assert tokenizer.encode(text) == ids
    assert text == "".join(text[start:end] for start, end in dict.fromkeys(spans))
    pair = tokenizer.encode_pair("import", text)
    first = tokenizer.encode("import")
    assert [END_ID, *first, END_ID, *ids] == pair.ids
    assert [*[None] * (len(first) + 2), *spans] == pair.spans
    assert len(pair.ids) - len(first) - len(ids) == tokenizer.template.pair_extra
    assert [END_ID, *ids] == tokenizer.template.around(ids)
    assert {0} == set(pair.type_ids)
