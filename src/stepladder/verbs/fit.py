"""`stepladder fit`: a CSV of runs in; a law, and forecasts of targets, out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepladder.laws.nextrun import NextRun
    from stepladder.laws.table import Table
    from stepladder.laws.targets import Target
    from stepladder.records import Law


def fit(
    runs: Annotated[Path, Parameter(help="CSV with params, tokens and loss, one row a run.")],
    *,
    predict: Annotated[Path | None, Parameter(help="CSV with run, params, tokens to forecast.")] = None,
    out: Annotated[Path, Parameter(help="CSV of forecasts; a .json with the reasons lies beside it.")] = Path(
        "forecast.csv"
    ),
    law: Annotated[Path | None, Parameter(help="Write the law here as JSON.")] = None,
    loss_unit: Annotated[str, Parameter(help="nats_per_token or bits_per_byte.")] = "",
    form: Annotated[
        str, Parameter(help="auto, coupled, chinchilla, chinchilla-tied, gadre, kaplan-n, experts, ...")
    ] = "auto",
    floor: Annotated[
        str, Parameter(help="Irreducible loss: 1.7 pins it, 1.7:0.1 draws it there (10 % deviation).")
    ] = "",
    method: Annotated[
        Literal["auto", "plain"],
        Parameter(help="auto, or the published procedure (Huber 1e-3, no priors, no weights)."),
    ] = "auto",
    size: Annotated[
        Literal["params", "nonembed_params"], Parameter(help="Which column counts parameters.")
    ] = "params",
    metric: Annotated[
        str, Parameter(help="Forecast this column (an accuracy or error in 0 to 1) instead of the loss.")
    ] = "",
    chance: Annotated[float, Parameter(help="Metric of guessing.")] = 0.0,
    examples: Annotated[int, Parameter(help="Size of the metric's test set, for its noise.")] = 0,
    next_: Annotated[
        int, Parameter(name="--next", help="Name this many further runs that narrow the first target most.")
    ] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Fit a scaling law to runs, ours or yours, and forecast runs that were not made yet.

    Runs on several corpora (column corpus) share exponents; runs that repeat their data (unique_tokens) are
    counted in tokens of new data.
    """
    from stepladder.laws.estimate import FitOptions, parse_floor
    from stepladder.laws.fit import fit_law
    from stepladder.laws.forms import form_named
    from stepladder.laws.intervals import forecast, repeat_warnings, target_warnings
    from stepladder.laws.registry import freeze, write_forecasts
    from stepladder.laws.show import forecast_csv, forecast_text, law_text, next_runs_text
    from stepladder.laws.table import read_observations
    from stepladder.laws.targets import read_targets
    from stepladder.laws.tasks import fit_task, forecast_task, read_task_runs, task_text
    from stepladder.records import to_json
    from stepladder.store import write_json, write_text

    options = FitOptions(form=form, method=method, size=size, floor=parse_floor(floor))
    task_runs = (
        read_task_runs(runs, metric, chance=chance, examples=examples, loss_unit=loss_unit)
        if metric
        else None
    )
    table = task_runs.table if task_runs else read_observations(runs, loss_unit)
    fitted = fit_law(table, options)
    task = fit_task(task_runs, fitted) if task_runs else None
    targets = read_targets(predict, fitted.size_column, form_named(fitted.form).needs) if predict else []
    forecasts = [
        freeze(
            forecast_task(task, t.params, t.tokens, run=t.run, extra=t.extra)
            if task
            else forecast(fitted, t.params, t.tokens, run=t.run, unique_tokens=t.unique_tokens, extra=t.extra)
        )
        for t in targets
    ]
    if forecasts:
        write_text(out, forecast_csv(forecasts, metric or "loss"))
        write_forecasts(out.with_suffix(".json"), forecasts, law=to_json(fitted), notes=list(table.notes))
    if law:
        write_json(law, to_json(fitted))
    further = _further(table, fitted, targets, next_)
    if json_:
        value = {
            "law": to_json(fitted),
            "notes": list(table.notes),
            "forecasts": [to_json(item) for item in forecasts],
            "next_runs": [to_json(item) for item in further],
        }
        print(json.dumps(value | ({"task": to_json(task)} if task else {})))
        return 0
    print(task_text(task) if task else law_text(fitted, table.notes))
    if forecasts:
        print("\n" + forecast_text(forecasts, metric or "loss"))
        for warning in (*target_warnings(fitted, forecasts), *repeat_warnings(fitted, targets)):
            print(f"warning: {warning}")
    if further:
        print("\n" + next_runs_text(further, targets[0].run if targets else "a run of ten times the compute"))
    if forecasts:
        print(f"\nwritten to {out} and {out.with_suffix('.json')}")
    return 0


def _further(table: "Table", law: "Law", targets: "Sequence[Target]", count: int) -> "tuple[NextRun, ...]":
    from stepladder.laws.diagnose import dearest_extra, tenfold_target
    from stepladder.laws.nextrun import next_runs

    if not count:
        return ()
    aim = targets[0] if targets else None
    size, tokens = (aim.params, aim.tokens) if aim else tenfold_target(table, law)
    return next_runs(law, size, tokens, count, aim.extra if aim else dearest_extra(table, law))
