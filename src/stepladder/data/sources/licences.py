"""Texts and package metadata in; SPDX names of licences out (guesses, "" where there is no sign of one)."""

import os
import re
from pathlib import Path
from typing import Any

# Phrases of the licence texts themselves (https://spdx.org/licenses/), the most specific first.
PHRASES: tuple[tuple[str, str], ...] = (
    ("Apache-2.0", r"(?i)apache license,?\s+version 2\.0|licensed under the apache license"),
    ("LGPL-3.0", r"(?i)gnu lesser general public license\s+(as published|version 3)"),
    ("LGPL-2.1", r"(?i)gnu (lesser|library) general public license"),
    ("AGPL-3.0", r"(?i)gnu affero general public license"),
    ("GPL-3.0", r"(?is)gnu general public license.{0,200}version 3"),
    ("GPL-2.0", r"(?i)gnu general public license"),
    ("MPL-2.0", r"(?i)mozilla public license"),
    ("PSF-2.0", r"(?i)python software foundation license|licensed to psf under"),
    ("BSL-1.0", r"(?i)boost software license"),
    ("Unlicense", r"(?i)this is free and unencumbered software released into the public domain"),
    ("CC0-1.0", r"(?i)cc0 1\.0 universal"),
    ("CC-BY-4.0", r"(?i)creative commons attribution 4\.0"),
    ("BSD-3-Clause", r"(?is)redistribution and use in source and binary forms.{0,1200}neither the names?"),
    ("BSD-2-Clause", r"(?i)redistribution and use in source and binary forms"),
    ("ISC", r"(?i)permission to use, copy, modify,? and(/or)? distribute this software"),
    ("MIT", r"(?i)permission is hereby granted, free of charge"),
)
_WORDS: tuple[tuple[str, str], ...] = (
    ("apache", "Apache-2.0"),
    ("lgpl", "LGPL"),
    ("lesser general", "LGPL"),
    ("agpl", "AGPL-3.0"),
    ("gplv3", "GPL-3.0"),
    ("gpl", "GPL"),
    ("general public", "GPL"),
    ("mozilla", "MPL-2.0"),
    ("mpl", "MPL-2.0"),
    ("python software foundation", "PSF-2.0"),
    ("psf", "PSF-2.0"),
    ("2-clause", "BSD-2-Clause"),
    ("bsd-2", "BSD-2-Clause"),
    ("bsd", "BSD-3-Clause"),
    ("isc", "ISC"),
    ("unlicense", "Unlicense"),
    ("public domain", "public-domain"),
    ("mit", "MIT"),
)
_HEADER = re.compile(r"^(License-Expression|License|Classifier|Name):[ \t]*(.+)$", re.MULTILINE)
_HEAD_CHARS = 4000


def licence_expression(text: Any, package: Any) -> Any:
    """A polars expression: explicit SPDX tag, else the package's licence, else a phrase, else "unknown"."""
    import polars as pl

    head = text.str.slice(0, _HEAD_CHARS)
    tag = head.str.extract(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+)", 1)
    known = pl.when(package != "").then(package)
    phrases = pl.lit(None, dtype=pl.String)
    # One cheap test spares most documents the long list.
    has_word = head.str.contains(r"(?i)licen[cs]e|redistribution|permission|public domain|creative commons")
    for name, pattern in reversed(PHRASES):
        phrases = pl.when(head.str.contains(pattern)).then(pl.lit(name)).otherwise(phrases)
    guessed = pl.when(has_word).then(phrases)
    return pl.coalesce(tag, known, guessed, pl.lit("unknown"))


def guess(text: str) -> str:
    """SPDX name of a licence text, "" when no phrase of a known licence is in its head."""
    head = text[:_HEAD_CHARS]
    return next((name for name, pattern in PHRASES if re.search(pattern, head)), "")


def folder_licence(folder: Path, root: Path) -> str:
    """Licence of the nearest LICENSE file at or above `folder`, not above `root`."""
    for place in (folder, *folder.parents):
        for name in sorted(os.listdir(place)):
            if name.upper().startswith(("LICENSE", "LICENCE", "COPYING")) and (place / name).is_file():
                found = guess(_head(place / name))
                if found:
                    return found
        if place == root:
            break
    return ""


def package_licences(site: Path) -> dict[str, str]:
    """For each top-level name in a site-packages folder, the licence that its package's METADATA states."""
    out: dict[str, str] = {}
    for info in sorted(site.glob("*.dist-info")):
        licence = metadata_licence(_head(info / "METADATA", 20_000))
        out[info.name] = licence
        try:
            record = (info / "RECORD").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for top in {line.split("/", 1)[0].split(",", 1)[0] for line in record.splitlines()}:
            if not top.startswith(("..", "__pycache__")):
                out.setdefault(top, licence)
    return out


def metadata_licence(metadata: str) -> str:
    """SPDX name from the headers of a METADATA file, "" where it states none."""
    headers = metadata.split("\n\n", 1)[0]
    found: dict[str, list[str]] = {}
    for key, value in _HEADER.findall(headers):
        found.setdefault(key, []).append(value.strip())
    if "License-Expression" in found:
        return found["License-Expression"][0][:80]
    stated = [value for value in found.get("Classifier", []) if value.startswith("License ::")]
    stated += found.get("License", [])
    for value in stated:
        lower = value.lower()
        for word, name in _WORDS:
            if re.search(rf"\b{re.escape(word)}", lower):
                return name
    return ""


def _head(path: Path, limit: int = _HEAD_CHARS) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(limit).decode("utf-8", errors="replace")
    except OSError:
        return ""
