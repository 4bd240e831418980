"""The audit of a corpus in; the parts of the report's data section about the text that was kept out."""

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.report import data_figures
from stepladder.report.html import Html, figure, join, paragraph, table, tag
from stepladder.report.sections import Section
from stepladder.report.words import count_of, mapping_of, number_of, percent
from stepladder.units import format_bytes

_ROWS = 8


def left(audit: Mapping[str, Any]) -> Section:
    """Domains, languages and licences of the kept text, and its lengths."""
    rows: list[tuple[str, ...]] = []
    for kind in ("domains", "languages", "licences"):
        entries = {str(name): e for name, e in mapping_of(audit.get(kind)).items() if isinstance(e, Mapping)}
        total = sum(count_of(e, "num_bytes") for e in entries.values()) or 1
        listed = sorted(entries, key=lambda name: -count_of(entries[name], "num_bytes"))
        for name in listed[:_ROWS]:
            rows.append((kind.removesuffix("s"), name or "unknown", *_amounts([entries[name]], total)))
        if rest := listed[_ROWS:]:
            told = f"{len(rest)} more"
            rows.append((kind.removesuffix("s"), told, *_amounts([entries[name] for name in rest], total)))
    pieces = [table(("", "", "documents", "bytes", "share"), _once(rows), numbers=(2, 3, 4))] if rows else []
    specs = {}
    if sizes := mapping_of(audit.get("length_histogram")):
        told = {format_bytes(int(low)): int(count) for low, count in sizes.items()}
        specs["lengths"] = data_figures.length_histogram(told)
        pieces.append(figure("lengths", "Each bar holds documents of up to twice its size."))
    return Section(key="left", title="What is left" if pieces else "", body=join(pieces), figures=specs)


def people(audit: Mapping[str, Any]) -> Section:
    """Personal data, text of evaluation sets, rude words, and the groups that the text names."""
    profile = mapping_of(audit.get("profile"))
    words = max(count_of(profile.get("words"), "count"), 1)
    rude = [
        (
            domain,
            f"{count_of(e, 'words'):,}",
            *_per_million(e, ("profanities", "slurs"), count_of(e, "words")),
        )
        for domain, e in mapping_of(profile.get("rude")).items()
    ]
    mentions = [
        (
            name,
            f"{count_of(e, 'mentions'):,}",
            *_per_million(e, ("mentions",), words),
            f"{count_of(e, 'documents'):,}",
        )
        for name, e in mapping_of(profile.get("mentions")).items()
    ]
    pii = [
        (kind, f"{count_of(e, 'documents'):,}", f"{count_of(e, 'findings'):,}")
        for kind, e in mapping_of(audit.get("pii")).items()
        if count_of(e, "documents")
    ]
    none = (
        f"None found of: {', '.join(mapping_of(audit.get('pii')))}."
        if audit.get("pii")
        else "Not looked for."
    )
    sets, found = _sets(mapping_of(audit.get("contamination")))
    pieces = [
        tag("h4", "Personal data and secrets"),
        table(("kind", "documents", "found"), pii, numbers=(1, 2)) if pii else paragraph(none, class_="note"),
        tag("h4", "Text of evaluation sets"),
        table(sets, found, numbers=range(1, len(sets)))
        if found
        else paragraph("No evaluation set was compared with the text.", class_="note"),
    ]
    if rude:
        head = ("domain", "words read", "profanities a million words", "slurs a million words")
        pieces += [tag("h4", "Rude words"), table(head, rude, numbers=(1, 2, 3))]
    if mentions:
        head = ("group", "mentions", "a million words", "documents")
        pieces += [tag("h4", "Groups that the text names"), table(head, mentions, numbers=(1, 2, 3))]
    if rude or mentions:
        told = "Counted by short English word lists in a sample; what they miss stands in DATA_CARD.md."
        pieces.append(paragraph(told, class_="note"))
    is_told = "pii" in audit or found or rude or mentions
    return Section(
        key="people",
        title="People and tests in the text" if is_told else "",
        body=join(pieces if is_told else []),
    )


