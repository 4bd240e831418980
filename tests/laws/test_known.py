"""What a climb takes for known before its first run, on the ten rungs of a masked climb of 2026-11-27."""

from pathlib import Path

import pytest

from stepladder.brief import load_brief
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.known import KNOWN, KNOWN_MASKED
from stepladder.laws.table import read_observations
from stepladder.records import Observation
from stepladder.stages import Climb, learn

# width 16, 24 and 48; parameters, tokens, bits per byte of masked text, seed
RUNGS = (
    (39_808, 79_680, 3.7414573928933836, 0),
    (39_808, 79_680, 3.6625163325155956, 1),
    (63_744, 96_640, 3.6235841551251813, 0),
    (39_808, 1_276_416, 3.006852297835743, 0),
    (63_744, 387_200, 3.509515700240515, 0),
    (156_288, 293_760, 3.5557189887369622, 0),
    (39_808, 159_360, 3.647588886782976, 0),
    (39_808, 225_792, 3.5947905532369764, 0),
    (39_808, 112_640, 3.667414284874221, 0),
    (63_744, 137_088, 3.608942719382369, 0),
)
NONEMBED = {39_808: 7_008, 63_744: 14_544, 156_288: 57_888}
TARGET, OUTCOME = (39_808, 648_704), 3.49003650376753


@pytest.fixture(scope="module")
def observations():
    return [
        Observation(
            run=f"r{number:02d}",
            params=params,
            tokens=tokens,
            loss=loss,
            seed=seed,
            nonembed_params=NONEMBED[params],
            unique_tokens=tokens,
            flops=6.0 * params * tokens,
        )
        for number, (params, tokens, loss, seed) in enumerate(RUNGS, start=1)
    ]


def climb_of(folder: Path, objective: str) -> Climb:
    folder.mkdir()
    text = f'name = "x"\nobjective = "{objective}"\n[data]\nsources = ["python:prose"]\n[budget]\nhours = 1\n'
    (folder / "stepladder.toml").write_text(text)
    return Climb(brief=load_brief(folder / "stepladder.toml"), folder=folder, quiet=True)


def test_a_masked_ladder_does_not_take_the_floor_of_the_next_letter(observations, tmp_path):
    laws = {name: learn(climb_of(tmp_path / name, name), observations) for name in ("causal", "masked")}
    ends = {name: (law.quality["E_low80"], law.quality["E_high80"]) for name, law in laws.items()}
    # Without a prior of the floor these rungs put it at 1.0 to 2.4.
    free = fit_law(read_observations(observations, "bits_per_byte"), FitOptions(kappa=KNOWN.kappa))
    assert ends["causal"][1] < free.quality["E_high80"]
    assert ends["masked"][1] > 0.95 * free.quality["E_high80"]
    assert ends["masked"][0] < ends["causal"][0]


def test_the_outcome_of_the_masked_climb_lies_inside_its_wider_interval(observations):
    table = read_observations(observations, "bits_per_byte")
    said = {
        name: forecast(fit_law(table, known), *map(float, TARGET)).loss
        for name, known in (("causal", KNOWN), ("masked", KNOWN_MASKED))
    }
    assert said["masked"].low80 < OUTCOME < said["masked"].high80
    assert said["masked"].high80 - said["masked"].low80 > said["causal"].high80 - said["causal"].low80
