"""The front: nothing on it is beaten, everything off it is."""

from dataclasses import replace
from typing import Any

from stepladder.models.shape import shape_for_width
from stepladder.plan.derive import exact
from stepladder.plan.front import alternatives, front
from stepladder.plan.search import Candidate
from stepladder.records import Interval

SHAPE = shape_for_width(64, vocab_size=64, context_tokens=32)


def run(loss: float, seconds: float, kg: float = 0.0, width: int = 64) -> Candidate:
    fixed: Any = None
    return Candidate(
        shape=replace(SHAPE, width=width),
        tokens=1_000,
        recipe=fixed,
        layout=fixed,
        loss=Interval(value=loss, low80=loss, high80=loss, low95=loss, high95=loss),
        seconds=exact(seconds, ""),
        costs={"usd": exact(seconds, ""), "kwh": exact(seconds, ""), "kg_co2e": exact(kg or seconds, "")},
        memory=fixed,
        binds="usd",
        region="SE",
    )


def test_what_costs_more_and_ends_higher_is_beaten():
    good, short, beaten = run(2.0, 100), run(2.5, 50), run(2.6, 60)
    assert [short, good] == front([good, short, beaten])


def test_of_twins_one_is_kept_and_a_cleaner_place_is_another_run():
    twins = [run(2.0, 100), run(2.0, 100)]
    assert 1 == len(front(twins))
    clean = run(2.0, 110, kg=10)
    assert 2 == len(front([twins[0], clean]))


def test_a_hair_more_for_less_loss_beats():
    assert [2.0] == [one.loss.value for one in front([run(2.0, 102), run(2.4, 100)])]


def test_rows_are_sorted_named_and_few():
    found = [run(2.0 + 1 / at, at, width=8 * at) for at in range(8, 200)]
    best = found[-1]
    rows = alternatives(found, best, near=0.01)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert len(rows) <= 12
    assert any("best in half the time" in row["why"] for row in rows)
    cheapest = next(row for row in rows if "cheapest within 0.01 nats" in row["why"])
    assert cheapest["loss"] <= best.loss.value + 0.01
    assert all(row["front"] for row in rows if row["why"].startswith("nothing beats it"))
