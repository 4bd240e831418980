"""Learning rate and batch: the published rule's regret, and what own sweeps add."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from stepladder.laws.rates import RateLaw, Trial, fit_rates, nearest_regret, steplaw

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "laws"


@pytest.fixture(scope="module")
def cells() -> list[list[Trial]]:
    if not REFERENCE.is_dir():
        pytest.skip("the folder ../shared/reference/laws is absent")
    found = defaultdict(list)
    with (REFERENCE / "steplaw_dense.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["loss"]:
                trial = Trial(
                    params=float(row["params"]),
                    tokens=float(row["tokens"]),
                    lr=float(row["lr"]),
                    batch_tokens=float(row["batch_seqs"]) * float(row["seq_len"]),
                    loss=float(row["loss"]),
                )
                found[trial.params, trial.tokens].append(trial)
    return [found[key] for key in sorted(found, key=lambda pair: pair[0] * pair[1])]


def test_published_rule_has_its_published_regret(cells):
    regrets = [nearest_regret(RateLaw(), cell) for cell in cells]
    assert len(regrets) == 17
    assert 100 * np.mean(regrets) == pytest.approx(0.096, abs=0.001)
    assert 100 * np.max(regrets) == pytest.approx(0.31, abs=0.005)


def test_rule_refined_on_the_cheaper_half_of_the_cells_stays_good_on_the_rest(cells):
    half = len(cells) // 2
    own = fit_rates([trial for cell in cells[:half] for trial in cell])
    assert own.runs > 50
    assert 100 * np.mean([nearest_regret(own, cell) for cell in cells[half:]]) <= 0.10


def sweep(factor: float, noise: float = 0.0) -> list[Trial]:
    rng = np.random.default_rng(0)
    trials = []
    for params, tokens in ((1e6, 2e7), (4e6, 8e7)):
        lr, batch = steplaw(params, tokens)
        for u in np.linspace(-1, 1, 7):
            for v in (-0.7, 0.0, 0.7):
                bowl = 0.01 * (u - math.log(factor)) ** 2 + 0.005 * v**2
                loss = 3.0 * math.exp(bowl + rng.normal(0, noise))
                trials.append(
                    Trial(
                        params=params,
                        tokens=tokens,
                        lr=lr * math.exp(u),
                        batch_tokens=batch * math.exp(v),
                        loss=loss,
                    )
                )
    return trials


def test_own_sweeps_move_the_rule_to_their_minimum():
    own = fit_rates(sweep(1.6))
    assert own.lr_factor == pytest.approx(1.6, rel=0.1)
    assert own.batch_factor == pytest.approx(1.0, rel=0.05)


def test_a_few_runs_or_no_bowl_leave_the_rule_alone():
    assert fit_rates(sweep(1.6)[:4]) == RateLaw()
    falling = [
        Trial(params=1e6, tokens=2e7, lr=1e-3 * 1.02**i, batch_tokens=1e4 * 1.01**i, loss=3.0 * 0.9999**i)
        for i in range(20)
    ]
    assert fit_rates(falling) == RateLaw()
