"""Sources and options in; time, disk and what each rule would remove out, from a sample, nothing written."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stepladder.data.copies.dedup import exact_keys, long_lines, sketches
from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import list_inputs
from stepladder.data.reading import scrub
from stepladder.data.sources.listing import sample_files
from stepladder.data.sources.read import Reader

_SAMPLE_SHARE, _SMALLEST_SAMPLE, _LARGEST_SAMPLE = 0.01, 2_000_000, 50_000_000
# Measured on 2 cores: reading to sketches is 60 % of the CPU seconds, the rest is encoding and writing.
_READ_SHARE, _TOKENIZER_SECONDS = 0.6, 3.0
# At work: cleaned text twice, sketches and hashes, ids twice; measured 2.9 to 3.3 of the input.
_DISK_FACTOR = 3.3


def estimate(sources: Sequence[str], options: CorpusOptions) -> dict[str, Any]:
    """JSON values: files, input_bytes, seconds, disk_bytes, and per domain the share that each rule removes.

    Duplicates are not among the rules: a sample does not show them.
    """
    files = list_inputs(sources, options)
    total = sum(file.num_bytes for file in files)
    wanted = min(max(round(_SAMPLE_SHARE * total), _SMALLEST_SAMPLE), _LARGEST_SAMPLE)
    chosen = sample_files([f for f in files if not f.held_out], wanted, options.seed) or files[:1]
    rules: dict[str, Any] = {}
    started = time.process_time()
    documents = num_bytes = 0
    reader = Reader(
        text_column=options.reading.text_column, columns=dict(options.reading.columns), piece_bytes=1 << 20
    )
    for batch in reader.batches(chosen):
        frame, _ = scrub(batch, asdict(options.cleaning))
        kept = frame.filter(frame["rule"].is_null())
        sketches(kept["text"])
        exact_keys(kept["text"])
        long_lines(kept["text"], kept["domain"])
        documents += len(frame)
        num_bytes += int(frame["raw_bytes"].sum())
        for domain, rule, source in frame.select("domain", "rule", "file").iter_rows():
            entry = rules.setdefault(domain, {"documents": 0, "removed": {}})
            entry["documents"] += 1
            if rule is not None:
                found = entry["removed"].setdefault(rule, {"documents": 0, "examples": []})
                found["documents"] += 1
                if len(found["examples"]) < 3:
                    found["examples"].append(source)
    spent = time.process_time() - started
    for entry in rules.values():
        for found in entry["removed"].values():
            found["share"] = found["documents"] / entry["documents"]
    seconds = spent * total / max(num_bytes, 1) / _READ_SHARE / options.processes(total) + _TOKENIZER_SECONDS
    return {
        "files": len(files),
        "input_bytes": total,
        "sample_documents": documents,
        "sample_quarantined": len(reader.quarantined),
        "seconds": seconds,
        "disk_bytes": round(_DISK_FACTOR * total),
        "rules": dict(sorted(rules.items())),
    }
