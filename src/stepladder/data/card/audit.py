"""The sum of all tallies in; the figures of the corpus as JSON values out (`audit.json`).

Totals add up, in documents and in bytes: input = kept + removed + quarantined (+ trimmed, for bytes).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepladder.data.card.tally import by_doubling, quantiles
from stepladder.data.copies.lines import heads
from stepladder.data.labels import NOBODY

_EXAMPLES, _FREQUENT, _LISTED = 3, 10, 30
_SEARCH = ("candidates", "joined", "similarities", "jaccard", "bands", "band_rows")
# What each rule looks at, for people who read the card.
RULES = {
    "empty": "no text but blanks",
    "language": "not one of the asked languages",
    "too_short": "fewer words than a document of its domain has",
    "few_letters": "fewer than 60 % of the words have a letter",
    "gopher_too_short": "fewer than 50 words that are no marks",
    "gopher_too_long": "more than 100,000 words",
    "gopher_word_length": "mean word length outside 3 to 10 characters",
    "gopher_symbols": "more than one # or ... in ten words",
    "gopher_ellipsis": "more than 30 % of the lines end with an ellipsis",
    "gopher_bullets": "more than 90 % of the lines are bullets",
    "gopher_letters": "fewer than 80 % of the words and marks have a letter",
    "gopher_stop_words": "fewer than two of eight frequent English words",
    "gopher_repeated_paragraphs": "more than 30 % of the paragraphs are repeats",
    "gopher_repeated_paragraph_chars": "more than 20 % of the characters are in repeated paragraphs",
    "gopher_repeated_lines": "more than 30 % of the lines are repeats",
    "gopher_repeated_line_chars": "more than 20 % of the characters are in repeated lines",
    **{
        f"gopher_top_{n}_gram": f"its most frequent {n} words in a row are too much of it"
        for n in range(2, 5)
    },
    **{f"gopher_repeated_{n}_grams": f"too much of it are {n} words in a row again" for n in range(5, 11)},
    "c4_lorem_ipsum": "placeholder text",
    "c4_curly_bracket": "a sentence with a curly bracket",
    "c4_few_sentences": "fewer than five sentences on lines that end like sentences",
    "fineweb_line_ends": "fewer than 12 % of the lines end like a sentence",
    "fineweb_short_lines": "more than 67 % of the lines have at most 30 characters",
    "fineweb_repeated_chars": "more than 1 % of the characters are in repeated lines",
    "fineweb_lists": "more than three line ends in ten words",
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
    "contaminated": "training text that holds half or more of an example of an evaluation set",
}


def make_audit(
    work: Path,
    tallied: dict[str, Any],
    quarantined: Mapping[str, Any],
    trimmed: Sequence[dict[str, Any]],
    index: dict[str, Any],
    decided: Mapping[str, Any],
) -> dict[str, Any]:
    """The audit of a corpus: totals, removals with examples, trims, and what the kept text consists of.

    `tallied` is the sum over all parts, `decided` the unit that was held out and the candidates compared.
    """
    totals = dict(tallied["totals"])
    for end in ("documents", "bytes"):
        count = quarantined["documents" if end == "documents" else "num_bytes"]
        totals[f"quarantined_{end}"] = count
        totals[f"input_{end}"] += count
    splits = index["splits"]
    planted = tallied.get("canaries") or {"documents": 0, "num_bytes": 0}
    for end in ("documents", "num_bytes"):
        kept = totals[f"kept_{end.removeprefix('num_')}"] + planted[end]
        assert kept == sum(entry[end] for entry in splits.values())
    return {
        "totals": totals,
        "removed": _removed(work, tallied["removed"]),
        "near_duplicates": {name: decided[name] for name in _SEARCH},
        "boilerplate": {
            "lines": sum(result["lines"] for result in trimmed),
            "documents": sum(result["shorter_documents"] for result in trimmed),
            **_line_examples(trimmed),
        },
        "quarantined": dict(quarantined),
        "pii": decided["pii"],
        "contamination": _with_files(work, decided["contamination"]),
        "ngrams": decided["ngrams"],
        "profile": tallied["profile"],
        **({"canaries": planted} if planted["documents"] else {}),
        **{name: _largest_first(tallied[name]) for name in ("sources", "domains", "languages", "licences")},
        "rules_by_domain": tallied["rules_by_domain"],
        "lengths": quantiles(tallied),
        "length_histogram": by_doubling(tallied),
        "held_out_unit": decided["unit"],
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
        "vocabulary": decided["vocabulary"],
    }


def _removed(work: Path, removed: Mapping[str, Any]) -> dict[str, Any]:
    """Removals in the order of the rules; examples name the document that stands for the removed one."""
    out = {}
    for rule in [*(r for r in RULES if r in removed), *sorted(set(removed) - set(RULES))]:
        examples = []
        for drawn in removed[rule]["examples"]:
            example: dict[str, Any] = {"source": drawn["source"], "head": drawn["head"]}
            if drawn["like"] != NOBODY:
                example["like"] = heads(work, drawn["like"])[0]
            if drawn["like"] != NOBODY or rule in ("heldout_overlap", "contaminated"):
                example["similarity"] = drawn["similarity"]
            examples.append(example)
        out[rule] = {"why": RULES.get(rule, ""), **removed[rule], "examples": examples}
    return out


def _with_files(work: Path, contamination: Mapping[str, Any]) -> dict[str, Any]:
    """The summary by evaluation set; its worst examples name the file that holds them."""
    return {
        name: {
            **entry,
            "worst": [{**one, "document": heads(work, one["document"])[0]} for one in entry["worst"]],
        }
        for name, entry in contamination.items()
    }


def _largest_first(entries: Mapping[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return dict(sorted(entries.items(), key=lambda item: (-item[1]["num_bytes"], item[0])))


def _line_examples(trimmed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The most frequent lines and at least how many documents they were cut out of (parts list their top)."""
    count: Counter[str] = Counter()
    for result in trimmed:
        count.update(dict(result["examples"]))
    top = dict(sorted(count.items(), key=lambda item: (-item[1], item[0]))[:_FREQUENT])
    return {"examples": list(top)[:_EXAMPLES], "frequent": top}


def quarantine_of(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all tasks put into quarantine: documents, num_bytes, the most frequent reasons, examples."""
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part["reasons"])
    return {
        "documents": sum(part["documents"] for part in parts),
        "num_bytes": sum(part["num_bytes"] for part in parts),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]),
        "examples": [example for part in parts for example in part["examples"]][:_EXAMPLES],
    }
