from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.errors import TrainError
from stepladder.train.batches import BatchSource, SampleOrder, even_windows


@dataclass
class Split:
    tokens: np.ndarray


def source(batch: int = 8, ranks: tuple[int, int] = (0, 1), tokens: int = 1001) -> BatchSource:
    return BatchSource(Split(np.arange(tokens)), 10, batch, 7, ranks)


@given(st.integers(1, 3000), st.integers(0, 10), st.integers(0, 3))
def test_each_epoch_is_a_permutation(windows: int, seed: int, epoch: int) -> None:
    found = SampleOrder(windows, seed).windows(np.arange(windows) + epoch * windows)
    assert list(range(windows)) == sorted(found.tolist())


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [SampleOrder(500, seed).windows(np.arange(1000)) for seed in (0, 1)]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0][:500], orders[0][500:])
    # A shuffle, not a rotation: neighbours do not stay neighbours.
    assert (np.abs(np.diff(orders[0][:500])) == 1).mean() < 0.05


def test_windows_share_one_token() -> None:
    rows = source().read(np.array([0, 1]))
    assert [list(range(11)), list(range(10, 21))] == rows.tolist()


def test_ranks_and_batch_may_change_at_any_sample() -> None:
    """24 samples: one rank, then two, then four with a larger batch, as one rank takes them."""
    one = source(24)
    wanted = sorted(one.next()[0][:, 0].tolist())
    taken: list[int] = []
    consumed = 0
    for world, batch in ((1, 4), (2, 4), (4, 16)):
        ranks = [source(batch, (rank, world)) for rank in range(world)]
        for rank in ranks:
            rank.consumed = consumed
            taken += [int(row[0]) for micro in rank.next() for row in micro]
        consumed = ranks[0].consumed
    assert (24, wanted) == (consumed, sorted(taken))


def test_micro_batches_are_the_batch() -> None:
    whole = source().next()[0]
    parts = BatchSource(Split(np.arange(1001)), 10, 8, 7, micro_sequences=3).next()
    assert [len(part) for part in parts] == [3, 3, 2]
    assert whole.tolist() == np.concatenate(parts).tolist()


def test_refusals_say_what_is_allowed() -> None:
    with pytest.raises(TrainError, match="a multiple of 3 sequences"):
        source(8, (0, 3))
    with pytest.raises(TrainError, match="shorter than one window"):
        source(tokens=10)
    with pytest.raises(TrainError, match="at least 11"):
        even_windows(10, 10, 100)


def test_even_windows_span_the_split() -> None:
    assert even_windows(1001, 10, 40).tolist() == [0, 25, 50, 75]
    assert list(range(100)) == even_windows(1001, 10, 10**9).tolist()