def _sets(contamination: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """A row an evaluation set, a column a figure of its own."""
    entries = {str(name): e for name, e in contamination.items() if isinstance(e, Mapping)}
    keys = [k for e in entries.values() for k, v in e.items() if isinstance(v, (int, float))]
    names = list(dict.fromkeys(keys))
    rows = [(name, *[_figure(key, e.get(key)) for key in names]) for name, e in entries.items()]
    return ("set", *[name.replace("_", " ") for name in names]), rows


def trial(name: str, found: Mapping[str, Any]) -> Section:
    """What a change of the data did: rows of text, with, without, difference, low, high."""
    rows = [
        row for rows in found.values() if isinstance(rows, list) for row in rows if isinstance(row, Mapping)
    ]
    if not rows:
        return _mixture(name, mapping_of(found.get("best")))
    keys = [key for row in rows for key, value in row.items() if isinstance(value, (str, int, float))]
    head = list(dict.fromkeys(keys))
    numbers = [i for i, key in enumerate(head) if not any(isinstance(row.get(key), str) for row in rows)]
    cells = [[_figure(key, row.get(key)) for key in head] for row in rows]
    pieces = [table([_WORDS.get(key, key.replace("_", " ")) for key in head], cells, numbers=numbers)]
    drawn = [
        {"text": str(row.get("part", row.get("domain", ""))), **{key: number_of(row[key]) for key in _ENDS}}
        for row in rows
        if all(number_of(row.get(key)) == number_of(row.get(key)) for key in _ENDS)
    ]
    specs = {}
    if drawn:
        specs[name] = data_figures.differences(drawn)
        pieces.insert(0, figure(name, "A bar that crosses the dashed line of zero cannot tell."))
    subject = found.get("subject")
    title = f"What {subject} is worth" if isinstance(subject, str) else f"Trial of the data: {name}"
    note = "Held-out bits per byte without it less those with it: above zero it helps." if subject else ""
    if note:
        pieces.append(paragraph(note, class_="note"))
    return Section(key=name, title=title, body=join(pieces), figures=specs)


def _mixture(name: str, best: Mapping[str, Any]) -> Section:
    """The shares of sources that a law of mixtures found best, and what they gain on other mixtures."""
    shares = {source: e for source, e in mapping_of(best.get("shares")).items() if isinstance(e, Mapping)}
    if not shares:
        return Section(key=name, title="", body=Html(""))
    rows = [(source, _share(e), f"{_share(e, 'low')} – {_share(e, 'high')}") for source, e in shares.items()]
    pieces = [table(("source", "best share", "80 % interval"), rows, numbers=(1, 2))]
    gains = [
        f"{_share(e)} against the {other} mixture ({_share(e, 'low')} – {_share(e, 'high')})"
        for other, e in mapping_of(best.get("gains")).items()
    ]
    if gains:
        pieces.append(
            paragraph(f"Predicted fall of the mean held-out loss: {'; '.join(gains)}.", class_="note")
        )
    if best.get("status", "ok") != "ok":
        told = f"The law refused this mixture: {best.get('reason', '')}"
        pieces.insert(0, paragraph(told, class_="verdict half"))
    return Section(key=name, title="The best mixture of sources", body=join(pieces))


def _share(entry: Any, key: str = "value") -> str:
    value = number_of(mapping_of(entry).get(key))
    return percent(value) if value == value else "not known"


_ENDS = ("difference", "low", "high")
_WORDS = {"with_it": "with", "part": "held-out text"}


def _figure(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if "share" in key else f"{value:.4g}"


def _once(rows: Sequence[tuple[str, ...]]) -> list[tuple[Any, ...]]:
    """Rows whose first cell stands only where it changes."""
    before = ["", *[row[0] for row in rows[:-1]]]
    return [("" if row[0] == last else row[0], *row[1:]) for row, last in zip(rows, before, strict=True)]


def _amounts(entries: Sequence[Mapping[str, Any]], total: float) -> tuple[str, str, str]:
    documents, size = (sum(count_of(e, key) for e in entries) for key in ("documents", "num_bytes"))
    return f"{documents:,}", format_bytes(size), percent(size / total)


def _per_million(entry: Any, keys: Sequence[str], words: int) -> list[str]:
    return [f"{count_of(entry, key) * 1e6 / max(words, 1):,.1f}" for key in keys]
