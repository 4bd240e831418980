"""Forecasts in; frozen forecasts with date and fingerprint on disk, found and scored again, out.

A frozen forecast is a JSON file whose name contains "forecast": one Forecast, or an object with a list of
them under "forecasts". Its outcome is kept beside it in `<name>.outcome.json`, so that the frozen file is
never written again; a climb keeps those of its forecast.json, loss and seconds, in score.json.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepladder.errors import LawError, StoreError, did_you_mean
from stepladder.laws.score import Scored, quantity_of, score
from stepladder.records import Forecast, Score, from_json, to_json
from stepladder.store import fingerprint, read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """A forecast on disk. `intact` is False when its content no longer fits its fingerprint.

    `score` is of the loss, `others` of costs; `uncounted` says why they are no evidence, "" if they are.
    """

    path: Path
    forecast: Forecast
    intact: bool
    score: Score | None = None
    others: tuple[Score, ...] = ()
    uncounted: str = ""


def freeze(forecast: Forecast, *, created: str = "") -> Forecast:
    """Stamp the forecast with a date (UTC, now by default) and a fingerprint over every other field."""
    created = created or datetime.now(UTC).isoformat(timespec="seconds")
    dated = replace(forecast, created=created, fingerprint="")
    return replace(dated, fingerprint=_stamp(dated))


def is_intact(forecast: Forecast) -> bool:
    """Whether nothing was changed since it was frozen."""
    return forecast.fingerprint == _stamp(forecast)


def write_forecasts(path: Path, forecasts: Sequence[Forecast], **about: Any) -> None:
    """Write forecasts and what they rest on as one JSON file that `find_forecasts` reads."""
    write_json(path, {**about, "forecasts": [to_json(item) for item in forecasts]})


def find_forecasts(place: Path) -> list[Frozen]:
    """All frozen forecasts in a file or below a folder, with their scores where outcomes are known.

    Raises:
        LawError: nothing there.
    """
    if not place.exists():
        raise LawError(f"{place} does not exist", allowed="a folder with frozen forecasts, or one such file")
    files = [place] if place.is_file() else sorted(place.rglob("*forecast*.json"))
    found = []
    for path in files:
        if not path.name.endswith(".outcome.json"):
            found.extend(_read(path, strict=place.is_file()))
    if not found:
        raise LawError(
            f"no frozen forecast in {place}",
            allowed="JSON files whose name contains 'forecast'",
            next_command="stepladder fit runs.csv --predict targets.csv --out forecast.csv",
        )
    return _without_repeats(found)


def scored_of(found: Sequence[Frozen]) -> list[Scored]:
    """The scores that count as evidence of how reliable forecasts are."""
    return [
        Scored(
            score=result,
            horizon=item.forecast.horizon,
            law=item.forecast.law_fingerprint,
            name=f"{item.path.parent.name}/{item.forecast.run}",
        )
        for item in found
        for result in ([item.score] if item.score else []) + list(item.others)
        if not item.uncounted
    ]


def record_outcome(path: Path, loss: float, *, run: str = "") -> Score:
    """Score the forecast of `run` in `path` and keep the outcome beside it.

    Raises:
        LawError: no such run, a changed forecast, or an outcome that is no loss.
    """
    found = find_forecasts(path)
    names = [item.forecast.run for item in found]
    if not run and len(found) > 1:
        raise LawError(
            f"{path.name} holds {len(found)} forecasts", allowed=f"--run one of {', '.join(names[:10])}"
        )
    return record_outcomes(path, {run or names[0]: loss})[0]


def record_outcomes(path: Path, outcomes: Mapping[str, float]) -> list[Score]:
    """Score the forecasts of several runs in `path` and keep the outcomes beside it.

    Raises:
        LawError: no such run, a changed forecast, or an outcome that is no loss.
    """
    known = {item.forecast.run: item for item in reversed(find_forecasts(path))}
    for run in outcomes:
        if run not in known:
            raise LawError(
                f"{path.name} has no run {run!r}{did_you_mean(run, known)}", allowed=", ".join([*known][:10])
            )
        if not known[run].intact:
            raise LawError(
                f"the forecast of {run} was changed after it was frozen: it cannot be scored",
                got=f"fingerprint {known[run].forecast.fingerprint or 'none'}",
                allowed=_stamp(known[run].forecast),
            )
    scores = [score(known[run].forecast, outcome) for run, outcome in outcomes.items()]
    before = _outcomes(path)
    if (told := before | dict(outcomes)) != before:
        write_json(_outcome_path(path), told)
    return scores


def _read(path: Path, *, strict: bool) -> list[Frozen]:
    try:
        value = read_json(path)
        items = value["forecasts"] if isinstance(value, Mapping) and "forecasts" in value else [value]
        forecasts = [from_json(Forecast, item) for item in items]
    except (StoreError, TypeError):
        if strict:
            raise
        return []
    return [_frozen(path, item) for item in forecasts]


def _frozen(path: Path, forecast: Forecast) -> Frozen:
    """The forecast with its outcomes: the loss that was recorded by hand, else what the climb measured."""
    intact = is_intact(forecast)
    climbed = [item for item in _climb_scores(path) if item.run == forecast.run]
    quantity = quantity_of(forecast)
    known = {quantity: forecast.loss, **forecast.costs}
    same = {item.quantity: item for item in climbed if known.get(item.quantity) == item.forecast}
    loss = same.pop(quantity, None)
    by_hand = _outcomes(path).get(forecast.run)
    uncounted = "" if intact else "it was changed after it was frozen"
    if intact and len(same) + (loss is not None) < len(climbed):
        uncounted = "score.json beside it scores another forecast"
    return Frozen(
        path=path,
        forecast=forecast,
        intact=intact,
        score=loss if by_hand is None else score(forecast, by_hand),
        others=tuple(same.values()),
        uncounted=uncounted,
    )


def _without_repeats(found: Sequence[Frozen]) -> list[Frozen]:
    """Of one run's forecasts the first that was scored counts, and one that was copied counts once."""
    seen: dict[tuple[object, ...], Path] = {}
    reasons: dict[int, str] = {}
    for at in sorted(range(len(found)), key=lambda at: found[at].forecast.created):
        item, said = found[at], found[at].forecast
        if item.uncounted or not (item.score or item.others):
            continue
        run = (item.path.parent, said.run, said.params, said.tokens)
        keys = {(said.fingerprint,): "it is a copy of", run: "its run was forecast before in"}
        for key, reason in keys.items():
            if key in seen:
                reasons.setdefault(at, f"{reason} {seen[key]}")
            seen.setdefault(key, item.path)
    return [replace(item, uncounted=reasons.get(at, item.uncounted)) for at, item in enumerate(found)]


def _climb_scores(path: Path) -> list[Score]:
    beside = path.with_name("score.json")
    if path.name != "forecast.json" or not beside.exists():
        return []
    try:
        found = [from_json(Score, item) for item in read_json(beside)["scores"]]
    except (StoreError, TypeError, KeyError) as error:
        raise StoreError(f"{beside} does not hold scores", got=str(error)) from error
    return [item for item in found if math.isfinite(item.outcome) and item.outcome > 0]


def _outcome_path(path: Path) -> Path:
    return path.with_name(path.stem + ".outcome.json")


def _outcomes(path: Path) -> dict[str, float]:
    beside = _outcome_path(path)
    return dict(read_json(beside)) if beside.exists() else {}


def _stamp(forecast: Forecast) -> str:
    value = to_json(forecast)
    value.pop("fingerprint")
    return fingerprint(value)
