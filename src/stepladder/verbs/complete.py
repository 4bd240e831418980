"""`stepladder complete`: a checkpoint and a prompt in, the text that it goes on with out."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def complete(
    folder: Annotated[Path, Parameter(help="Run folder, or a Hugging Face folder of a decoder.")],
    *,
    prompt: Annotated[str, Parameter(help="Text to continue; empty: the start of a document.")] = "",
    tokens: Annotated[int, Parameter(help="At most this many new tokens.")] = 64,
    temperature: Annotated[float, Parameter(help="1: as learned; lower: safer.")] = 0.8,
    top_k: Annotated[int, Parameter(help="Only among so many likeliest tokens (0: all).")] = 0,
    top_p: Annotated[float, Parameter(help="Only among the likeliest that make up this share.")] = 1.0,
    greedy: Annotated[bool, Parameter(negative="", help="Always the likeliest token.")] = False,
    seed: Annotated[int, Parameter(help="Same seed, same text.")] = 0,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Let a trained model continue a text, token by token."""
    from stepladder.eval.generate import open_speaker
    from stepladder.models.generate import Sampling

    speaker = open_speaker(folder, tokenizer)
    how = Sampling(temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p, seed=seed)
    read, context = len(speaker.prompt_ids(prompt)), speaker.network.shape.context_tokens
    if read > context:
        note = f"note: the prompt has {read:,} tokens; the network sees the last {context:,}, its context"
        print(note, file=sys.stderr)
    pieces = speaker.say(prompt, tokens, how)
    if json_:
        unseen = max(read - context, 0)
        said = {"prompt": prompt, "prompt_tokens": read, "unseen_tokens": unseen, "text": "".join(pieces)}
        print(json.dumps(said))
        return 0
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0
