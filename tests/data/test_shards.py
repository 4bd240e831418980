"""Shards: joined, memory-mapped, checked."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.tokens.shards import JoinedTokens, open_split, token_dtype, write_split
from stepladder.errors import DataError
from stepladder.store import write_bytes, write_json


def build(folder: Path, lengths: list[list[int]], shard_tokens: int, dtype: str = "<u2") -> np.ndarray:
    """A corpus folder whose training split has these document lengths in each part."""
    total = sum(map(sum, lengths))
    ids = (np.arange(total) * 7919 % 60_000).astype(dtype)
    parts, at = [], 0
    for number, part in enumerate(lengths):
        path = folder / f"part{number}"
        write_bytes(path, ids[at : at + sum(part)].tobytes())
        parts.append((path, np.array(part, dtype=np.int64)))
        at += sum(part)
    entry = write_split(folder, "train", parts, dtype, shard_tokens) | {"num_bytes": 3 * total}
    write_json(folder / "index.json", {"dtype": np.dtype(dtype).name, "splits": {"train": entry}})
    return ids


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=5),
    shard_tokens=st.integers(1, 40),
    data=st.data(),
)
def test_any_shard_size_reads_as_one_array(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], shard_tokens: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    ids = build(folder, lengths, shard_tokens)
    split = open_split(folder, "train")
    assert ids.tolist() == np.asarray(split.tokens).tolist()
    assert len(split) == len(ids)
    assert split.num_bytes == 3 * len(ids)
    assert np.diff(split.offsets).tolist() == [length for part in lengths for length in part]
    start, stop = data.draw(st.integers(0, len(ids) + 3)), data.draw(st.integers(0, len(ids) + 3))
    assert ids[start:stop].tolist() == split.tokens[start:stop].tolist()
    if len(ids):
        places = np.array(data.draw(st.lists(st.integers(-len(ids), len(ids) - 1), min_size=1, max_size=9)))
        assert ids[places].tolist() == split.tokens[places].tolist()
        assert split.tokens[int(places[0])] == ids[int(places[0])]


def test_shards_are_memory_mapped(tmp_path: Path) -> None:
    build(tmp_path, [[10, 20]], 100)
    assert isinstance(open_split(tmp_path, "train").tokens, np.memmap)
    build(tmp_path, [[10, 20]], 7)
    assert isinstance(open_split(tmp_path, "train").tokens, JoinedTokens)
    assert len(list((tmp_path / "train").glob("*.bin"))) == 5


@pytest.mark.parametrize("name", ["00001.bin", "offsets.i64"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    build(tmp_path, [[10, 20]], 20)
    path = tmp_path / "train" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=f"{name} is not whole(.|\n)*bytes where the index says"):
        open_split(tmp_path, "train")
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError, match="its SHA-256 is not the one in the index"):
        open_split(tmp_path, "train")
    assert open_split(tmp_path, "train", verify=False).num_bytes == 90
    path.unlink()
    with pytest.raises(DataError, match="it does not exist"):
        open_split(tmp_path, "train")


def test_folders_that_hold_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared corpus"):
        open_split(tmp_path, "train")
    build(tmp_path, [[1]], 10)
    with pytest.raises(DataError, match="has no split heldout"):
        open_split(tmp_path, "heldout")


def test_the_smallest_type_that_holds_the_vocabulary() -> None:
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")
