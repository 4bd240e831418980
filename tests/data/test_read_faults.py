"""Damaged, hostile and odd inputs: each is a quarantine entry or a document, and nothing is lost or hangs."""

import contextlib
import dataclasses
import gzip
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import zstandard

from stepladder.data.quality.clean import clean
from stepladder.data.sources import jsonl
from stepladder.data.sources.listing import list_files, with_digests
from stepladder.data.sources.read import Quarantined, Reader
from stepladder.errors import DataError

MIB = 1 << 20


def read_all(*sources: Path | str, **options: Any) -> tuple[list[dict[str, Any]], list[Quarantined]]:
    reader = Reader(**options)
    files = list_files(list(map(str, sources)))
    return [row for frame in reader.batches(files) for row in frame.to_dicts()], reader.quarantined


def reasons(entries: list[Quarantined]) -> list[str]:
    return [entry.reason for entry in entries]


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that is readable by all, and no rights of the superuser inside the block."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


def test_what_is_no_text_in_a_record_is_named(tmp_path: Path) -> None:
    lines = [
        b'{"text": NaN}',
        b'{"text": null}',
        b'{"text": 3.5}',
        b'{"text": true}',
        b'{"text": ["a"]}',
        b'{"text": "kept", "score": NaN}',
        b"NaN",
        b'{"text": "\\udfff"}',
        b'{"text": "cut',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows, entries = read_all(tmp_path / "a.jsonl")
    assert ["kept"] == [row["text"] for row in rows]
    assert len(lines) == len(rows) + len(entries)
    assert reasons(entries) == [
        'column "text" holds float, not text',
        'column "text" holds NoneType, not text',
        'column "text" holds float, not text',
        'column "text" holds bool, not text',
        'column "text" holds list, not text',
        "not a JSON object but float",
        "half of a surrogate pair in the text",
        "not JSON: Unterminated string starting at: line 1 column 10 (char 9)",
    ]
    places = [0, *(sum(len(line) + 1 for line in lines[: n + 1]) for n in range(len(lines) - 1))]
    assert [place for n, place in enumerate(places) if n != 5] == [entry.place for entry in entries]
    assert b"\n".join(lines)[entries[-1].place :] == entries[-1].sample.encode()


def test_halves_of_surrogate_pairs_beside_the_text_are_written_out(tmp_path: Path) -> None:
    record = (
        b'{"text": "x", "source": "s\\ud800", "licence": "l\\ud800", "group": "\\ud800", "date": "\\ud800"}'
    )
    (tmp_path / "a.jsonl").write_bytes(record + b'\n{"\\ud800": 1}\n')
    rows, entries = read_all(tmp_path / "a.jsonl")
    assert [("s\\ud800", "l\\ud800", "a.jsonl:\\ud800", "\\ud800")] == [
        (row["source"], row["licence"], row["group"], row["date"]) for row in rows
    ]
    assert ['no column "text" among \\ud800'] == reasons(entries)


def test_nul_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\u0000b"}\n{"text": "a\0b"}\n')
    (tmp_path / "b.txt").write_bytes(b"a\0b")
    rows, entries = read_all(tmp_path)
    assert ["ab\n"] == clean(pl.DataFrame(rows), ())["text"].to_list()  # control characters are cleaned away
    assert ["a.jsonl", "b.txt"] == [entry.source for entry in entries]
    assert entries[0].reason.startswith("not JSON: Invalid control character")
    assert "NUL byte at offset 1: not text" == entries[1].reason


def test_deep_nesting_and_huge_numbers_break_one_record_each(tmp_path: Path) -> None:
    deep = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    huge = b'{"text": "x", "id": ' + b"9" * 5000 + b"}"
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([deep, huge, b'{"text": "kept"}']))
    rows, entries = read_all(tmp_path / "a.jsonl")
    assert ["kept"] == [row["text"] for row in rows]
    assert [len(deep) + 1, len(huge) + 1] == [entry.num_bytes for entry in entries]
    assert all(reason.startswith("not JSON: ") for reason in reasons(entries))


