"""A batch of documents in; normalised text, language, licence and the first broken rule of each out.

Rules are on by domain: thresholds made for web prose keep 1 % of source code and manual pages.
"""

from collections.abc import Iterable
from typing import Any

from stepladder.data.quality.language import languages as languages_of
from stepladder.data.quality.rules import broken, chosen
from stepladder.data.sources.licences import licence_expression


def clean(
    batch: Any,
    languages: tuple[str, ...],
    *,
    quality: bool = True,
    rules_on: Iterable[str] = (),
    rules_off: Iterable[str] = (),
) -> Any:
    """`batch` with columns text (normalised), language, licence (SPDX or "unknown") and rule (null: kept).

    `rule` is the first that a document breaks among those that are on for its domain. `rules_on` and
    `rules_off` are names of rules or of sets of rules.

    Raises:
        DataError: a name is of no rule and no set.
    """
    import polars as pl

    names = chosen(rules_on, rules_off)
    frame = normalise(batch)
    frame = frame.with_columns(
        licence_expression(pl.col("text"), pl.col("licence")).alias("licence"),
        languages_of(frame["text"], frame["domain"]).alias("language"),
        (broken(frame, names) if quality else pl.lit(None, dtype=pl.String)).alias("rule"),
    )
    other = ~pl.col("language").is_in(["code", *languages]) if languages else pl.lit(value=False)
    return frame.with_columns(
        pl.when(pl.col("text") == "")
        .then(pl.lit("empty"))
        .when(pl.col("rule").is_null() & other)
        .then(pl.lit("language"))
        .otherwise(pl.col("rule"))
        .alias("rule")
    )


def normalise(batch: Any) -> Any:
    """NFC, line ends as \\n, no control characters, no trailing blanks, no blank lines at either end."""
    import polars as pl

    text = pl.col("text")
    frame = batch.with_columns(
        # NFC changes nothing in ASCII and is the slowest step.
        pl.when(text.str.len_bytes() != text.str.len_chars()).then(text.str.normalize("NFC")).otherwise(text)
    )
    text = (
        pl.col("text")
        .str.replace_all("\r\n", "\n", literal=True)
        .str.replace_all("\r", "\n", literal=True)
        .str.replace_all(r"[\x00-\x08\x0b-\x1f\x7f\x{feff}]", "")
        .str.replace_all(r"[ \t]+\n", "\n")
        .str.replace_all(r"\n{4,}", "\n\n\n")
        .str.strip_chars_start("\n")
        .str.strip_chars_end()
    )
    # One newline ends a document, so that the last line looks like all others to the tokenizer.
    return frame.with_columns(pl.when(text == "").then(text).otherwise(text + "\n").alias("text"))
