"""Artefacts are written whole or not at all, reused on the same inputs and refused on others."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder import store
from stepladder.errors import FingerprintError, StoreError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=JSON)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("store") / "value.json"
    store.write_json(path, value)
    assert store.read_json(path) == value


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    store.write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json(path, {"loss": float("nan")})
    assert store.read_json(path) == {"loss": 1.0}


def test_a_failing_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value.json"
    store.write_json(path, [1])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write_json(path, [2])
    assert os.listdir(tmp_path) == ["value.json"]
    assert store.read_json(path) == [1]


def test_truncated_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"tokens": ')
    with pytest.raises(StoreError, match=r"plan\.json is not readable JSON"):
        store.read_json(path)
    with pytest.raises(StoreError, match=r"missing\.json does not exist"):
        store.read_json(tmp_path / "missing.json")


def test_same_inputs_reuse_other_inputs_refuse(tmp_path: Path) -> None:
    folder = tmp_path / "r01@1"
    first = store.open_artefact(folder, {"tokens": 100, "seed": 1})
    assert not first.is_done
    first.finish({"loss": 2.5})
    again = store.open_artefact(folder, {"seed": 1, "tokens": 100})
    assert again.is_done
    assert again.result() == {"loss": 2.5}
    with pytest.raises(FingerprintError, match="tokens: 100 there, 200 now"):
        store.open_artefact(folder, {"tokens": 200, "seed": 1})


@given(fields=st.dictionaries(st.text(), st.integers()))
def test_fingerprint_ignores_key_order(fields: dict[str, int]) -> None:
    turned = dict(reversed(fields.items()))
    assert store.fingerprint(turned) == store.fingerprint(fields)
    assert store.fingerprint({**fields, "more": 1, "": json.dumps(fields)}) != store.fingerprint(fields)


def test_new_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    store.write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == ordinary.stat().st_mode
