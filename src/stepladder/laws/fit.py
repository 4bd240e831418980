"""A table of runs in; a Law with its constants, certification, spread, warnings and refusal out."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.crosscheck import cross_checks
from stepladder.laws.diagnose import diagnose, refuse
from stepladder.laws.discount import discount
from stepladder.laws.estimate import (
    MILD_POWER,
    Estimate,
    FitOptions,
    columns_of,
    estimate,
    fit_form,
    noise,
    replicate_noise,
    size_of,
    steep_power,
)
from stepladder.laws.forms import (
    FORMS,
    Form,
    bent_form,
    experts_form,
    form_named,
    pooled_form,
    to_constants,
)
from stepladder.laws.repeat import REPEATED
from stepladder.laws.rollout import Rollout, draw, roll_out
from stepladder.laws.table import Table
from stepladder.records import Law, to_json
from stepladder.store import fingerprint

LEAST_POINTS = 3
# What one and infinitely many experts may count as; near Clark et al., arXiv:2202.01169.
_STARTS, _MOST = (1.0, 1.8, 4.0), (150.0, 314.0, 1000.0)


def fit_law(table: Table, options: FitOptions | None = None) -> Law:
    """Fit the law and everything that its forecasts need.

    Raises:
        LawError: fewer than three runs, or an unknown form, or no convergence at all.
    """
    options = options or FitOptions()
    form = _pooled(_form_for(table, options), table)
    repeats = (table.tokens > REPEATED * table.unique_tokens).any()
    repeat, worth = discount(table) if repeats else (None, table.tokens)
    table = replace(table, tokens=worth)
    if len(table) < LEAST_POINTS:
        raise LawError(
            "too few runs for any law",
            got=f"{len(table)} run{'s' if len(table) != 1 else ''}",
            allowed=f"at least {LEAST_POINTS}; a forecast that is not refused needs "
            f"{len(form.names) + 2} or more",
        )
    size = size_of(table, options.size)
    fitted = _saturated(table, options) if form.name == "experts" else fit_form(form, table, options)
    form = fitted.form
    if not np.isfinite(fitted.objective):
        raise LawError("the fit found no finite minimum", got=f"{len(table)} runs, form {form.name}")
    rolled = roll_out(fitted)
    # Many points make the draws dear and at the same time alike.
    draws = draw(fitted, min(options.bootstraps, max(60, 60_000 // len(table))), options.seed)
    constants = to_constants(form, fitted.theta, fitted.columns.centre)
    law = Law(
        form=form.name,
        terms=constants,
        loss_unit=table.loss_unit,
        size_column=options.size,
        points=len(table),
        largest_flops=float(6 * np.max(size * table.tokens)),
        quality=_quality(fitted, rolled, draws)
        | {"replicate_sigma": replicate_noise(table)[0], "earlier_rms": options.earlier_rms}
        | cross_checks(replace(table, params=size), form.name, constants),
        spread={
            **_spread(fitted, rolled, draws, _rivals(table, fitted, options)),
            "repeat": to_json(repeat) if repeat else None,
        },
    )
    law = replace(law, warnings=diagnose(law, table, fitted, rolled), refusal=refuse(law, table, fitted))
    return replace(law, fingerprint=fingerprint({"law": _stable(law), "options": str(options)}))


def _form_for(table: Table, options: FitOptions) -> Form:
    """The form asked for; "auto" is the coupled law, and Chinchilla's where the runs are too few for κ or the
    published procedure is wanted."""
    if options.form != "auto":
        return form_named(options.form)
    few = len(table) < len(FORMS["coupled"].names) + 2
    return FORMS["chinchilla" if few or options.method == "plain" else "coupled"]


def _pooled(form: Form, table: Table) -> Form:
    """The form with floor and amplitudes for each corpus, where the runs name more than one."""
    counts = Counter(str(name) for name in table.extra.get("corpus", ()))
    if len(counts) < 2 or form.needs:
        return form
    return pooled_form(form, [name for name, _ in counts.most_common()])


def _saturated(table: Table, options: FitOptions) -> Estimate:
    """The experts' law with the saturation that fits best, or none where that gains too little.

    A gain must pay for two more constants: Schwarz's criterion, twice the objective above 2 log n.
    """
    plain = fit_form(experts_form(), table, options)
    if len(table) < len(plain.theta) + 4:
        return plain
    grid = [(start, most) for start in _STARTS for most in _MOST]
    fits = [fit_form(experts_form(*pair), table, replace(options, starts=8)) for pair in grid]
    # Each fit has its own noise scale: all are compared under the plain fit's.
    objectives = [_sum_huber(fit, plain) for fit in fits]
    best = int(np.argmin(objectives))
    gain = 2 / plain.sigma**2 * (_sum_huber(plain, plain) - objectives[best])
    return fits[best] if gain > 2 * np.log(len(table)) else plain


def _sum_huber(fit: Estimate, plain: Estimate) -> float:
    delta = plain.problem.data.delta
    clipped = np.clip(fit.residual, -delta, delta)
    return float(np.sum(plain.columns.weight * clipped * (fit.residual - clipped / 2)))


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
    """Other reasonable fits of the same runs (other weights, one exponent, a bend), each with its centre."""
    power, size = fitted.columns.power, size_of(table, options.size)
    other = MILD_POWER if power > MILD_POWER else steep_power(size, table)
    settings = replace(options, method="auto", starts=8)
    rivals = []
    for form, weight_power in _rival_forms(fitted.form, power, other):
        columns = columns_of(form, size, table, weight_power)
        rival = estimate(form, columns, settings, sigma=fitted.sigma)
        rivals.append(
            {
                "form": form.name,
                "weight_power": weight_power,
                "theta": [float(item) for item in rival.theta],
                "centre": list(rival.columns.centre),
            }
        )
    return rivals


def _rival_forms(form: Form, power: float, other: float) -> list[tuple[Form, float]]:
    if form.name.startswith("experts"):
        return [(form, other), (experts_form(), power)]
    joint = FORMS["coupled" if form.coupled else "chinchilla"]
    rivals = [(joint, other), (FORMS["chinchilla-tied"], power), (bent_form(joint), power)]
    return [(pooled_form(f, form.corpora) if form.corpora else f, p) for f, p in rivals]


def _stable(law: Law) -> dict[str, Any]:
    return {
        "form": law.form,
        "terms": {k: f"{v:.10g}" for k, v in law.terms.items()},
        "unit": law.loss_unit,
        "size": law.size_column,
        "points": law.points,
        "flops": f"{law.largest_flops:.10g}",
    }
