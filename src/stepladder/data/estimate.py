"""Sources and options in; time, disk and what each rule (would) remove out, from a sample."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stepladder.data.copies.dedup import exact_keys, long_lines, sketches
from stepladder.data.options import Cleaning, CorpusOptions
from stepladder.data.prepare import list_inputs
from stepladder.data.quality.rules import DOMAINS, chosen, rules, verdicts
from stepladder.data.reading import scrub
from stepladder.data.sources.listing import sample_files
from stepladder.data.sources.read import Reader

_SAMPLE_SHARE, _SMALLEST_SAMPLE, _LARGEST_SAMPLE = 0.01, 2_000_000, 50_000_000
# Measured on 2 cores: reading to sketches is 60 % of the CPU seconds, the rest is encoding and writing.
_READ_SHARE, _TOKENIZER_SECONDS = 0.6, 3.0
# At work: cleaned text twice, sketches and hashes, ids twice; measured 2.9 to 3.3 of the input.
_DISK_FACTOR = 3.3
_EXAMPLES = 3
_SIMILARITIES = (0.6, 0.7, 0.8, 0.9)


def estimate(sources: Sequence[str], options: CorpusOptions) -> dict[str, Any]:
    """JSON values: files, input_bytes, seconds, disk_bytes, and per domain the share that each rule removes.

    `off` has the rules that are off and the share that each of them alone would remove as well. Duplicates
    are not among the rules: a sample does not show them; `collisions` says how likely they are looked at.
    """
    files = list_inputs(sources, options)
    total = sum(file.num_bytes for file in files)
    wanted = min(max(round(_SAMPLE_SHARE * total), _SMALLEST_SAMPLE), _LARGEST_SAMPLE)
    sample = sample_files([f for f in files if not f.held_out], wanted, options.seed) or files[:1]
    found: dict[str, Any] = {}
    off = _off(options.cleaning)
    started = time.process_time()
    documents = num_bytes = 0
    reader = Reader(
        text_column=options.reading.text_column, columns=dict(options.reading.columns), piece_bytes=1 << 20
    )
    for batch in reader.batches(sample):
        frame, _ = scrub(batch, asdict(options.cleaning))
        kept = frame.filter(frame["rule"].is_null())
        sketches(kept["text"])
        exact_keys(kept["text"])
        long_lines(kept["text"], kept["domain"])
        documents += len(frame)
        num_bytes += int(frame["raw_bytes"].sum())
        for domain, rule, source in frame.select("domain", "rule", "file").iter_rows():
            entry = found.setdefault(
                domain, {"documents": 0, "removed": {}, "off": _none(off.get(domain, []))}
            )
            entry["documents"] += 1
            if rule is not None:
                _count(entry["removed"].setdefault(rule, _none([""])[""]), source)
        # A preparation does not ask the rules that are off: the time that this takes is none of its own.
        paused = time.process_time()
        _would_remove(kept, off, found)
        started += time.process_time() - paused
    spent = time.process_time() - started
    for entry in found.values():
        for counted in [*entry["removed"].values(), *entry["off"].values()]:
            counted["share"] = counted["documents"] / entry["documents"]
    seconds = spent * total / max(num_bytes, 1) / _READ_SHARE / options.processes(total) + _TOKENIZER_SECONDS
    return {
        "files": len(files),
        "input_bytes": total,
        "sample_documents": documents,
        "sample_quarantined": len(reader.quarantined),
        "seconds": seconds,
        "disk_bytes": round(_DISK_FACTOR * total),
        "rules": dict(sorted(found.items())),
        "dedup": asdict(options.dedup),
        "collisions": {str(alike): round(options.dedup.collision(alike), 4) for alike in _SIMILARITIES},
    }


def _off(cleaning: Cleaning) -> dict[str, list[str]]:
    """Domain → rules that can be turned on there and are off."""
    on = chosen(cleaning.rules_on, cleaning.rules_off) if cleaning.quality else {}
    return {
        domain: [
            rule.name for rule in rules() if domain in rule.domains and domain not in on.get(rule.name, ())
        ]
        for domain in DOMAINS
    }


def _would_remove(kept: Any, off: dict[str, list[str]], found: dict[str, Any]) -> None:
    """Count what rules that are off would remove of a batch of documents that those that are on keep."""
    for domain, names in off.items():
        own = kept.filter(kept["domain"] == domain)
        if names and len(own):
            broken = verdicts(own)
            for name in names:
                for source in own["file"].filter(broken[name]):
                    _count(found[domain]["off"][name], source)


def _none(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: {"documents": 0, "examples": []} for name in names}


def _count(entry: dict[str, Any], source: str) -> None:
    entry["documents"] += 1
    if len(entry["examples"]) < _EXAMPLES:
        entry["examples"].append(source)
