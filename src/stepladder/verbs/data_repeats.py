"""`stepladder data repeats`: text in; what it costs to read a part of it several times out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def repeats(
    *sources: Annotated[str, Parameter(help="Text, as for stepladder data.")],
    out: Annotated[Path, Parameter(help="Folder of corpus, runs and result.")] = Path("repeats"),
    epochs: Annotated[str, Parameter(help="How often the text is read, against once.")] = "2,4,8,16",
    minutes: Annotated[float, Parameter(help="Time for all runs.")] = 10.0,
    seeds: Annotated[int, Parameter(help="Runs for each number of epochs.")] = 2,
    vocab_size: Annotated[int, Parameter(help="Tokens of the vocabulary.")] = 2048,
    max_bytes: Annotated[int, Parameter(help="Cap on the input: a sample of whole files (0: none).")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Train small models on less text read more often, beside fresh text; the same command goes on."""
    from stepladder.data.options import CorpusOptions
    from stepladder.errors import DataError
    from stepladder.ladder.repeats import Repeats, measure_repeats, repeats_text
    from stepladder.plan.machine import measure_machine
    from stepladder.verbs.data import require_sources

    require_sources(sources)
    try:
        numbers = tuple(float(word) for word in epochs.split(",") if word.strip())
    except ValueError:
        raise DataError("--epochs is a list of numbers", got=epochs, allowed="2,4,8") from None
    options = CorpusOptions(vocab_size=vocab_size, max_bytes=max_bytes)
    machine = measure_machine(rates="cached")
    wanted = Repeats(epochs=numbers, minutes=minutes, seeds=seeds)
    result = measure_repeats(wanted, sources, out, options, machine, quiet=json_)
    print(json.dumps({**result, "folder": str(out)}) if json_ else repeats_text(result))
    return 0
