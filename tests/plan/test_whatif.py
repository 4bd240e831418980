"""Words of a change become keys of a brief; what is wrong with them is listed at once."""

import pytest

from stepladder.errors import PlanError
from stepladder.plan.whatif import Change, changed, changes_from

BRIEF = {"name": "t", "data": {"sources": ["a"]}, "budget": {"usd": 100}, "override": {"pue": 1.1}}


def test_words_go_to_the_tables_that_hold_them():
    change = changes_from(["nodes=4 region=SE hours=8 usd=none tokens=1.5B tied_head=true optimiser=adamw"])[
        0
    ]
    new = changed(BRIEF, change)
    assert {"nodes": 4, "region": "SE"} == new["hardware"]
    assert {"hours": 8} == new["budget"]
    assert {"pue": 1.1, "tokens": 1.5e9, "tied_head": True, "optimiser": "adamw"} == new["override"]
    assert {"usd": 100} == BRIEF["budget"]


def test_an_objective_has_no_table():
    assert "masked" == changed(BRIEF, Change(label="", values={"objective": "masked"}))["objective"]


def test_everything_wrong_is_said_at_once():
    with pytest.raises(PlanError) as caught:
        changes_from(["node=4 x", "hors=3 hours=4 hours=5", " "])
    assert [
        "--what-if has 5 problems",
        '  - "node" is not a key (did you mean "nodes"?)',
        '  - "x" is not KEY=VALUE',
        '  - "hors" is not a key (did you mean "hours"?)',
        '  - "hours" is given twice',
        "  - nothing is changed",
    ] == caught.value.wrong.splitlines()


def test_sources_are_not_a_what_if():
    with pytest.raises(PlanError, match="sources"):
        changes_from(["sources=b"])
