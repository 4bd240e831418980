"""Forecasts of tasks, and how they came, in; a table, refusals in words and a line for the top out."""

from collections.abc import Sequence

from stepladder.laws.registry import Frozen
from stepladder.report.html import Html, listing, paragraph, table, tag

_HEAD = ("task, method", "metric", "forecast", "80 % interval", "95 % interval", "measured", "error", "held")
_NOTE = (
    "Frozen before the target started, from probes of the rungs and the forecast of the loss; bits per byte "
    "are those of the gold answers after their prompt. Errors are in the metric's own unit."
)


def forecast_pieces(foretold: Sequence[Frozen]) -> list[Html]:
    """Nothing where nothing was forecast."""
    if not foretold:
        return []
    told = [f"{name_of(item)}: refused; {item.forecast.reason}" for item in foretold if _refused(item)]
    told += [f"{name_of(item)}: not counted; {item.uncounted}" for item in foretold if item.uncounted]
    return [
        tag("h3", "Forecast before the target started"),
        table(_HEAD, map(_row, foretold), numbers=range(2, 7)),
        listing(told),
        paragraph(_NOTE, class_="note"),
    ]


def forecast_line(foretold: Sequence[Frozen]) -> list[str]:
    """How many intervals held, as one line; none where nothing was forecast."""
    if not foretold:
        return []
    scored = [item for item in foretold if item.score and not _refused(item) and not item.uncounted]
    refused = sum(map(_refused, foretold))
    if not scored:
        return [f"Tasks: {len(foretold)} forecasts ({refused} refused), none scored yet."]
    held = [
        sum(getattr(item.score.forecast, f"held{level}")(item.score.outcome) for item in scored if item.score)
        for level in (80, 95)
    ]
    return [
        f"Tasks: {held[0]} of {len(scored)} outcomes inside the 80 % interval of their forecast, "
        f"{held[1]} inside the 95 % interval; {refused} more forecasts were refused."
    ]


def name_of(item: Frozen) -> str:
    """Task and method of a forecast, whose run is named "TARGET TASK, METHOD"."""
    return item.forecast.run.partition(" ")[2] or item.forecast.run


def _refused(item: Frozen) -> bool:
    return item.forecast.status == "refused"


def _row(item: Frozen) -> tuple[str, ...]:
    said = item.forecast.loss
    measured, error, held = "not yet", "", "refused" if _refused(item) else ""
    if item.score:
        outcome = item.score.outcome
        measured, error = f"{outcome:.3f}", f"{said.value - outcome:+.3f}"
        inside = "both" if said.held80(outcome) else "95\u00a0% only" if said.held95(outcome) else "neither"
        held = f"{inside} (refused)" if _refused(item) else inside
    return (
        name_of(item),
        item.forecast.loss_unit.replace("_", " "),
        f"{said.value:.3f}",
        f"{said.low80:.3f} – {said.high80:.3f}",
        f"{said.low95:.3f} – {said.high95:.3f}",
        measured,
        error,
        held,
    )
