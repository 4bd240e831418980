"""The profile of a corpus in; the parts of its card about variety, people, time and limits out."""

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.data.card.mentions import NEAR_WORDS, SMALLEST_COUNT
from stepladder.data.card.profile import FIRST_YEAR, LAST_YEAR
from stepladder.units import format_bytes

_ROWS, _TERMS = 12, 5
# Below this many mentions a ratio between two groups says nothing.
_FEW_MENTIONS = 100
_PII = {
    "replace": "What was found was replaced by a placeholder of its kind",
    "drop": "Documents with a secret or a card number were dropped, other findings replaced",
}


def profile_sections(profile: Mapping[str, Any] | None) -> list[str]:
    """Sections about sources, words, lengths, rude words, groups and time; none without a profile."""
    if not profile:
        return []
    return [
        *_sources(profile),
        *_words(profile),
        *_languages(profile),
        *_lengths(profile),
        *_rude(profile),
        *_mentions(profile),
        *_time(profile),
    ]


def _sources(profile: Mapping[str, Any]) -> list[str]:
    total, variety = profile["totals"]["num_bytes"], profile["variety"]
    rows = []
    for name, entry in list(profile["sources"]["listed"].items())[:_ROWS]:
        own = variety.get(name)
        long = own and own["documents_of_1000_words"]
        rows.append(
            [
                f"`{inline(name)}`",
                f"{entry['documents']:,}",
                format_bytes(entry["num_bytes"]),
                _share(entry["num_bytes"], total),
                f"{own['distinct_5_grams']:.0%}" if own else "",
                f"{own['distinct_in_1000_words']:.0f}" if long else "",
            ]
        )
    rows += _rest(profile["sources"], total, 2)
    return [
        "## Sources and their variety",
        table(["source", "documents", "bytes", "share", "distinct 5-grams", "distinct of 1,000 words"], rows),
        "Distinct 5-grams: of all runs of five words in a source, the share that differ (an estimate, "
        f"standard error {profile['variety_error']:.0%} of the figure). It falls as a source grows, so "
        "compare sources of a size. Distinct of 1,000 words: how many differ among the first thousand "
        "words of a document that has as many, in the mean; this does not depend on size.",
        f"{profile['repeated_lines']:.1%} of the lines that are not blank stood before in the same batch (a "
        "few hundred documents that were read together), such as headings and notices.",
    ]


def _words(profile: Mapping[str, Any]) -> list[str]:
    words = profile["words"]
    listed = ", ".join(f"`{inline(w['word'])}` {w['share']:.1%}" for w in words["most_frequent"])
    return [
        "## Words",
        _sampled(profile),
        f"{words['count']:,} words (runs of letters and digits; scripts without blanks are not parted), "
        f"about {words['distinct']:,} distinct (standard error {words['distinct_error']:.1%}): "
        f"{words['type_token']:.3f} distinct a word. The most frequent: {listed}.",
    ]


def _sampled(profile: Mapping[str, Any]) -> str:
    sampled = profile["sampled"]
    if sampled["one_in"] == 1:
        return "All kept documents were read word by word for this and the sections below."
    return (
        f"One document in {sampled['one_in']}, drawn by a hash of its text, was read word by word for this "
        f"and the sections below: {sampled['documents']:,} documents, {format_bytes(sampled['num_bytes'])}, "
        f"{sampled['share']:.1%} of the bytes. Counts below are of this sample."
    )


def _languages(profile: Mapping[str, Any]) -> list[str]:
    total = profile["totals"]["num_bytes"]
    rows = [
        [inline(name), f"{e['documents']:,}", format_bytes(e["num_bytes"]), _share(e["num_bytes"], total)]
        for name, e in list(profile["languages_by_domain"]["listed"].items())[:_ROWS]
    ]
    rows += _rest(profile["languages_by_domain"], total, 0)
    return ["## Languages by domain", table(["domain / language", "documents", "bytes", "share"], rows)]


def _lengths(profile: Mapping[str, Any]) -> list[str]:
    names = ["smallest", "p10", "median", "p90", "largest"]
    rows = [
        [inline(name), *(f"{entry[key]:,}" for key in names)] for name, entry in profile["lengths"].items()
    ]
    return ["## Length by domain, bytes", table(["domain", *names], rows[:_ROWS])]


