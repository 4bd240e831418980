"""The table of quality rules; normalised documents in, one verdict a rule and document out.

Sources: Gopher (Rae et al. 2021, arXiv 2112.11446, section A.1.1 and table A1), C4 (Raffel et al. 2020,
arXiv 1910.10683, section 2.2), FineWeb (Penedo et al. 2024, arXiv 2406.17557, section 3.6), Codex (Chen et
al. 2021, arXiv 2107.03374, section 3.1), StarCoder (Li et al. 2023, arXiv 2305.06161, section 3.2). Where a
published rule leaves room, it is read as datatrove 0.10 reads it; tests/data/test_rules.py compares them.
C4's rules for lines decide which lines count, and no line is taken out of a text.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stepladder.data.quality.measures import REPEATED_NGRAMS, TOP_NGRAMS, count_sentences, measure
from stepladder.errors import DataError, did_you_mean

DOMAINS = ("prose", "reference", "code")
SETS = ("gopher", "gopher_repetition", "c4", "fineweb", "code", "reference", "own")
# Of a longer text only the beginning is judged: the arrays of this many characters take about 300 MB.
LONGEST_CHARS = 1 << 21
_LONGEST_WORD, _LINE_WORDS, _SENTENCES = 1000, 3, 5
_CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
_POLICY = r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
_LINE_BREAKS = r"[\x{85}\x{2028}\x{2029}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule: `broken` makes the expression that is true where it is, over the columns of `needs`.

    `needs` is "plain", "words" or "lines" (of C4); `ngram` is the n of the n-grams that it counts.

    `on` names the domains where it removes documents unless it is turned off; `domains` those where turning
    it on has an effect.
    """

    name: str
    group: str
    domains: tuple[str, ...]
    on: tuple[str, ...]
    needs: str
    broken: Callable[[], Any]
    ngram: int = 0


def rules() -> tuple[Rule, ...]:
    """All rules, in the order of their credit."""
    return _rules()


