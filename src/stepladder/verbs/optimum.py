"""`stepladder optimum`: a fitted law and a budget or a loss in; the size and tokens to train out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def optimum(
    law: Annotated[Path, Parameter(help="law.json, as `stepladder fit --law` or a climb writes it.")],
    *,
    budget: Annotated[
        float, Parameter(help="What may be spent, in FLOPs or in the unit of the prices.")
    ] = 0.0,
    loss: Annotated[float, Parameter(help="Instead: the loss to reach for the least cost.")] = 0.0,
    serve_tokens: Annotated[float, Parameter(help="Tokens that the model will process in use.")] = 0.0,
    train_price: Annotated[float, Parameter(help="Of one training FLOP, in USD, joules or g CO2e.")] = 1.0,
    serve_price: Annotated[float, Parameter(help="Of one FLOP in use, in the same unit.")] = 1.0,
    of: Annotated[str, Parameter(help="Corpus or number of experts, where the law has several.")] = "",
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Size and tokens with the least loss for a budget, or the cheapest that reach a loss, use included.

    Cost is train_price 6 N D + serve_price 2 N D_serve.
    """
    from stepladder.errors import LawError
    from stepladder.laws.forms import form_named
    from stepladder.laws.intervals import forecast, target_warnings
    from stepladder.laws.optimum import Prices, best_for_budget, cheapest_for_loss
    from stepladder.records import Law, from_json, to_json
    from stepladder.store import read_json
    from stepladder.units import format_count

    if (budget > 0) == (loss > 0):
        raise LawError("give either a budget or a loss", allowed="--budget 1e21, or --loss 2.5")
    fitted = from_json(Law, read_json(law))
    needs = form_named(fitted.form).needs
    if needs and not of:
        raise LawError(f"this law needs the {needs} of the run", next_command=f"--of {needs.upper()}")
    extra = {needs: [float(of) if needs == "experts" else of]} if needs else None
    prices = Prices(training=train_price, inference=serve_price)
    search = best_for_budget if budget > 0 else cheapest_for_loss
    best = search(fitted, budget or loss, inference_tokens=serve_tokens, prices=prices, extra=extra)
    said = forecast(fitted, best.params, best.tokens, run="optimum", extra=extra)
    if json_:
        print(json.dumps({"optimum": to_json(best), "forecast": to_json(said)}))
        return 0
    print(
        f"{format_count(best.params)} parameters on {format_count(best.tokens)} tokens "
        f"({best.tokens / best.params:.3g} a parameter), cost {best.cost:.4g}\n"
        f"loss {said.loss.value:.4f} (80 %: {said.loss.low80:.4f} to {said.loss.high80:.4f}), "
        f"{said.horizon:.3g}x the compute of the largest run"
        + (f"; REFUSED: {said.reason}" if said.reason else "")
    )
    for warning in target_warnings(fitted, [said]):
        print(f"warning: {warning}")
    return 0
