"""Verdicts over all documents in; the figures of the corpus as JSON values out (`audit.json`).

Totals add up, in documents and in bytes: input = kept + removed + quarantined (+ trimmed, for bytes).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from stepladder.data.decide import Documents

_EXAMPLES, _LISTED = 3, 30
# What each rule looks at, for people who read the card.
RULES = {
    "empty": "no text but blanks",
    "language": "not one of the asked languages",
    "too_short": "fewer words than a document of its domain has",
    "gopher_too_long": "more than 100,000 words",
    "gopher_word_length": "mean word length outside 3 to 10 characters",
    "gopher_symbols": "more than one # or ... in ten words",
    "gopher_ellipsis": "more than 30 % of the lines end with an ellipsis",
    "gopher_bullets": "more than 90 % of the lines are bullets",
    "gopher_letters": "fewer than 60 % of the words have a letter",
    "gopher_repeated_lines": "more than 30 % of the lines are repeats",
    "c4_lorem_ipsum": "placeholder text",
    "low_alphanumeric": "less than 25 % letters and digits",
    "code_generated": "its head says that a program wrote it",
    "code_longest_line": "a line of more than 1,000 characters",
    "code_mean_line": "lines of more than 100 characters in the mean",
    "code_low_alphanumeric": "less than 25 % letters and digits",
    "code_numbers": "more than a quarter of the characters are digits",
    "exact_duplicate": "the same text as another document",
    "near_duplicate": "word 5-grams almost as in another, longer document",
    "only_boilerplate": "more than half of it were lines that many other documents have",
    "heldout_overlap": "held out, but 30 % or more of its long lines stand in training text",
}


def make_audit(
    documents: Documents,
    quarantined: Sequence[dict[str, Any]],
    trimmed: Sequence[dict[str, Any]],
    index: dict[str, Any],
    unit: str,
) -> dict[str, Any]:
    """The audit of a corpus: totals, removals with examples, trims, and what the kept text consists of."""
    raw, clean, rest = documents.column("raw_bytes"), documents.column("num_bytes"), documents.rest
    kept = documents.stays
    totals = {
        "input_documents": len(kept) + len(quarantined),
        "kept_documents": int(kept.sum()),
        "removed_documents": int((~kept).sum()),
        "quarantined_documents": len(quarantined),
        "input_bytes": int(raw.sum()) + sum(entry["num_bytes"] for entry in quarantined),
        "kept_bytes": int(rest[kept].sum()),
        "removed_bytes": int(raw[~kept].sum()),
        "quarantined_bytes": sum(entry["num_bytes"] for entry in quarantined),
        "normalised_bytes": int((raw - clean)[kept].sum()),
        "boilerplate_bytes": int((clean - rest)[kept].sum()),
    }
    splits = index["splits"]
    assert totals["kept_documents"] == sum(entry["documents"] for entry in splits.values())
    assert totals["kept_bytes"] == sum(entry["num_bytes"] for entry in splits.values())
    return {
        "totals": totals,
        "removed": _removed(documents),
        "boilerplate": {
            "lines": sum(result["lines"] for result in trimmed),
            "documents": sum(result["shorter_documents"] for result in trimmed),
            "examples": _line_examples(trimmed),
        },
        "quarantined": _quarantined(quarantined),
        "sources": _shares(documents, "source"),
        "domains": _shares(documents, "domain"),
        "languages": _shares(documents, "language"),
        "licences": _shares(documents, "licence"),
        "rules_by_domain": _by_domain(documents),
        "lengths": _lengths(rest[kept]),
        "held_out_unit": unit,
        "splits": {
            name: {
                "documents": entry["documents"],
                "tokens": entry["tokens"],
                "num_bytes": entry["num_bytes"],
                "bytes_per_token": round(entry["num_bytes"] / max(entry["tokens"], 1), 4),
            }
            for name, entry in splits.items()
        },
        "vocab_size": index["vocab_size"],
    }


def _removed(documents: Documents) -> dict[str, Any]:
    raw, names, heads = (documents.column(name) for name in ("raw_bytes", "file", "head"))
    out = {}
    present = set(documents.rule) - {""}
    for rule in [*(r for r in RULES if r in present), *sorted(present - set(RULES))]:
        rows = np.flatnonzero(documents.rule == rule)
        # The first, the middle and the last: three neighbours would often be of one package.
        picks = dict.fromkeys([0, len(rows) // 2, len(rows) - 1])
        examples = []
        for row in (int(rows[pick]) for pick in picks):
            example: dict[str, Any] = {"source": str(names[row]), "head": str(heads[row])}
            if documents.like[row] >= 0:
                example["like"] = str(names[documents.like[row]])
                example["similarity"] = round(float(documents.similarity[row]), 3)
            elif rule == "heldout_overlap":
                example["similarity"] = round(float(documents.similarity[row]), 3)
            examples.append(example)
        out[rule] = {
            "why": RULES.get(rule, ""),
            "documents": len(rows),
            "num_bytes": int(raw[rows].sum()),
            "examples": examples,
        }
    return out


def _line_examples(trimmed: Sequence[dict[str, Any]]) -> list[str]:
    count = Counter(line.strip() for result in trimmed for line in result["examples"])
    return [line[:200] for line, _ in sorted(count.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]]


def _quarantined(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reasons = Counter(entry["reason"].split(" at offset")[0].split(": byte")[0] for entry in entries)
    return {
        "documents": len(entries),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]),
        "examples": [
            {"source": entry["source"], "place": entry["place"], "reason": entry["reason"]}
            for entry in entries[:_EXAMPLES]
        ],
    }


def _shares(documents: Documents, column: str) -> dict[str, dict[str, int]]:
    """For each value of a column among kept documents: documents and bytes, the largest first."""
    kept = documents.stays
    values, inverse = np.unique(documents.column(column)[kept].astype(str), return_inverse=True)
    count = np.bincount(inverse, minlength=len(values))
    size = np.bincount(inverse, weights=documents.rest[kept], minlength=len(values))
    order = sorted(range(len(values)), key=lambda i: (-size[i], values[i]))
    return {str(values[i]): {"documents": int(count[i]), "num_bytes": int(size[i])} for i in order}


def _by_domain(documents: Documents) -> dict[str, dict[str, int]]:
    pairs = Counter(
        (str(domain), str(rule) or "kept")
        for domain, rule in zip(documents.column("domain"), documents.rule, strict=True)
    )
    out: dict[str, dict[str, int]] = {}
    for (domain, rule), count in sorted(pairs.items()):
        out.setdefault(domain, {})[rule] = count
    return out


def _lengths(sizes: np.ndarray) -> dict[str, int]:
    points = {"smallest": 0, "p10": 10, "median": 50, "p90": 90, "largest": 100}
    return {name: int(np.percentile(sizes, at, method="nearest")) for name, at in points.items()}
