"""The batched solver against scipy, and its certificate."""

import numpy as np
import pytest

from stepladder.laws.estimate import FitOptions, columns_of, estimate, fit_form, prior_of
from stepladder.laws.forms import FORMS, design, predict, to_constants, to_theta
from stepladder.laws.solve import CoupledProblem, CurveProblem, Data, Prior, TermsProblem, minimise
from stepladder.laws.table import read_observations
from stepladder.records import Observation

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}


def ladder(noise=0.0, points=16, seed=0):
    rng = np.random.default_rng(seed)
    flops = 10 ** rng.uniform(15, 18, points)
    ratio = np.exp(rng.uniform(np.log(2), np.log(60), points))
    params = np.sqrt(flops / 6 / ratio)
    loss = predict("chinchilla", TRUTH, params, params * ratio) * np.exp(rng.normal(0, noise, points))
    return read_observations(
        [
            Observation(run=f"r{i}", params=n, tokens=n * r, loss=y)
            for i, (n, r, y) in enumerate(zip(params, ratio, loss, strict=True))
        ]
    )


def problem(form, table, weight=None):
    columns = columns_of(form, table.params, table, 0.25)
    matrix = design(form, columns.centred)
    weight = columns.weight[None] if weight is None else weight
    data = Data(log_loss=columns.log_loss[None], weight=weight, delta=0.004, sigma=0.005)
    made = CoupledProblem if form.coupled else TermsProblem
    return made(design=matrix, data=data, prior=prior_of(form, columns, FitOptions()))


@pytest.mark.parametrize("name", FORMS)
def test_gradient_and_hessian_agree_with_differences(name):
    form, table = FORMS[name], ladder(0.004)
    task = problem(form, table)
    theta = task.prior.mean + np.random.default_rng(1).normal(0, 0.05, (1, len(form.names)))
    rows = np.zeros(1, dtype=int)
    _, gradient, hessian, upper = task.quadratic(theta, rows)
    step = 1e-6
    for i in range(len(form.names)):
        move = np.zeros_like(theta)
        move[0, i] = step
        slope = (task.value(theta + move, rows) - task.value(theta - move, rows)) / (2 * step)
        assert gradient[0, i] == pytest.approx(float(slope[0]), rel=1e-4, abs=1e-3)
        bend = (task.quadratic(theta + move, rows)[1] - task.quadratic(theta - move, rows)[1]) / (2 * step)
        assert hessian[0, i] == pytest.approx(bend[0], rel=2e-3, abs=np.abs(hessian).max() * 1e-4)
    assert np.all(np.linalg.eigvalsh(upper[0]) > 0)


def test_kappa_of_one_adds_the_terms():
    params, tokens = np.array([1e6, 1e8, 1e10]), np.array([1e9, 1e9, 1e11])
    added = predict("chinchilla", TRUTH, params, tokens)
    assert predict("coupled", TRUTH | {"kappa": 1.0}, params, tokens) == pytest.approx(added)
    # Towards zero only the larger term is left: the bottleneck.
    larger = np.maximum(TRUTH["A"] / params ** TRUTH["alpha"], TRUTH["B"] / tokens ** TRUTH["beta"])
    assert predict("coupled", TRUTH | {"kappa": 1e-3}, params, tokens) == pytest.approx(
        TRUTH["E"] + larger, rel=1e-3
    )


@pytest.mark.parametrize("kappa", [0.4, 0.7, 1.0])
def test_kappa_is_found(kappa):
    params, tokens = (item.ravel() for item in np.meshgrid(np.logspace(6, 9, 7), np.logspace(8, 11, 7)))
    loss = predict("coupled", TRUTH | {"kappa": kappa}, params, tokens)
    rows = [
        Observation(run=str(i), params=n, tokens=d, loss=y * np.exp(e))
        for i, (n, d, y, e) in enumerate(
            zip(params, tokens, loss, np.random.default_rng(0).normal(0, 1e-3, 49), strict=True)
        )
    ]
    fitted = fit_form(FORMS["coupled"], read_observations(rows), FitOptions())
    found = to_constants(fitted.form, fitted.theta, fitted.columns.centre)
    assert fitted.certified
    assert found["kappa"] == pytest.approx(kappa, abs=0.08)


