import random

import pytest

from stepladder.errors import TaskError
from stepladder.eval import counts, texts
from stepladder.eval.metrics import METRICS, metrics_of
from stepladder.eval.predictions import Predictions

sklearn_metrics = pytest.importorskip("sklearn.metrics")
WORDS = [
    "the",
    "a",
    "cat",
    "sat",
    "on",
    "mat,",
    "dog's",
    "3.5",
    "U.S.",
    "x-ray",
    "end.",
    "naïve",
    "Straße",
    "don't",
    "1,000",
    "&",
    "&amp;",
    "(so)",
    "☃",
    "日本",
]


def value_of(kind: str, name: str, gold, said) -> float:
    run = Predictions(said=tuple(said))
    metric = next(one for one in metrics_of(kind, gold, run) if one.name == name)
    return metric.measure(gold, run, None).value()


def sentences(seed: int, count: int) -> tuple[list[str], list[str]]:
    """Gold sentences and noisy copies; some empty, some right."""
    chooser = random.Random(seed)
    gold = [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 12))) for _ in range(count)]
    said = []
    for text in gold:
        words = [word if chooser.random() < 0.7 else chooser.choice(WORDS) for word in text.split()]
        said.append(" ".join(words[: chooser.randint(0, len(words))] if chooser.random() < 0.5 else words))
    return gold, said


def labels(seed: int, count: int, classes: int) -> tuple[list[str], list[str]]:
    chooser = random.Random(seed)
    names = [f"c{at}" for at in range(classes)]
    gold = chooser.choices(names, k=count)
    return gold, [g if chooser.random() < 0.6 else chooser.choice([*names, "never gold"]) for g in gold]


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (7, 3), (500, 2), (2_000, 20)])
def test_labels_equal_scikit_learn(count, classes):
    for seed in range(5):
        gold, said = labels(seed, count, classes)
        expected = sklearn_metrics.accuracy_score(gold, said)
        assert expected == pytest.approx(value_of("classification", "accuracy", gold, said), abs=1e-12)
        expected = sklearn_metrics.f1_score(gold, said, average="macro", zero_division=0)
        assert expected == pytest.approx(value_of("classification", "macro_f1", gold, said), abs=1e-12)


def test_label_sets_equal_scikit_learn():
    from sklearn.preprocessing import MultiLabelBinarizer

    chooser = random.Random(0)
    names = ["a", "b", "c", "d"]
    gold = [sorted(name for name in names if chooser.random() < 0.4) for _ in range(300)]
    said = [sorted(name for name in names if chooser.random() < (0.7 if name in g else 0.2)) for g in gold]
    binary = MultiLabelBinarizer().fit([names])
    truth, guess = binary.transform(gold), binary.transform(said)
    for name, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        expected = sklearn_metrics.f1_score(truth, guess, average=average, zero_division=0)
        assert expected == pytest.approx(value_of("multilabel", name, gold, said), abs=1e-12)
    expected = sklearn_metrics.accuracy_score(truth, guess)
    assert expected == pytest.approx(value_of("multilabel", "subset_accuracy", gold, said), abs=1e-12)
    assert value_of("multilabel", "micro_f1", [[]], [[]]) == 0.0


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_ratings_equal_scikit_learn_and_scipy(shift):
    from scipy import stats

    chooser = random.Random(1)
    gold = [shift + chooser.randint(1, 5) for _ in range(400)]
    said = [round(g + chooser.gauss(0, 1)) for g in gold]
    expected = sklearn_metrics.mean_absolute_error(gold, said)
    assert expected == pytest.approx(value_of("rating", "mean_absolute_error", gold, said), abs=1e-12)
    expected = stats.pearsonr(gold, said).statistic
    assert expected == pytest.approx(value_of("rating", "pearson", gold, said), abs=1e-12)
    expected = stats.spearmanr(gold, said).statistic
    assert expected == pytest.approx(value_of("rating", "spearman", gold, said), abs=1e-12)
    constant = [shift + 0.1] * len(gold)
    assert value_of("rating", "pearson", gold, constant) == 0.0
    assert value_of("rating", "spearman", gold, constant) == 0.0


@pytest.mark.parametrize("count", [1, 3, 200])
def test_translations_equal_sacrebleu(count):
    sacrebleu = pytest.importorskip("sacrebleu")
    for seed in range(5):
        gold, said = sentences(seed, count)
        gold[0], said[0] = "a\nline-\nbreak &lt;b&gt; 5-4 <skipped>x  ", "a line break <b> 5-4 x"
        expected = sacrebleu.corpus_bleu(said, [gold]).score
        assert expected == pytest.approx(value_of("translation", "bleu", gold, said), abs=1e-12 * 100)
        expected = sacrebleu.corpus_chrf(said, [gold]).score
        assert expected == pytest.approx(value_of("translation", "chrf", gold, said), abs=1e-12 * 100)


