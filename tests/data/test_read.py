"""Files to documents; what cannot be read is quarantined and the rest goes on."""

import gzip
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.quality.clean import clean
from stepladder.data.sources import jsonl
from stepladder.data.sources.listing import in_ranges, list_files
from stepladder.data.sources.read import Reader
from stepladder.data.sources.text import docstrings
from stepladder.errors import DataError


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
        "not utf-8",
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
        ("three", "odd", 2),
    ]
    assert quarantined == [(1, 'column "text" holds NoneType, not text')]

    pl.DataFrame({"body": ["one"]}).write_parquet(tmp_path / "b.parquet")
    assert read_all(tmp_path / "b.parquet") == ([], [(0, 'no column "text" among body')])

    (tmp_path / "c.parquet").write_bytes(path.read_bytes()[:-20])
    rows, quarantined = read_all(tmp_path / "c.parquet")
    assert rows == []
    assert quarantined[0][1].startswith("not readable Parquet")


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1 << 20)
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


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=3000))
def test_pieces_of_a_long_file_join_to_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(text.encode())
    rows, quarantined = read_all(path, piece_bytes=200)
    assert quarantined == []
    assert text == "".join(row["text"] for row in rows)
    assert len(text.encode()) == sum(row["raw_bytes"] for row in rows)


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=1500),
    mark=st.sampled_from([("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")]),
)
def test_pieces_of_a_long_file_in_utf_16_join_to_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, mark: tuple[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    content = mark[1] + text.encode(mark[0])
    path.write_bytes(content)
    rows, quarantined = read_all(path, piece_bytes=200)
    assert quarantined == []
    assert text == "".join(row["text"] for row in rows)
    assert len(content) == sum(row["raw_bytes"] for row in rows)
    assert all(row["raw_bytes"] < 600 for row in rows)


def test_batches_hold_at_most_five_hundred_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of(*({"text": "x"} for _ in range(1201))))
    reader = Reader(text_column="text", piece_bytes=100)
    assert [len(frame) for frame in reader.batches(list_files([str(tmp_path)]))] == [500, 500, 201]


def write_table(folder: Path, name: str, columns: dict[str, list[Any]]) -> Path:
    """The same rows as JSON lines, CSV, Parquet, or Arrow as a file or a stream."""
    path, frame = folder / name, pl.DataFrame(columns)
    if name.endswith(".jsonl"):
        path.write_bytes(lines_of(*frame.to_dicts()))
    elif name.endswith((".csv", ".tsv")):
        frame.write_csv(path, separator="," if name.endswith(".csv") else "\t")
    elif name.endswith(".parquet"):
        frame.write_parquet(path)
    elif name.endswith(".feather"):
        frame.write_ipc(path, compression="lz4")
    else:
        frame.write_ipc_stream(path)
    return path


TABLES = ("a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.feather", "a.arrow")


@pytest.mark.parametrize("name", TABLES)
def test_all_forms_of_a_table_give_the_same_documents(tmp_path: Path, name: str) -> None:
    texts = [f'text {number}, "quoted"\nsecond\tline ü' for number in range(1203)]
    path = write_table(tmp_path, name, {"id": list(range(1203)), "text": texts, "license": ["MIT"] * 1203})
    reader = Reader()
    frames = list(reader.batches(list_files([str(path)])))
    assert [500, 500, 203] == [len(frame) for frame in frames]
    assert (texts, {"MIT"}, []) == (
        [text for frame in frames for text in frame["text"]],
        {licence for frame in frames for licence in frame["licence"]},
        reader.quarantined,
    )


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_mapped_and_a_missing_one_is_named(tmp_path: Path, name: str) -> None:
    content = {
        "body": ["one", "two"],
        "lic": ["MIT", ""],
        "kind": ["web_2", "Not A Name"],
        "at": ["2020", ""],
    }
    path = write_table(tmp_path, name, {**content, "text": ["not", "this"], "domain": ["no", "no"]})
    files = list_files([str(path)])
    columns = {"text": "body", "licence": "lic", "domain": "kind", "date": "at"}
    rows = [row for frame in Reader(columns=columns).batches(files) for row in frame.to_dicts()]
    assert [("one", "MIT", "web_2", "2020"), ("two", "", "prose", "")] == [
        (row["text"], row["licence"], row["domain"], row["date"]) for row in rows
    ]
    reader = Reader(text_column="prose", columns={"source": "where"})
    assert [] == list(reader.batches(files))
    reason = 'no columns "prose", "where" among at, body, domain, kind, lic, text'
    assert [reason] * (2 if name == "a.jsonl" else 1) == [entry.reason for entry in reader.quarantined]


