"""Parts of a climb in; EU_SUMMARY.md, the fields of the EU's public summary of training content, out.

Fields: European Commission, "Explanatory Notice and Template for the Public Summary of Training Content for
general-purpose AI models required by Article 53(1)(d) of Regulation (EU) 2024/1689", 24 July 2025, adopted as
C(2025) 8311 of 5 December 2025. Thresholds: Article 51(2) of that Regulation (1e25 FLOP, presumption of
systemic risk) and the Commission's Guidelines on the scope of the obligations for general-purpose AI models,
18 July 2025 (1e23 FLOP and the ability to generate language, indicative of a general-purpose model).
"""

from collections.abc import Mapping

from stepladder.data.card.limits import inline
from stepladder.models.count import train_flops_per_token
from stepladder.report.markdown import NOT_STATED, bullets, names_of, section, stated
from stepladder.report.parts import Parts
from stepladder.report.words import compute_of, count_of, mapping_of, percent
from stepladder.units import format_bytes

GENERAL_PURPOSE_FLOPS, SYSTEMIC_RISK_FLOPS = 1e23, 1e25
# Ranges of section 1.3 of the template.
_FEW_TOKENS, _MANY_TOKENS = 1e9, 10e12
_SHOWN = 12
_CRAWLED = ("http:", "https:", "s3:", "gs:")


def training_flops(parts: Parts) -> tuple[float, float]:
    """FLOPs of the target's run, and of the target with every rung of its ladder; zeros without a run."""
    run, plan = parts.target.run, parts.plan
    if run is None or plan is None:
        return 0.0, 0.0
    target = float(train_flops_per_token(plan.shape) * run.tokens)
    rungs = sum(row.flops if row.flops == row.flops else compute_of(row) for row in parts.ladder.observations)
    return target, target + rungs


def compute_verdict(parts: Parts) -> str:
    """The run's own FLOPs beside both thresholds."""
    target, everything = training_flops(parts)
    if not target:
        return ""
    flags = {
        "General-purpose model (1e23 FLOP and able to generate language)": GENERAL_PURPOSE_FLOPS,
        "Systemic risk presumed (more than 1e25 FLOP)": SYSTEMIC_RISK_FLOPS,
    }
    rows = {
        "Training compute": f"{target:.3g} FLOP, counted from shape and tokens of the run; {everything:.3g} "
        "with every rung of the ladder",
        **{
            name: "YES: reached" if everything > limit else f"no: {everything / limit:.1e} of it"
            for name, limit in flags.items()
        },
        "Sources": "Guidelines of the Commission of 18 July 2025 (1e23), Regulation (EU) 2024/1689, Article "
        "51(2) (1e25). Compute of a model that this one was made from has to be added. Not legal advice.",
    }
    return bullets(rows)


