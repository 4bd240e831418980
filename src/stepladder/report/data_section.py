"""The audit of a corpus in; the report's section on data out: copies, where the bytes went, what is left.

Audits are read with care: one of an older form lacks figures, and the section then leaves them out.
"""

from collections.abc import Mapping
from typing import Any

from stepladder.data.options import Dedup
from stepladder.report import data_figures, figures
from stepladder.report.data_figures import CAME_IN, COPIES, HELD_OUT, KEPT, RULES, TRAINING
from stepladder.report.html import Html, facts, figure, join, missing, paragraph, table, tag
from stepladder.report.kept_section import left, people, trial
from stepladder.report.parts import COMMANDS, Parts
from stepladder.report.sections import Section
from stepladder.report.words import count_of, mapping_of, number_of, percent
from stepladder.units import format_bytes, format_count, format_seconds

# Excerpts longer than this tell nothing more about why a rule fired.
_EXCERPT_CHARACTERS, _EXAMPLES = 400, 3
_STEPS, _ROWS = 12, 8
_COPY_RULES: Mapping[str, str] = {
    "exact_duplicate": "exact copies",
    "near_duplicate": "near-copies",
    "only_boilerplate": "mostly boilerplate",
    "heldout_overlap": "held out, yet like training text",
}
_SIMILARITIES = (0.6, 0.7, 0.8, 0.9)


def data(parts: Parts) -> Section:
    """Copies and boilerplate, where the bytes went, what each rule removed, what is left."""
    corpus, audit = parts.corpus, parts.audit
    if corpus is None:
        return Section(key="data", title="Data preparation", body=_missing(parts, "corpus"))
    shown = [_facts(parts)]
    if "audit" in parts.missing:
        shown.append(Section(key="audit", title="", body=_missing(parts, "audit")))
    shown += [
        _copies(audit),
        _bytes(audit),
        _search(mapping_of(audit.get("near_duplicates"))),
        _removed(parts),
        left(audit),
        people(audit),
        *[trial(name, value) for name, value in parts.data.trials.items()],
    ]
    pieces = [join([tag("h3", part.title) if part.title else "", part.body]) for part in shown if part.body]
    specs = {key: spec for part in shown for key, spec in part.figures.items()}
    return Section(key="data", title="Data preparation", body=join(pieces), figures=specs)


def _facts(parts: Parts) -> Section:
    corpus = parts.corpus
    assert corpus is not None
    told = {
        "came in": f"{corpus.input_documents:,} documents, {format_bytes(corpus.input_bytes)}",
        "kept": f"{corpus.kept_documents:,} documents",
        "removed": f"{sum(corpus.removed.values()):,} documents",
        "unreadable": f"{corpus.quarantined_documents:,} documents set aside",
        "training": _split(corpus.train),
        "held out": _split(corpus.heldout),
        "vocabulary": f"{corpus.vocab_size:,} tokens",
        "time": f"{format_seconds(corpus.seconds)}, {format_seconds(corpus.cpu_seconds)} of processor time",
    }
    return Section(key="facts", title="", body=facts(told))


def _copies(audit: Mapping[str, Any]) -> Section:
    """What share of the text was copies or boilerplate, and the lines that were cut most often."""
    totals, removed = mapping_of(audit.get("totals")), mapping_of(audit.get("removed"))
    documents, size = (number_of(totals.get(f"input_{of}")) for of in ("documents", "bytes"))
    if not (documents > 0 and size > 0):
        return Section(key="copies", title="", body=Html(""))
    lines = mapping_of(audit.get("boilerplate"))
    kinds = {
        told: (count_of(removed.get(rule), "documents"), count_of(removed.get(rule), "num_bytes"))
        for rule, told in _COPY_RULES.items()
    }
    gone = sum(count for count, _ in kinds.values())
    kinds["boilerplate lines cut out"] = (
        count_of(lines, "documents"),
        max(count_of(totals, "boilerplate_bytes"), 0),
    )
    bytes_gone = sum(num_bytes for _, num_bytes in kinds.values())
    rows = [
        {"kind": kind, "of": of, "share": amount / whole, "label": _fine(amount / whole)}
        for kind, amounts in kinds.items()
        if any(amounts)
        for of, amount, whole in zip(("documents", "bytes"), amounts, (documents, size), strict=True)
    ]
    title = "Copies and boilerplate"
    if not rows:
        return Section(
            key="copies", title=title, body=paragraph("Neither copies nor boilerplate were found.")
        )
    sentence = (
        f"{percent(bytes_gone / size)} of the bytes that came in were copies or boilerplate: "
        f"{percent(gone / documents)} of the documents were removed for it, and lines that many documents "
        f"share were cut out of {percent(kinds['boilerplate lines cut out'][0] / documents)}."
    )
    repeated = number_of(mapping_of(audit.get("profile")).get("repeated_lines"))
    if repeated == repeated:
        sentence += (
            f" Of the lines that were kept, {percent(repeated, 0)} stood before among the few hundred "
            "documents read with them: short lines are left alone."
        )
    pieces = [
        paragraph(sentence, class_="verdict open"),
        figure("copies", "A document counts as the first kind that applies; lines are cut, documents stay."),
        _frequent(lines),
    ]
    return Section(
        key="copies", title=title, body=join(pieces), figures={"copies": data_figures.copy_shares(rows)}
    )


