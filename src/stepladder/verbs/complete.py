"""`stepladder complete`: a checkpoint and a prompt in, the text that it goes on with out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def complete(
    folder: Annotated[Path, Parameter(help="Run folder, or a folder in the Qwen3 layout.")],
    *,
    prompt: Annotated[str, Parameter(help="Text to continue; empty: the start of a document.")] = "",
    tokens: Annotated[int, Parameter(help="At most this many new tokens.")] = 64,
    temperature: Annotated[float, Parameter(help="1: as learned; lower: safer.")] = 0.8,
    greedy: Annotated[bool, Parameter(negative="", help="Always the likeliest token.")] = False,
    seed: Annotated[int, Parameter(help="Same seed, same text.")] = 0,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Let a trained model continue a text."""
    from stepladder.eval.generate import complete_text

    text = complete_text(
        folder,
        prompt,
        tokens,
        tokenizer=tokenizer,
        temperature=0.0 if greedy else temperature,
        seed=seed,
    )
    print(json.dumps({"prompt": prompt, "text": text}) if json_ else prompt + text)
    return 0
