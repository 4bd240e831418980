"""Which documents are held out."""

import numpy as np
import pytest

from stepladder.data.dedup import Lines
from stepladder.data.split import choose_held_out, held_share, overlap_shares
from stepladder.errors import DataError


def test_whole_groups_are_held_out_at_about_the_asked_share() -> None:
    groups = [f"file{number // 3}" for number in range(3000)]
    sizes = np.random.default_rng(0).integers(100, 10_000, 3000)
    held = choose_held_out(groups, sizes, 0.1, seed=0)
    assert 0.1 <= held_share(held, sizes) <= 0.11
    for start in range(0, 3000, 3):
        assert len(set(held[start : start + 3])) == 1


def test_the_choice_is_seeded_and_does_not_depend_on_order() -> None:
    groups = [f"file{number}" for number in range(200)]
    sizes = np.full(200, 1000)
    held = choose_held_out(groups, sizes, 0.2, seed=1)
    back = choose_held_out(groups[::-1], sizes, 0.2, seed=1)[::-1]
    assert held.tolist() == back.tolist()
    assert held.tolist() != choose_held_out(groups, sizes, 0.2, seed=2).tolist()


def test_a_huge_file_is_passed_over() -> None:
    groups = ["huge", *(f"file{number}" for number in range(50))]
    sizes = np.array([10_000_000, *[10_000] * 50])
    for seed in range(20):
        held = choose_held_out(groups, sizes, 0.02, seed)
        assert not held[0]
        assert held.any()


def test_two_documents_are_enough_and_one_is_not() -> None:
    assert choose_held_out(["a", "b"], np.array([10, 90]), 0.05, 0).sum() == 1
    with pytest.raises(DataError, match="all text lies in one document"):
        choose_held_out(["a"], np.array([10]), 0.05, 0)


def test_overlap_is_the_share_of_a_groups_long_lines_that_training_has() -> None:
    # Documents 0 and 1 are one held-out file, 2 another, 3 is training text.
    lines = Lines(
        document=np.array([0, 0, 1, 1, 2, 3, 3]),
        key=np.array([1, 2, 3, 4, 9, 1, 3], dtype=np.uint64),
        removable=np.ones(7, dtype=bool),
    )
    held, train = np.array([True, True, True, False]), np.array([False, False, False, True])
    shares = overlap_shares(lines, np.array([0, 0, 1, 2]), held, train)
    assert shares.tolist() == [0.5, 0.5, 0.0, 0.0]
