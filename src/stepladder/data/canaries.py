"""A number and a seed in; canaries (random lines to plant in training text) and where their copies go out.

A canary gives a number to a made-up name: `The number of qhzkwo is 48213907.` What a model has kept of it
shows in how it ranks that number among others that could have stood there (Carlini et al. 2019, "The Secret
Sharer", arXiv:1802.08232). Planted after deduplication and splitting, as documents of their own: no rule
sees them, and none is held out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.errors import DataError
from stepladder.store import read_json, write_json

CANARIES_FILE, PLANTED_FILE = "canaries.json", "planted.json"
# The source and the domain under which the shards list them.
CANARIES = "canaries"
COPIES = (1, 4, 16, 64)
_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
_NAME, _SECRET = 6, 8
_STREAM_PLANT, _STREAM_PLACE, _STREAM_COMPARE = 0, 1, 2


def draw_canaries(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` canaries for each number of copies: prefix, secret, copies."""
    lines = _lines(count * len(COPIES), np.random.default_rng([seed, _STREAM_PLANT]))
    return [
        {"prefix": prefix, "secret": secret, "copies": COPIES[number // count]}
        for number, (prefix, secret) in enumerate(lines)
    ]


def draw_candidates(count: int, seed: int) -> list[tuple[str, str]]:
    """Prefixes and secrets drawn like those of canaries but never planted: canaries are ranked among them."""
    return _lines(count, np.random.default_rng([seed, _STREAM_COMPARE]))


def text_of(prefix: str, secret: str) -> str:
    """The document."""
    return f"{prefix}{secret}."


def plant(work: Path, out: Path, parts: Sequence[Mapping[str, Any]], count: int, seed: int) -> dict[str, Any]:
    """Draw canaries, list them in `out`, note for each part which go where; figures for the audit.

    Nothing where `count` is 0. A copy goes to a part by its documents, and there to a drawn place among them.
    """
    if not count:
        return {}
    canaries = draw_canaries(count, seed)
    generator = np.random.default_rng([seed, _STREAM_PLACE])
    texts = [text_of(c["prefix"], c["secret"]) for c in canaries for _ in range(c["copies"])]
    sizes = np.array([part["kept"] for part in parts], dtype=float)
    where = generator.choice(len(parts), size=len(texts), p=sizes / sizes.sum())
    planted: dict[str, list[Any]] = {}
    for place, share, text in zip(where.tolist(), generator.random(len(texts)).tolist(), texts, strict=True):
        planted.setdefault(parts[place]["name"], []).append([share, text])
    write_json(work / PLANTED_FILE, {name: sorted(rows) for name, rows in planted.items()})
    write_json(out / CANARIES_FILE, {"seed": seed, "canaries": canaries})
    return {
        "canaries": len(canaries),
        "copies": list(COPIES),
        "documents": len(texts),
        "num_bytes": sum(len(text) for text in texts),
    }


def planted_in(work: Path, part: str) -> list[tuple[float, str]]:
    """Shares and texts for one part, in order of their shares; none where nothing was planted."""
    path = work / PLANTED_FILE
    return [(share, text) for share, text in read_json(path).get(part, [])] if path.exists() else []


def read_canaries(corpus: Path) -> tuple[list[dict[str, Any]], int]:
    """The canaries of a corpus and the seed that they were drawn with.

    Raises:
        DataError: none were planted.
    """
    if not (corpus / CANARIES_FILE).exists():
        raise DataError(
            f"no canaries were planted in {corpus}",
            allowed="a corpus that was prepared with --canaries",
            next_command="stepladder data PATH... --canaries 8 --out ANOTHER_FOLDER",
        )
    value = read_json(corpus / CANARIES_FILE)
    return value["canaries"], value["seed"]


def _lines(count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Different names, so that no two lines have one prefix."""
    out: dict[str, str] = {}
    while len(out) < count:
        name = "".join(generator.choice(list(_LETTERS), _NAME))
        out[name] = "".join(generator.choice(list(_DIGITS), _SECRET))
    return [(f"The number of {name} is ", secret) for name, secret in out.items()]
