"""`stepladder chat`: a checkpoint in; turns from the keyboard or standard input, and its answers, out."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

_YOU, _MODEL = "User:", "Assistant:"


def chat(
    folder: Annotated[Path, Parameter(help="Run folder, or a Hugging Face folder of a decoder.")],
    *,
    tokens: Annotated[int, Parameter(help="At most this many tokens an answer.")] = 128,
    temperature: Annotated[float, Parameter(help="1: as learned; lower: safer.")] = 0.8,
    top_k: Annotated[int, Parameter(help="Only among so many likeliest tokens (0: all).")] = 0,
    top_p: Annotated[float, Parameter(help="Only among the likeliest that make up this share.")] = 0.95,
    seed: Annotated[int, Parameter(help="Same seed, same answers.")] = 0,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
) -> int:
    """Talk with a trained model: a line, an answer; /reset forgets, /quit ends.

    The model sees the turns as "User: …" and "Assistant: …", as far as its context reaches. Nothing here was
    trained to converse: it goes on with the text as its corpus would.
    """
    from stepladder.eval.generate import open_speaker
    from stepladder.models.generate import Sampling

    speaker = open_speaker(folder, tokenizer)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        context = speaker.network.shape.context_tokens
        print(f"it continues text and was not trained to converse; it sees {context:,} tokens. /reset, /quit")
    past, turn = "", 0
    while (line := _next_line(is_terminal)) is not None:
        if line == "/quit":
            break
        if line == "/reset":
            past = ""
        if not line or line == "/reset":
            continue
        past += f"{_YOU} {line}\n{_MODEL}"
        how = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed + turn)
        answer = ""
        for piece in speaker.say(past, tokens, how, until=f"\n{_YOU}"):
            # An answer begins with the space that stands behind a name.
            print(piece if answer else piece.lstrip(), end="", flush=True)
            answer += piece
        print()
        past += f"{answer}\n"
        turn += 1
    return 0


def _next_line(is_terminal: bool) -> str | None:
    """The next turn without spaces around it; None at the end of the input."""
    try:
        return (input("> ") if is_terminal else input()).strip()
    except EOFError:
        return None