def test_a_column_that_documents_do_not_have_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of({"text": "x"}))
    with pytest.raises(
        DataError, match=r'"licens" is not a column of documents \(did you mean "licence"\?\)'
    ):
        list(Reader(columns={"licens": "x"}).batches(list_files([str(tmp_path)])))


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_a_text_column_of_another_type_is_one_entry(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path, name, {"text": [1, 2, 3]})
    assert ([], [(0, 'column "text" holds int64, not text')]) == read_all(path)


def test_a_column_that_is_there_twice_is_one_entry(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, tmp_path / "a.feather")
    assert ([], [(0, 'two columns "text"')] * 2) == read_all(tmp_path)


def test_dates_and_categories_of_a_table_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"text": pl.Series(["x", "x"], dtype=pl.Categorical), "created": [date(2020, 1, 31), None]}
    )
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ipc(tmp_path / "a.arrow")
    rows, quarantined = read_all(tmp_path)
    assert [("x", "2020-01-31"), ("x", "")] * 2 == [(row["text"], row["date"]) for row in rows]
    assert quarantined == []


def test_a_row_of_csv_that_does_not_fit_is_quarantined(tmp_path: Path) -> None:
    parts = [
        b"text,id\n",
        b"one,1\n",
        b"two\n",
        b'"th"ree,3\n',
        b"\n",
        b'"four\nlines",4\n',
        b'"open,5\nsix,6\n',
    ]
    (tmp_path / "a.csv").write_bytes(b"".join(parts))
    rows, quarantined = read_all(tmp_path / "a.csv")
    assert [("one", 8), ("four\nlines", 29)] == [(row["text"], row["record"]) for row in rows]
    assert [
        (14, "1 fields, the header has 2"),
        (18, "not CSV: ',' expected after '\"'"),
        (44, "not CSV: unexpected end of data"),
    ] == quarantined


def test_a_domain_of_its_own_has_no_rules_of_quality(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        lines_of({"text": "short", "domain": "chat"}, {"text": "short"}, {"text": " ", "domain": "chat"})
    )
    frame = clean(pl.DataFrame(read_all(tmp_path)[0]), ())
    assert [("chat", None), ("prose", "too_short"), ("chat", "empty")] == frame.select(
        "domain", "rule"
    ).rows()


def test_cells_of_a_notebook_are_one_document(tmp_path: Path) -> None:
    code = {"cell_type": "code", "source": ["import x\n", "x()"], "outputs": [{"text": "not this"}]}
    notebook = {"nbformat": 4, "cells": [{"cell_type": "markdown", "source": "# Title\n"}, code]}
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    old = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": ["y = 1"]}]}]}
    (tmp_path / "b.ipynb").write_text(json.dumps(old))
    for name, content in (("c", "[1]"), ("d", '{"cells": [3]}'), ("e", "{")):
        (tmp_path / f"{name}.ipynb").write_text(content)
    rows, quarantined = read_all(tmp_path)
    assert [("# Title\n\nimport x\nx()", "code"), ("y = 1", "code")] == [
        (row["text"], row["domain"]) for row in rows
    ]
    assert 3 == len(quarantined)


PAGE = """<html><head><title>T</title>{head}</head><body><nav><a href="/">Home</a></nav><main><article>
<h1>Heading</h1><p>The first paragraph says ümlaut and enough words that it is taken for the main text.</p>
<p>The second paragraph goes on with more words, a <a href="x">link</a> and an end.</p></article></main>
<footer>Imprint and terms</footer><script>var hidden = 1;</script></body></html>"""


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ('<meta charset="iso-8859-1">', "cp1252"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">', "cp1252"),
        ('<meta charset="utf-16">', "utf-8"),
    ],
)
def test_the_main_text_of_a_page_in_its_encoding(tmp_path: Path, head: str, encoding: str) -> None:
    pytest.importorskip("trafilatura")
    content = PAGE.format(head=head).encode(encoding)
    (tmp_path / "a.html").write_bytes(content)
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(content))
    rows, quarantined = read_all(tmp_path)
    assert quarantined == []
    for row in rows:
        assert ("prose", len(content)) == (row["domain"], row["raw_bytes"])
        assert "The first paragraph says ümlaut" in row["text"]
        assert "The second paragraph goes on" in row["text"]
        assert not any(word in row["text"] for word in ("Home", "hidden", "Imprint", "<"))


