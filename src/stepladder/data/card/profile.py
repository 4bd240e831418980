"""A batch of kept documents in; a summary of bounded size that adds up over batches, and final figures, out.

Every part of a summary is a sum, a smallest, a largest, or one of the sketches of `sketches.py`, so that
`merge_profiles` gives the same for every order and every tree of merges. Figures that need words come from a
sample of the documents, drawn by a hash of their text; `sampled` in the output says how much of it there was.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepladder.data.card.mentions import add_mentions, add_rude, mentions, near_terms, rude_words
from stepladder.data.card.sketches import (
    Words,
    add_tables,
    bounded,
    count_table,
    distinct,
    document_keys,
    draw,
    estimate,
    grams,
    join_draws,
    join_registers,
    key_of,
    no_words,
    registers,
    slices,
    write_registers,
)
from stepladder.data.card.tally import BINS_PER_DOUBLING, quantiles

# Measured on 38 MB of Python: 55 MB a CPU second with the words of every document, 190 with one in eight.
ONE_IN, _WHOLE_BYTES = 8, 32_000_000
_COLUMNS = {"sources": "source", "domains": "domain", "licences": "licence", "languages": "language"}
_NAMES, _DOMAINS, _PAIRS, _SOURCES = 500, 64, 1000, 64
_GRAM_WORDS, _BLOCK_WORDS = 5, 1000
_WORD_BITS, _GRAM_BITS, _TABLE_BITS = 12, 10, 13
_DRAWN, _FREQUENT = 2048, 20
# Years that a text of today may speak of; dates of documents may be older.
FIRST_YEAR, LAST_YEAR = 1900, 2035
_DIGIT_0, _UNKNOWN = ord("0"), "unknown"


def one_in(num_bytes: int) -> int:
    """Of how many documents one is looked at word by word, in a corpus of `num_bytes`: of 1, or of 8."""
    return 1 if num_bytes <= _WHOLE_BYTES else ONE_IN


def profile_batch(frame: Any, share: int = 1) -> dict[str, Any]:
    """The summary of some documents as JSON values, below 0.6 MB however many there are.

    `frame` has the string columns text, source, domain, licence, language and date (null or empty: unknown);
    others are not looked at. One document in `share` is read word by word; all parts of a corpus need the
    same `share`.
    """
    import polars as pl

    rows = frame.select(
        "text", pl.col(*_COLUMNS.values(), "date").fill_null("").replace("", _UNKNOWN)
    ).with_columns(
        pl.col("text").str.len_bytes().alias("num_bytes"),
        pl.concat_str("domain", "language", separator=" / ").alias("pair"),
    )
    keys = document_keys(rows["text"])
    chosen = np.flatnonzero((keys >> np.uint64(40)) % np.uint64(share) == 0)
    sample = rows[chosen]
    return {
        "share": share,
        "totals": {
            "documents": rows.height,
            "num_bytes": int(rows["num_bytes"].sum()),
            **_lines(rows["text"]),
        },
        **{name: bounded(_by(rows, column), _NAMES) for name, column in _COLUMNS.items()},
        "pairs": bounded(_by(rows, "pair"), _PAIRS),
        "lengths": bounded(_lengths(rows), _DOMAINS),
        "dates": _dates(rows["date"]),
        "sampled": {"documents": sample.height, "num_bytes": int(sample["num_bytes"].sum())},
        **_word_figures(sample, keys[chosen]),
    }


def _by(rows: Any, column: str) -> dict[str, dict[str, int]]:
    import polars as pl

    found = rows.group_by(column).agg(pl.len().alias("documents"), pl.col("num_bytes").sum())
    return {name: {"documents": n, "num_bytes": size} for name, n, size in found.iter_rows()}


def _lines(texts: Any) -> dict[str, int]:
    """Lines that are not blank, and those of them that stood in the batch before."""
    lines = texts.str.split("\n").explode().str.strip_chars()
    lines = lines.filter(lines != "")
    return {"lines": len(lines), "repeated_lines": len(lines) - lines.n_unique() if len(lines) else 0}


def _lengths(rows: Any) -> dict[str, dict[str, Any]]:
    import polars as pl

    place = (pl.col("num_bytes").clip(1).log(2) * BINS_PER_DOUBLING).floor().cast(pl.Int32)
    size = pl.col("num_bytes")
    found = rows.group_by("domain", place.alias("place")).agg(
        pl.len().alias("count"), size.min().alias("low"), size.max().alias("high")
    )
    out: dict[str, dict[str, Any]] = {}
    for domain, bin_place, count, low, high in found.sort("domain", "place").iter_rows():
        entry = out.setdefault(domain, {"sizes": {}, "smallest": low, "largest": high})
        entry["sizes"][str(bin_place)] = count
        entry["smallest"], entry["largest"] = min(entry["smallest"], low), max(entry["largest"], high)
    return out


def _dates(dates: Any) -> dict[str, Any]:
    day = dates.str.extract(r"^([12]\d{3}(?:-\d\d(?:-\d\d)?)?)(?:[T ].*)?$")
    known = day.drop_nulls()
    years = known.str.slice(0, 4).value_counts()
    without = int(dates.is_in([_UNKNOWN, "None"]).sum())
    return {
        "without": without,
        "unreadable": len(dates) - len(known) - without,
        "years": dict(sorted(years.iter_rows())),
        "earliest": known.min() or "",
        "latest": known.max() or "",
    }


def _word_figures(sample: Any, keys: np.ndarray) -> dict[str, Any]:
    """What needs words, over the documents of the sample; `keys` are theirs."""
    sources, domains = sample["source"].to_list(), sample["domain"].to_list()
    parts = [_slice_figures(no_words(), keys[:0], [], [])]
    for first, words in slices(sample["text"]):
        rows = slice(first, first + words.documents)
        parts.append(_slice_figures(words, keys[rows], sources[rows], domains[rows]))
    return _add_word_figures(parts)


def _slice_figures(
    words: Words, documents: np.ndarray, sources: Sequence[str], domains: Sequence[str]
) -> dict[str, Any]:
    every = np.arange(len(words.keys))
    return {
        "words": {
            "count": len(words.keys),
            "registers": write_registers(registers(words.keys, 0, 1, _WORD_BITS)[0]),
            "table": count_table(words.keys, _TABLE_BITS),
            "drawn": draw(words, every, documents, _DRAWN),
        },
        "variety": _variety(words, sources),
        "years": _years(words),
        "rude": rude_words(words, domains),
        "mentions": mentions(words, documents),
    }


def _variety(words: Words, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By source: words, runs of five words and how many of them differ, and first thousands of words."""
    names, owner = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    size = len(names)
    keys, document = grams(words, _GRAM_WORDS)
    sketches = registers(keys, owner[document], size, _GRAM_BITS)
    first = np.flatnonzero(words.place == 0)
    ends = np.append(first[1:], len(words.keys))
    first = first[ends - first >= _BLOCK_WORDS]
    blocks = np.sort(words.keys[first[:, None] + np.arange(_BLOCK_WORDS)], axis=1)
    different = 1 + np.count_nonzero(np.diff(blocks, axis=1), axis=1)
    of_block = owner[words.document[first]]
    counts = {
        "words": np.bincount(owner[words.document], minlength=size),
        "grams": np.bincount(owner[document], minlength=size),
        "blocks": np.bincount(of_block, minlength=size),
        "distinct_in_blocks": np.bincount(of_block, weights=different, minlength=size),
    }
    return {
        str(name): {
            **{key: int(values[row]) for key, values in counts.items()},
            "registers": write_registers(sketches[row]),
        }
        for row, name in enumerate(names)
    }


