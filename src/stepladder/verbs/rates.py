"""`stepladder rates`: a size and a length, and own sweeps if any, in; learning rate and batch out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def rates(
    sweep: Annotated[
        Path | None, Parameter(help="CSV of own runs with params, tokens, loss, lr, batch_tokens.")
    ] = None,
    *,
    params: Annotated[float, Parameter(help="Parameters without embeddings.")],
    tokens: Annotated[float, Parameter(help="Training tokens.")],
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Peak learning rate (AdamW) and batch for a run: StepLaw, moved by the minimum that own sweeps show."""
    from stepladder.errors import LawError
    from stepladder.laws.rates import RateLaw, fit_rates, trials_of
    from stepladder.laws.table import read_observations
    from stepladder.records import to_json

    if not (params > 0 and tokens > 0):
        raise LawError("params and tokens must be above zero", got=f"{params:g}, {tokens:g}")
    law = fit_rates(trials_of(read_observations(sweep))) if sweep else RateLaw()
    lr, batch = law.recommend(params, tokens)
    if json_:
        print(json.dumps({"lr": lr, "batch_tokens": batch, "law": to_json(law)}))
        return 0
    source = (
        f"StepLaw (arXiv:2503.04715) times {law.lr_factor:.3g} and {law.batch_factor:.3g} by {law.runs} runs"
        if law.runs
        else "StepLaw (arXiv:2503.04715)" + ("; the sweep shows no minimum of its own" if sweep else "")
    )
    print(f"peak learning rate {lr:.3g}, batch {batch:,.0f} tokens: {source}")
    return 0
