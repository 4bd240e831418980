"""Source files in; parts out: clean text, a table of all documents, hashes, sketches and long lines.

A part is a run of documents of one task, at most 4,096 of them and about 4 MB (`PART_BYTES`), whatever the
size of the file that they came from. Every later task works on one part or on one range of keys.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from stepladder.data.card.tally import EXAMPLES
from stepladder.data.copies.dedup import exact_keys, long_lines, sketches
from stepladder.data.files import write_array, write_arrays, write_frame, write_sorted
from stepladder.data.labels import PART_ROWS, labels, part_base
from stepladder.data.privacy.pii import drop_mask, merge_counts, pii_counts, replace_pii
from stepladder.data.quality.clean import clean
from stepladder.data.quality.rules import rules
from stepladder.data.sources.listing import SourceFile
from stepladder.data.sources.read import BATCH_DOCUMENTS, Quarantined, Reader
from stepladder.store import writing

PART_BYTES = 4_000_000
# Documents of a source with this beginning are for training only.
SPARED = "removed:"
_EXAMPLE_CHARS, _REASONS = 160, 200


def read_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Files → parts on disk; the result lists the parts and how much was quarantined."""
    folder, task = Path(arguments["folder"]) / "read", arguments["index"]
    reading, cleaning = arguments["reading"], arguments["cleaning"]
    files = [SourceFile(**file) for file in arguments["files"]]
    parts = []
    with writing(folder / f"{task:05d}.quarantine.jsonl") as stream:
        rejected = _Rejected(stream)
        reader = Reader(
            text_column=reading["text_column"],
            piece_bytes=arguments["piece_bytes"],
            columns=dict(reading["columns"]),
            on_quarantine=rejected.add,
        )
        for number, frames in enumerate(_grouped(reader.batches(files))):
            cleaned, found = zip(*(scrub(frame, cleaning) for frame in frames), strict=True)
            part = _write_part(folder, task, number, list(cleaned))
            parts.append({**part, "pii": merge_counts(found)})
    return {"parts": parts, "quarantined": rejected.told}