@pytest.mark.parametrize("name", ["chinchilla", "coupled"])
def test_minimum_is_not_above_scipys(name):
    from scipy.optimize import minimize

    form, table = FORMS[name], ladder(0.006, seed=4)
    task = problem(form, table)
    rows = np.zeros(1, dtype=int)
    ours = minimise(task, task.prior.mean, rows)
    theirs = minimize(
        lambda theta: float(task.value(theta[None], rows)[0]),
        task.prior.mean[0],
        method="Nelder-Mead",
        options={"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-13},
    )
    assert ours.converged.all()
    assert ours.value[0] <= theirs.fun * (1 + 1e-9)
    assert ours.value[0] == pytest.approx(theirs.fun, rel=1e-6)


def test_a_batch_gives_what_single_problems_give():
    form, table = FORMS["chinchilla"], ladder(0.006)
    weight = np.random.default_rng(0).multinomial(16, np.full(16, 1 / 16), 50).astype(float)
    together = problem(form, table, weight)
    batch = minimise(together, np.repeat(together.prior.mean, 50, axis=0))
    for row in (0, 17, 49):
        alone = problem(form, table, weight[row : row + 1])
        single = minimise(alone, alone.prior.mean)
        assert batch.value[row] == pytest.approx(float(single.value[0]), rel=1e-9)


def test_exact_runs_give_the_constants_back():
    fitted = fit_form(FORMS["chinchilla"], ladder(), FitOptions(method="plain"))
    constants = to_constants(fitted.form, fitted.theta, fitted.columns.centre)
    assert constants == pytest.approx(TRUTH, rel=1e-4)
    assert fitted.certified
    assert to_theta(fitted.form, constants, fitted.columns.centre) == pytest.approx(fitted.theta)


def test_pinned_floor_stays():
    fitted = fit_form(FORMS["chinchilla"], ladder(0.005), FitOptions(floor=(1.5, 1e-6)))
    assert to_constants(fitted.form, fitted.theta, fitted.columns.centre)["E"] == pytest.approx(1.5, rel=1e-4)


def test_one_broken_run_hardly_moves_the_fit():
    table = ladder(0.003, points=20)
    columns = columns_of(FORMS["chinchilla"], table.params, table, 0.25)
    clean = estimate(FORMS["chinchilla"], columns, FitOptions())
    broken = columns.log_loss.copy()
    broken[7] += 0.4
    from dataclasses import replace

    spoilt = estimate(FORMS["chinchilla"], replace(columns, log_loss=broken), FitOptions())
    before, after = (item.problem.log_loss(item.theta[None])[0] for item in (clean, spoilt))
    assert np.max(np.abs(before - after)) < 0.01


def test_curve_problem_meets_a_known_minimum():
    x = np.linspace(0.1, 3, 40)

    def curve(theta):
        value = theta[:, :1] * np.exp(-theta[:, 1:] * x)
        return value, np.stack([value / theta[:, :1], -x * value], axis=2)

    target = 2.0 * np.exp(-0.7 * x)
    task = CurveProblem(
        function=curve,
        data=Data(log_loss=target[None], weight=np.ones((1, 40)), delta=1e6),
        prior=Prior(mean=np.zeros((1, 2)), precision=np.zeros(2)),
    )
    found = minimise(task, np.array([[1.0, 0.3], [4.0, 1.5]]), np.zeros(2, dtype=int))
    assert found.theta == pytest.approx(np.array([[2.0, 0.7], [2.0, 0.7]]), rel=1e-6)
