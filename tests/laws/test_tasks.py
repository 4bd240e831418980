"""From loss, or straight from the run, to a task metric: choice of the route, coverage, refusals, reading."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.crosscheck import least_squares
from stepladder.laws.forms import predict
from stepladder.laws.link import LINKS, curve
from stepladder.laws.solve import CurveProblem, Data, Prior, minimise
from stepladder.laws.table import read_observations
from stepladder.laws.tasks import TaskLaw, TaskRuns, fit_task, forecast_task, read_task_runs, task_text
from stepladder.records import Observation, from_json, to_json

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the folder ../shared/reference/laws is absent"
)
TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}
TARGET = (3e8, 6e9)
# The 17 of the 46 tasks on which Gadre et al. average (arXiv:2403.08540, section 3.4).
SEVENTEEN = """
    bigbench_operators pubmed_qa_labeled hellaswag_zeroshot boolq arc_easy coqa bigbench_dyck_languages
    lambada_openai bigbench_novel_concepts winograd bigbench_cs_algorithms commonsense_qa
    bigbench_qa_wikidata hellaswag copa squad piqa
"""


def table_of(points=16, noise=0.005, seed=0):
    rng = np.random.default_rng(seed)
    flops = 10 ** np.linspace(16.5, 18.5, points)
    ratio = np.exp(rng.uniform(np.log(5), np.log(60), points))
    params = np.sqrt(flops / 6 / ratio)
    loss = predict("chinchilla", TRUTH, params, params * ratio) * np.exp(rng.normal(0, noise, points))
    columns = zip(params, params * ratio, loss, strict=True)
    return read_observations(
        [Observation(run=f"r{i}", params=n, tokens=d, loss=y) for i, (n, d, y) in enumerate(columns)]
    )


def accuracy_of(params, tokens, middle=3.6, chance=0.25):
    loss = predict("chinchilla", TRUTH, params, tokens)
    return chance + (0.9 - chance) / (1 + np.exp(-3.0 * (middle - loss)))


def runs_of(points=16, seed=0, examples=2000, **truth):
    table = table_of(points, seed=seed)
    rng = np.random.default_rng(1000 + seed)
    values = rng.binomial(examples, accuracy_of(table.params, table.tokens, **truth)) / examples
    return TaskRuns(table=table, values=values, metric="accuracy", chance=0.25, examples=examples)


@pytest.fixture(scope="module")
def task() -> TaskLaw:
    return fit_task(runs_of())


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_jacobians_are_those_of_the_curves(link):
    rng = np.random.default_rng(0)
    function = curve(link, rng.normal(size=(len(link.reads), 7)))
    theta = np.array([mean for mean, _ in link.prior]) + rng.normal(0, 0.3, (4, len(link.prior)))
    _, jacobian = function(theta)
    for k in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[k] = 1e-6
        slope = (function(theta + step)[0] - function(theta - step)[0]) / 2e-6
        assert jacobian[:, :, k] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_intervals_hold_where_the_truth_is_known():
    inside80 = inside95 = 0
    errors = []
    for seed in range(6):
        found = forecast_task(fit_task(runs_of(10, seed)), *TARGET)
        outcome = np.random.default_rng(seed).binomial(2000, accuracy_of(*TARGET)) / 2000
        assert found.status == "ok"
        inside80 += found.loss.held80(outcome)
        inside95 += found.loss.held95(outcome)
        errors.append(abs(found.loss.value - outcome))
    # Six draws of an 80 % interval fall below 3 with probability .02, of a 95 % one below 5 with .03.
    assert inside80 >= 3
    assert inside95 >= 5
    assert np.median(errors) < 0.06


def test_the_choice_is_within_a_standard_error_and_says_so(task):
    best = min(task.links.values(), key=lambda fit: fit.error)
    more = np.array(task.links[task.chosen].errors) - best.errors
    assert more.mean() <= more.std() / np.sqrt(len(more) - 1) + 1e-12
    assert task.route == "two-step"
    text = task_text(task)
    assert f"chosen     {task.chosen} (two-step): {task.reason}" in text
    assert all(f"{100 * fit.error:.2f} points" in text for fit in task.links.values())
    assert f"the two steps compound: in the roll-outs the link missed by {100 * best.own_error:.2f}" in text


def test_the_direct_route_is_taken_where_the_loss_says_little():
    table = table_of(20, noise=0.15, seed=3)
    decades = np.log10(table.params * table.tokens) - 17.0
    values = 0.25 + 0.65 * np.exp(-np.exp(-1.2 * decades))
    found = fit_task(TaskRuns(table=table, values=values, metric="accuracy", chance=0.25))
    assert found.route == "direct"
    assert found.warnings == ()
    true = 0.25 + 0.65 * np.exp(-np.exp(-1.2 * (np.log10(TARGET[0] * TARGET[1]) - 17.0)))
    assert forecast_task(found, *TARGET).loss.value == pytest.approx(true, abs=0.03)


def test_an_error_rate_is_the_mirror_of_an_accuracy(task):
    runs = runs_of()
    mirrored = fit_task(
        replace(runs, values=1 - runs.values, chance=0.75, higher_is_better=False), law=task.law
    )
    accuracy, error = (forecast_task(item, *TARGET).loss for item in (task, mirrored))
    assert error.value == pytest.approx(1 - accuracy.value, abs=1e-6)
    assert (error.low80, error.high95) == pytest.approx((1 - accuracy.high80, 1 - accuracy.low95), abs=1e-4)


def test_intervals_stay_in_range_and_grow(task):
    near, far = (forecast_task(task, 3e8 * k, 6e9 * k).loss for k in (0.3, 4))
    for item in (near, far):
        assert 0 <= item.low95 <= item.low80 <= item.value <= item.high80 <= item.high95 <= 1
    assert far.high95 - far.low95 > near.high95 - near.low95
    few = forecast_task(replace(task, examples=40), *TARGET).loss
    # Forty examples alone are worth ± 1.96 √(.7 · .3 / 40) = 14 points.
    assert few.high80 - few.low80 > 0.15


def test_json_carries_the_law_of_a_task(task):
    again = from_json(TaskLaw, to_json(task))
    assert forecast_task(again, *TARGET) == forecast_task(task, *TARGET)


def refused(task, values, **about):
    runs = TaskRuns(table=table_of(), values=np.asarray(values), metric="accuracy", **about)
    return forecast_task(fit_task(runs, task.law, links=("loss-sigmoid",)), *TARGET)


def test_a_metric_at_chance_is_refused_with_chance_to_one(task):
    guesses = np.random.default_rng(0).binomial(500, 0.25, 16) / 500
    found = refused(task, np.minimum(guesses, 0.27), chance=0.25, examples=500)
    assert (found.status, found.loss_unit) == ("refused", "accuracy")
    assert "is at chance (0.25) in all runs" in found.reason
    assert found.loss.low95 <= 0.25
    assert found.loss.high95 == found.loss.high80 == 1.0


def test_a_metric_that_only_begins_to_rise_is_refused(task):
    values = np.full(16, 0.0)
    values[-4:] = 0.05, 0.12, 0.2, 0.33
    found = refused(task, values)
    assert "above chance in only 4 of 16 runs" in found.reason
    assert (found.loss.low80, found.loss.high80) == (0.0, 1.0)


def test_a_metric_without_a_trend_is_refused(task):
    found = refused(task, np.random.default_rng(1).uniform(0.4, 0.6, 16), chance=0.25)
    assert "does not follow the loss: rank correlation" in found.reason
    assert found.loss.high95 == 1.0


def test_too_few_runs_are_refused_with_a_wider_interval():
    runs = runs_of(16, middle=4.0)
    keep = np.array([1, 5, 9, 13, 15])
    few = fit_task(
        replace(runs, table=runs.table.take(keep), values=runs.values[keep]), links=("loss-sigmoid",)
    )
    found = forecast_task(few, *TARGET)
    assert "5 runs for a link of 4 constants: at least 6 are needed" in found.reason
    assert few.reason == "too few runs for roll-outs"
    assert found.loss.high95 - found.loss.low95 > 0.1


BAD = {
    "percent": ({"values": np.linspace(20, 60, 16)}, r"in \[0, 1\]\n.*20 to 60 \(per cent\? divide by 100\)"),
    "length": ({"values": np.ones(3)}, "differ in number"),
    "empty": ({"values": np.full(16, np.nan)}, "too few runs with accuracy\n  got:     0 of 16"),
    "chance": ({"chance": 1.2}, "no chance level of accuracy\n  got:     1.2"),
    "error chance": ({"higher_is_better": False, "chance": 0.0}, "error of guessing"),
    "examples": ({"examples": -1}, "number of test examples is negative"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_metrics_get_one_error(change, message):
    with pytest.raises(LawError, match=message):
        fit_task(replace(runs_of(), **change))


def test_a_law_of_another_unit_is_refused(task):
    with pytest.raises(LawError, match="different units"):
        fit_task(runs_of(), replace(task.law, loss_unit="bits_per_byte"))


def test_the_column_of_the_metric_stays_beside_its_run(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "run,params,tokens,loss,weight,Arc_Easy\n"
        "a,1e6,2e7,3.5,1,0.30\nb,2e6,4e7,3.2,0,0.99\nc,4e6,8e7,3.0,1,\na,1e6,2e7,3.5,1,0.30\n"
        "d,8e6,2e8,2.8,1,0.40\ne,2e7,4e8,2.6,1,0.45\n"
    )
    runs = read_task_runs(path, "arc_easy", chance=0.25, examples=2376)
    assert runs.table.run == ("a", "c", "d", "e")
    assert runs.values == pytest.approx([0.30, np.nan, 0.40, 0.45], nan_ok=True)
    assert runs.higher_is_better
    assert not any("arc_easy" in note for note in runs.table.notes)
    with pytest.raises(LawError, match=r'lacks the column arc_hard\n.*did you mean "arc_hard"'):
        read_task_runs(path, "arc_hard")


def gadre(corpus):
    """Runs of one corpus by (shape, multiple): params, tokens, C4 loss, mean error over the 17 tasks."""
    with (REFERENCE / "gadre_overtrain.csv").open(encoding="utf-8", newline="") as file:
        losses = {
            row["run_id"]: float(row["loss"]) for row in csv.DictReader(file) if "c4_val" in row["loss_kind"]
        }
    with (REFERENCE / "gadre_downstream_wide.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == corpus]
    return {
        row["run_id"].removeprefix(f"{corpus}-"): (
            float(row["params"]),
            float(row["tokens"]),
            losses[row["run_id"]],
            1 - np.mean([float(row[name]) for name in SEVENTEEN.split()]),
        )
        for row in rows
    }


@needs_reference
@pytest.mark.parametrize(
    ("corpus", "target", "with_1b", "published"),
    [
        ("rpj", "open_lm_7b-1.0", True, 0.05),
        ("rpj", "open_lm_1b-32.0", True, 3.6),
        ("c4_original", "open_lm_7b-1.0", True, 0.14),
        ("rpj", "open_lm_7b-1.0", False, 10.64),
    ],
)
def test_published_forecasts_of_the_average_error(corpus, target, with_1b, published):
    """Equations 4 and 5 by plain least squares on the published five and six runs; relative error in %."""
    runs = gadre(corpus)
    small = [f"d={width}-1.0" for width in ("96_l=8_h=4", "512_l=8_h=4", "576_l=24_h=8", "1024_l=24_h=8")]
    small.append("d=96_l=8_h=4-16.0")
    law = read_observations(
        [
            Observation(run=name, params=runs[name][0], tokens=runs[name][1], loss=runs[name][2])
            for name in small
        ]
    )
    fitted = small + (["open_lm_1b-1.0"] if with_1b else [])
    loss, error = np.array([runs[name][2:] for name in fitted]).T
    problem = CurveProblem(
        function=curve(LINKS["loss-exponential"], -loss[None]),
        data=Data(log_loss=1 - error[None], weight=np.ones((1, len(loss))), delta=1e6),
        prior=Prior(mean=np.zeros((1, 3)), precision=np.zeros(3)),
    )
    starts = np.array(
        [(floor, k, -place) for floor in (0.1, 0.2) for k in (-0.5, 0.0) for place in (1.0, 2.0)]
    )
    found = minimise(problem, starts, np.zeros(len(starts), int), max_iterations=2000)
    theta = found.theta[found.value.argmin()][None]
    params, tokens, _, outcome = runs[target]
    forecast = predict("gadre", least_squares("gadre", law), params, tokens).reshape(1, 1)
    expected = 1 - curve(LINKS["loss-exponential"], -forecast)(theta)[0][0, 0]
    assert 100 * abs(expected / outcome - 1) == pytest.approx(published, abs=0.05)
