"""The path of a labelled set in; its files by split out (no torch).

A folder holds train, dev and test (or validation, valid, val) with any known ending, also in several files
(train-00000-of-00002.parquet), as what `datasets` saved (dataset_dict.json or state.json), as catalogues
(*.po, at any depth), or as two parallel files with the names of their languages (news.en, news.fr).
"""

import re
from collections import defaultdict
from pathlib import Path

from stepladder.errors import TaskError
from stepladder.store import read_json
from stepladder.tune.readers import SUFFIXES, Columns

# The split of a file by the first word of its name; "" is all of it, which is to be split.
_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}
_SAVED_DICT, _SAVED = "dataset_dict.json", "state.json"


def task_files(path: Path, columns: Columns) -> dict[str, list[Path]]:
    """Files by split ("" where there are no splits); two parallel files are one path "A,B".

    Raises:
        TaskError: a folder without files that can be told apart.
    """
    if not path.is_dir():
        return {"": [path]}
    if (path / _SAVED_DICT).exists():
        names = read_json(path / _SAVED_DICT).get("splits", [])
        found = {_SPLITS.get(name, ""): _saved_files(path / name) for name in names}
        if wanted := {split: files for split, files in found.items() if split}:
            return wanted
    if (path / _SAVED).exists():
        return {"": _saved_files(path)}
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    known = [file for file in files if file.suffix.lower() in SUFFIXES and file.name != "task.json"]
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in known or _parallel(files, columns):
        if split := _SPLITS.get(re.split(r"[-._]", file.name.lower())[0]):
            by_split[split].append(file)
    if by_split:
        return dict(by_split)
    if catalogues := sorted(path.rglob("*.po")):
        return {"": catalogues}
    if not known and len(pairs := _parallel(files, columns)) == 1:
        return {"": pairs}
    raise TaskError(
        f"{path} holds no labelled set that is known",
        got=", ".join(file.name for file in files[:10]) or "no files",
        allowed="train and test (and dev) ending in " + ", ".join(SUFFIXES) + "; A.en and A.fr; *.po; "
        "or what datasets.save_to_disk wrote",
    )


def _saved_files(folder: Path) -> list[Path]:
    return [folder / file["filename"] for file in read_json(folder / _SAVED)["_data_files"]]


def _parallel(files: list[Path], columns: Columns) -> list[Path]:
    """Pairs with the same stem, as paths "A,B": source first, by `columns` or else by name."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if file.suffix and file.suffix.lower() not in SUFFIXES:
            by_stem[file.stem].append(file)
    pairs = []
    for members in by_stem.values():
        ends = [member.suffix.removeprefix(".") for member in members]
        source = columns.get("source") or ("source" if "source" in ends else "src" if "src" in ends else "")
        if len(members) == 2:
            first = ends.index(source) if source in ends else 0
            pairs.append(Path(f"{members[first]},{members[1 - first]}"))
    return pairs
