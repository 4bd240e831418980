"""Ids and labels of documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.data.labels import base_of, ids_of, labels, part_base, part_name
from stepladder.errors import DataError


@given(task=st.integers(0, 2**17 - 1), part=st.integers(0, 2**12 - 1), row=st.integers(0, 2**12 - 1))
def test_an_id_says_where_its_document_stands(task: int, part: int, row: int) -> None:
    base = part_base(task, part)
    assert (f"{task:05d}-{part:04d}", row) == part_name(base + row)
    assert base == base_of(f"{task:05d}-{part:04d}")


def test_the_smallest_label_is_pinned_then_longest_then_first() -> None:
    rows = np.arange(5)
    found = labels(part_base(1, 0), rows, np.array([10, 5 << 20, 9 << 20, 10, 3]), np.array([0, 0, 0, 0, 1]))
    assert [4, 1, 2, 0, 3] == np.argsort(found).tolist()
    assert (part_base(1, 0) + rows).tolist() == ids_of(found).tolist()


def test_more_parts_than_ids_hold_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match="split the packed file"):
        part_base(0, 1 << 12)
