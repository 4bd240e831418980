"""The vocabulary law: published exponents from the published runs, planted laws, and the choice."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from stepladder.errors import LawError
from stepladder.laws.vocabulary import PUBLISHED, VocabularyLaw, choose_vocabulary, fit_vocabulary_law

RUNS = Path(__file__).parents[3] / "shared" / "reference" / "laws" / "vocab_scaling.csv"
SIZES = [1024 << k for k in range(8)]


def published_tokens(size: float) -> float:
    """Tokens per character of Tao et al., utils.py."""
    return 0.00639222 * math.log(size) ** 2 - 0.15811069 * math.log(size) + 1.20470122


PUBLISHED_CURVE = {size: 1 / published_tokens(size) for size in SIZES}


@pytest.fixture(scope="module")
def runs() -> dict[str, np.ndarray]:
    if not RUNS.exists():
        pytest.skip("needs ../shared/reference/laws/vocab_scaling.csv")
    with RUNS.open() as file:
        rows = list(csv.DictReader(file))
    columns = ("nonembed_params", "embed_dim", "vocab_size", "flops", "loss", "num_characters")
    return {name: np.array([float(row[name]) for row in rows]) for name in columns}


def test_the_published_runs_give_the_published_exponent(runs: dict[str, np.ndarray]) -> None:
    law = fit_vocabulary_law(
        runs["nonembed_params"], runs["embed_dim"], runs["vocab_size"], runs["flops"], runs["loss"]
    )
    assert law.exponent == pytest.approx(PUBLISHED.exponent, abs=0.05)
    assert law.curvature == pytest.approx(PUBLISHED.curvature, rel=0.1)
    # In the middle of the budgets, the sizes agree within a third.
    assert law.best_params(1e19) == pytest.approx(PUBLISHED.best_params(1e19), rel=0.33)
    assert (law.params[0], law.flops[1]) == pytest.approx((PUBLISHED.params[0], PUBLISHED.flops[1]), rel=0.01)


def test_published_loss_formula_counts_tokens_with_the_size_in_thousands(runs: dict[str, np.ndarray]) -> None:
    """Approach 3 with its published constants (optimal_Nv_predict.py), on the rows it was fitted to."""
    chosen = runs["flops"] >= 2.18e17
    params, size = runs["nonembed_params"][chosen] / 1e6, runs["vocab_size"][chosen]
    vocabulary = size * runs["embed_dim"][chosen] / 1e6
    characters, loss = runs["num_characters"][chosen] / 1e9, runs["loss"][chosen]

    def rmse(size_in_formula: np.ndarray) -> float:
        logs = np.log(size_in_formula)
        tokens = characters * (0.00639222 * logs**2 - 0.15811069 * logs + 1.20470122)
        formula = (
            1.8313851559554126 * params**-0.44660634152009615
            + 0.19584238398665638 * vocabulary**-0.6707374679896795
            + 2.1241123120064955 * tokens**-0.44660634152009615
            - 5.5327846803337435
        )
        return float(np.sqrt(np.mean((formula - loss) ** 2)))

    assert 0.0908 == pytest.approx(rmse(size / 1000), abs=0.001)
    assert 0.530 == pytest.approx(rmse(size), abs=0.001)


@pytest.mark.parametrize(("exponent", "curvature"), [(0.42, 0.07), (0.3, 0.02)])
def test_a_planted_law_is_recovered(exponent: float, curvature: float) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for params, width in ((33e6, 512), (85e6, 768), (302e6, 1024), (1.13e9, 2048)):
        middle = (params / math.exp(-2.4847)) ** 2
        scale = 10_000 * 1024 / 1e19**exponent
        for size in (4096, 6144, 8192, 16384, 24576, 32768, 65536):
            for flops in np.geomspace(middle / 3, middle * 3, 8):
                excess = curvature * math.log(size * width / (scale * flops**exponent)) ** 2
                loss = -5 + 30 * flops**-0.05 + excess + rng.normal(0, 1e-3)
                rows.append((params, width, size, flops, loss))
    law = fit_vocabulary_law(*np.array(rows).T)
    assert law.exponent == pytest.approx(exponent, abs=0.01)
    assert law.curvature == pytest.approx(curvature, rel=0.05)
    assert law.best_params(1e19) == pytest.approx(10_000 * 1024, rel=0.05)


def test_runs_of_one_size_have_no_law() -> None:
    with pytest.raises(LawError, match="too few budgets"):
        fit_vocabulary_law([1e6] * 4, [64] * 4, [1024] * 4, [1e12, 2e12, 3e12, 4e12], [3, 2.9, 2.8, 2.7])


def test_on_the_papers_own_text_the_choice_is_the_papers() -> None:
    # Their constants (approach 1) for 2.87 B parameters of width 3,200 at its best budget: 37.9 k.
    choice = choose_vocabulary(PUBLISHED_CURVE, nonembedding_params=2.87e9, width=3200)
    assert 37_942 == pytest.approx(choice.best_size, rel=0.01)
    assert 32_768 == choice.vocab_size
    assert "outside the law's runs" in choice.how
    # 302 M of width 1,024: 18.2 k.
    choice = choose_vocabulary(PUBLISHED_CURVE, nonembedding_params=302e6, width=1024)
    assert 18_183 == pytest.approx(choice.best_size, rel=0.01)
    assert 16_384 == choice.vocab_size
    assert "outside" not in choice.how


def test_more_budget_means_more_vocabulary_and_a_small_model_takes_the_least() -> None:
    chosen = [
        choose_vocabulary(PUBLISHED_CURVE, nonembedding_params=302e6, width=1024, flops=flops).vocab_size
        for flops in (1e18, 1e19, 1e20)
    ]
    assert [8192, 16384, 32768] == chosen
    assert 1024 == choose_vocabulary(PUBLISHED_CURVE, nonembedding_params=4e5, width=128).vocab_size


def test_text_that_shortens_more_with_the_size_gets_a_larger_vocabulary() -> None:
    steeper = {size: value * (size / 1024) ** 0.1 for size, value in PUBLISHED_CURVE.items()}
    usual = choose_vocabulary(PUBLISHED_CURVE, nonembedding_params=85e6, width=768)
    moved = choose_vocabulary(steeper, nonembedding_params=85e6, width=768)
    assert moved.best_size > 1.2 * usual.best_size
    flatter = dict.fromkeys(SIZES, 3.0)
    assert choose_vocabulary(flatter, nonembedding_params=85e6, width=768).best_size < usual.best_size


def test_the_table_holds_parameters_and_shares() -> None:
    curve = {1024: 2.0, 4096: 3.0}
    tied = choose_vocabulary(curve, nonembedding_params=1e6, width=100)
    untied = choose_vocabulary(curve, nonembedding_params=1e6, width=100, is_tied=False)
    assert [102_400, 409_600] == [candidate.embedding_params for candidate in tied.candidates]
    assert [204_800, 819_200] == [candidate.embedding_params for candidate in untied.candidates]
    assert 0.2906 == pytest.approx(tied.candidates[1].embedding_share, abs=1e-4)
    # (1e6 + 102,400) / 2 against (1e6 + 409,600) / 3.
    assert [1.1731, 1.0] == pytest.approx(
        [candidate.flops_per_byte for candidate in tied.candidates], abs=1e-4
    )
    assert tied.vocab_size == min(tied.candidates, key=lambda candidate: candidate.excess_loss).vocab_size


def test_a_law_of_ones_own_is_used() -> None:
    law = VocabularyLaw(scale=4096 * 100, exponent=0.0, curvature=1.0, params=(1, 1e12), flops=(1, 1e30))
    choice = choose_vocabulary({1024: 2.0, 4096: 3.0}, nonembedding_params=1e6, width=100, law=law)
    assert (4096, 4096.0) == (choice.vocab_size, choice.best_size)
    assert 0.0 == choice.candidates[1].excess_loss
    assert math.log(4) ** 2 == pytest.approx(choice.candidates[0].excess_loss)


@pytest.mark.parametrize(
    ("curve", "params", "match"),
    [
        ({}, 1e6, "no vocabulary sizes"),
        ({1000: 2.0}, 1e6, "multiples of 64"),
        ({1024: 0.0}, 1e6, "bytes per token at 1024 = 0.0"),
        ({1024: 2.0}, math.nan, "nonembedding_params = nan"),
    ],
)
def test_bad_numbers_are_refused(curve: dict[int, float], params: float, match: str) -> None:
    with pytest.raises(LawError, match=match):
        choose_vocabulary(curve, nonembedding_params=params, width=64)