def _rude(profile: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, e in profile["rude"].items():
        million = max(e["words"], 1) / 1e6
        flagged = (e["documents_with_profanities"], e["documents_with_slurs"])
        rows.append(
            [
                inline(name),
                f"{e['documents']:,}",
                *(f"{count:,}" for count in flagged),
                f"{e['profanities'] / million:.1f}",
                f"{e['slurs'] / million:.1f}",
            ]
        )
    head = [
        "domain",
        "documents",
        "with profanity",
        "with slur",
        "profanities / 1 M words",
        "slurs / 1 M words",
    ]
    return [
        "## Rude words (toxicity by word list)",
        table(head, rows[:_ROWS]),
        "Two short lists of English words (kept as salted hashes). They see no insult without a listed "
        "word, no other language and no misspelling, and they flag quotations, dictionaries and word "
        "filters. Removing documents by such lists took out text from and about minorities more than other "
        "text ([Dodge et al. 2021](https://arxiv.org/abs/2104.08758)); nothing was removed by them here.",
    ]


def _mentions(profile: Mapping[str, Any]) -> list[str]:
    words = max(profile["words"]["count"], 1)
    rows = [
        [
            name,
            f"{e['mentions']:,}",
            f"{e['mentions'] * 1e6 / words:.1f}",
            f"{e['documents']:,}",
            f"{e.get('near_rude', 0):,}",
            ", ".join(
                f"`{inline(t['term'])}` {t['documents']} ({t['times']:g}x)" for t in e["near"][:_TERMS]
            ),
        ]
        for name, e in profile["mentions"].items()
    ]
    if not rows:
        return ["## Groups that the text names", "No listed word for a group of people was found."]
    return [
        "## Groups that the text names",
        table(["group", "mentions", "a million words", "documents", "beside a rude word", "near"], rows),
        f"Beside a rude word: mentions with a word of the lists above within {NEAR_WORDS} words. "
        f"Near: words within {NEAR_WORDS} words of a mention, in how many documents, and how many times "
        f"their share there is that in the text as a whole; only those of {SMALLEST_COUNT} documents or "
        "more. The lists of words are small and English, count words and not meanings (Christian is also a "
        "first name), and leave out words that mostly mean something else (black, white, man, child, old, "
        "disabled). A group that is missing was not found by its list, which is not to say that it is not "
        "in the text.",
    ]


def _time(profile: Mapping[str, Any]) -> list[str]:
    dates, years = profile["dates"], {int(year): count for year, count in profile["years"].items()}
    documents = max(profile["totals"]["documents"], 1)
    parts = ["## Time"]
    if dates["earliest"]:
        most = sorted(dates["years"].items(), key=lambda item: (-item[1], item[0]))[:3]
        parts.append(
            f"Dated by their records: {sum(dates['years'].values()):,} of {documents:,} documents, from "
            f"{dates['earliest']} to {dates['latest']}; most in "
            + ", ".join(f"{year} ({count:,})" for year, count in most)
            + f". {dates['unreadable']:,} dates could not be read as ISO dates."
        )
    else:
        parts.append("No document has a date of its own.")
    if years:
        decades: dict[int, int] = {}
        for year, count in years.items():
            decades[year // 10 * 10] = decades.get(year // 10 * 10, 0) + count
        total = sum(years.values())
        peak = max(years, key=lambda year: (years[year], year))
        row = [f"{decades.get(d, 0) / total:.1%}" for d in range(FIRST_YEAR, LAST_YEAR + 1, 10)]
        parts += [
            f"Years that the text names ({total:,} whole numbers from {FIRST_YEAR} to {LAST_YEAR}; some are "
            f"other numbers, such as counts and codes), by decade; the one named most is {peak}:",
            table([f"{d}s" for d in range(FIRST_YEAR, LAST_YEAR + 1, 10)], [row]),
        ]
    return parts


def personal_data(pii: Mapping[str, Mapping[str, int]] | None, mode: str) -> list[str]:
    """The section about personal data and secrets; none where it was not looked for."""
    if not pii:
        return []
    rows = [[kind, f"{e['documents']:,}", f"{e['findings']:,}"] for kind, e in pii.items()]
    return [
        "## Personal data and secrets",
        table(["kind", "documents", "found"], rows),
        f"{_PII.get(mode, 'Findings')}. Patterns and check numbers find these kinds only: names, postal "
        "addresses, and what a text says about a person are not looked for and are still there.",
    ]


def evaluation_sets(contamination: Mapping[str, Any] | None) -> list[str]:
    """The section about text shared with evaluation sets: a row a set, a column a figure of its own."""
    if not contamination:
        return []
    sets = {name: e for name, e in contamination.items() if isinstance(e, Mapping)}
    columns = list(
        dict.fromkeys(k for e in sets.values() for k, v in e.items() if isinstance(v, (int, float)))
    )
    rows = [[f"`{inline(name)}`", *(_figure(key, e.get(key)) for key in columns)] for name, e in sets.items()]
    return [
        "## Text shared with evaluation sets",
        table(["set", *(column.replace("_", " ") for column in columns)], rows),
        "Found by equal runs of words: a translated or reworded question is not found.",
    ]


def canary_section(planted: Mapping[str, Any] | None) -> list[str]:
    """The section about canaries; none where none were planted."""
    if not planted:
        return []
    copies = ", ".join(map(str, planted["copies"]))
    return [
        "## Canaries",
        f"{planted['canaries']:,} random lines were planted in the training text after all "
        f"cleaning, as many with each of {copies} copies: {planted['documents']:,} documents, "
        f"{planted['num_bytes']:,} bytes, listed in canaries.json. They are not counted as kept documents, "
        "and none is held out. `stepladder probe FOLDER` measures what a model keeps of them.",
    ]


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return ""
    # `at_share` counts examples.
    return f"{value:.2%}" if "share" in key and isinstance(value, float) else f"{value:,}"


def uses_and_limits(audit: Mapping[str, Any]) -> list[str]:
    """Sentences on what the corpus is for, what its figures cannot say, and how it leans."""
    profile = audit.get("profile")
    return [
        "Made to train language models and to measure them on text of the same kind. The held-out split "
        "says how well a model predicts such text; it says nothing about other text, about truth or about "
        "safety.",
        *_leanings(audit),
        *(_people(profile) if profile else ["Groups of people, rude words and dates were not counted."]),
        "The quality rules were set on English web text. Other languages, dialects, lists and poems can "
        "break them more often; the removed documents above are counted by rule, not by whether the rule was "
        "right.",
        "Copies are found by equal lines and equal runs of words. Translations and retellings stay.",
        "Licences and languages are guesses by a program. Whoever passes the corpus or a model on has to "
        "check the licences; nobody whose text is in here was asked.",
        *_no_search(audit),
    ]


def _leanings(audit: Mapping[str, Any]) -> list[str]:
    out = []
    for kind, one in (("sources", "source"), ("domains", "domain"), ("languages", "language")):
        entries = audit[kind]
        total = sum(entry["num_bytes"] for entry in entries.values())
        if entries and total:
            name, entry = max(entries.items(), key=lambda item: (item[1]["num_bytes"], item[0]))
            out.append(
                f"{entry['num_bytes'] / total:.0%} of the kept bytes are of the {one} `{inline(name)}`"
            )
    return ["; ".join(out) + ". A model learns what is frequent here as what is usual."] if out else []


def _people(profile: Mapping[str, Any]) -> list[str]:
    found = profile["mentions"]
    men, women = (found.get(f"gender: {who}", {"mentions": 0})["mentions"] for who in ("men", "women"))
    out = []
    if men + women >= _FEW_MENTIONS and min(men, women):
        more, fewer = ("men", "women") if men >= women else ("women", "men")
        out.append(
            f"Words for {more} are {max(men, women) / min(men, women):.1f} times as frequent as words for "
            f"{fewer} ({max(men, women):,} to {min(men, women):,})."
        )
    dated = sum(profile["dates"]["years"].values())
    if dated < profile["totals"]["documents"]:
        undated = 1 - dated / max(profile["totals"]["documents"], 1)
        out.append(f"{undated:.0%} of the documents carry no date that could be read: their age is unknown.")
    return out


def _no_search(audit: Mapping[str, Any]) -> list[str]:
    out = []
    if not audit.get("pii"):
        out.append("Personal data and secrets were not looked for: expect e-mail addresses and names.")
    if not audit.get("contamination"):
        out.append("No evaluation set was compared with the text: scores on public sets may be inflated.")
    return out


def _rest(entries: Mapping[str, Any], total: int, blanks: int) -> list[list[str]]:
    """One row for all names that are not shown."""
    hidden = list(entries["listed"].values())[_ROWS:]
    documents = sum(e["documents"] for e in hidden) + entries["others"]["documents"]
    size = sum(e["num_bytes"] for e in hidden) + entries["others"]["num_bytes"]
    if not documents:
        return []
    return [["all others", f"{documents:,}", format_bytes(size), _share(size, total), *[""] * blanks]]


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table whose columns but the first are aligned to the right."""
    align = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, align, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def inline(text: str) -> str:
    """One line without backticks, at most 100 characters."""
    flat = " ".join(text.replace("`", "'").split())
    return flat if len(flat) <= 100 else flat[:97] + "..."