@pytest.mark.parametrize(
    ("gold", "said"), [("a b", ""), ("a b", "c d"), ("a", "a"), ("a b c d e", "a b x d e"), ("abc", "ab")]
)
def test_short_translations_equal_sacrebleu(gold, said):
    sacrebleu = pytest.importorskip("sacrebleu")
    for name, score in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        expected = score([said], [[gold]]).score
        assert expected == pytest.approx(value_of("translation", name, [gold], [said]), abs=1e-12 * 100)


def test_known_bleu_chrf_and_rouge():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; no brevity penalty.
    gold, said = ["the cat sat on the mat"], ["the cat sat on a mat"]
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert expected == pytest.approx(value_of("translation", "bleu", gold, said), abs=1e-10)
    # "ab" against "abc": precisions 1, 1; recalls 2/3, 1/2; the third order is not in what was said.
    expected = 100 * 5 * 1.0 * (7 / 12) / (4 * 1.0 + 7 / 12)
    assert expected == pytest.approx(value_of("translation", "chrf", ["abc"], ["ab"]), abs=1e-10)
    assert pytest.approx(value_of("summarisation", "rouge_1", gold, said), abs=1e-12) == 5 / 6
    assert pytest.approx(value_of("summarisation", "rouge_l", ["a b c d"], ["d a x c"])) == 0.5


def test_summaries_equal_rouge_score():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    gold, said = sentences(3, 300)
    scores = [scorer.score(g, s) for g, s in zip(gold, said, strict=True)]
    for name, key in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        expected = sum(score[key].fmeasure for score in scores) / len(scores)
        assert expected == pytest.approx(value_of("summarisation", name, gold, said), abs=1e-12)


@pytest.mark.parametrize(
    ("gold", "said", "expected"),
    [
        (["The Eiffel Tower"], "eiffel tower!", (1.0, 1.0)),
        (["in 1969", "1969"], "1969", (1.0, 1.0)),
        (["July 20, 1969"], "on July 20", (0.0, 2 * (2 / 3) * (2 / 3) / (4 / 3))),
        (["a cat"], "", (0.0, 0.0)),
        ([], "", (1.0, 1.0)),
        ([], "something", (0.0, 0.0)),
        # An accepted answer of articles only is no answer at all.
        (["the"], "", (1.0, 1.0)),
        ([], "the", (1.0, 1.0)),
    ],
)
def test_answers_score_as_squad_2(gold, said, expected):
    assert pytest.approx(counts.answer_scores(gold, said), abs=1e-12) == expected


def test_answered_and_unanswerable_questions_are_told_apart():
    gold, said = [["a b"], ["c d"], [], []], ("a b", "c", "", "x")
    run = Predictions(said=said)
    found = {one.name: one.measure(gold, run, None).value() for one in metrics_of("span", gold, run)}
    expected = {"f1": (1 + 2 / 3 + 1) / 4, "exact_match": 0.5, "answered_f1": 5 / 6, "unanswerable": 0.5}
    # "a b" loses its article on both sides.
    assert pytest.approx(found, abs=1e-12) == expected
    assert ["f1", "exact_match"] == [one.name for one in metrics_of("span", gold[:2], run.take([0, 1]))]


def test_bits_per_byte_of_gold_answers_are_summed_over_the_test_set():
    run = Predictions(said=("x", "y"), answer_nats=(2.0, 6.0), answer_bytes=(1, 4))
    metric = metrics_of("answer", [["x"], ["z"]], run)[-1]
    expected = 8.0 / 0.6931471805599453 / 5
    assert expected == pytest.approx(metric.measure([["x"], ["z"]], run, None).value(), abs=1e-12)
    assert -1.0 == metric.better(1.0)


def test_calibration_error_of_a_known_case():
    # Bin .9-1.0: two examples, accuracy .5, mean .95; bin .5-.6: two, accuracy 1, mean .55.
    actual = counts.calibration_error([True, False, True, True], [0.95, 0.95, 0.55, 0.55])
    assert pytest.approx(actual, abs=1e-12) == 0.5 * 0.45 + 0.5 * 0.45


@pytest.mark.parametrize("kind", sorted(METRICS))
def test_lengths_must_match(kind):
    gold = {"rating": [1.0, 2.0], "multilabel": [["a"], []], "span": [["a"], []], "answer": [["a"], []]}
    with pytest.raises(TaskError, match="do not match"):
        METRICS[kind][0].measure(gold.get(kind, ["a", "b"]), Predictions(said=()), None)


def test_rouge_reads_no_other_script():
    assert texts.rouge_scores(["日本 語"], ["日本 語"], 1).tolist() == [0.0]
