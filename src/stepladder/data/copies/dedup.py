"""Texts in; exact hashes, MinHash sketches and hashes of long lines out, and texts without some lines.

Near-duplicates: 14 bands of 8 MinHash values over word 5-grams propose pairs with probability 1-(1-J^8)^14;
a pair is joined only when the share of equal values among all 112 reaches the wanted Jaccard similarity.
Of the pairs that these bands propose only 13 % have J >= .8, and unverified they chain into huge clusters.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.data.wordkeys import words_of

BANDS, BAND_ROWS, NGRAM = 14, 8, 5
SKETCH_VALUES = BANDS * BAND_ROWS
LONG_LINE_CHARS = 60
# A long line that stands in this many earlier documents is a header that was pasted, not text.
BOILERPLATE_REPEATS = 3
_SKETCH_SEED, _LINE_SEED = 42, 11
_EXACT_SEEDS = (3, 5)
# In code only comments and sentences are taken out: a statement that many files share still belongs there.
_COMMENT = r"^(#|//|/?\*|--|;|\.\.|\"|')"
_STATEMENT = r"[()\[\]{}=]|^(from|import|class|def|return|raise|assert|if|elif|for|while|with|@)\b|[,:\\]$"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """Long lines of documents: each (document, line) once. `removable` lines may be cut as boilerplate."""

    document: np.ndarray
    key: np.ndarray
    removable: np.ndarray


def exact_keys(text: Any) -> np.ndarray:
    """(documents, 2) uint64: 128 bits that stand for each text."""
    return np.stack([text.hash(seed).to_numpy() for seed in _EXACT_SEEDS], axis=1)


def sketches(text: Any) -> tuple[np.ndarray, np.ndarray]:
    """((documents, 112) uint32 MinHash values, boolean: has at least one word 5-gram) of a polars column.

    Words are lower-cased, numbers are all alike and everything else parts words, as in datatrove: texts that
    differ in dates and versions only are copies. Words and n-grams are numpy's, minima are rensa's.
    """
    from rensa import RMinHash

    rows = np.zeros((len(text), SKETCH_VALUES), dtype=np.uint32)
    has_sketch = np.zeros(len(text), dtype=bool)
    for base, words in words_of(text, numbers_alike=True):
        first = words.first_words(NGRAM)
        edges = np.searchsorted(words.document[first], np.arange(words.documents + 1)).astype(np.uint64)
        keys = words.keys(first, NGRAM)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(keys, edges, SKETCH_VALUES, _SKETCH_SEED)
        own = slice(base, base + words.documents)
        rows[own] = np.array(matrix.to_rows(), dtype=np.uint32).reshape(words.documents, SKETCH_VALUES)
        has_sketch[own] = edges[1:] > edges[:-1]
    return rows, has_sketch


def long_lines(text: Any, domain: Any) -> Lines:
    """The long lines of each document of two polars columns."""
    import polars as pl

    lines = split_lines(text, domain).filter(pl.col("is_long"))
    lines = lines.select("document", "key", "removable").unique(maintain_order=True)
    return Lines(
        document=lines["document"].to_numpy(),
        key=lines["key"].to_numpy(),
        removable=lines["removable"].to_numpy(),
    )


def split_lines(text: Any, domain: Any) -> Any:
    """One row a line: document, line, is_long, and for long ones key and removable (else null)."""
    import polars as pl

    stripped = pl.col("line").str.strip_chars()
    is_long = stripped.str.len_chars() >= LONG_LINE_CHARS
    lines = (
        pl.DataFrame({"line": text.str.split("\n"), "domain": domain})
        .with_row_index("document")
        .explode("line", empty_as_null=True)
        .with_columns(is_long.alias("is_long"))
        .with_row_index("place")
    )
    # The costly tests see long lines only.
    extra = (
        lines.filter(pl.col("is_long"))
        .with_columns(stripped.alias("line"))
        .select(
            "place",
            pl.col("line").str.to_lowercase().str.replace_all(r"\s+", " ").hash(_LINE_SEED).alias("key"),
            (
                (pl.col("domain") != "code")
                | pl.col("line").str.contains(_COMMENT)
                | ~pl.col("line").str.contains(_STATEMENT)
            ).alias("removable"),
        )
    )
    return lines.drop("domain").join(extra, on="place", how="left", maintain_order="left")


def without_lines(text: Any, domain: Any, document: np.ndarray, key: np.ndarray) -> tuple[Any, Any]:
    """(texts without the given long lines, frame of document and line of what was taken out).

    `document` and `key` name the lines to go; documents that none of them names are not touched.
    """
    import polars as pl

    touched = pl.Series(np.unique(document), dtype=pl.UInt32)
    named = pl.DataFrame({"document": pl.Series(document, dtype=pl.UInt32), "key": key})
    position = pl.DataFrame(
        {"document": pl.Series(range(len(touched)), dtype=pl.UInt32), "original": touched}
    )
    some = text.gather(touched)
    lines = split_lines(some, domain.gather(touched)).join(position, on="document", maintain_order="left")
    named = named.rename({"document": "original"}).with_columns(pl.lit(True).alias("goes"))
    lines = lines.join(named, on=["original", "key"], how="left", maintain_order="left")
    goes = pl.col("goes").fill_null(False) & pl.col("removable").fill_null(False)
    rest = (
        lines.filter(~goes)
        .group_by("original", maintain_order=True)
        .agg(pl.col("line"))
        .with_columns(pl.col("line").list.join("\n").str.strip_chars_start("\n"))
    )
    all_rows = pl.DataFrame({"text": text}).with_row_index("original")
    changed = all_rows.filter(pl.col("original").is_in(touched.implode())).select("original")
    changed = changed.join(rest, on="original", how="left").with_columns(pl.col("line").fill_null(""))
    merged = all_rows.join(changed, on="original", how="left", maintain_order="left")
    gone = lines.filter(goes).select(pl.col("original").alias("document"), "line")
    return merged.select(pl.coalesce("line", "text").alias("text"))["text"], gone
