"""Which groups are held out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stepladder.data.split import LARGEST_HELD_OUT, SMALLEST_HELD_OUT, choose_groups, wanted_bytes


def test_the_wanted_bytes_stay_within_their_limits() -> None:
    assert 5_000_000 == wanted_bytes(100_000_000, 0.05)
    assert wanted_bytes(10**12, 0.05) == LARGEST_HELD_OUT
    assert wanted_bytes(1_000_000, 0.01) == SMALLEST_HELD_OUT
    assert wanted_bytes(1_000, 0.01) == 200


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=200), share=st.floats(0.05, 0.5))
def test_the_share_is_reached_and_not_overshot_by_half(sizes: list[int], share: float) -> None:
    names = np.random.default_rng(0).permutation(len(sizes)).tolist()
    groups = dict(zip(names, sizes, strict=True))
    wanted = max(1, round(share * sum(sizes)))
    chosen, held = choose_groups(groups, wanted)
    assert held == sum(groups[int(name)] for name in chosen)
    assert held <= 1.5 * wanted or len(chosen) == 1
    assert held >= wanted or len(chosen) < len(groups) or held == sum(sizes)


def test_groups_are_taken_in_the_order_of_their_hash() -> None:
    chosen, held = choose_groups({9: 10, 3: 10, 5: 10, 7: 10}, 20)
    assert [3, 5] == chosen.tolist()
    assert held == 20


def test_a_huge_file_is_passed_over() -> None:
    chosen, held = choose_groups({0: 10_000_000, **dict.fromkeys(range(1, 50), 10000)}, 20_000)
    assert [1, 2] == chosen.tolist()
    assert held == 20_000


def test_where_all_are_too_large_the_smallest_is_taken() -> None:
    assert [8] == choose_groups({5: 90, 8: 70}, 5)[0].tolist()
