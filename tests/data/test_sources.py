"""Names of sources to files."""

import contextlib
import functools
import gzip
import hashlib
import io
import os
import sys
import sysconfig
import threading
import uuid
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from stepladder.data.sources.licences import guess, metadata_licence
from stepladder.data.sources.listing import classify, list_files, sample_files, source_name, with_digests
from stepladder.data.sources.read import Reader
from stepladder.errors import DataError, MissingExtraError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("text", "prose")),
        ("a.py", ("text", "code")),
        ("README", ("text", "prose")),
        ("LICENSE", ("text", "reference")),
        ("LICENSE.md", ("text", "reference")),
        ("a.jsonl", ("jsonl", "prose")),
        ("a.jsonl.zst", ("jsonl", "prose")),
        ("a.JSONL.GZ", ("jsonl", "prose")),
        ("a.parquet", ("parquet", "prose")),
        ("a.arrow", ("arrow", "prose")),
        ("a.feather", ("arrow", "prose")),
        ("a.csv.gz", ("csv", "prose")),
        ("a.HTM", ("html", "prose")),
        ("a.xhtml", ("html", "prose")),
        ("a.ipynb", ("notebook", "code")),
        ("ls.1.gz", ("text", "reference")),
        ("picture.png", None),
        ("libc.so.6", None),
    ],
)
def test_files_are_known_by_their_names(name: str, expected: tuple[str, str] | None) -> None:
    assert expected == classify(name)


def test_a_folder_is_searched_to_the_bottom_in_order(sources: Path) -> None:
    names = [file.name for file in list_files([str(sources)])]
    assert sorted(names) == names
    assert "deep/000.txt" in names
    assert "picture.png" not in names
    assert len(names) == 66


def test_names_do_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "a").mkdir(parents=True)
        (tmp_path / place / "a" / "x.md").write_text("text")
    here, there = (list_files([str(tmp_path / place)]) for place in ("here", "there"))
    assert [file.name for file in here] == [file.name for file in there]


