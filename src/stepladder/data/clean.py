"""A batch of documents in; normalised text, language, licence and the first broken rule of each out.

All expressions are polars expressions over whole columns. Rules are on by domain: thresholds made for web
prose keep 1 % of source code and manual pages.
"""

import functools
from collections.abc import Iterator
from typing import Any

from stepladder.data.licences import licence_expression
from stepladder.errors import StoreError

UNKNOWN_LANGUAGE = "unknown"
# py3langid is right for 99.3 % of texts at 120 characters and 99.9 % at 500; below 40 letters it guesses.
_LANGUAGE_CHARS, _LANGUAGE_LETTERS, _LANGUAGE_CONFIDENCE = 500, 40, 0.5
_NO_LANGUAGE = ("zxx", "und")


def clean(batch: Any, languages: tuple[str, ...], *, quality: bool = True) -> Any:
    """`batch` with columns text (normalised), language, licence (SPDX or "unknown") and rule (null: kept)."""
    import polars as pl

    frame = normalise(batch)
    frame = frame.with_columns(
        licence_expression(pl.col("text"), pl.col("licence")).alias("licence"),
        pl.Series("language", list(_languages(frame)), dtype=pl.String),
    )
    verdicts = [pl.when(pl.col("text") == "").then(pl.lit("empty"))]
    if quality:
        frame = frame.with_columns(**measures())
        verdicts += [
            pl.when((pl.col("domain") == domain) & broken).then(pl.lit(name))
            for domain, name, broken in rules()
        ]
    if languages:
        other = ~pl.col("language").is_in(["code", *languages])
        verdicts.append(pl.when(other).then(pl.lit("language")))
    return frame.with_columns(pl.coalesce(*verdicts, pl.lit(None, dtype=pl.String)).alias("rule")).drop(
        list(measures()), strict=False
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


def measures() -> dict[str, Any]:
    """Name → expression of what the rules look at; computed once for a batch, dropped afterwards."""
    import polars as pl

    text = pl.col("text")
    lines = text.str.split("\n")
    return {
        "m_chars": text.str.len_chars(),
        "m_solid": text.str.replace_all(r"\s+", "").str.len_chars(),
        "m_words": text.str.count_matches(r"\S+"),
        "m_lines": lines.list.len() - 1,
        "m_longest": lines.list.eval(pl.element().str.len_chars()).list.max(),
        "m_unique_lines": lines.list.eval(pl.element().filter(pl.element() != "")).list.n_unique(),
        "m_filled_lines": text.str.count_matches(r"(?m)^.*\S"),
        "m_alnum": text.str.replace_all(r"[^\p{L}\p{N}]+", "").str.len_chars(),
        "m_digits": text.str.replace_all(r"[^0-9]+", "").str.len_bytes(),
        "m_generated": text.str.slice(0, 600).str.contains(
            r"(?i)auto-?generated|automatically generated|generated automatically|@generated|do not edit"
        ),
    }


def rules() -> Iterator[tuple[str, str, Any]]:
    """(domain, name, expression that is true where the rule is broken), in the order of their credit."""
    import polars as pl

    words, chars, text = pl.col("m_words"), pl.col("m_chars"), pl.col("text")
    share = {"alnum": pl.col("m_alnum") / chars, "digits": pl.col("m_digits") / chars}
    repeated = 1 - pl.col("m_unique_lines") / pl.col("m_filled_lines")
    # Gopher (Rae et al. 2021, arXiv 2112.11446, table A1): at least 50 and at most 100,000 words; mean word
    # length 3 to 10; # or ... to words at most .1; 90 % of lines starting with a bullet; 30 % of lines ending
    # with an ellipsis; 80 % of words with a letter; two of eight English stop words (asked of English only).
    # The lower bound of words is 20 here: a README of 30 words is a whole document, not a torn web page.
    yield "prose", "too_short", words < 20
    yield "prose", "gopher_too_long", words > 100_000
    yield "prose", "gopher_word_length", ~(pl.col("m_solid") / words).is_between(3, 10)
    yield "prose", "gopher_symbols", text.str.count_matches(r"#|\.\.\.|…") > 0.1 * words
    yield "prose", "gopher_ellipsis", text.str.count_matches(r"(?m)(\.\.\.|…)$") > 0.3 * pl.col("m_lines")
    yield "prose", "gopher_bullets", text.str.count_matches(r"(?m)^\s*[-*•]") > 0.9 * pl.col("m_lines")
    yield "prose", "gopher_letters", text.str.count_matches(r"\S*\p{L}\S*") < 0.6 * words
    # Repetition, Gopher table A1: duplicate lines at most 30 %.
    yield "prose", "gopher_repeated_lines", (repeated > 0.3) & (pl.col("m_lines") > 10)
    # C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2): placeholder text.
    yield "prose", "c4_lorem_ipsum", text.str.contains("(?i)lorem ipsum")
    # Reference text (licences, manual pages, lists of authors) breaks the rules for prose by its nature.
    yield "reference", "too_short", words < 10
    yield "reference", "low_alphanumeric", share["alnum"] < 0.25
    # Code: Chen et al. 2021 (Codex, arXiv 2107.03374, section 3.1) and Li et al. 2023 (StarCoder, arXiv
    # 2305.06161, section 3.2): longest line at most 1,000, mean line at most 100, alphanumeric at least 25 %,
    # files that say at their top that a program wrote them.
    yield "code", "too_short", words < 10
    yield "code", "code_generated", pl.col("m_generated")
    yield "code", "code_longest_line", pl.col("m_longest") > 1000
    yield "code", "code_mean_line", chars / pl.col("m_lines") > 100
    yield "code", "code_low_alphanumeric", share["alnum"] < 0.25
    # Tables of numbers in source form (character maps, test vectors): our measurement, no published value.
    yield "code", "code_numbers", share["digits"] > 0.25


def _languages(frame: Any) -> Iterator[str]:
    """py3langid's name of each document's language; "code" for code, "unknown" where short or unsure."""
    for domain, text in frame.select("domain", frame["text"].str.slice(0, _LANGUAGE_CHARS)).iter_rows():
        if domain == "code":
            yield "code"
        elif sum(map(str.isalpha, text)) < _LANGUAGE_LETTERS:
            yield UNKNOWN_LANGUAGE
        else:
            language, confidence = _identifier().classify(text)
            is_sure = confidence >= _LANGUAGE_CONFIDENCE and language not in _NO_LANGUAGE
            yield str(language) if is_sure else UNKNOWN_LANGUAGE


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    try:
        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    except OSError as error:  # it unpacks its model into the folder for temporary files
        raise StoreError(
            "cannot unpack the language model", got=error.strerror or str(error), next_command="df -h /tmp"
        ) from error
