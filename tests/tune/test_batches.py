import numpy as np

from stepladder.tune.batches import Encoded, TaskBatches


def encoded(count: int) -> Encoded:
    rng = np.random.default_rng(0)
    texts = [np.full(rng.integers(1, 100), at + 1) for at in range(count)]
    return Encoded(texts=texts, targets=np.arange(count))


def test_an_epoch_has_every_example_once_but_for_the_rest():
    batches = TaskBatches(encoded(103), 10, seed=0)
    assert batches.steps_per_epoch == 10
    seen = np.concatenate([batches.next()[0].targets for _ in range(10)])
    assert len(set(seen.tolist())) == 100
    again = np.concatenate([batches.next()[0].targets for _ in range(10)])
    assert seen.tolist() != again.tolist()
    assert batches.consumed == 200


def test_batches_depend_on_consumed_examples_only():
    straight = TaskBatches(encoded(64), 8, seed=3)
    expected = [straight.next()[0].targets.tolist() for _ in range(20)]
    jumped = TaskBatches(encoded(64), 8, seed=3)
    jumped.consumed = 13 * 8
    assert expected[13:] == [jumped.next()[0].targets.tolist() for _ in range(7)]


def test_padding_is_little_and_on_the_right():
    source = encoded(3_200)
    batches = TaskBatches(source, 32, seed=0)
    real = padded = 0
    for _ in range(batches.steps_per_epoch):
        batch = batches.next()[0]
        for ids, length, label in zip(batch.ids, batch.lengths, batch.targets, strict=True):
            assert source.texts[label].tolist() == ids[:length].tolist()
            assert not ids[length:].any()
        real, padded = real + batch.lengths.sum(), padded + batch.ids.size
    assert padded / real < 1.15


def test_fewer_examples_than_a_batch():
    batches = TaskBatches(encoded(5), 32, seed=0)
    assert len(batches.next()[0].targets) == 5


def test_by_length_covers_all_rows_longest_first():
    source = encoded(50)
    parts = list(source.by_length(8))
    assert list(range(50)) == sorted(np.concatenate([rows for rows, _ in parts]).tolist())
    widths = [batch.ids.shape[1] for _, batch in parts]
    assert widths == sorted(widths, reverse=True)
