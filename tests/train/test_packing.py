import itertools
import json
import random
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.tokens.shards import JoinedTokens
from stepladder.errors import TrainError
from stepladder.train.bestfit import best_fit
from stepladder.train.mixture import mix
from stepladder.train.packing import (
    MOST_PADDING,
    PADDING,
    PackedSource,
    boundaries,
    cut_share_of_windows,
    mask_of,
    open_packing,
    pack,
)


@dataclass
class Split:
    """Token i of the split has id i + 1, so that a token says where it is from; 0 is padding."""

    offsets: np.ndarray
    sources: np.ndarray | None = None
    source_names: list[str] = field(default_factory=list)
    checksum: str = "abc"

    @property
    def tokens(self) -> np.ndarray:
        return np.arange(1, self.offsets[-1] + 1, dtype=np.uint32)


@dataclass
class OtherTokens:
    """A split whose tokens are held in another way."""

    offsets: np.ndarray
    tokens: Any
    checksum: str = "abc"


def split_of(lengths: list[int], sources: list[int] | None = None) -> Split:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if sources is None:
        return Split(offsets)
    return Split(offsets, np.array(sources, dtype=np.uint16), ["web", "code", "books"])


def lognormal_split(documents: int, median: float = 40, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(median), 1.2, documents).astype(int) + 1
    return split_of(lengths.tolist(), rng.integers(0, 3, documents).tolist())


LENGTHS = st.lists(st.integers(0, 70), min_size=1, max_size=60).filter(lambda n: max(n) >= 2)


@given(LENGTHS, st.integers(1, 24), st.integers(0, 5), st.booleans())
def test_each_token_is_predicted_once_in_an_epoch(
    lengths: list[int], context: int, seed: int, mixed: bool
) -> None:
    """All but the first of each document, each from the token before it in the same document."""
    split = split_of(lengths, [i % 3 for i in range(len(lengths))] if mixed else None)
    packing = pack(split, context, seed)
    batch = PackedSource(split, packing, len(packing), seed).next()[0]
    assert (len(packing), context + 1) == batch.tokens.shape == batch.document.shape
    assert np.int64 == batch.tokens.dtype
    inputs, targets = (part[batch.predicted] for part in (batch.tokens[:, :-1], batch.tokens[:, 1:]))
    assert (inputs + 1 == targets).all()
    begins = {a for a, b in itertools.pairwise(split.offsets.tolist()) if b > a}
    wanted = [i + 1 for i in range(split.offsets[-1]) if i not in begins]
    assert wanted == sorted(targets.tolist())
    # Nothing is in a sample that neither is predicted nor serves to predict.
    used = np.zeros(batch.tokens.shape, dtype=bool)
    used[:, 1:] |= batch.predicted
    used[:, :-1] |= batch.predicted
    assert (used == (batch.document != PADDING)).all()
    assert (used == (batch.tokens != 0)).all()


@given(LENGTHS, st.integers(1, 24))
def test_a_piece_number_is_one_document_and_a_sample_one_source(lengths: list[int], context: int) -> None:
    split = split_of(lengths, [i % 3 for i in range(len(lengths))])
    assert split.sources is not None
    packing = pack(split, context, 0)
    batch = PackedSource(split, packing, 1, 0).read(np.arange(len(packing)))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for sample, (tokens, document) in enumerate(zip(batch.tokens, batch.document, strict=True)):
        real = document != PADDING
        assert sorted(document[real].tolist()) == document[real].tolist()
        assert not real[real.sum() :].any()
        documents = owner[tokens[real] - 1]
        for number in range(document.max() + 1):
            assert 1 == len(set(documents[document[real] == number]))
        source = int(np.searchsorted(packing.source_first, sample, side="right")) - 1
        assert {source} == set(split.sources[documents].tolist())


@given(LENGTHS, st.integers(1, 24))
def test_masks_equal_the_naive_ones(lengths: list[int], context: int) -> None:
    split = split_of(lengths)
    packing = pack(split, context, 0)
    batch = PackedSource(split, packing, 1, 0).read(np.arange(min(len(packing), 4)))
    document = batch.document[:, :-1]
    naive = np.zeros((*document.shape, context), dtype=bool)
    for row in range(len(document)):
        for query in range(context):
            for key in range(query + 1):
                naive[row, query, key] = document[row, query] == document[row, key]
    assert (naive == mask_of(document)).all()
    # The boundaries say the same: blocks of a causal mask along the diagonal of the flattened batch.
    places = boundaries(document)
    block = np.repeat(np.arange(len(places) - 1), np.diff(places)).reshape(document.shape)
    assert (naive == mask_of(block)).all()
    counted = [
        [bool(a == b and b != PADDING) for a, b in itertools.pairwise(row)] for row in batch.document.tolist()
    ]
    assert counted == batch.predicted.tolist()


