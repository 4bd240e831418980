"""A table of runs in; a Law with its constants, certification, spread, warnings and refusal out."""

from dataclasses import replace
from typing import Any

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.diagnose import diagnose, refuse, replicate_noise, transition_inside
from stepladder.laws.estimate import (
    MILD_POWER,
    Estimate,
    FitOptions,
    fit_form,
    noise,
    size_of,
    steep_power,
)
from stepladder.laws.forms import FORMS, form_named, to_constants
from stepladder.laws.rollout import Rollout, draw, roll_out
from stepladder.laws.table import Table
from stepladder.records import Law
from stepladder.store import fingerprint

LEAST_POINTS = 3


def fit_law(table: Table, options: FitOptions | None = None) -> Law:
    """Fit the law and everything that its forecasts need.

    Raises:
        LawError: fewer than three runs, or an unknown form, or no convergence at all.
    """
    options = options or FitOptions()
    form = form_named(options.form)
    if len(table) < LEAST_POINTS:
        raise LawError(
            "too few runs for any law",
            got=f"{len(table)} run{'s' if len(table) != 1 else ''}",
            allowed=f"at least {LEAST_POINTS}; a forecast that is not refused needs "
            f"{len(form.names) + 2} or more",
        )
    size = size_of(table, options.size)
    fitted = fit_form(form, table, options)
    if not np.isfinite(fitted.objective):
        raise LawError("the fit found no finite minimum", got=f"{len(table)} runs, form {form.name}")
    rolled = roll_out(fitted)
    # Many points make the draws dear and at the same time alike.
    draws = draw(fitted, min(options.bootstraps, max(60, 60_000 // len(table))), options.seed)
    law = Law(
        form=form.name,
        terms=to_constants(form, fitted.theta, fitted.columns.centre),
        loss_unit=table.loss_unit,
        size_column=options.size,
        points=len(table),
        largest_flops=float(6 * np.max(size * table.tokens)),
        quality=_quality(fitted, rolled, draws) | {"replicate_sigma": replicate_noise(table)[0]},
        spread={
            **_spread(fitted, rolled, draws, _rivals(table, fitted, options)),
            "transition": transition_inside(table),
        },
    )
    law = replace(law, warnings=diagnose(law, table, fitted, rolled), refusal=refuse(law, table, fitted))
    return replace(law, fingerprint=fingerprint({"law": _stable(law), "options": str(options)}))


def _quality(fitted: Estimate, rolled: Rollout, draws: np.ndarray) -> dict[str, float]:
    residual = fitted.residual
    quality = {
        "objective": fitted.objective,
        "success_share": fitted.share,
        "agreeing_starts": float(fitted.agreeing),
        "certified": float(fitted.certified),
        "sigma": noise(fitted, local=True),
        "weight_power": fitted.columns.power,
        "rms_residual": float(np.sqrt(np.mean(residual**2))),
        "worst_residual": float(np.max(np.abs(residual))),
        "rollout_rms": rolled.rms,
        "rollout_bias": rolled.bias,
        "rollout_cuts": float(len(np.unique(rolled.cut))),
    }
    constants = [to_constants(fitted.form, theta, fitted.columns.centre) for theta in draws]
    for name in fitted.form.names:
        values = np.array([item[name] for item in constants])
        low, high = np.quantile(values, [0.1, 0.9])
        quality[f"{name}_low80"], quality[f"{name}_high80"] = float(low), float(high)
    return quality


def _spread(
    fitted: Estimate, rolled: Rollout, draws: np.ndarray, rivals: list[dict[str, Any]]
) -> dict[str, Any]:
    columns = fitted.columns
    ratio = columns.log_d - columns.log_n + columns.centre[1] - columns.centre[0]
    return {
        "centre": list(columns.centre),
        "draws": [[float(f"{item:.7g}") for item in row] for row in draws],
        "theta": [float(item) for item in fitted.theta],
        "rivals": rivals,
        "ratio": [float(ratio.min()), float(ratio.max())],
    }


def _rivals(table: Table, fitted: Estimate, options: FitOptions) -> list[dict[str, Any]]:
    """Other reasonable fits of the same runs (other weights, one exponent): their θ at the same centre."""
    power = fitted.columns.power
    other = MILD_POWER if power > MILD_POWER else steep_power(size_of(table, options.size), table)
    wanted = (("chinchilla", other), ("chinchilla-tied", power))
    rivals = []
    for name, power in wanted:
        settings = replace(options, form=name, method="auto", weight_power=power, starts=8)
        rival = fit_form(FORMS[name], table, settings)
        rivals.append({"form": name, "weight_power": power, "theta": [float(item) for item in rival.theta]})
    return rivals


def _stable(law: Law) -> dict[str, Any]:
    return {
        "form": law.form,
        "terms": {k: f"{v:.10g}" for k, v in law.terms.items()},
        "unit": law.loss_unit,
        "size": law.size_column,
        "points": law.points,
        "flops": f"{law.largest_flops:.10g}",
    }