def _frequent(lines: Mapping[str, Any]) -> Html:
    examples = lines.get("examples")
    found = mapping_of(lines.get("frequent")) or dict.fromkeys(map(str, examples or ()), "")
    if not found or not isinstance(examples, list):
        return Html("")
    rows = [
        (tag("code", line), f"{count:,}" if isinstance(count, int) else "") for line, count in found.items()
    ]
    return table(
        ("lines cut most often, and from how many documents at least", ""), rows[:_ROWS], numbers=(1,)
    )


def _bytes(audit: Mapping[str, Any]) -> Section:
    """All bytes from what came in to what is kept, and the same in documents for each domain."""
    steps = _steps(audit)
    specs = {}
    pieces = []
    if steps:
        scale, unit = _unit(steps[0]["high"])
        rows = [{**step, "low": step["low"] / scale, "high": step["high"] / scale} for step in steps]
        specs["bytes"] = data_figures.waterfall(rows, f"{unit} of text")
        pieces.append(
            figure(
                "bytes",
                "Each step takes its bytes from what those above it left; boilerplate counts as copies.",
            )
        )
    if domains := _fates(mapping_of(audit.get("rules_by_domain"))):
        specs["domains"] = data_figures.fates_by_domain(domains)
        pieces.append(figure("domains", "What became of the documents of each domain."))
    return Section(
        key="bytes", title="Where the bytes went" if pieces else "", body=join(pieces), figures=specs
    )