def chosen(rules_on: Iterable[str] = (), rules_off: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """Name of each rule that is on → the domains where it is; `rules_off` wins over `rules_on`.

    Raises:
        DataError: a name is of no rule and no set.
    """
    on, off = set(rules_on), set(rules_off)
    known = [*SETS, *(rule.name for rule in rules())]
    unknown = sorted((on | off) - set(known))
    if unknown:
        raise DataError(
            f'no quality rule or set of rules is called "{unknown[0]}"{did_you_mean(unknown[0], known)}',
            got=", ".join(unknown),
            allowed=", ".join(known),
        )
    out = {}
    for rule in rules():
        named = {rule.name, rule.group}
        # The name of a rule says more than that of its set.
        is_off = rule.name in off or (rule.group in off and rule.name not in on)
        domains = rule.domains if named & on else rule.on
        if domains and not is_off:
            out[rule.name] = domains
    return out


def broken(frame: Any, names: dict[str, tuple[str, ...]]) -> Any:
    """For each document of `frame` (text, domain) the first rule among `names` that it breaks, else null."""
    import polars as pl

    out = pl.Series([None] * len(frame), dtype=pl.String)
    for domain in frame["domain"].unique(maintain_order=True).to_list():
        on = [rule for rule in rules() if domain in names.get(rule.name, ())]
        rows = (frame["domain"] == domain).arg_true()
        if on and len(rows):
            found = _verdicts(frame[rows], on)
            first = found.select(
                pl.coalesce(
                    *(pl.when(pl.col(rule.name)).then(pl.lit(rule.name)) for rule in on),
                    pl.lit(None, dtype=pl.String),
                )
            ).to_series()
            out = out.scatter(rows, first)
    return out


def verdicts(frame: Any) -> Any:
    """One boolean column a rule, one row a document of `frame` (text as `normalise` leaves it, domain).

    Every rule is asked of every document, whatever its domain and whether the rule is on. An empty text
    breaks none.
    """
    return _verdicts(frame, list(rules()))


def _verdicts(frame: Any, wanted: list[Rule]) -> Any:
    import polars as pl

    if not len(frame):
        return pl.DataFrame(schema=dict.fromkeys((rule.name for rule in wanted), pl.Boolean))
    needs = {rule.needs for rule in wanted}
    text = pl.col("text")
    beginning = pl.when(text.str.len_chars() > LONGEST_CHARS).then(text.str.slice(0, LONGEST_CHARS) + "\n")
    frame = frame.select(beginning.otherwise(text).alias("text"), "domain")
    if "plain" in needs:
        frame = frame.with_columns(**plain_measures())
    if "words" in needs:
        found = measure(frame["text"], {rule.ngram for rule in wanted})
        frame = frame.with_columns(pl.Series(name, values) for name, values in found.items())
    if "lines" in needs:
        frame = frame.with_columns(c4_measures(frame["text"]))
    return frame.select(
        ((text != "") & rule.broken()).fill_null(value=False).alias(rule.name) for rule in wanted
    )


def plain_measures() -> dict[str, Any]:
    """Name → expression of what the rules of code and our own look at."""
    import polars as pl

    text = pl.col("text")
    lines = text.str.split("\n")
    return {
        "m_chars": text.str.len_chars(),
        "m_words": text.str.count_matches(r"\S+"),
        "m_lines": lines.list.len() - 1,
        "m_longest": lines.list.eval(pl.element().str.len_chars()).list.max(),
        "m_alnum": text.str.replace_all(r"[^\p{L}\p{N}]+", "").str.len_chars(),
        "m_lettered": text.str.count_matches(r"\S*\p{L}\S*"),
        "m_digits": text.str.replace_all(r"[^0-9]+", "").str.len_bytes(),
        "m_generated": text.str.slice(0, 600).str.contains(
            r"(?i)auto-?generated|automatically generated|generated automatically|@generated|do not edit"
        ),
    }


def c4_measures(texts: Any) -> Any:
    """A frame of c_lorem, c_curly (booleans) and c_sentences: what C4 finds in the lines that it keeps.

    A line counts when it has no word of more than 1,000 characters, ends with a terminal mark and not with an
    ellipsis (citations aside), has three words or more and names neither scripts nor policies.
    """
    import polars as pl

    line, kept = pl.col("line"), pl.col("kept")
    frame = (
        pl.DataFrame({"line": texts.str.replace_all(_LINE_BREAKS, "\n").str.split("\n")})
        .with_row_index("document")
        .explode("line")
        .with_columns(line.str.strip_chars())
        # With its citations a line may end with a bracket.
        .filter(line.str.contains(r"[.?!\"'\]]$"))
        .with_columns(line.str.replace_all(_CITATION, "").alias("kept"))
        .filter(kept.str.contains(r"[.?!\"']$"), ~kept.str.ends_with("..."))
        .filter(line.str.count_matches(r"\S+") >= _LINE_WORDS)
    )
    long = frame["line"].str.len_chars() > _LONGEST_WORD
    if long.any():
        words = frame["line"].str.extract_all(r"\S+").list.eval(pl.element().str.len_chars().max())
        frame = frame.filter(words.list.first() <= _LONGEST_WORD)
    lower = frame["kept"].str.to_lowercase()
    lorem = lower.str.contains("lorem ipsum", literal=True)
    script = lower.str.contains("javascript", literal=True)
    curly = ~script & frame["kept"].str.contains("{", literal=True)
    counted = frame.filter(~script & ~lower.str.contains(_POLICY))
    sentences = count_sentences(counted["kept"] + "\n")
    size = len(texts)

    def mark(rows: Any) -> pl.Series:
        return pl.Series([False] * size, dtype=pl.Boolean).scatter(rows.unique(), True)

    total = pl.DataFrame({"document": counted["document"], "n": sentences}).group_by("document").sum()
    return pl.DataFrame(
        {
            "c_lorem": mark(frame["document"].filter(lorem)),
            "c_curly": mark(frame["document"].filter(curly)),
            "c_sentences": pl.Series([0] * size, dtype=pl.Int64).scatter(total["document"], total["n"]),
        }
    )


@functools.cache
def _rules() -> tuple[Rule, ...]:
    return (*_own_rules(), *_gopher_rules(), *_repetition_rules(), *_web_rules(), *_code_rules())


def _rule(
    name: str,
    needs: str,
    broken: Callable[[], Any],
    group: str = "own",
    domains: tuple[str, ...] = ("prose",),
    *,
    is_on: bool = True,
    ngram: int = 0,
) -> Rule:
    on = domains if is_on else ()
    return Rule(name=name, group=group, domains=domains, on=on, needs=needs, broken=broken, ngram=ngram)


def _share(part: str, whole: str) -> Any:
    import polars as pl

    return pl.col(part) / pl.col(whole)


# A published rule is on when it takes at most 3 % of the prose of installed packages (257 descriptions,
# manuals and READMEs, most of them sound); the share in % stands beside those that take more.


def _own_rules() -> list[Rule]:
    import polars as pl

    # Gopher asks for 50 words; a README of 30 words is a whole document, not a torn web page.
    shortest = pl.when(pl.col("domain") == "prose").then(20).otherwise(10)
    return [
        _rule("too_short", "plain", lambda: pl.col("m_words") < shortest, domains=DOMAINS),
        # What Gopher's rule for letters is to text with markup: asked of words between blanks.
        _rule("few_letters", "plain", lambda: _share("m_lettered", "m_words") < 0.6),
    ]


def _gopher_rules() -> list[Rule]:
    import polars as pl

    rule = functools.partial(_rule, needs="words", group="gopher")
    words, solid, text = pl.col("q_words"), pl.col("q_solid_words"), pl.col("text")
    length = _share("q_solid_chars", "q_solid_words")
    dots = text.str.count_matches("...", literal=True) + text.str.count_matches("…", literal=True)
    hashes = text.str.count_matches("#", literal=True)
    far = (solid > 0) & ((length < 3) | (length > 10))
    symbols = (words > 0) & ((hashes / words > 0.1) | (dots / words > 0.1))
    unlettered = (words > 0) & (_share("q_letter_words", "q_words") < 0.8)
    return [
        rule("gopher_too_short", broken=lambda: solid < 50, is_on=False),  # 5.8
        rule("gopher_too_long", broken=lambda: solid > 100_000),
        rule("gopher_word_length", broken=lambda: far, is_on=False),  # 7.0: links are long words
        rule("gopher_symbols", broken=lambda: symbols),
        rule("gopher_ellipsis", broken=lambda: _share("q_ellipses", "q_lines") > 0.3),
        rule("gopher_bullets", broken=lambda: _share("q_bullets", "q_lines") > 0.9),
        rule("gopher_letters", broken=lambda: unlettered, is_on=False),  # 56.8: marks are words
        rule(
            "gopher_stop_words", broken=lambda: pl.col("q_stop_words") < 2, is_on=False
        ),  # 12.5, English only
    ]


def _repetition_rules() -> list[Rule]:
    rule = functools.partial(_rule, needs="words", group="gopher_repetition")

    def above(part: str, whole: str, limit: float) -> Callable[[], Any]:
        return lambda: _share(part, whole) > limit

    return [
        rule("gopher_repeated_paragraphs", broken=above("q_repeat_paragraphs", "q_paragraphs", 0.3)),
        rule("gopher_repeated_paragraph_chars", broken=above("q_repeat_paragraph_chars", "q_chars", 0.2)),
        rule("gopher_repeated_lines", broken=above("q_repeat_lines", "q_parts", 0.3)),
        rule("gopher_repeated_line_chars", broken=above("q_repeat_line_chars", "q_chars", 0.2)),
        *(
            # 1.6, 6.6 and 10.1 for n of 2 to 4: rows of = below titles and borders of tables.
            rule(f"gopher_top_{n}_gram", broken=above(f"q_top_{n}", "q_chars", limit), is_on=n == 2, ngram=n)
            for n, limit in TOP_NGRAMS.items()
        ),
        *(
            # 7.8, 7.4, 7.4, 6.2, 6.2 and 6.2 for n of 5 to 10: lists of changes and of links.
            rule(
                f"gopher_repeated_{n}_grams",
                broken=above(f"q_repeated_{n}", "q_chars", limit),
                is_on=False,
                ngram=n,
            )
            for n, limit in REPEATED_NGRAMS.items()
        ),
    ]


def _web_rules() -> list[Rule]:
    import polars as pl

    c4 = functools.partial(_rule, needs="lines", group="c4")
    fineweb = functools.partial(_rule, needs="words", group="fineweb", is_on=False)
    repeated = pl.col("q_filled_repeat_chars") / (pl.col("q_chars") - pl.col("q_newlines"))
    lists = (pl.col("q_words") > 0) & (_share("q_newlines", "q_words") > 0.3)
    return [
        c4("c4_lorem_ipsum", broken=lambda: pl.col("c_lorem")),
        c4("c4_curly_bracket", broken=lambda: pl.col("c_curly"), is_on=False),  # 4.7
        c4("c4_few_sentences", broken=lambda: pl.col("c_sentences") < _SENTENCES, is_on=False),  # 55.6
        fineweb("fineweb_line_ends", broken=lambda: _share("q_ended_lines", "q_filled_lines") < 0.12),  # 58.0
        fineweb(
            "fineweb_short_lines", broken=lambda: _share("q_short_lines", "q_filled_lines") > 0.67
        ),  # 41.3
        fineweb("fineweb_repeated_chars", broken=lambda: repeated > 0.01),  # 31.5
        fineweb("fineweb_lists", broken=lambda: lists),  # 41.3
    ]


def _code_rules() -> list[Rule]:
    import polars as pl

    chars = pl.col("m_chars")
    alnum, digits = pl.col("m_alnum") / chars, pl.col("m_digits") / chars
    reference = functools.partial(_rule, needs="plain", group="reference", domains=("reference",))
    code = functools.partial(_rule, needs="plain", group="code", domains=("code",))
    return [
        # Reference text (licences, manual pages, lists of authors) breaks the rules for prose by its nature.
        reference("low_alphanumeric", broken=lambda: alnum < 0.25),
        code("code_generated", broken=lambda: pl.col("m_generated")),
        code("code_longest_line", broken=lambda: pl.col("m_longest") > 1000),
        code("code_mean_line", broken=lambda: chars / pl.col("m_lines") > 100),
        code("code_low_alphanumeric", broken=lambda: alnum < 0.25),
        # Tables of numbers in source form (character maps, test vectors): our own measurement.
        code("code_numbers", broken=lambda: digits > 0.25),
    ]