def eu_summary(parts: Parts) -> str:
    """The summary as Markdown; sections and fields in the template's order."""
    blocks = [
        f"# Public summary of training content: {inline(parts.name)}",
        "Fields of the template of the European Commission for Article 53(1)(d) of Regulation (EU) 2024/1689 "
        "(24 July 2025), filled from the records of the run. The template is required of providers of "
        f"general-purpose models. What reads {NOT_STATED} only the provider can say.",
        section("Is it required?", compute_verdict(parts)),
        section("1. General information", "\n\n".join(_general(parts))),
        section("2. List of data sources", "\n\n".join(_sources(parts))),
        section("3. Data processing aspects", _processing(parts)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _general(parts: Parts) -> list[str]:
    tokens = parts.corpus.train.tokens if parts.corpus else 0
    size = (
        "less than 1 billion tokens"
        if tokens < _FEW_TOKENS
        else "1 billion to 10 trillion tokens"
        if tokens <= _MANY_TOKENS
        else "more than 10 trillion tokens"
    )
    dates = mapping_of(mapping_of(parts.audit.get("profile")).get("dates"))
    return [
        "### 1.1 Provider",
        bullets(
            {
                "Name and contact": f"{stated(parts, 'provider')}; {stated(parts, 'contact')}",
                "Authorised representative": NOT_STATED,
            }
        ),
        "### 1.2 Model",
        bullets(
            {
                "Versioned model name": f"{parts.name}, {parts.target.name}",
                "Model dependencies": "none: trained from random weights",
                "Date of placement on the Union market": NOT_STATED,
            }
        ),
        "### 1.3 Modalities, size and other characteristics",
        bullets(
            {
                "Modality": "text",
                "Training data size": f"{size} ({tokens:,})",
                "Types of content": _shares(parts, "domains"),
                "Latest date of data acquisition": f"{dates['latest']} (latest date of a document)"
                if dates.get("latest")
                else f"{NOT_STATED} (no document carries a date)",
                "Languages": _shares(parts, "languages"),
                "Tokenisation": f"byte-level BPE, {parts.corpus.vocab_size:,} tokens"
                if parts.corpus
                else NOT_STATED,
            }
        ),
    ]


def _sources(parts: Parts) -> list[str]:
    names = parts.brief.data.sources if parts.brief else names_of(parts.audit.get("sources"))
    public = [f"`{inline(name)}`" for name in names if name.startswith(("hf:", "python:"))]
    online = [f"`{inline(name)}`" for name in names if name.startswith(_CRAWLED)]
    own = [name for name in names if not name.startswith(("hf:", "python:", *_CRAWLED))]
    planted = mapping_of(parts.audit.get("canaries"))
    return [
        "### 2.1 Publicly available datasets",
        bullets(
            {
                "Used": f"yes: {', '.join(public)}" if public else NOT_STATED,
                "By source": _shares(parts, "sources"),
            }
        ),
        "### 2.2 Private datasets obtained from third parties",
        bullets({"Licensed by rightsholders": NOT_STATED, "From other third parties": NOT_STATED}),
        "### 2.3 Data crawled and scraped from online sources",
        bullets(
            {
                "Crawlers used by the provider": "none by this program"
                + (f"; files were read from {', '.join(online)}" if online else ""),
                "Domains": NOT_STATED if online or own else "none",
            }
        ),
        "### 2.4 User data",
        bullets({"From services of the provider": NOT_STATED}),
        "### 2.5 Synthetic data",
        bullets(
            {
                "Made for the training": f"{count_of(planted, 'documents'):,} documents of random letters, "
                "planted to measure what is memorised; else none by this program"
                if planted
                else "none by this program"
            }
        ),
        "### 2.6 Other sources",
        bullets(
            {"Local files": f"{len(own)} sources; where they come from is {NOT_STATED}" if own else "none"}
        ),
    ]


def _processing(parts: Parts) -> str:
    audit, corpus = parts.audit, parts.corpus
    found = {
        name: count_of(entry, "findings") for name, entry in mapping_of(audit.get("pii")).items() if entry
    }
    pii = ", ".join(f"{count:,} {kind}" for kind, count in found.items() if count)
    removed = (
        ", ".join(f"{rule} {count:,}" for rule, count in corpus.removed.items() if count) if corpus else ""
    )
    size = count_of(audit.get("totals"), "input_bytes")
    return bullets(
        {
            "3.1 Rights reserved from text and data mining": "reservations (robots.txt, metadata) were not "
            f"looked for by this program; licences found by it: {_shares(parts, 'licences')}; "
            f"measures taken: {NOT_STATED}",
            "3.2 Removal of illegal content": "no list of illegal content was used; personal data and "
            f"secrets found by patterns: {pii or 'none'}; further measures: {NOT_STATED}",
            "3.3 Other processing": f"of {format_bytes(size)} read, documents removed by rule: "
            f"{removed or 'none'}",
        }
    )


def _shares(parts: Parts, kind: str) -> str:
    """Shares of the kept bytes, the largest first."""
    entries: Mapping[str, object] = mapping_of(parts.audit.get(kind))
    total = sum(count_of(entry, "num_bytes") for entry in entries.values())
    names = sorted(entries, key=lambda name: -count_of(entries[name], "num_bytes"))[:_SHOWN]
    told = [
        f"{inline(name)} {percent(count_of(entries[name], 'num_bytes') / max(total, 1))}" for name in names
    ]
    return ", ".join(told) or NOT_STATED