def _steps(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    totals = mapping_of(audit.get("totals"))
    whole = number_of(totals.get("input_bytes"))
    splits = {name: count_of(entry, "num_bytes") for name, entry in mapping_of(audit.get("splits")).items()}
    if not (whole > 0 and splits):
        return []
    removed = {str(rule): count_of(e, "num_bytes") for rule, e in mapping_of(audit.get("removed")).items()}
    named = sorted(removed, key=lambda rule: -removed[rule])[:_STEPS]
    losses = [("unreadable", RULES, count_of(totals, "quarantined_bytes"))]
    losses += [
        (rule.replace("_", " "), COPIES if rule in _COPY_RULES else RULES, removed[rule])
        for rule in removed
        if rule in named
    ]
    losses += [
        ("other rules", RULES, sum(size for rule, size in removed.items() if rule not in named)),
        ("blanks and line ends", RULES, count_of(totals, "normalised_bytes")),
        ("boilerplate lines", COPIES, count_of(totals, "boilerplate_bytes")),
    ]
    steps = [_step("came in", CAME_IN, (0.0, whole), (whole, whole))]
    left = whole
    for name, fate, size in losses:
        if size:
            steps.append(_step(name, fate, (left - size, left), (-size, whole)))
            left -= size
    for name, fate in (("heldout", HELD_OUT), ("train", TRAINING)):
        if size := splits.get(name, 0):
            steps.append(_step(fate, fate, (left - size, left), (size, whole)))
            left -= size
    return steps


def _step(name: str, fate: str, ends: tuple[float, float], amount: tuple[float, float]) -> dict[str, Any]:
    """One bar of the waterfall; `amount` is its signed size and the size of all."""
    size, whole = amount
    told = f"{'-' if size < 0 else ''}{format_bytes(abs(size))}"
    low, high = max(min(ends), 0.0), max(ends)
    share = _fine(abs(size) / whole)
    return {"step": name, "fate": fate, "low": low, "high": high, "label": told, "share": share}


def _fates(by_domain: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for domain, found in by_domain.items():
        counts = {str(rule): number_of(count) for rule, count in mapping_of(found).items()}
        total = sum(counts.values())
        if not total > 0:
            continue
        copies = sum(counts.get(rule, 0) for rule in _COPY_RULES)
        kept = counts.get("kept", 0)
        for fate, count in ((RULES, total - copies - kept), (COPIES, copies), (KEPT, kept)):
            told = f"{domain or 'unknown'} ({format_count(total)})"
            rows.append({"domain": told, "fate": fate, "documents": count, "share": count / total})
    return rows


def _search(found: Mapping[str, Any]) -> Section:
    """How likely a pair of texts is compared, how many were, and how many were alike enough."""
    jaccard, bands, rows = (number_of(found.get(name)) for name in ("jaccard", "bands", "band_rows"))
    if not (0 <= jaccard <= 1 and bands >= 1 and rows >= 1):
        return Section(key="search", title="", body=Html(""))
    search = Dedup(jaccard=jaccard, bands=int(bands), band_rows=int(rows))
    chances = [f"{100 * search.collision(at):.4g} % at {at}" for at in _SIMILARITIES]
    compared, joined = count_of(found, "candidates"), count_of(found, "joined")
    pieces = [
        paragraph(
            f"A pair of texts is compared when one of {search.bands} groups of {search.band_rows} MinHash "
            f"values is equal in both: with a probability of {', '.join(chances)}. It is joined when the "
            f"share of equal values among all reaches {search.jaccard:g}. {compared:,} pairs were compared "
            f"and {joined:,} joined; of a group of copies the longest text stays."
        ),
        figure("collision", "1 - (1 - J^values)^groups: pairs to the right of the dashed line are wanted."),
    ]
    specs = {"collision": data_figures.collision_curve(search)}
    counts = found.get("similarities")
    if isinstance(counts, list) and counts and any(counts):
        specs["compared"] = data_figures.compared_pairs(counts, search.jaccard)
        pieces.append(figure("compared", "Pairs that were compared, by the similarity of their values."))
    return Section(key="search", title="How copies were looked for", body=join(pieces), figures=specs)


def _removed(parts: Parts) -> Section:
    """Documents by rule, then three examples a rule, folded."""
    corpus, specs, pieces = parts.corpus, {}, []
    if corpus and (counts := {rule: count for rule, count in corpus.removed.items() if count}):
        specs["removed"] = figures.removed_by_rule(counts)
        pieces.append(figure("removed", "Each document is counted at the first rule that removed it."))
    audit = parts.audit
    groups = [(str(rule).replace("_", " "), e) for rule, e in mapping_of(audit.get("removed")).items()]
    groups += [
        ("repeated lines cut out of", audit.get("boilerplate")),
        ("unreadable", audit.get("quarantined")),
    ]
    folded = [_folded(name, e) for name, e in groups if isinstance(e, Mapping) and e.get("documents")]
    if not folded and "audit" not in parts.missing:
        folded = [paragraph("The audit lists no examples.", class_="note")]
    return Section(
        key="removed", title="What was removed, with examples", body=join([*pieces, *folded]), figures=specs
    )


def _folded(title: str, found: Mapping[str, Any]) -> Html:
    num_bytes = number_of(found.get("num_bytes"))
    count = number_of(found["documents"])
    head = f"{title}: {count:,.0f} document{'' if count == 1 else 's'}"
    head += f", {format_bytes(num_bytes)}" if num_bytes > 0 else ""
    why = paragraph(found["why"], class_="note") if found.get("why") else ""
    examples = found.get("examples")
    shown = [_example(item) for item in examples[:_EXAMPLES]] if isinstance(examples, list) else []
    return tag(
        "details", tag("summary", head), why, *(shown or [paragraph("No example was kept.", class_="note")])
    )


def _example(item: Any) -> Html:
    if isinstance(item, Mapping):
        texts = {key: str(value) for key, value in item.items() if isinstance(value, (str, int, float))}
        excerpt = texts.pop("head", "")
        name = ", ".join(f"{key}: {value}" for key, value in texts.items())
    else:
        name, excerpt = "", str(item)
    cut = excerpt if len(excerpt) <= _EXCERPT_CHARACTERS else excerpt[:_EXCERPT_CHARACTERS] + " …"
    return join([paragraph(name, class_="note") if name else "", tag("pre", cut) if cut else ""])


def _fine(share: float) -> str:
    return percent(share) if share >= 0.001 or not share else "< 0.1 %"


def _unit(num_bytes: float) -> tuple[int, str]:
    units = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    return next(((scale, name) for scale, name in units if num_bytes >= scale), (1, "bytes"))


def _split(split: Any) -> str:
    return (
        f"{split.documents:,} documents, {format_count(split.tokens)} tokens, {format_bytes(split.num_bytes)}"
    )


def _missing(parts: Parts, part: str) -> Html:
    return missing(parts.missing.get(part, f"No {part} was found."), COMMANDS.get(part, ""))
