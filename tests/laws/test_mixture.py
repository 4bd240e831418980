"""Laws of data mixtures: what is read, what is recovered, what is chosen, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.blend import Limits, Mixture, best_mixture, mixture_text, next_mixtures
from stepladder.laws.mixture import (
    MixtureLaw,
    MixtureRuns,
    fit_mixture,
    mixture_losses,
    predict_mixture,
    read_mixture,
)
from stepladder.records import from_json, to_json

NAMES = ("web", "code", "books")
FLOOR = np.array([2.0, 1.2, 2.3])
# log of what is lost above the floor on each domain alone: row = validation domain, column = training domain.
CORNERS = np.log(np.array([[0.5, 1.5, 0.9], [1.4, 0.2, 1.6], [0.8, 1.3, 0.5]]))
HEADER = "run,share_web,share_code,loss_web,loss_code"
ROWS = ("a,0.5,0.5,3.0,2.0", "b,0.8,0.2,2.9,2.4", "c,0.2,0.8,3.3,1.8")


def truth(shares):
    return FLOOR + np.exp(shares @ CORNERS.T)


def bowl(shares):
    """Each loss is least at its own domain's share of .6: no single exponential has a bottom inside."""
    return 3.0 + 0.5 * ((shares[:, None] - 0.4 / 3 - 0.6 * np.eye(3)) ** 2).sum(axis=2)


def made(count=12, noise=0.002, loss=truth, seed=0, names=NAMES):
    rng = np.random.default_rng(seed)
    shares = np.array([list(row.values()) for row in next_mixtures(names, count)])
    measured = loss(shares)
    measured = measured * np.exp(noise * rng.normal(size=measured.shape))
    targets = NAMES if measured.shape[1] > 1 else ("loss",)
    return MixtureRuns(
        domains=names,
        targets=targets,
        run=tuple(f"r{i}" for i in range(count)),
        shares=shares,
        loss=measured,
        weight=np.ones(count),
    )


@pytest.fixture(scope="module")
def law():
    return fit_mixture(made())


@pytest.fixture(scope="module")
def best(law):
    return best_mixture(law)


def fit(runs):
    return fit_mixture(runs, bootstraps=60)


def values(mixture):
    return np.array([item.value for item in mixture.shares.values()])


def least(loss, weight, low=0.0):
    """Least weighted loss on a grid of the simplex."""
    a, b = np.meshgrid(np.linspace(low, 1, 201), np.linspace(low, 1, 201))
    grid = np.stack([a.ravel(), b.ravel(), 1 - a.ravel() - b.ravel()], axis=1)
    return float((loss(grid[grid[:, 2] >= low - 1e-9]) @ weight).min())


def write(tmp_path, header=HEADER, rows=ROWS):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_runs_are_read_and_their_shares_brought_to_a_sum_of_one(tmp_path):
    rows = ["a,0.5,0.496,3.0,2.0", "b,0.8,0.2,2.9,2.4"]
    runs = read_mixture(write(tmp_path, HEADER + ",note", [f"{row},x" for row in rows]))
    assert (runs.domains, runs.targets, runs.run) == (("web", "code"), ("web", "code"), ("a", "b"))
    assert runs.shares.sum(axis=1) == pytest.approx([1, 1], abs=1e-12)
    assert runs.loss.tolist() == [[3.0, 2.0], [2.9, 2.4]]
    assert runs.notes == ("columns not used: note",)


def test_a_single_loss_column_and_runs_of_weight_zero(tmp_path):
    rows = ["0.5,0.5,3,1,1e6,2e7", "0.9,0.1,9,0,4e6,2e7", "0.1,0.9,3.1,,1e6,2e7"]
    runs = read_mixture(write(tmp_path, "share_a,share_b,loss,weight,params,tokens", rows))
    assert (runs.targets, runs.run) == (("loss",), ("row1", "row3"))
    assert runs.weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("share_a,loss_a", ["1,3"], r"at least two columns share_<domain>"),
        ("share_a,share_b", ["0.5,0.5"], r"at least two columns share_<domain> and one loss_<domain>"),
        (HEADER, ["a,0.5,0.4,3,2"], r"line 2: these are not shares[^$]*0.5, 0.4 \(sum 0.9\)"),
        (HEADER, [*ROWS, "d,-0.1,1.1,3,2"], r"line 5: these are not shares"),
        (HEADER, ["a,50,50,3,2"], r"look like percentages"),
        (HEADER, ["a,,1,3,2"], r"line 2: these are not shares"),
        (HEADER, ["a,half,0.5,3,2"], r"line 2: share_web is not a number"),
        (HEADER, ["a,0.5,0.5,3,0"], r"values of loss_code[^$]*line 2: 0"),
        (HEADER, ["a,0.5,0.5,,2"], r"values of loss_web[^$]*line 2: empty"),
        (HEADER, ["a,0.5,0.5,3"], r"line 2: 4 cells under 5"),
        (HEADER, [], r"has no usable run"),
        (HEADER + ",weight", [row + ",-1" for row in ROWS], r"values of weight"),
        (HEADER + ",tokens", [f"{r},{i}e9" for i, r in enumerate(ROWS, 1)], r"runs of different tokens"),
        (HEADER + ",params", [f"{r},{1 + i / 20}e6" for i, r in enumerate(ROWS)], r"of different params"),
    ],
)
def test_bad_files_give_one_clear_error(tmp_path, header, rows, says):
    with pytest.raises(LawError, match=says):
        read_mixture(write(tmp_path, header, rows))


