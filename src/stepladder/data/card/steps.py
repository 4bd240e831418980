"""Parts whose documents are all decided in; what the card says of them out, part by part and added up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.card.profile import merge_profiles, profile_batch
from stepladder.data.card.tally import add_up, tally
from stepladder.data.copies.lines import LATE_RULES
from stepladder.data.files import read_frame
from stepladder.data.finish import GONE, decided
from stepladder.data.labels import base_of
from stepladder.store import read_json, write_compact_json


def portray_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part → the profile of the texts that stay and the tally of all its documents."""
    import polars as pl

    work, name = Path(arguments["folder"]), arguments["part"]
    own = decided(work, name)
    meta = read_frame(work / "read" / f"{name}.meta")
    kept = meta.filter(pl.col("rule").is_null())[own["place"]]
    final = np.flatnonzero(own["split"] != GONE)
    told = kept.select("source", "domain", "licence", "language", "date")[final]
    texts = read_frame(work / "trim" / f"{name}.text")["text"]
    told = told.with_columns(texts.gather(final).alias("text"))
    rules = np.array(LATE_RULES, dtype=object)[own["verdict"]]
    entry = {
        "profile": profile_batch(told, arguments["profile_one_in"]),
        "tally": tally(base_of(name), meta, rules, own),
    }
    write_compact_json(work / "portray" / f"{name}.told", entry)
    return {"documents": len(final)}


def fold_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Some parts → their profiles and their tallies added up."""
    folder = Path(arguments["folder"]) / "portray"
    return fold(read_json(folder / f"{name}.told") for name in arguments["parts"])


def fold(entries: Any) -> dict[str, Any]:
    """Profiles and tallies added up, one after the other; the same for every tree of folds."""
    total: dict[str, Any] = {}
    for entry in entries:
        if not total:
            total = dict(entry)
        else:
            total["profile"] = merge_profiles([total["profile"], entry["profile"]])
            total["tally"] = add_up([total["tally"], entry["tally"]])
    return total