def test_pages_without_text_are_empty_documents_and_other_encodings_are_named(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    pages = {
        "a.html": b"",
        "b.html": b"<html><body><nav></nav><script>x</script></body></html>",
        "c.xhtml": b"\x89PNG\r\n",
        "d.html": b"<html><p>\xfc</p>",
        "e.html": b"<meta charset=klingon><p>x</p>",
        "f.html": b"<meta charset=hex><p>x</p>",
        "g.html": b"<div>" * 100_000,
    }
    for name, content in pages.items():
        (tmp_path / name).write_bytes(content)
    rows, quarantined = read_all(tmp_path)
    assert [("a.html", ""), ("b.html", ""), ("g.html", "")] == [(row["file"], row["text"]) for row in rows]
    assert [
        "not utf-8: byte 0x89 at offset 0",
        "not utf-8: byte 0xfc at offset 9",
        "declares the unknown encoding klingon",
        "declares the encoding hex, which it is not in",
    ] == [reason for _, reason in quarantined]


def test_docstrings_are_taken_out_of_code() -> None:
    code = '''"""Module.

    Indented.
    """
def f():
    r\'\'\'One line.\'\'\'
    return """not a docstring"""
'''
    assert docstrings(code) == "Module.\n\nIndented.\n\nOne line."


def written(folder: Path, kind: str) -> Path:
    """A file of some kilobytes: records of many lengths, blank and broken ones, no line end at the end."""
    texts = [f"text {number} " + "ü word" * (number * 7 % 61) for number in range(300)]
    path = folder / f"many.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.table({"text": texts}), path, row_group_size=17)
    elif kind == "jsonl":
        lines = [json.dumps({"text": text}).encode() for text in texts]
        lines[40], lines[41], lines[90] = b"", b"{broken", b"\xfc"
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_text("\n".join(texts) + "\n\n" + "long line " * 900 + "\n" + "end")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
@pytest.mark.parametrize("range_bytes", [700, 1000, 9001])
def test_ranges_of_a_file_hold_all_of_it_once(tmp_path: Path, kind: str, range_bytes: int) -> None:
    whole = list_files([str(written(tmp_path, kind))])
    parts = list(in_ranges(whole, range_bytes))
    assert len(parts) > 1
    assert sum(part.num_bytes for part in parts) == whole[0].num_bytes

    def read(files: list[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
        reader = Reader(piece_bytes=1 << 20)
        return [row for frame in reader.batches(files) for row in frame.to_dicts()], reader.quarantined

    once, rejected = read(whole)
    again, rejected_again = read(parts)
    assert [(entry.place, entry.reason) for entry in rejected] == [
        (entry.place, entry.reason) for entry in rejected_again
    ]
    if kind == "txt":
        assert "".join(row["text"] for row in again) == once[0]["text"]
        assert len({row["record"] for row in again}) == len(again)
        assert min(len(row["text"]) for row in again) > 0
    else:
        assert again == once


def test_ranges_of_a_file_that_cannot_be_cut(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=0) as stream:
        stream.write(b"x" * 5000)
    (tmp_path / "b.txt").write_bytes("wide\n".encode("utf-16") * 1000)
    files = list_files([str(tmp_path)])
    parts = list(in_ranges(files, 1000))
    assert [part.path for part in parts[:1]] == [str(tmp_path / "a.jsonl.gz")]
    reader = Reader(piece_bytes=1 << 20)
    rows = [row for frame in reader.batches(parts[1:]) for row in frame.to_dicts()]
    assert sum(row["raw_bytes"] for row in rows) == (tmp_path / "b.txt").stat().st_size