def _years(words: Words) -> dict[str, int]:
    """Whole numbers of four digits that can be years: no part of a decimal or of a longer number."""
    start = words.start[words.length == 4]
    digits = words.buffer[start[:, None] + np.arange(4)].astype(np.int64) - _DIGIT_0
    year = digits @ np.array([1000, 100, 10, 1])
    valid = ((digits >= 0) & (digits <= 9)).all(axis=1) & (year >= FIRST_YEAR) & (year <= LAST_YEAR)
    start, year = start[valid], year[valid]
    # The bytes after the text are zeros, which indices below zero reach as well.
    marks, digit = np.array([ord("."), ord(",")]), words.buffer - np.uint8(_DIGIT_0) <= 9
    before = np.isin(words.buffer[start - 1], marks) & digit[start - 2]
    behind = np.isin(words.buffer[start + 4], marks) & digit[start + 5]
    year = year[~(before | behind)]
    counts = np.bincount(year - FIRST_YEAR, minlength=1)
    return {str(FIRST_YEAR + place): int(counts[place]) for place in np.flatnonzero(counts)}


def merge_profiles(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The profile of all parts together, whatever their order and grouping; at least one, of one `share`."""
    shares = {part["share"] for part in parts}
    assert len(shares) == 1, f"profiles of one corpus need one share, got {sorted(shares)}"
    return {
        "share": shares.pop(),
        "totals": _sum([part["totals"] for part in parts]),
        **{name: bounded(_sum([part[name] for part in parts]), _NAMES) for name in _COLUMNS},
        "pairs": bounded(_sum([part["pairs"] for part in parts]), _PAIRS),
        "lengths": bounded(_add_lengths([part["lengths"] for part in parts]), _DOMAINS),
        "dates": _add_dates([part["dates"] for part in parts]),
        "sampled": _sum([part["sampled"] for part in parts]),
        **_add_word_figures(parts),
    }


def _add_word_figures(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    words = [part["words"] for part in parts]
    variety: dict[str, list[Any]] = {}
    for part in parts:
        for name, entry in part["variety"].items():
            variety.setdefault(name, []).append(entry)
    return {
        "words": {
            "count": sum(entry["count"] for entry in words),
            "registers": join_registers([entry["registers"] for entry in words]),
            "table": add_tables([entry["table"] for entry in words]),
            "drawn": join_draws([entry["drawn"] for entry in words], _DRAWN),
        },
        "variety": bounded(
            {
                name: {
                    **_sum([{k: v for k, v in entry.items() if k != "registers"} for entry in entries]),
                    "registers": join_registers([entry["registers"] for entry in entries]),
                }
                for name, entries in variety.items()
            },
            _SOURCES,
        ),
        "years": _sum([part["years"] for part in parts]),
        "rude": add_rude([part["rude"] for part in parts]),
        "mentions": add_mentions([part["mentions"] for part in parts]),
    }


def _sum(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Nested counts, added up; names in order."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, Mapping):
                total[name] = _sum([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return dict(sorted(total.items()))


def _add_lengths(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out = {}
    for name in sorted({name for part in parts for name in part}):
        own = [part[name] for part in parts if name in part]
        out[name] = {
            "sizes": _sum([entry["sizes"] for entry in own]),
            "smallest": min(entry["smallest"] for entry in own),
            "largest": max(entry["largest"] for entry in own),
        }
    return out


def _add_dates(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **_sum([{key: part[key] for key in ("without", "unreadable", "years")} for part in parts]),
        "earliest": min((part["earliest"] for part in parts if part["earliest"]), default=""),
        "latest": max(part["latest"] for part in parts),
    }


def describe(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The final figures of a profile, for `audit["profile"]`: shares in 0 to 1, sizes in bytes.

    Counts under `words`, `variety`, `rude`, `mentions` and `years` are those of the sampled documents.
    """
    totals, sampled, words = profile["totals"], profile["sampled"], profile["words"]
    distinct_words = distinct(words["registers"])
    return {
        "totals": dict(totals),
        "sampled": {
            "one_in": profile["share"],
            **sampled,
            "share": _ratio(sampled["num_bytes"], totals["num_bytes"]),
        },
        **{name: _named(profile[name], totals) for name in _COLUMNS},
        "languages_by_domain": _named(profile["pairs"], totals),
        "lengths": {name: quantiles(entry) for name, entry in profile["lengths"].items()},
        "repeated_lines": _ratio(totals["repeated_lines"], totals["lines"]),
        "words": {
            "count": words["count"],
            "distinct": round(distinct_words),
            "distinct_error": round(1.04 / math.sqrt(1 << _WORD_BITS), 3),
            "type_token": _ratio(distinct_words, words["count"]),
            "most_frequent": _frequent(words),
            "frequent_error": round(math.e / (1 << _TABLE_BITS), 5),
        },
        "variety": {name: _variety_figures(entry) for name, entry in profile["variety"].items()},
        "variety_error": round(1.04 / math.sqrt(1 << _GRAM_BITS), 3),
        "rude": profile["rude"],
        "mentions": near_terms(profile["mentions"], words),
        "dates": dict(profile["dates"]),
        "years": dict(profile["years"]),
    }


def _named(entries: Mapping[str, Any], totals: Mapping[str, int]) -> dict[str, Any]:
    """Entries with the most bytes first; `others` is what the names that are not listed have together."""
    order = sorted(entries.items(), key=lambda item: (-item[1]["num_bytes"], item[0]))
    others = {
        key: totals[key] - sum(entry[key] for entry in entries.values()) for key in ("documents", "num_bytes")
    }
    return {"listed": dict(order), "others": others}


def _frequent(words: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = sorted({word for _, word in words["drawn"]})
    counts = estimate(words["table"], np.array([key_of(word) for word in found], dtype=np.uint64)).tolist()
    order = sorted(zip(found, counts, strict=True), key=lambda pair: (-pair[1], pair[0]))[:_FREQUENT]
    return [{"word": word, "share": _ratio(count, words["count"])} for word, count in order]


def _variety_figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`distinct_in_1000_words` is the mean over documents of so many words, of their first thousand."""
    return {
        "words": entry["words"],
        "distinct_5_grams": min(_ratio(distinct(entry["registers"]), entry["grams"]), 1.0),
        "distinct_in_1000_words": round(_ratio(entry["distinct_in_blocks"], entry["blocks"]), 1),
        "documents_of_1000_words": entry["blocks"],
    }


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 5) if whole else 0.0
