"""An audit and a list of files in; JSON-LD that describes the corpus folder in Croissant 1.0 out.

Names of the core are those of https://docs.mlcommons.org/croissant/docs/croissant-spec.html, those that begin
with `rai:` of https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html. What only a person can say
reads NOT STATED until `with_statements` fills it in. There are no record sets: shards are arrays of token
ids, which Croissant has no way to read.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepladder.data.card.limits import uses_and_limits
from stepladder.data.tokens.shards import INDEX_FILE
from stepladder.errors import DataError
from stepladder.store import read_json

CROISSANT_FILE = "croissant.json"
_CORE, _RAI = "http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"
# The context of the specification's appendix, of which only names in use or expected by readers are kept.
_TERMS = (
    *("citeAs", "column", "dataType", "equivalentProperty", "examples", "extract", "field", "fileObject"),
    *("fileProperty", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform", "data"),
)
_TYPED = {"dataType": "@vocab", "examples": "@json", "data": "@json"}
# What readers of Croissant ask for beyond the required, if whoever publishes says it.
_GIVEN = ("license", "version", "datePublished", "citeAs", "url", "creator", "keywords")
_FORMATS = {
    ".json": "application/json",
    ".md": "text/markdown",
    ".jsonl": "application/jsonlines",
    ".zst": "application/zstd",
}
_OTHER_FORMAT = "application/octet-stream"
_ABOUT = {
    "index.json": "Number type, size of the vocabulary, and shards of each split with tokens and checksums.",
    "tokenizer.json": "Byte-level BPE in the format of the library tokenizers.",
    "audit.json": "Figures of the preparation: totals, removals by rule with examples, what was kept.",
    "canaries.json": "Random lines that were planted in the training text, with their copies.",
    "DATA_CARD.md": "The audit for people.",
}
# A name in the licence list of SPDX, and no expression of several.
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_NOT_STATED = "NOT STATED"
_NO_LANGUAGE = ("code", "unknown", "zxx", "und")


def corpus_files(folder: Path) -> list[dict[str, Any]]:
    """`name`, `num_bytes` and `sha256` of the files of a corpus folder, but for its marks and record of work.

    Checksums of shards come from the index; the others are computed.

    Raises:
        DataError: `folder` holds no index.
    """
    if not (folder / INDEX_FILE).exists():
        raise DataError(
            f"{folder} is not a prepared corpus", next_command=f"stepladder data PATH... --out {folder}"
        )
    known = {
        entry["file"]: entry["sha256"]
        for split in read_json(folder / INDEX_FILE)["splits"].values()
        for entry in (*split["shards"], *(e for e in split.values() if isinstance(e, dict) and "sha256" in e))
    }
    tops = [path.name for path in folder.iterdir() if path.name in _ABOUT or "quarantine" in path.name]
    return [
        {
            "name": name,
            "num_bytes": (folder / name).stat().st_size,
            "sha256": known[name] if name in known else _sha256(folder / name),
        }
        for name in [*sorted(tops), *known]
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def croissant(
    audit: Mapping[str, Any], options: Mapping[str, Any], files: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The JSON-LD of a corpus.

    `options` are those of the preparation (`CorpusOptions.identity`) with `sources`, a list of names, and if
    they are known `name`, `license`, `version`, `datePublished`, `citeAs`, `url`, `creator`, `keywords`.
    `files` are entries as `corpus_files` gives.
    """
    splits = audit["splits"]
    size = ", ".join(f"{e['tokens']:,} tokens in {name}" for name, e in splits.items())
    languages = [name for name in audit["languages"] if name not in _NO_LANGUAGE]
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": [_CORE, _RAI],
        "name": options.get("name", "corpus"),
        "description": f"Tokenised text for language models: {size}, "
        f"{audit['totals']['kept_documents']:,} documents, {audit['totals']['kept_bytes']:,} bytes of text.",
        "isLiveDataset": False,
        **({"inLanguage": languages} if languages else {}),
        "license": _licences(audit),
        **{name: options[name] for name in _GIVEN if options.get(name)},
        "distribution": [*_distribution(files, splits), *_ngrams(audit)],
        **_responsible(audit, options),
    }


def with_statements(described: Mapping[str, Any], card: Mapping[str, str]) -> dict[str, Any]:
    """The same description with what a person stated in the brief's `[card]`."""
    stated = {
        "license": card.get("data_license"),
        "creator": card.get("provider") and {"@type": "sc:Organization", "name": card["provider"]},
        "rai:dataSocialImpact": card.get("risks"),
    }
    return {**described, **{name: value for name, value in stated.items() if value}}


def _licences(audit: Mapping[str, Any]) -> list[str]:
    """Those that were found, the most text first; pages of SPDX where it has one."""
    return [
        f"https://spdx.org/licenses/{name}" if _SPDX.fullmatch(name) and name != "unknown" else name
        for name in audit["licences"]
    ] or [_NOT_STATED]


def _context() -> dict[str, Any]:
    terms: dict[str, Any] = {
        name: {"@id": f"cr:{name}", "@type": _TYPED[name]} if name in _TYPED else f"cr:{name}"
        for name in _TERMS
    }
    base = {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
    }
    return dict(sorted({**base, **terms}.items()))


