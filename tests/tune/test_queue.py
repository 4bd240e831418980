import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from stepladder.cli import EXIT_USER_ERROR, main
from stepladder.errors import TaskError
from stepladder.tune.pool import PoolRow, read_pool, unlabelled
from stepladder.tune.queue import (
    SURE_MARGIN,
    PoolView,
    choose,
    nearest_labelled,
    softmax,
    temperature,
)
from stepladder.tune.tasks import write_task


def view_of(margins, features=None, labelled=None) -> PoolView:
    """Two labels with these margins."""
    margins = np.asarray(margins, float)
    features = np.eye(len(margins), 8) if features is None else np.asarray(features, float)
    labelled = np.zeros((1, features.shape[1])) if labelled is None else np.asarray(labelled, float)
    shares = np.stack([0.5 + margins / 2, 0.5 - margins / 2], axis=1)
    return PoolView(labels=("a", "b"), probabilities=shares, features=features, labelled=labelled)


@pytest.mark.parametrize("unsure", [0, 3, 20, 60, 100])
@pytest.mark.parametrize("seed", range(4))
def test_a_sure_text_never_precedes_an_unsure_one_unless_it_is_random(unsure, seed):
    draw = np.random.default_rng(seed)
    margins = np.concatenate(
        [draw.uniform(0, SURE_MARGIN - 0.01, unsure), draw.uniform(SURE_MARGIN, 1, 100 - unsure)]
    )
    draw.shuffle(margins)
    features = draw.normal(size=(100, 5))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    view = view_of(margins, features)
    chosen = choose(view, 40, random_share=0.25, window=3, seed=seed)
    picked = [one.row for one in chosen if not one.is_random]
    by_chance = {one.row for one in chosen if one.is_random}
    assert (len(picked), len(by_chance)) == (30, 10)
    assert len({*picked, *by_chance}) == 40
    found = view.margin[picked]
    assert (np.diff(found) >= 0).all()
    if (found >= SURE_MARGIN).any():
        left = set(np.flatnonzero(view.margin < SURE_MARGIN)) - set(picked) - by_chance
        assert not left


def test_like_texts_are_not_chosen_twice_while_others_are_unsure():
    # Five copies of one unsure text, and three others that are a little surer.
    features = [[1, 0, 0, 0]] * 5 + [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    view = view_of([0.1] * 5 + [0.2, 0.3, 0.4], features)
    rows = {one.row for one in choose(view, 4, random_share=0)}
    assert {5, 6, 7} < rows
    # What is like a labelled text is taken last.
    view = view_of([0.1, 0.1, 0.2], np.eye(3), labelled=[[1, 0, 0]])
    assert {one.row for one in choose(view, 2, random_share=0)} == {1, 2}


def test_random_rows_are_drawn_from_all_and_spread_over_the_queue():
    view, counts = view_of(np.linspace(0, 1, 50)), np.zeros(50)
    for seed in range(400):
        chosen = choose(view, 20, random_share=0.2, seed=seed)
        places = [at for at, one in enumerate(chosen) if one.is_random]
        assert len(places) == 4
        assert max(places[0], *np.diff(places)) <= 6
        counts[[one.row for one in chosen if one.is_random]] += 1
    # 1,600 draws over 50 rows: 32 each, five standard deviations are 27.
    assert 5 <= counts.min()
    assert counts.max() <= 59


def test_sparse_features_choose_what_dense_ones_do():
    draw = np.random.default_rng(0)
    features, labelled = draw.random((30, 6)), draw.random((4, 6))
    dense = view_of(draw.uniform(0, 0.4, 30), features, labelled)
    thin = replace(dense, features=sparse.csr_matrix(features), labelled=sparse.csr_matrix(labelled))
    assert choose(dense, 10) == choose(thin, 10)
    numbers, cosines = nearest_labelled(thin.features, thin.labelled, rows_at_once=7)
    np.testing.assert_array_equal(numbers, (features @ labelled.T).argmax(axis=1))
    np.testing.assert_allclose(cosines, (features @ labelled.T).max(axis=1))


def test_too_many_rows_are_refused():
    with pytest.raises(TaskError, match="so many texts cannot be chosen"):
        choose(view_of([0.1, 0.2]), 3)


def test_the_temperature_is_that_under_which_labels_were_drawn():
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(4_000, 3)) * 2
    shares = softmax(logits)
    gold = [int(draw.choice(3, p=row)) for row in shares]
    assert temperature(3 * logits, gold) == pytest.approx(3, rel=0.1)
    assert temperature(logits, [-1] * len(logits)) == 1.0


def test_a_pool_has_ids_and_each_text_once(tmp_path, word_task):
    rows = [{"text": "a plum", "id": 7}, {"text": "A  plum"}, {"text": word_task.train[0].text}]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, notes = read_pool(tmp_path / "pool.jsonl")
    assert [("7", "a plum"), ("row 3", word_task.train[0].text)] == [(row.id, row.text) for row in found]
    assert notes == ["1 repeated texts left out"]
    left, said = unlabelled(found, word_task)
    assert [row.id for row in left] == ["7"]
    assert said == ["1 texts left out: words has them, or dev or test their group"]
    with pytest.raises(TaskError, match="no text is left"):
        unlabelled(found[1:], word_task)


def test_texts_of_a_group_that_judges_are_no_pool(word_task):
    rows = [
        PoolRow(id="1", text="new", group=word_task.test[0].group),
        PoolRow(id="2", text="newer", group="x"),
    ]
    assert [row.id for row in unlabelled(rows, word_task)[0]] == ["2"]


def test_an_id_twice_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text("id,text\n1,a\n1,b\n")
    with pytest.raises(TaskError) as caught:
        read_pool(tmp_path / "p.csv")
    assert "\"id\" '1' stands at" in str(caught.value)


def test_the_verb_writes_a_queue_that_says_why(tmp_path, word_task, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    write_task(word_task, tmp_path / "set")
    pool = [
        {"text": f"some {word} of old", "id": word} for word in ("apple", "saw", "thing", "stone", "river")
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, pool)))
    words = ["data", "labels", "next", "pool.jsonl", "--set", "set", "--count", "4", "--random", "0.25"]
    assert main(words) == 0
    assert "4 of 5 texts, 1 of them drawn by chance: queue.jsonl" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "queue.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [""] * 4
    assert sum(row["random"] for row in rows) == 1
    chosen = [row for row in rows if not row["random"]]
    assert chosen[0]["id"] in {"thing", "stone", "river"}
    assert set(chosen[0]["why"]) == {"margin", "predicted", "probability", "nearest labelled"}
    # Answers are not overwritten.
    assert main(words) == EXIT_USER_ERROR
    assert "it may hold answers" in capsys.readouterr().err