def test_a_file_named_twice_is_read_once_and_equal_names_are_told_apart(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.md").write_text(place)
    files = list_files([str(tmp_path / "one"), str(tmp_path / "one" / "x.md"), str(tmp_path / "two")])
    assert [file.name for file in files] == ["x.md", "x.md#2"]


def test_globs_reach_into_folders(sources: Path) -> None:
    assert len(list_files([str(sources / "**" / "00*.txt")])) == 10


def test_all_wrong_sources_are_named_at_once(sources: Path) -> None:
    wrong = [str(sources / "copi.md"), "python:inst", str(sources / "*.nothing")]
    with pytest.raises(DataError) as caught:
        list_files(wrong)
    text = str(caught.value)
    assert 'did you mean "copy.md"?' in text
    assert 'did you mean "python:installed"?' in text
    assert "*.nothing" in text


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    with pytest.raises(DataError, match="holds no text files"):
        list_files([str(tmp_path)])


def test_installed_text_covers_library_and_packages() -> None:
    files = list_files(["python:installed"])
    by_name = {file.name: file for file in files}
    assert by_name["stdlib/json/__init__.py"].licence == "PSF-2.0"
    assert by_name["stdlib/json/__init__.py"].path.startswith(sysconfig.get_paths()["stdlib"])
    assert any(file.kind == "metadata" for file in files)
    assert by_name["packages/numpy/__init__.py"].licence.startswith("BSD-3-Clause")
    prose = {file.name for file in list_files(["python:prose"])}
    code = {file.name for file in list_files(["python:code"])}
    assert set(by_name) == prose | code
    assert not prose & code


def test_the_sample_is_seeded_and_under_the_cap(sources: Path) -> None:
    files = list_files([str(sources)])
    cap = sum(file.num_bytes for file in files) // 3
    first, again, other = (sample_files(files, cap, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert cap * 0.8 < sum(file.num_bytes for file in first) <= cap
    assert files == sample_files(files, 0, 1)


def test_the_sample_is_not_filled_up_with_tiny_files(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"large{number}.txt").write_text("x" * 1000)
        (tmp_path / f"empty{number}.txt").write_text("")
    sizes = [file.num_bytes for file in sample_files(list_files([str(tmp_path)]), 50_500, 0)]
    assert sizes.count(1000) == 48
    assert 25 < sizes.count(0) < 75


def test_licences_are_guessed_from_text_metadata_and_folders(tmp_path: Path) -> None:
    mit = "Permission is hereby granted, free of charge, to any person"
    assert guess(mit) == "MIT"
    assert guess("all rights reserved") == ""
    assert metadata_licence("Name: x\nLicense-Expression: Apache-2.0 OR MIT\n\nbody") == "Apache-2.0 OR MIT"
    assert metadata_licence("Classifier: License :: OSI Approved :: BSD License\n\n") == "BSD-3-Clause"
    assert metadata_licence("Name: x\n\nLicense: MIT") == ""
    (tmp_path / "LICENSE").write_text(mit)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("x = 1")
    assert {file.name: file for file in list_files([str(tmp_path)])}["a/x.py"].licence == "MIT"


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_linked_folders_are_not_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_text("text")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [file.name for file in list_files([str(tmp_path)])] == ["a/x.md"]


def test_hidden_files_and_folders_are_not_matched_unless_asked_for(tmp_path: Path) -> None:
    for name in (".git/x.txt", "a/x.txt", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert ["a/x.txt"] == [file.name for file in list_files([str(tmp_path / "**" / "*.txt")])]
    assert ["a/x.txt"] == [file.name for file in list_files([str(tmp_path / "**")])]
    assert [".hidden.txt"] == [file.name for file in list_files([str(tmp_path / ".h*")])]


def texts_of(*sources: str) -> list[tuple[str, str]]:
    reader = Reader()
    files = list_files(list(sources))
    found = [row for frame in reader.batches(files) for row in frame.select("file", "text").rows()]
    assert reader.quarantined == []
    return found


def fill(write: Any) -> dict[str, bytes]:
    """The same small corpus at any place: `write(name, content)` puts it there."""
    frame, table, feather = pl.DataFrame({"text": ["table"]}), io.BytesIO(), io.BytesIO()
    frame.write_parquet(table)
    frame.write_ipc(feather)
    content = {
        "a.txt": b"text",
        "deep/b.jsonl.zst": zstandard.compress(b'{"text": "lines"}\n'),
        "deep/c.txt.gz": gzip.compress(b"packed"),
        "deep/d.parquet": table.getvalue(),
        "deep/e.arrow": feather.getvalue(),
        "picture.png": b"1",
        ".hidden/x.txt": b"1",
    }
    for name, value in content.items():
        write(name, value)
    return content


CORPUS = [
    ("a.txt", "text"),
    ("deep/b.jsonl.zst", "lines"),
    ("deep/c.txt.gz", "packed"),
    ("deep/d.parquet", "table"),
    ("deep/e.arrow", "table"),
]


@pytest.fixture
def memory() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A folder of its own in fsspec's file system in memory, and what is in it."""
    fsspec = pytest.importorskip("fsspec")
    files, root = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    yield f"memory:/{root}", fill(lambda name, value: files.pipe_file(f"{root}/{name}", value))
    files.rm(root, recursive=True)


def test_a_folder_a_glob_and_a_file_at_an_address(memory: tuple[str, dict[str, bytes]]) -> None:
    address, content = memory
    assert CORPUS == texts_of(address) == texts_of(f"{address}/")
    assert [CORPUS[0]] == texts_of(f"{address}/a.txt")
    assert [("deep/c.txt.gz", "packed")] == texts_of(f"{address}/*/*.txt.gz")
    assert [("picture.png", "1")] == texts_of(f"{address}/pict*")  # asked for by its name
    files = with_digests(list_files([address]))
    assert [hashlib.sha256(content[file.name]).hexdigest() for file in files] == [f.digest for f in files]
    assert [len(content[file.name]) for file in files] == [file.num_bytes for file in files]
    assert {address.rpartition("/")[2]} == {file.source for file in files}


def test_wrong_addresses_are_named(memory: tuple[str, dict[str, bytes]]) -> None:
    address, _ = memory
    for wrong, said in (
        (f"{address}/nothing.txt", "does not exist"),
        (f"{address}/*.nothing", "holds no files"),
        ("htps://localhost/x", r'"htps" is no protocol of fsspec \(did you mean "https"'),
    ):
        with pytest.raises(DataError, match=said):
            list_files([wrong])
    files = with_digests(list_files([f"{address}/a.txt"]))
    gone = [file.__class__(name="gone", path=f"{address}/gone.txt", num_bytes=5) for file in files]
    assert ["unreadable: No such file or directory"] == [file.digest for file in with_digests(gone)]
    reader = Reader()
    assert [] == list(reader.batches(gone))
    assert [("gone", 5)] == [(entry.source, entry.num_bytes) for entry in reader.quarantined]


def test_an_address_on_this_machine_is_the_same_as_its_path(tmp_path: Path) -> None:
    def write(name: str, value: bytes) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(value)

    fill(write)
    assert CORPUS == texts_of(tmp_path.as_uri()) == texts_of(str(tmp_path))
    assert list_files([str(tmp_path)]) == list_files([str(tmp_path), tmp_path.as_uri()])


def test_files_in_an_archive_are_read_where_they_are(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        fill(archive.writestr)
    assert CORPUS == texts_of(f"zip://::{tmp_path}/a.zip")
    assert [("d.parquet", "table"), ("e.arrow", "table")] == texts_of(f"zip://deep/[de]*::{tmp_path}/a.zip")


def test_without_fsspec_an_address_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"stepladder\[remote\]"):
        list_files(["s3://bucket/*.jsonl"])


class _Server(SimpleHTTPRequestHandler):
    """Files with byte ranges; the first answer to a name in `broken` stops half-way."""

    ranges = True
    broken: set[str] = set()  # noqa: RUF012

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir() or not path.exists():
            super().do_GET()
            return
        content, wanted = path.read_bytes(), self.headers.get("Range")
        first = 0
        if wanted and self.ranges:
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop or len(content) - 1), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes" if self.ranges else "none")
        self.end_headers()
        is_broken = path.name in self.broken
        self.broken.discard(path.name)
        with contextlib.suppress(ConnectionError):  # the reader has what it wants
            self.wfile.write(content[: len(content) // 2] if is_broken else content)
        self.close_connection = True


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path, type[_Server]]]:
    """(address, folder, handler) of a web server on this machine."""
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    handler = type("Handler", (_Server,), {"broken": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path, handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ranges", [True, False])
def test_files_of_a_web_server_are_streamed(web: tuple[str, Path, Any], ranges: bool) -> None:
    address, folder, handler = web
    handler.ranges = ranges
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(100_000))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "b.txt").write_text("text")
    (folder / "c.jsonl").write_bytes(lines * 2)
    source = f"{address}/a.jsonl.gz?signature=secret"
    (file,) = with_digests(list_files([source]))
    content = (folder / "a.jsonl.gz").read_bytes()
    assert ("a.jsonl.gz", "jsonl", "a.jsonl.gz") == (file.name, file.kind, source_name(source))
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file.num_bytes, file.digest)
    assert 100_000 == len(texts_of(source))
    assert 200_000 == len(texts_of(f"{address}/c.jsonl"))
    assert ["a.jsonl.gz", "b.txt", "c.jsonl"] == [file.name for file in list_files([f"{address}/"])]
    assert [("b.txt", "text")] == texts_of(f"{address}/*.txt")
    with pytest.raises(DataError, match=r"nothing\.txt does not exist"):
        list_files([f"{address}/nothing.txt?signature=secret"])


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    web: tuple[str, Path, Any], ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder, handler = web
    handler.ranges = ranges
    monkeypatch.setattr("stepladder.data.sources.remote._PAUSES", (0.01, 0.01, 0.01))
    lines = b"".join(
        b'{"text": "%d %s"}\n' % (number, os.urandom(500).hex().encode()) for number in range(3000)
    )
    (folder / "a.jsonl").write_bytes(lines)
    handler.broken.add("a.jsonl")
    assert lines.count(b"\n") == len(texts_of(f"{address}/a.jsonl"))
    assert not handler.broken


def test_a_table_behind_a_web_server(web: tuple[str, Path, Any]) -> None:
    address, folder, _ = web
    fill(
        lambda name, value: (folder / name).parent.mkdir(exist_ok=True) or (folder / name).write_bytes(value)
    )
    assert [("d.parquet", "table")] == texts_of(f"{address}/deep/d.parquet")
    assert [("e.arrow", "table")] == texts_of(f"{address}/deep/e.arrow")