def test_constants_are_recovered_and_certified():
    found = fit(made(30, noise=1e-4))
    assert found.refusal == ""
    assert set(found.forms.values()) == {"joint"}
    for k, name in enumerate(NAMES):
        level = CORNERS[k].mean()
        expected = {"c": FLOOR[k], "k": np.exp(level)}
        expected |= {f"t_{d}": CORNERS[k, j] - level for j, d in enumerate(NAMES)}
        assert found.constants[name] == pytest.approx(expected, rel=0.03, abs=0.03)
        assert found.quality[name]["certified"] == 1.0


def test_intervals_hold_new_mixtures(law):
    shares = np.random.default_rng(5).dirichlet(np.ones(3), 40)
    inside95, inside80 = 0, 0
    for row, losses in zip(shares, truth(shares), strict=True):
        found = predict_mixture(law, dict(zip(NAMES, row, strict=True)))
        inside80 += sum(found[n].held80(x) for n, x in zip(NAMES, losses, strict=True))
        inside95 += sum(found[n].held95(x) for n, x in zip(NAMES, losses, strict=True))
    assert inside80 >= 0.75 * 120
    assert inside95 >= 0.9 * 120


def test_draws_of_one_run_err_together():
    runs, rng = made(20), np.random.default_rng(3)
    shock = rng.normal(0, 0.004, (20, 1))
    together = replace(runs, loss=truth(runs.shares) * np.exp(shock))
    drawn = mixture_losses(fit_mixture(together), np.full((1, 3), 1 / 3), draws=True)[:, 0]
    assert np.corrcoef(drawn.T)[np.triu_indices(3, 1)].mean() > 0.6
    apart = replace(runs, loss=truth(runs.shares) * np.exp(0.004 * rng.normal(size=(20, 3))))
    drawn = mixture_losses(fit_mixture(apart), np.full((1, 3), 1 / 3), draws=True)[:, 0]
    assert np.corrcoef(drawn.T)[np.triu_indices(3, 1)].mean() < 0.4


def test_best_mixture_is_the_truths(best):
    weight = np.full(3, 1 / 3)
    assert values(best).sum() == pytest.approx(1)
    assert truth(values(best)[None])[0] @ weight == pytest.approx(least(truth, weight), rel=5e-4)
    assert best.status == "ok"
    assert 0 <= best.gap < 1e-5
    gain = 1 - least(truth, weight) / float(truth(np.full((1, 3), 1 / 3))[0].mean())
    assert best.gains["uniform"].low <= gain <= best.gains["uniform"].high
    for item in best.shares.values():
        assert item.low <= item.value <= item.high


def test_weights_floors_and_scarce_domains_bind(law):
    weights, floor = {"code": 3.0, "web": 1.0}, {"books": 0.1, "web": 0.1}
    free = best_mixture(law, weights)
    held = best_mixture(
        law, weights, Limits(floor=floor, available={"code": 1e9}, budget_tokens=1e10, max_epochs=2)
    )
    assert values(free)[1] > 0.5
    assert values(held)[1] == pytest.approx(0.2)
    assert values(held)[2] >= 0.1 - 1e-9
    assert any("code is held at its limit of 20.0%" in note for note in held.notes)
    everything = Limits(available={"web": 6e9, "code": 2e9, "books": 2e9}, budget_tokens=1e9)
    assert set(best_mixture(law, None, everything).gains) == {"best run", "uniform", "natural"}