def test_the_same_id_twice_gives_two_documents_and_the_last_of_two_keys_counts(tmp_path: Path) -> None:
    lines = b'{"id": 1, "text": "one"}\n{"id": 1, "text": "two"}\n{"text": "early", "text": "late"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    rows, entries = read_all(tmp_path / "a.jsonl")
    assert ([("one", 0), ("two", 25), ("late", 50)], []) == (
        [(row["text"], row["record"]) for row in rows],
        entries,
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.gz", "a.jsonl.zst", "a.csv"])
def test_an_empty_file_holds_at_most_an_empty_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    rows, entries = read_all(tmp_path / name)
    expected = [""] if ".txt" in name else []
    assert expected == [row["text"] for row in rows]
    assert (['no column "text" among none'] if name == "a.csv" else []) == reasons(entries)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather", "a.ipynb"])
def test_an_empty_file_that_needs_content_is_one_entry(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    rows, entries = read_all(tmp_path / name)
    assert ([], 1) == (rows, len(entries))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_packed_file_cut_at_any_place_gives_what_came_before(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    rng = random.Random(0)
    texts = [f"{number} {rng.randbytes(40).hex()}" for number in range(300)]
    content = {
        "txt": "\n".join(texts),
        "jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
        "csv": "text\n" + "".join(text + "\n" for text in texts),
    }[kind].encode()
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    path = tmp_path / f"a.{kind}{suffix}"
    for cut in (1, 7, len(packed) // 3, len(packed) - 1):
        path.write_bytes(packed[:cut])
        rows, entries = read_all(path, piece_bytes=100)
        assert 1 == len(entries)
        found = [row["text"] for row in rows]
        if kind == "txt":
            assert "\n".join(texts).startswith("".join(found))
        else:
            assert texts[: len(found)] == found
        if cut == len(packed) - 1 and suffix == ".gz":  # zstd gives whole blocks, here one
            assert "".join(found).count("\n" if kind == "txt" else " ") > 290


def test_noise_behind_a_packed_part_keeps_the_part(tmp_path: Path) -> None:
    line = b'{"text": "kept"}\n'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(line) + b"noise noise")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line) + b"noise noise")
    rows, entries = read_all(tmp_path)
    assert ["kept", "kept"] == [row["text"] for row in rows]
    assert ["a.jsonl.zst", "b.jsonl.gz"] == [entry.source for entry in entries]


def test_json_lines_in_utf_16_are_one_entry_and_a_mark_of_utf_8_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "x"}\n{"text": "y"}\n'.encode("utf-16"))
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "kept"}\n')
    rows, entries = read_all(tmp_path)
    assert ["kept"] == [row["text"] for row in rows]
    assert ["UTF-16; JSON lines are UTF-8: iconv -f UTF-16 -t UTF-8"] == reasons(entries)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_record_in_another_encoding_does_not_take_its_neighbours(tmp_path: Path, name: str) -> None:
    if name == "a.csv":
        (tmp_path / name).write_bytes(b"text\none\nl\xf6st\nthree\n")
    else:
        (tmp_path / name).write_bytes(b'{"text": "one"}\n{"text": "l\xf6st"}\n{"text": "three"}\n')
    rows, entries = read_all(tmp_path / name)
    assert ["one", "three"] == [row["text"] for row in rows]
    assert 1 == len(entries)
    assert "\\xf6" in entries[0].sample


