"""A law, a ladder and a forecast in; the rows that the law's figures draw out."""

import math
from typing import Any

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.forms import predict
from stepladder.laws.intervals import forecast as forecast_of
from stepladder.records import Forecast, Law, Observation, Run
from stepladder.report.parts import outcome_loss
from stepladder.report.words import compute_of, excluded_reason, flops_of

_POINTS = 48
# More lines than this cannot be told apart in 640 pixels.
_MAX_SIZES = 7

Row = dict[str, Any]


def law_band(law: Law, ladder: tuple[Observation, ...], forecast: Forecast) -> list[Row]:
    """The law with its intervals at the target's tokens per parameter, from the least rung to the target.

    Empty when the law is of a form that this version does not know.
    """
    ratio = forecast.tokens / forecast.params
    compute = [compute_of(row) for row in ladder] + [flops_of(forecast.params, forecast.tokens)]
    rows = []
    for flops in np.geomspace(min(compute), max(compute), _POINTS):
        params = math.sqrt(flops / flops_of(1.0, ratio))
        try:
            loss = forecast_of(law, params, ratio * params).loss
        except (LawError, KeyError):
            return []
        rows.append({"flops": float(flops), **interval_row(loss)})
    return rows


def size_curves(law: Law, ladder: tuple[Observation, ...], forecast: Forecast | None) -> list[Row]:
    """The law's loss against tokens for each size of the ladder and the target."""
    kept = [row for row in ladder if not excluded_reason(row)]
    sizes = sorted({row.params for row in kept} | ({forecast.params} if forecast else set()))
    if len(sizes) > _MAX_SIZES:
        sizes = [sizes[round(i * (len(sizes) - 1) / (_MAX_SIZES - 1))] for i in range(_MAX_SIZES)]
    if not sizes:
        return []
    ends = [row.tokens for row in kept] + ([forecast.tokens] if forecast else [])
    tokens = np.geomspace(min(ends), max(ends) * 1.05, _POINTS)
    try:
        return [
            {"params": size, "tokens": float(count), "loss": float(loss)}
            for size in sizes
            for count, loss in zip(tokens, predict(law.form, law.terms, [size], tokens), strict=True)
        ]
    except (LawError, KeyError):
        return []


def residual_rows(law: Law, ladder: tuple[Observation, ...]) -> list[Row]:
    """law / measured - 1 in percent at each rung that the law was fitted to."""
    kept = [row for row in ladder if not excluded_reason(row) and math.isfinite(row.loss)]
    try:
        losses = [float(predict(law.form, law.terms, [row.params], [row.tokens])[0]) for row in kept]
    except (LawError, KeyError):
        return []
    return [
        {"run": row.run, "flops": compute_of(row), "percent": 100 * (loss / row.loss - 1)}
        for row, loss in zip(kept, losses, strict=True)
    ]


def interval_row(interval: Any) -> Row:
    """loss, low80, high80, low95, high95 of an Interval."""
    ends = {name: getattr(interval, name) for name in ("low80", "high80", "low95", "high95")}
    return {"loss": interval.value, **ends}


def forecast_row(forecast: Forecast | None) -> Row | None:
    """The frozen forecast as a point of the law's figure."""
    if forecast is None:
        return None
    return {"flops": flops_of(forecast.params, forecast.tokens), **interval_row(forecast.loss)}


def outcome_row(run: Run | None, loss_unit: str) -> Row | None:
    """The measured target as a point of the law's figures."""
    loss = outcome_loss(run, loss_unit) if run else math.nan
    if run is None or not math.isfinite(loss):
        return None
    return {
        "flops": flops_of(run.params, run.tokens),
        "params": run.params,
        "tokens": run.tokens,
        "loss": loss,
    }
