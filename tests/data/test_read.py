"""Files to documents; what cannot be read is quarantined and the rest goes on."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data import read
from stepladder.data.read import Reader, docstrings
from stepladder.data.sources import list_files


def read_all(*paths: Path, piece_bytes: int = 1 << 20) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    reader = Reader(text_column="text", piece_bytes=piece_bytes)
    rows = [row for frame in reader.batches(list_files(list(map(str, paths)))) for row in frame.to_dicts()]
    return rows, [(entry.place, entry.reason) for entry in reader.quarantined]


def lines_of(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain", "plain"),
        (b"\xef\xbb\xbfmarked", "marked"),
        ("wide ü".encode("utf-16"), "wide ü"),
        (b"", ""),
    ],
)
def test_text_encodings_that_are_understood(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    rows, quarantined = read_all(tmp_path / "a.txt")
    assert [(expected, len(content))] == [(row["text"], row["raw_bytes"]) for row in rows]
    assert quarantined == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("über".encode("latin-1"), "not utf-8: byte 0xfc at offset 0"),
        (b"a\0b", "NUL byte at offset 1: not text"),
        (b"\xff\xfea", "not utf-16: byte 0x61 at offset 2"),
    ],
)
def test_what_is_not_text_is_quarantined(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("fine")
    rows, quarantined = read_all(tmp_path / "a.txt", tmp_path / "b.txt")
    assert [row["text"] for row in rows] == ["fine"]
    assert [(0, reason)] == quarantined


def test_broken_records_are_quarantined_with_their_offset(tmp_path: Path) -> None:
    good = lines_of({"text": "one", "domain": "code", "license": "MIT"})
    parts = [
        good,
        b"{broken\n",
        lines_of({"body": "x"}, {"text": 7}, {"text": None}, [1]),
        b'{"text": "\\ud800"}\n',
        b'{"text": "\xff"}\n',
        b"\n",
        lines_of({"text": "two"}),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"".join(parts))
    rows, quarantined = read_all(tmp_path / "a.jsonl")
    assert [(row["text"], row["domain"], row["licence"]) for row in rows] == [
        ("one", "code", "MIT"),
        ("two", "prose", ""),
    ]
    assert [reason.split(":")[0] for _, reason in quarantined] == [
        "not JSON",
        'no column "text" among body',
        'column "text" holds int, not text',
        'column "text" holds NoneType, not text',
        "not a JSON object but list",
        "half of a surrogate pair in the text",
        "not JSON",
    ]
    assert len(good) == quarantined[0][0]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_packed_file_gives_what_it_holds_and_one_entry(tmp_path: Path, suffix: str) -> None:
    content = lines_of(*({"text": f"{number} {os.urandom(200).hex()}"} for number in range(2000)))
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed)
    rows, quarantined = read_all(path)
    assert (len(rows), quarantined) == (2000, [])

    path.write_bytes(packed[: len(packed) // 2])
    rows, quarantined = read_all(path)
    assert 500 < len(rows) < 1100
    assert len(quarantined) == 1
    assert "end-of-stream" in quarantined[0][1] or "truncated" in quarantined[0][1]

    path.write_bytes(b"no such format")
    rows, quarantined = read_all(path)
    assert (rows, len(quarantined)) == ([], 1)


def test_a_zst_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    frames = [zstandard.compress(lines_of({"text": str(number)})) for number in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert [row["text"] for row in read_all(tmp_path / "a.jsonl.zst")[0]] == ["0", "1", "2"]


def test_parquet_rows_columns_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["one", None, "three"], "domain": ["code", "code", "odd"]}).write_parquet(path)
    rows, quarantined = read_all(path)
    assert [(row["text"], row["domain"], row["record"]) for row in rows] == [
        ("one", "code", 0),
        ("three", "prose", 2),
    ]
    assert quarantined == [(1, 'column "text" holds NoneType, not text')]

    pl.DataFrame({"body": ["one"]}).write_parquet(tmp_path / "b.parquet")
    assert read_all(tmp_path / "b.parquet") == ([], [(0, 'no column "text" among body')])

    (tmp_path / "c.parquet").write_bytes(path.read_bytes()[:-20])
    rows, quarantined = read_all(tmp_path / "c.parquet")
    assert rows == []
    assert quarantined[0][1].startswith("not readable Parquet")


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LONGEST_LINE", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * (5 << 20) + b'"}\n' + lines_of({"text": "ok"}))
    rows, quarantined = read_all(tmp_path / "a.jsonl")
    assert [row["text"] for row in rows] == ["ok"]
    assert quarantined == [(0, "line longer than 1 MiB")]


def test_a_file_that_went_away_is_quarantined(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        (tmp_path / name).write_text("x")
    files = list_files([str(tmp_path)])
    for file in files:
        os.unlink(file.path)
    reader = Reader(text_column="text", piece_bytes=100)
    assert list(reader.batches(files)) == []
    assert [entry.source for entry in reader.quarantined] == ["a.txt", "b.jsonl", "c.parquet"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    assert read_all(tmp_path / "a.txt") == ([], [(0, "no permission to read the file")])


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=3000))
def test_pieces_of_a_long_file_join_to_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(text.encode())
    rows, quarantined = read_all(path, piece_bytes=200)
    assert quarantined == []
    assert text == "".join(row["text"] for row in rows)
    assert len(text.encode()) == sum(row["raw_bytes"] for row in rows)


def test_batches_hold_at_most_five_hundred_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of(*({"text": "x"} for _ in range(1201))))
    reader = Reader(text_column="text", piece_bytes=100)
    assert [len(frame) for frame in reader.batches(list_files([str(tmp_path)]))] == [500, 500, 201]


def test_docstrings_are_taken_out_of_code() -> None:
    code = '''"""Module.

    Indented.
    """
def f():
    r\'\'\'One line.\'\'\'
    return """not a docstring"""
'''
    assert docstrings(code) == "Module.\n\nIndented.\n\nOne line."
