"""`stepladder data mixture`: sources in; the shares that small runs on mixtures of them recommend out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def mixture(
    *sources: Annotated[str, Parameter(help="Text, as for stepladder data: two sources or more.")],
    out: Annotated[Path, Parameter(help="Folder of corpus, runs and result.")] = Path("mixture"),
    minutes: Annotated[float, Parameter(help="Time for all runs.")] = 10.0,
    runs: Annotated[int, Parameter(help="Number of runs (0: two a source and three more).")] = 0,
    target: Annotated[str, Parameter(help="Weights of the held-out losses: web=2,code=1.")] = "",
    tokens: Annotated[float, Parameter(help="Tokens of the run that the mixture is for.")] = 0.0,
    max_epochs: Annotated[float, Parameter(help="How often a source may be read in that run.")] = 4.0,
    vocab_size: Annotated[int, Parameter(help="Tokens of the vocabulary.")] = 2048,
    max_bytes: Annotated[int, Parameter(help="Cap on the input: a sample of whole files (0: none).")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Train small models on designed mixtures and recommend shares; the same command goes on."""
    from stepladder.data.options import CorpusOptions
    from stepladder.ladder.mixruns import MixtureTrial, measure_mixture
    from stepladder.laws.blend import mixture_text
    from stepladder.plan.machine import measure_machine
    from stepladder.records import to_json
    from stepladder.verbs.data import require_sources
    from stepladder.verbs.mix import numbers

    require_sources(sources)
    options = CorpusOptions(vocab_size=vocab_size, max_bytes=max_bytes)
    wanted = MixtureTrial(minutes=minutes, runs=runs, tokens=tokens, max_epochs=max_epochs)
    weights = numbers(target, "--target") or None
    machine = measure_machine(rates="cached")
    law, best = measure_mixture(wanted, sources, out, options, machine, weights, quiet=json_)
    if json_:
        print(json.dumps({"law": to_json(law), "best": to_json(best), "folder": str(out)}))
    else:
        print(mixture_text(law, best, []))
        print(f"runs: {out / 'mixture.csv'}   (stepladder mix reads it too)")
    return 0
