"""`stepladder data ablate`: a rule or a source in; what it is worth in held-out bits per byte out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def ablate(
    subject: Annotated[str, Parameter(help="A quality rule, a set of rules, or a source.")],
    *sources: Annotated[str, Parameter(help="Text, as for stepladder data.")],
    out: Annotated[Path, Parameter(help="Folder of corpus, runs and result.")] = Path("ablation"),
    minutes: Annotated[float, Parameter(help="Time for all runs.")] = 5.0,
    seeds: Annotated[int, Parameter(help="Pairs of runs.")] = 3,
    vocab_size: Annotated[int, Parameter(help="Tokens of the vocabulary.")] = 2048,
    held_out: Annotated[str, Parameter(help="Share of the text to hold out, or a path of its own.")] = "0.05",
    max_bytes: Annotated[int, Parameter(help="Cap on the input: a sample of whole files (0: none).")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Train pairs of small models with and without a rule or a source; the same command goes on."""
    from stepladder.data.options import CorpusOptions
    from stepladder.ladder.ablate import Ablation, ablate, ablation_text
    from stepladder.plan.machine import measure_machine
    from stepladder.verbs.data import require_sources, share_or_path

    require_sources(sources)
    options = CorpusOptions(vocab_size=vocab_size, held_out=share_or_path(held_out), max_bytes=max_bytes)
    machine = measure_machine(rates="cached")
    wanted = Ablation(subject=subject, minutes=minutes, seeds=seeds)
    result = ablate(wanted, sources, out, options, machine, quiet=json_)
    print(json.dumps({**result, "folder": str(out)}) if json_ else ablation_text(result))
    return 0