@pytest.mark.parametrize(
    ("weights", "limits", "says"),
    [
        ({"coed": 1.0}, Limits(), r'unknown domain in weights[^$]*did you mean "code"'),
        ({"code": 0.0}, Limits(), r"no validation domain has a weight"),
        ({"code": -1.0}, Limits(), r"weights of code"),
        (None, Limits(floor={"web": 0.6, "code": 0.6}), r"no mixture keeps these limits"),
        (None, Limits(available={"web": 1e9}), r"available tokens need a budget"),
        (
            None,
            Limits(available=dict.fromkeys(NAMES, 1e9), budget_tokens=1e12),
            r"no mixture keeps these limits[^$]*web 0 to 0.004",
        ),
    ],
)
def test_bad_wishes_give_one_clear_error(law, weights, limits, says):
    with pytest.raises(LawError, match=says):
        best_mixture(law, weights, limits)


def test_a_loss_with_its_bottom_inside_takes_the_separable_law():
    found = fit(made(20, loss=bowl))
    assert set(found.forms.values()) == {"separable"}
    assert values(best_mixture(found)) == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.06)


def test_one_loss_of_one_exponential_ends_at_a_corner_and_says_so():
    found = best_mixture(fit(made(10, loss=lambda r: truth(r)[:, 1:2])))
    assert values(found) == pytest.approx([0, 1, 0], abs=1e-3)
    assert any("corner" in note for note in found.notes)


def test_shares_that_change_nothing_cannot_be_told_from_uniform():
    found = best_mixture(fit(made(12, noise=0.005, loss=lambda r: 3 + 0 * r)))
    assert found.gains["uniform"].low <= 0 <= found.gains["uniform"].high
    assert any("cannot tell from uniform" in note for note in found.notes)


def test_too_few_or_too_similar_runs_are_refused():
    with pytest.raises(LawError, match="too few runs"):
        fit_mixture(made(2))
    few = best_mixture(fit(made(5)))
    assert few.status == "refused"
    assert "6 are needed" in few.reason
    runs = made(12)
    line = np.linspace(0.1, 0.5, 12)
    shares = np.stack([line, line, 1 - 2 * line], axis=1)
    flat = replace(runs, shares=shares, loss=truth(shares))
    assert "in 1 of 2 directions" in fit(flat).refusal


def test_a_law_that_errs_on_runs_left_out_is_refused():
    wild = made(12, noise=0.06)
    assert "errs on runs left out" in fit(wild).refusal


def test_first_mixtures_fill_the_simplex_and_keep_limits():
    rows = np.array([list(row.values()) for row in next_mixtures(NAMES, 10)])
    assert next_mixtures(NAMES, 10) == next_mixtures(NAMES, 10)
    assert rows.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-9)
    assert rows[0] == pytest.approx(np.full(3, 1 / 3), abs=1e-3)
    assert rows[1:4].max(axis=1) == pytest.approx(np.full(3, 0.83), abs=0.01)
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=2) + np.eye(10)
    assert apart.min() > 0.15
    limits = Limits(floor={"web": 0.2}, available={"code": 1e9}, budget_tokens=2e10)
    held = np.array([list(row.values()) for row in next_mixtures(NAMES, 10, limits=limits)])
    assert held[:, 0].min() >= 0.2 - 1e-3
    assert held[:, 1].max() <= 0.2 + 1e-3
    with pytest.raises(LawError, match="nothing to mix"):
        next_mixtures(("web",), 3)


def test_next_runs_narrow_the_optimum_more_than_repeating_the_centre():
    first = made(7, noise=0.004)
    weight = np.full(3, 1 / 3)
    added = np.array([list(row.values()) for row in next_mixtures(fit(first), 4)])

    def spread(extra):
        rng = np.random.default_rng(1)
        shares = np.concatenate([first.shares, extra])
        losses = truth(extra) * np.exp(0.004 * rng.normal(size=extra.shape))
        runs = replace(
            first,
            run=tuple(f"r{i}" for i in range(len(shares))),
            shares=shares,
            loss=np.concatenate([first.loss, losses]),
            weight=np.ones(len(shares)),
        )
        fitted = fit(runs)
        at = values(best_mixture(fitted))[None]
        drawn = mixture_losses(fitted, at, draws=True)[:, 0] @ weight
        return float(drawn.std() / fitted.quality_of("sigma").mean())

    assert spread(added) < spread(np.full((4, 3), 1 / 3))


def test_law_and_mixture_survive_json_and_are_told(law, best):
    assert from_json(MixtureLaw, to_json(law)) == law
    assert from_json(Mixture, to_json(best)).gains == best.gains
    text = mixture_text(law, best, next_mixtures(law, 2))
    for part in ("c + k exp(sum of t_j r_j)", "best mixture", "against uniform: lower by", "run next   web"):
        assert part in text