def test_a_record_that_is_longer_than_a_line_may_be_counts_with_all_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LONGEST_LINE", MIB)
    long = b'{"text": "' + b"x" * (5 * MIB) + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(long + b'{"text": "kept"}\n')
    (tmp_path / "b.csv").write_bytes(b"text\n" + b"x" * (5 * MIB) + b"\nkept\n")
    tracemalloc.start()
    rows, entries = read_all(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ["kept", "kept"] == [row["text"] for row in rows]
    assert [("a.jsonl", 0, len(long)), ("b.csv", 5, 5 * MIB + 1)] == [
        (entry.source, entry.place, entry.num_bytes) for entry in entries
    ]
    assert peak < 4.5 * MIB


def test_a_gigabyte_in_one_line_leaves_memory_flat(tmp_path: Path) -> None:
    """32 kB on disk; the bound is the 64 MiB of the longest line, three times, beside what was there."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    with (tmp_path / "a.jsonl.zst").open("wb") as out:
        for piece in (b'{"text": "', *([b"x" * MIB] * 1024), b'"}\n{"text": "kept"}\n'):
            out.write(packer.compress(piece))
        out.write(packer.flush())
    code = """
        import resource, sys
        import polars, zstandard
        from stepladder.data.sources.read import Reader
        from stepladder.data.sources.listing import list_files
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        before, reader = peak(), Reader()
        texts = [text for frame in reader.batches(list_files(sys.argv[1:])) for text in frame["text"]]
        print(texts, [(e.reason, e.num_bytes) for e in reader.quarantined], peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, _, mebibytes = output.strip().rpartition(" ")
    assert f"['kept'] [('line longer than 64 MiB', {(1 << 30) + 13})]" == found
    assert int(mebibytes) < 3 * 64


def test_an_entry_for_each_of_many_broken_records_need_not_be_held(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{broken\n" * 5000)
    places: list[int] = []
    reader = Reader(on_quarantine=lambda entry: places.append(entry.place))
    assert [] == list(reader.batches(list_files([str(tmp_path)])))
    assert [] == reader.quarantined
    assert list(range(0, 40_000, 8)) == places


def test_what_vanished_after_listing_is_named(tmp_path: Path) -> None:
    names = [
        "a.arrow",
        "a.csv",
        "a.htm",
        "a.ipynb",
        "a.jsonl",
        "a.jsonl.zst",
        "a.parquet",
        "a.txt",
        "a.txt.gz",
    ]
    with contextlib.suppress(ImportError):
        import trafilatura  # noqa: F401
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 9)
    if "trafilatura" not in sys.modules:
        (tmp_path / names.pop(2)).unlink()
    files = list_files([str(tmp_path)])
    for file in files:
        os.unlink(file.path)
    assert {"unreadable: No such file or directory"} == {file.digest for file in with_digests(files)}
    reader = Reader()
    assert [] == list(reader.batches(files))
    assert names == [entry.source for entry in reader.quarantined]
    assert all(entry.reason.endswith("No such file or directory") for entry in reader.quarantined)
    assert {9} == {entry.num_bytes for entry in reader.quarantined}


def test_files_and_folders_without_permission_are_named() -> None:
    with as_nobody() as folder:
        (folder / "closed").mkdir()
        (folder / "closed" / "x.txt").write_text("never seen")
        for name in ("a.txt", "b.jsonl", "c.parquet"):
            (folder / name).write_text("x")
            (folder / name).chmod(0)
        (folder / "d.txt").write_text("kept")
        (folder / "closed").chmod(0)
        try:
            rows, entries = read_all(folder)
        finally:
            (folder / "closed").chmod(0o700)
    assert ["kept"] == [row["text"] for row in rows]
    assert ["a.txt", "b.jsonl", "c.parquet", "closed/"] == [entry.source for entry in entries]
    assert all("no permission" in reason or "folder" in reason for reason in reasons(entries))


def test_loops_of_links_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("once")
    for name in ("up", "again", "third"):  # glob.glob would follow 40 levels of each in every order
        (tmp_path / "a" / name).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    for source in (tmp_path, tmp_path / "**" / "*.txt"):
        rows, entries = read_all(source)
        assert ["once"] == [row["text"] for row in rows]
        assert [("self.txt", "Too many levels of symbolic links")] == [
            (entry.source, entry.reason) for entry in entries
        ]


def test_broken_links_pipes_and_sockets_are_named_and_do_not_block(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "ok.txt").write_text("kept")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server, contextlib.chdir(tmp_path):
        server.bind("socket.txt")
        files = with_digests(list_files([str(tmp_path)]))
        reader = Reader()
        rows = [row for frame in reader.batches(files) for row in frame.to_dicts()]
    assert ["kept"] == [row["text"] for row in rows]
    assert [(entry.source, entry.reason) for entry in reader.quarantined] == [
        ("broken.txt", "No such file or directory"),
        ("device.txt", "a device, not a regular file"),
        ("pipe.jsonl", "a named pipe, not a regular file"),
        ("pipe.parquet", "not readable Parquet: a named pipe, not a regular file"),
        ("socket.txt", "a socket, not a regular file"),
    ]
    with pytest.raises(DataError, match=r"pipe\.jsonl is a named pipe, not a regular file"):
        list_files([str(tmp_path / "pipe.jsonl")])


def test_names_that_are_not_utf_8_can_be_written_to_tables_and_json(tmp_path: Path) -> None:
    for name in (b"b\xe4r.txt", b"b\xe4r.jsonl", b"b\xe4r.parquet", b"b\xe4r.arrow"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"{broken" if name.endswith(b"l") else b"x")
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"f\xf6lder"))
    pl.DataFrame({"text": ["in a table"]}).write_ipc(os.path.join(tmp_path, "t.arrow"))
    os.rename(tmp_path / "t.arrow", os.path.join(os.fsencode(tmp_path), b"f\xf6lder", b"t\xe4.arrow"))
    rows, entries = read_all(tmp_path)
    assert [("b\\xe4r.txt", "x"), ("f\\xf6lder/t\\xe4.arrow", "in a table")] == [
        (row["file"], row["text"]) for row in rows
    ]
    assert ["b\\xe4r.arrow", "b\\xe4r.jsonl", "b\\xe4r.parquet"] == [entry.source for entry in entries]
    for entry in entries:
        json.dumps(dataclasses.asdict(entry), ensure_ascii=False).encode()
    single = os.path.join(str(tmp_path), os.fsdecode(b"b\xe4r.txt"))
    assert ["b\\xe4r.txt"] == [file.source for file in list_files([single])]


@pytest.mark.parametrize("form", ["stream", "file", "parquet"])
def test_flipped_bytes_in_a_table_never_stop_the_rest(tmp_path: Path, form: str) -> None:
    table = pa.table({"text": [f"text number {number}" * 5 for number in range(200)]})
    path = tmp_path / ("a.parquet" if form == "parquet" else "a.arrow")
    if form == "parquet":
        pl.from_arrow(table).write_parquet(path)  # pyrefly: ignore
    else:
        make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    (tmp_path / "z.txt").write_text("kept")
    good, rng = path.read_bytes(), random.Random(1)
    faults = 0
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(3):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        rows, entries = read_all(tmp_path)
        assert "kept" == rows[-1]["text"]
        assert len(rows) - 1 + len(entries) <= 201
        faults += bool(entries)
    assert faults > 5