def _distribution(files: Sequence[Mapping[str, Any]], splits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A file object for each file but the shards, which are a set for each split."""
    out: list[dict[str, Any]] = []
    for file in files:
        name = file["name"]
        if name.endswith(".bin"):
            continue
        out.append(
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                **({"description": _ABOUT[name]} if name in _ABOUT else {}),
                "contentUrl": name,
                "contentSize": f"{file['num_bytes']} B",
                "encodingFormat": _FORMATS.get(Path(name).suffix, _OTHER_FORMAT),
                "sha256": file["sha256"],
            }
        )
    for split in splits:
        shards = [
            file for file in files if file["name"].startswith(f"{split}/") and file["name"].endswith(".bin")
        ]
        out.append(
            {
                "@type": "cr:FileSet",
                "@id": f"{split}-shards",
                "name": f"{split}-shards",
                "description": f"{len(shards)} shards, {sum(file['num_bytes'] for file in shards):,} bytes: "
                f"token ids as little-endian integers; type, order and checksums in {INDEX_FILE}.",
                "encodingFormat": _OTHER_FORMAT,
                "includes": f"{split}/*.bin",
            }
        )
    return out


def _ngrams(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    kept = audit.get("ngrams")
    if not kept:
        return []
    return [
        {
            "@type": "cr:FileSet",
            "@id": "ngrams",
            "name": "ngrams",
            "description": f"Hashes of {kept['keys']:,} runs of {kept['ngram']} words of the training text, "
            "by which later evaluation sets can be checked.",
            "encodingFormat": _OTHER_FORMAT,
            "includes": "ngrams/*",
        }
    ]


def _responsible(audit: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    totals, quarantined = audit["totals"], audit["quarantined"]
    sources = ", ".join(options.get("sources", audit["sources"]))
    limits = uses_and_limits(audit)
    return {
        "rai:dataCollection": f"Read from {sources}: {totals['input_documents']:,} documents, "
        f"{totals['input_bytes']:,} bytes. How those sources came about is not known here.",
        # Of the kinds that the vocabulary lists: text that others had written for other ends.
        "rai:dataCollectionType": ["Secondary Data analysis"],
        **_timeframe(audit),
        "rai:dataCollectionRawData": "The sources as they were read; here are token ids, not the files.",
        "rai:dataCollectionMissingData": f"{quarantined['documents']:,} files or records could not be read "
        "and are listed in the quarantine file.",
        "rai:dataPreprocessingProtocol": _steps(audit, options),
        "rai:dataImputationProtocol": "Nothing was imputed; what replaced personal data names its kind.",
        "rai:dataAnnotationProtocol": "No person labelled the text.",
        "rai:machineAnnotationTools": [
            "py3langid: the language of each document",
            "rules of this program: the licence of each document",
        ],
        "rai:dataUseCases": limits[:1],
        "rai:dataSocialImpact": _NOT_STATED,
        "rai:dataBiases": _biases(audit),
        "rai:dataLimitations": limits[1:],
        "rai:personalSensitiveInformation": _personal(audit, options),
        "rai:dataReleaseMaintenancePlan": "None is promised. The same sources, options and version of the "
        "program give the same bytes again.",
    }


def _timeframe(audit: Mapping[str, Any]) -> dict[str, list[str]]:
    """First and last date that a document carries; left out where none does."""
    dates = (audit.get("profile") or {}).get("dates", {})
    ends = [dates.get("earliest"), dates.get("latest")]
    return {"rai:dataCollectionTimeframe": ends} if all(ends) else {}


def _steps(audit: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    removed = [
        f"{rule} ({entry['why']}): {entry['documents']:,} documents removed"
        for rule, entry in audit["removed"].items()
    ]
    return [
        "Unicode NFC, line ends, control characters and trailing blanks normalised: "
        f"{audit['totals']['normalised_bytes']:,} bytes less",
        *removed,
        f"boilerplate lines cut: {audit['boilerplate']['lines']:,}",
        *[
            f"compared with {entry['examples']:,} examples of the evaluation set {name} by runs of words: "
            f"{entry['removed']:,} training documents removed"
            for name, entry in (audit.get("contamination") or {}).items()
        ],
        f"held out by {audit['held_out_unit']}, seed {options.get('seed', 0)}",
        f"tokenised with a byte-level BPE of {audit['vocab_size']:,} tokens trained on the training text",
    ]


def _biases(audit: Mapping[str, Any]) -> list[str]:
    out = []
    for kind in ("sources", "domains", "languages"):
        total = max(sum(entry["num_bytes"] for entry in audit[kind].values()), 1)
        shares = [f"{name} {entry['num_bytes'] / total:.1%}" for name, entry in list(audit[kind].items())[:5]]
        out.append(f"Largest {kind} by bytes: {', '.join(shares)}")
    for name, entry in (audit.get("profile") or {}).get("mentions", {}).items():
        near = ", ".join(term["term"] for term in entry["near"][:5])
        out.append(
            f"{name}: {entry['mentions']:,} mentions by word list" + (f"; near them: {near}" if near else "")
        )
    return out


def _personal(audit: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    if not audit.get("pii"):
        return ["Personal data and secrets were not looked for."]
    mode = options.get("cleaning", {}).get("pii", "replace")
    found = ", ".join(f"{e['findings']:,} of kind {kind}" for kind, e in audit["pii"].items())
    return [
        f"Found by patterns and check numbers (setting: {mode}): {found}.",
        "Names, postal addresses and statements about persons were not looked for.",
    ]
