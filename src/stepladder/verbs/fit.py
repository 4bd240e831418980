"""`stepladder fit`: a CSV of runs in; a law, and forecasts of targets, out."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

_Method = Annotated[
    Literal["auto", "plain"],
    Parameter(help="auto, or the published procedure (Huber 1e-3, no priors, no weights)."),
]
_Size = Annotated[Literal["params", "nonembed_params"], Parameter(help="Which column counts parameters.")]


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
    method: _Method = "auto",
    size: _Size = "params",
    metric: Annotated[
        str, Parameter(help="Forecast this column (an accuracy or error in 0 to 1) instead of the loss.")
    ] = "",
    chance: Annotated[float, Parameter(help="Metric of guessing.")] = 0.0,
    examples: Annotated[int, Parameter(help="Size of the metric's test set, for its noise.")] = 0,
    curves: Annotated[
        Path | None, Parameter(help="Folder of a ladder: its runs before their decay count lightly too.")
    ] = None,
    next_: Annotated[
        int, Parameter(name="--next", help="Name this many further runs that narrow the first target most.")
    ] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Fit a scaling law to runs, ours or yours, and forecast runs that were not made yet.

    Corpora (column corpus) share exponents; repeated data (unique_tokens) counts in tokens of new data.
    """
    from stepladder.laws.answer import Question, answer
    from stepladder.laws.estimate import FitOptions, parse_floor
    from stepladder.records import to_json
    from stepladder.store import write_json

    question = Question(
        runs=runs,
        targets=predict,
        loss_unit=loss_unit,
        options=FitOptions(form=form, method=method, size=size, floor=parse_floor(floor)),
        metric=metric,
        chance=chance,
        examples=examples,
        next_runs=next_,
        curves=curves,
    )
    found = answer(question)
    if found.forecasts:
        found.write(out)
    if law:
        write_json(law, to_json(found.law))
    print(json.dumps(found.value) if json_ else found.text)
    if found.forecasts and not json_:
        print(f"\nwritten to {out} and {out.with_suffix('.json')}")
    return 0