class _Rejected:
    """Entries of the quarantine, written as they come; what is held of them does not grow."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.told: dict[str, Any] = {"documents": 0, "num_bytes": 0, "reasons": {}, "examples": []}

    def add(self, entry: Quarantined) -> None:
        """Write one entry and count it."""
        fields = dataclasses.asdict(entry)
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        self._stream.write(line.encode("utf-8", errors="backslashreplace"))
        told, reasons = self.told, self.told["reasons"]
        told["documents"] += 1
        told["num_bytes"] += entry.num_bytes
        reason = entry.reason.split(" at offset")[0].split(": byte")[0]
        if reason in reasons or len(reasons) < _REASONS:
            reasons[reason] = reasons.get(reason, 0) + 1
        if len(told["examples"]) < EXAMPLES:
            told["examples"].append({name: fields[name] for name in ("source", "place", "reason")})


def scrub(frame: Any, cleaning: Mapping[str, Any]) -> tuple[Any, dict[str, dict[str, int]]]:
    """(frame with clean text and rules, personal data found by kind) by the fields of `Cleaning`."""
    import polars as pl

    raw = frame
    choices = {name: cleaning[name] for name in ("quality", "rules_on", "rules_off")}
    frame = clean(raw, tuple(cleaning["languages"]), **choices)
    if spared := cleaning["spared"]:
        names = {rule.name for rule in rules() if {rule.name, rule.group} & set(spared)}
        choices["rules_off"] = [*choices["rules_off"], *names]
        without = clean(raw, tuple(cleaning["languages"]), **choices)
        # What was given as held-out text is not trained on, whatever is tried.
        alone = frame["rule"].is_in(list(names)) & without["rule"].is_null() & ~frame["held_out"]
        frame = frame.with_columns(
            pl.when(alone).then(None).otherwise(pl.col("rule")).alias("rule"),
            pl.when(alone).then(pl.lit(SPARED + spared[0])).otherwise(pl.col("source")).alias("source"),
        )
    if cleaning["pii"] == "keep":
        return frame, {}
    stays = frame["rule"].is_null()
    text, counts = replace_pii(frame["text"].filter(stays))
    places = np.flatnonzero(stays.to_numpy())
    rule = frame["rule"].to_list()
    if cleaning["pii"] == "drop":
        for place in places[drop_mask(counts).to_numpy()]:
            rule[place] = "personal_data"
    merged = frame["text"].scatter(places, text) if len(places) else frame["text"]
    frame = frame.with_columns(merged.alias("text"), pl.Series("rule", rule, dtype=pl.String))
    return frame, pii_counts(counts)


def _grouped(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """Batches in groups that fit into one part."""
    group: list[Any] = []
    rows = size = 0
    for batch in batches:
        held = int(batch["raw_bytes"].sum())
        if group and (rows + len(batch) > PART_ROWS - BATCH_DOCUMENTS or size + held > PART_BYTES):
            yield group
            group, rows, size = [], 0, 0
        group.append(batch)
        rows, size = rows + len(batch), size + held
    if group:
        yield group


def _write_part(folder: Path, task: int, number: int, frames: list[Any]) -> dict[str, Any]:
    import polars as pl

    name, base = f"{task:05d}-{number:04d}", part_base(task, number)
    # Sketches of 500 documents at a time: the table of their words stays in the processor's cache.
    found = [_hashes(frame.filter(pl.col("rule").is_null())) for frame in frames]
    frame = pl.concat(frames)
    text = pl.col("text")
    meta = frame.with_columns(
        text.str.len_bytes().cast(pl.Int64).alias("num_bytes"),
        text.str.slice(0, _EXAMPLE_CHARS).alias("head"),
    ).drop("text")
    stays = frame["rule"].is_null()
    kept = frame.filter(stays)
    rows = np.flatnonzero(stays.to_numpy()).astype(np.uint16)
    chosen = meta.filter(stays)
    # Of copies, one that a rule would remove is never the best.
    size = np.where(chosen["source"].str.starts_with(SPARED).to_numpy(), 0, chosen["num_bytes"].to_numpy())
    label = labels(base, rows, size, chosen["held_out"].to_numpy())
    exact, values, has_sketch, lines = _joined(found)
    write_frame(folder / f"{name}.meta", meta)
    write_frame(folder / f"{name}.text", kept.select("text", "domain"))
    write_array(folder / f"{name}.rows.npy", rows)
    write_array(folder / f"{name}.values.npy", values)
    write_sorted(folder / f"{name}.exact", "key", {"key": exact[:, 0], "second": exact[:, 1], "label": label})
    write_arrays(folder / f"{name}.npz", {"rows": rows, "label": label, "has_sketch": has_sketch, **lines})
    return {
        "name": name,
        "documents": len(meta),
        "kept": len(rows),
        "num_bytes": int(chosen["num_bytes"].sum()),
        "raw_bytes": int(meta["raw_bytes"].sum()),
        "lines": len(lines["line_key"]),
        "sources": dict(sorted(chosen.group_by("source").agg(pl.col("num_bytes").sum()).iter_rows())),
        "domains": sorted(set(chosen["domain"])),
        "rules": sorted(set(meta["rule"].drop_nulls())),
    }


def _hashes(frame: Any) -> tuple[Any, ...]:
    values, has_sketch = sketches(frame["text"])
    return exact_keys(frame["text"]), values, has_sketch, long_lines(frame["text"], frame["domain"])


def _joined(found: list[tuple[Any, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    starts = np.cumsum([0, *(len(entry[0]) for entry in found)])
    lines = {
        "line_document": np.concatenate(
            [
                entry[3].document.astype(np.uint16) + np.uint16(start)
                for entry, start in zip(found, starts[:-1], strict=True)
            ]
        ),
        "line_key": np.concatenate([entry[3].key for entry in found]),
        "line_removable": np.concatenate([entry[3].removable for entry in found]).astype(bool),
    }
    exact, values, has_sketch = (np.concatenate([entry[place] for entry in found]) for place in range(3))
    return exact, values, has_sketch, lines
