"""`stepladder fit`: a CSV of runs in; a law, and forecasts of targets, out."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


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
    next_: Annotated[
        int, Parameter(name="--next", help="Name this many further runs that narrow the first target most.")
    ] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Fit a scaling law to runs, ours or yours, and forecast runs that were not made yet."""
    from stepladder.laws.diagnose import dearest_extra, tenfold_target
    from stepladder.laws.estimate import FitOptions, parse_floor
    from stepladder.laws.fit import fit_law
    from stepladder.laws.forms import form_named
    from stepladder.laws.intervals import forecast, repeat_warnings, target_warnings
    from stepladder.laws.nextrun import next_runs
    from stepladder.laws.registry import freeze, write_forecasts
    from stepladder.laws.show import forecast_csv, forecast_text, law_text, next_runs_text
    from stepladder.laws.table import read_observations
    from stepladder.laws.targets import read_targets
    from stepladder.records import to_json
    from stepladder.store import write_json, write_text

    table = read_observations(runs, loss_unit)
    fitted = fit_law(table, FitOptions(form=form, method=method, size=size, floor=parse_floor(floor)))
    needs = form_named(fitted.form).needs
    targets = read_targets(predict, fitted.size_column, needs) if predict else []
    forecasts = [
        freeze(forecast(fitted, t.params, t.tokens, run=t.run, unique_tokens=t.unique_tokens, extra=t.extra))
        for t in targets
    ]
    if forecasts:
        write_text(out, forecast_csv(forecasts))
        write_forecasts(out.with_suffix(".json"), forecasts, law=to_json(fitted), notes=list(table.notes))
    if law:
        write_json(law, to_json(fitted))
    further = ()
    if next_:
        aim = targets[0] if targets else None
        place = (aim.params, aim.tokens) if aim else tenfold_target(table, fitted)
        further = next_runs(fitted, *place, next_, aim.extra if aim else dearest_extra(table, fitted))
    if json_:
        print(
            json.dumps(
                {
                    "law": to_json(fitted),
                    "notes": list(table.notes),
                    "forecasts": [to_json(item) for item in forecasts],
                    "next_runs": [to_json(item) for item in further],
                }
            )
        )
        return 0
    print(law_text(fitted, table.notes))
    if forecasts:
        print("\n" + forecast_text(forecasts))
        for warning in (*target_warnings(fitted, forecasts), *repeat_warnings(fitted, targets)):
            print(f"warning: {warning}")
    if further:
        print("\n" + next_runs_text(further, targets[0].run if targets else "a run of ten times the compute"))
    if forecasts:
        print(f"\nwritten to {out} and {out.with_suffix('.json')}")
    return 0
