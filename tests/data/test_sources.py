"""Names of sources to files."""

import os
import sysconfig
from pathlib import Path

import pytest

from stepladder.data.licences import guess, metadata_licence
from stepladder.data.sources import classify, list_files, sample_files
from stepladder.errors import DataError


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
