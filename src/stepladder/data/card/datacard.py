"""An audit in; the text of DATA_CARD.md out: what came in, what each step removed and why, what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.data.card.limits import (
    canary_section,
    evaluation_sets,
    inline,
    personal_data,
    profile_sections,
    table,
    uses_and_limits,
)
from stepladder.data.options import CorpusOptions
from stepladder.units import format_bytes, format_count

_ROWS = 12


def data_card(audit: Mapping[str, Any], options: CorpusOptions, sources: Sequence[str]) -> str:
    """Markdown of the card; the same bytes for the same corpus."""
    totals = audit["totals"]
    parts = [
        "# Data card",
        f"Sources: {', '.join(f'`{source}`' for source in sources)}. Seed {options.seed}.",
        "## What came in and what is left",
        table(
            ["", "documents", "bytes", "share of bytes"],
            [
                _total_row("came in", totals["input_documents"], totals["input_bytes"], totals),
                _total_row(
                    "quarantined", totals["quarantined_documents"], totals["quarantined_bytes"], totals
                ),
                _total_row("removed", totals["removed_documents"], totals["removed_bytes"], totals),
                _total_row("normalised away", "", totals["normalised_bytes"], totals),
                _total_row("boilerplate lines", "", totals["boilerplate_bytes"], totals),
                _total_row("kept", totals["kept_documents"], totals["kept_bytes"], totals),
            ],
        ),
        "## Splits",
        table(
            ["split", "documents", "tokens", "bytes", "bytes per token"],
            [
                [name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['num_bytes']:,}", s["bytes_per_token"]]
                for name, s in audit["splits"].items()
            ],
        ),
        _split_sentence(audit, options),
        "## What each rule removed",
        *_rules(audit),
        "## Boilerplate lines",
        f"{audit['boilerplate']['lines']:,} long lines that stood in three or more earlier documents were "
        f"taken out of {audit['boilerplate']['documents']:,} documents (in code only comments).",
        *[f"- `{inline(line)}`" for line in audit["boilerplate"]["examples"]],
        "## Quarantined",
        *_quarantine(audit["quarantined"]),
        "## What the kept text is",
        *[part for name in ("domains", "languages", "licences") for part in _shares(audit, name)],
        "Licences are guesses from SPDX tags, package metadata and phrases of licence texts, not legal "
        "advice. Languages are py3langid's; code is not identified, short or unsure text is `unknown`.",
        "## Length of kept documents, bytes",
        table(list(audit["lengths"]), [[f"{value:,}" for value in audit["lengths"].values()]]),
        *profile_sections(audit.get("profile")),
        *personal_data(audit.get("pii"), options.cleaning.pii),
        *evaluation_sets(audit.get("contamination")),
        *canary_section(audit.get("canaries")),
        *_examples_found(audit.get("contamination")),
        "## Uses, limits and biases",
        *[f"- {sentence}" for sentence in uses_and_limits(audit)],
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _total_row(name: str, documents: int | str, num_bytes: int, totals: Mapping[str, int]) -> list[Any]:
    share = num_bytes / max(totals["input_bytes"], 1)
    count = f"{documents:,}" if isinstance(documents, int) else documents
    return [name, count, f"{num_bytes:,}", f"{share:.1%}"]


def _split_sentence(audit: Mapping[str, Any], options: CorpusOptions) -> str:
    unit = audit["held_out_unit"]
    how = {
        "file": "Whole source files are held out, chosen by a seeded hash of their names.",
        "document": "Single documents are held out by a seeded hash: there were too few files to hold a "
        "whole one out, so that neighbours from one file may stand on both sides.",
        "path": "The held-out text is a source of its own; training copies of it were removed.",
    }[unit]
    return (
        f"{how} Near-duplicates (estimated Jaccard similarity of word 5-grams of {options.dedup.jaccard} or "
        "more) never stand on both sides, and a held-out file that shares 30 % or more of its long lines "
        f"with training text is removed. Vocabulary: {audit['vocab_size']:,} byte-level BPE tokens, trained "
        "on training text only."
    )


def _rules(audit: Mapping[str, Any]) -> list[str]:
    if not audit["removed"]:
        return ["Nothing was removed."]
    rows = [
        [f"`{rule}`", entry["why"], f"{entry['documents']:,}", f"{entry['num_bytes']:,}"]
        for rule, entry in audit["removed"].items()
    ]
    parts = [table(["rule", "why", "documents", "bytes"], rows), "### Examples"]
    for rule, entry in audit["removed"].items():
        parts.append(f"`{rule}`:")
        for example in entry["examples"]:
            like = f", like `{example['like']}`" if "like" in example else ""
            alike = f" ({example['similarity']:.0%})" if "similarity" in example else ""
            head = inline(example["head"])
            parts.append(f"- `{inline(example['source'])}`{like}{alike}" + (f": `{head}`" if head else ""))
    return parts


def _quarantine(quarantined: Mapping[str, Any]) -> list[str]:
    if not quarantined["documents"]:
        return ["Every file and record could be read."]
    lines = [f"{quarantined['documents']:,} files or records could not be read (`quarantine.jsonl.zst`):"]
    return lines + [f"- {count:,}: {inline(reason)}" for reason, count in quarantined["reasons"].items()]


def _examples_found(contamination: Mapping[str, Any] | None) -> list[str]:
    if not contamination:
        return []
    return [
        "A training document is removed when it holds half or more of an example's runs of 8 words "
        "(`contaminated` counts such examples), or when half or more of its own runs stand in one example; "
        "examples of 5 to 7 words (`short`) only as a whole and in short documents, those below 5 "
        "(`unchecked`) not at all. Held-out documents are not compared. Most of an example found in one "
        "training document:",
        *[
            f"- `{inline(name)}`, example {one['example'] + 1}, {one['share']:.0%} in "
            f"`{inline(one['document'])}`: `{inline(one['head'])}`"
            for name, entry in contamination.items()
            for one in entry.get("worst", [])
        ],
    ]


def _shares(audit: Mapping[str, Any], name: str) -> list[str]:
    entries = list(audit[name].items())
    total = sum(entry["num_bytes"] for _, entry in entries)
    rows = [
        [
            inline(key),
            f"{e['documents']:,}",
            format_bytes(e["num_bytes"]),
            f"{e['num_bytes'] / max(total, 1):.1%}",
        ]
        for key, e in entries[:_ROWS]
    ]
    if rest := entries[_ROWS:]:
        size = sum(entry["num_bytes"] for _, entry in rest)
        count = sum(entry["documents"] for _, entry in rest)
        rows.append(
            [
                f"{format_count(len(rest))} more",
                f"{count:,}",
                format_bytes(size),
                f"{size / max(total, 1):.1%}",
            ]
        )
    return [table([name, "documents", "bytes", "share"], rows)]
