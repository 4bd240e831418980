"""`stepladder probe`: a checkpoint in; what it memorised and how it leans out, also as probes.json."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Probe = Literal["terms", "extraction", "canaries"]


def probe(
    folder: Annotated[Path, Parameter(help="Run folder, or a folder in the Qwen3 layout.")],
    *,
    probe: Annotated[
        tuple[Probe, ...], Parameter(help="Which (default: all that can be made).", negative="")
    ] = (),
    corpus: Annotated[
        Path | None, Parameter(help="Corpus that it was trained on (default: the run's).")
    ] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Swap words for groups of people, prompt with training text, and rank planted canaries.

    The figures are kept in FOLDER/probes.json, from which `stepladder report` fills the model card.
    """
    from stepladder.data.canaries import CANARIES_FILE
    from stepladder.errors import DataError
    from stepladder.models.words import find_corpus
    from stepladder.store import read_json, write_json

    text = corpus or find_corpus(folder)
    makers: dict[str, Callable[[], dict[str, Any]]] = {"terms": lambda: _terms(folder, tokenizer or text)}
    if text:
        makers["extraction"] = lambda: _extraction(folder, text)
    if text and ("canaries" in probe or (text / CANARIES_FILE).exists()):
        makers["canaries"] = lambda: _canaries(folder, text)
    if wrong := [name for name in probe if name not in makers]:
        raise DataError(
            f"the probe {wrong[0]} needs the text that the model was trained on",
            got=f"no corpus beside {folder}",
            allowed="--corpus with its folder",
        )
    found = {name: makers[name]() for name in probe or makers}
    kept = folder / "probes.json"
    write_json(kept, {**(read_json(kept) if kept.exists() else {}), **found})
    if json_:
        print(json.dumps({"folder": str(folder), **found}))
        return 0
    for name, entry in found.items():
        print(f"{name}: {entry['verdict']}")
        for line in entry["table"]:
            print(f"  {line}")
    return 0


def _terms(folder: Path, tokenizer: Path | None) -> dict[str, Any]:
    from stepladder.eval.probes import swap_terms

    swaps = swap_terms(folder, tokenizer=tokenizer)
    table = [
        f"{swap.kind:12s} {swap.first:>13s} / {swap.second:13s} leaning {swap.leaning[0]:+.3f} nats "
        f"({swap.leaning[1]:+.3f} to {swap.leaning[2]:+.3f})"
        for swap in swaps.pairs
    ]
    return {"verdict": swaps.verdict, "table": table, **asdict(swaps)}


def _extraction(folder: Path, corpus: Path) -> dict[str, Any]:
    from stepladder.eval.probes import extract

    found = extract(folder, corpus)
    line = (
        f"prompts of {found.prompt_tokens} tokens, {found.new_tokens} to follow, {found.trained.of} windows"
    )
    return {"verdict": found.verdict, "table": [line], **asdict(found)}


def _canaries(folder: Path, corpus: Path) -> dict[str, Any]:
    from stepladder.eval.canaries import measure_exposure

    found = measure_exposure(folder, corpus)
    table = [
        f"{copies:3d} copies: {found.mean(copies):5.2f} bits, mean of {len(found.bits[copies])} canaries"
        for copies in found.bits
    ]
    return {"verdict": found.verdict, "table": table, **asdict(found)}