def slow_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Free places of the bins, one item after the other, longest first into the fullest that takes it."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [place for place, room in enumerate(free) if room >= length]
        if fitting:
            free[min(fitting, key=lambda place: free[place])] -= length
        else:
            free.append(capacity - length)
    return sorted(free)


@given(st.integers(2, 40).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_best_fit_equals_one_item_after_the_other(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    bins = best_fit(np.array(lengths, dtype=np.int64), capacity)
    free = capacity - np.bincount(bins, weights=lengths) if lengths else np.empty(0)
    assert slow_best_fit(lengths, capacity) == sorted(free.astype(int).tolist())


def test_best_fit_halves_the_cut_documents_at_no_waste() -> None:
    split = lognormal_split(20_000, 400)
    packing = pack(split, 1024, 0)
    windows = cut_share_of_windows(split.offsets, 1024)
    assert packing.waste_share < 0.001
    assert packing.cut_share < 0.55 * windows
    longer = (np.diff(split.offsets) > 1025).sum()
    assert longer == packing.cut_documents


def test_documents_that_leave_half_a_sample_empty_are_cut() -> None:
    """All of 60 tokens in samples of 101: whole ones would leave 41 % of padding."""
    packing = pack(split_of([60] * 1000), 100, 0)
    # Besides, a join leaves up to a token at each end of a sample, and one sample is not full.
    assert packing.waste_share <= MOST_PADDING + 2 / 101 + 1 / len(packing)
    assert 0 < packing.cut_share < 1


def test_documents_of_one_token_are_dropped() -> None:
    assert (2, 1) == ((packing := pack(split_of([1, 5, 0, 5, 1]), 9, 0)).documents, len(packing))
    with pytest.raises(TrainError, match="no document of two tokens"):
        pack(split_of([1, 1, 0]), 9, 0)


def test_sources_must_fit_the_documents() -> None:
    with pytest.raises(TrainError, match="below 3: web, code, books"):
        pack(split_of([5, 5], [0, 3]), 4, 0)
    with pytest.raises(TrainError, match="3 of them"):
        pack(split_of([5, 5], [0, 1, 1]), 4, 0)
    assert ["all"] == pack(split_of([5, 5], []), 4, 0).source_names


def test_packing_is_a_function_of_split_context_and_seed() -> None:
    split = lognormal_split(500)
    one, same, other = pack(split, 64, 1), pack(split, 64, 1), pack(split, 64, 2)
    assert one.starts.tolist() == same.starts.tolist()
    assert one.starts.tolist() != other.starts.tolist()


def test_packing_is_kept_beside_the_corpus(tmp_path: Path) -> None:
    split = lognormal_split(500)
    made = open_packing(tmp_path, split, 64, 1)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    found = open_packing(tmp_path, split, 64, 1)
    assert written == path.stat().st_mtime_ns
    for name in ("first", "starts", "lengths", "source_first", "source_names", "documents", "cut_documents"):
        assert np.array_equal(getattr(made, name), getattr(found, name)), name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert found.starts.tolist() == open_packing(tmp_path, split, 64, 1).starts.tolist()
    assert content == path.read_bytes()
    split.checksum = "other"
    open_packing(tmp_path, split, 64, 1)
    assert 2 == len(list(tmp_path.iterdir()))


class ShownParts(JoinedTokens):
    """Several shards that show themselves."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        super().__init__(parts)
        self.parts = parts


@pytest.mark.parametrize("joined", [JoinedTokens, ShownParts])
def test_several_shards_read_the_same(joined: type[JoinedTokens]) -> None:
    """Pieces that lie across a border, and a shard without tokens, included."""
    split = lognormal_split(300)
    packing = pack(split, 64, 0)
    parts = np.array_split(split.tokens, 7)
    shards = OtherTokens(split.offsets, tokens=joined([*parts[:3], parts[0][:0], *parts[3:]]))
    one, other = PackedSource(split, packing, 20, 0), PackedSource(shards, packing, 20, 0)
    other.dtype = np.dtype(np.uint32)
    borders = np.cumsum([len(part) for part in parts])[:-1]
    across = [(a < borders) & (borders < a + n) for a, n in zip(packing.starts, packing.lengths, strict=True)]
    assert np.any(across)
    for _ in range(2 * len(packing) // 20):
        (wanted,), (found,) = one.next(), other.next()
        assert np.uint32 == found.tokens.dtype
        assert found.tokens.flags.writeable
        assert np.array_equal(wanted.tokens, found.tokens)


def mixed_source(
    split: Split, batch: int, ranks: tuple[int, int] = (0, 1), micro_sequences: int = 0
) -> PackedSource:
    packing = pack(split, 32, 3)
    mixture = mix(packing.source_names, packing.samples_per_source(), {"web": 3, "code": 2, "books": 2})
    return PackedSource(split, packing, batch, 3, ranks, micro_sequences, mixture)


def global_batch(split: Split, consumed: int, world: int, batch: int) -> tuple[np.ndarray, int]:
    """The samples of all ranks in their global order, each as tokens beside piece numbers; new `consumed`."""
    rows, after = np.empty((batch, 66), dtype=np.int64), set()
    for rank in range(world):
        source = mixed_source(split, batch, (rank, world), micro_sequences=3)
        source.consumed = consumed
        parts = source.next()
        rows[rank::world, :33] = np.concatenate([part.tokens for part in parts])
        rows[rank::world, 33:] = np.concatenate([part.document for part in parts])
        after.add(source.consumed)
    return rows, after.pop()


@pytest.mark.parametrize("world", [2, 4, 8])
def test_order_is_the_same_on_any_number_of_ranks(world: int) -> None:
    split = lognormal_split(60)
    wanted = [global_batch(split, consumed, 1, 24)[0] for consumed in range(0, 96, 24)]
    found = [global_batch(split, consumed, world, 24)[0] for consumed in range(0, 96, 24)]
    assert np.array_equal(wanted, found)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_resume_after_100_interruptions_with_other_worlds_and_batches(seed: int) -> None:
    split, draw = lognormal_split(40), random.Random(seed)
    consumed, rows, state = 0, [], ""
    for _ in range(101):
        world = draw.choice([1, 2, 4, 8])
        batch = world * draw.randint(1, 6)
        consumed = json.loads(state)["consumed"] if state else 0
        for _ in range(draw.randint(1, 2)):
            found, consumed = global_batch(split, consumed, world, batch)
            rows.append(found)
        state = json.dumps({"consumed": consumed})
        assert len(state) < 1000
    whole = np.concatenate(rows)
    assert len(whole) == consumed
    assert consumed > 4 * len(pack(split, 32, 3))
    assert np.array_equal(global_batch(split, 0, 1, consumed)[0], whole)


def test_each_source_goes_through_all_its_samples_before_it_repeats() -> None:
    split = lognormal_split(60)
    source = mixed_source(split, 1)
    source.consumed = 500
    samples = source.samples(np.arange(500))
    sizes = source.packing.samples_per_source()
    for number, size in enumerate(sizes):
        first = int(source.packing.source_first[number])
        mine = samples[(samples >= first) & (samples < first + size)]
        assert source.epochs()[source.packing.source_names[number]] == len(mine) / size
        for epoch in range(len(mine) // size):
            assert list(range(first, first + size)) == sorted(mine[epoch * size : (epoch + 1) * size])


def test_refuses_a_batch_that_cannot_be_shared() -> None:
    split = split_of([5, 5])
    with pytest.raises(TrainError, match="a multiple of 3 sequences"):
        PackedSource(split, pack(split, 4, 0), 8, 0, (0, 3))


CONSUMER = """
import json, os, sys
from pathlib import Path
from typing import Any
import numpy as np
sys.path.insert(0, {tests!r})
from test_packing import lognormal_split, mixed_source
from stepladder.store import write_json
state, stream = Path(sys.argv[1]), Path(sys.argv[2])
source = mixed_source(lognormal_split(60), int(sys.argv[3]))
source.consumed = json.loads(state.read_text())["consumed"] if state.exists() else 0
row = 33 * 8
with open(stream, "ab") as out:
    out.truncate(source.consumed * row)
    out.seek(0, os.SEEK_END)
    print("started", flush=True)
    while True:
        for part in source.next():
            out.write(part.tokens.tobytes())
        out.flush()
        write_json(state, {{"consumed": source.consumed}})
"""


def test_stream_goes_on_exactly_after_kill_9(tmp_path: Path) -> None:
    state, stream, draw = tmp_path / "state.json", tmp_path / "stream.bin", random.Random(0)
    code = textwrap.dedent(CONSUMER).format(tests=str(Path(__file__).parent))
    marks = []
    for _ in range(10):
        command = [sys.executable, "-c", code, str(state), str(stream), str(draw.randint(1, 9))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            assert "started\n" == process.stdout.readline()
            time.sleep(draw.uniform(0.02, 0.1))
            process.kill()
        assert -9 == process.wait()
        marks.append(json.loads(state.read_text())["consumed"] if state.exists() else 0)
    assert sorted(marks) == marks
    assert marks[-1] > marks[0]
    found = np.frombuffer(stream.read_bytes()[: marks[-1] * 33 * 8], dtype=np.int64).reshape(-1, 33)
    assert np.array_equal(mixed_source(lognormal_split(60), marks[-1]).next()[0].tokens, found)
