"""`stepladder data check`: a corpus and evaluation sets in; how much of the examples it holds out."""

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

_WORST = 3


def check(
    corpus: Annotated[Path, Parameter(help="Folder of a corpus that `stepladder data` wrote.")],
    /,
    *,
    against: Annotated[
        tuple[Path, ...],
        Parameter(help="Files or folders of examples.", consume_multiple=True, negative=""),
    ],
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Look for later test examples in the training text of a corpus, by the n-grams that it kept.

    The text is not read again. Nothing is removed: leave examples out of the test, or prepare the corpus anew
    with --evaluation.
    """
    from stepladder.data.contamination.coverage import check as look_for
    from stepladder.data.contamination.evaluation_sets import read_evaluations
    from stepladder.data.prepare import load_corpus
    from stepladder.errors import DataError

    load_corpus(corpus)
    sets = read_evaluations(against)
    if not sets:
        raise DataError(
            "no evaluation set is given",
            allowed="files or folders of examples",
            next_command=f"stepladder data check {corpus} --against test.jsonl",
        )
    reports = [look_for(corpus, one) for one in sets]
    if json_:
        print(json.dumps({"corpus": str(corpus), "sets": reports}))
        return 0
    for line in _lines(reports):
        print(line)
    return 0


def _lines(reports: list[dict[str, Any]]) -> list[str]:
    """A row a set, then the examples of which most stands in training text."""
    width = max(12, *(len(report["set"]) for report in reports))
    lines = [f"{'set':{width}s} {'examples':>9s} {'checked':>9s} {'any run':>9s} {'half or more':>13s}"]
    for report in reports:
        checked = report["examples"] - report["too_short"]
        lines.append(
            f"{report['set']:{width}s} {report['examples']:9,d} {checked:9,d} "
            f"{report['with_overlap'] / checked:9.1%} {report['share_half']:13.1%}"
        )
    for report in reports:
        for one in report["worst"][:_WORST]:
            place = f"{report['set']}, example {one['example'] + 1}"
            lines.append(f"  {one['coverage']:4.0%} of {one['words']:,} words of {place}: {one['head'][:60]}")
    first = reports[0]
    return [
        *lines,
        "any run, half or more: share of the checked examples of which some run of words, or half of the",
        f"words, stands in training text. Runs of {first['certain_words']} words are always found, shorter "
        "ones by chance,",
        "other wordings never.",
    ]
