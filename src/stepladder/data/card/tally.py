"""A part's documents and verdicts in; counts that can be added up over parts out, and their sum.

Every figure is a sum, a smallest, a largest or a histogram: adding two tallies gives the tally of both, in
any order, and none grows with the corpus.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from stepladder.data.labels import NOBODY, mixed

EXAMPLES = 3
# Histogram of sizes: eight bins for each doubling, so a quantile is right within 9 %.
BINS_PER_DOUBLING = 8
_COLUMNS = {"sources": "source", "domains": "domain", "languages": "language", "licences": "licence"}


def tally(base: int, meta: Any, late: np.ndarray, own: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """JSON values of one part. `meta` has a row a document; `late` and `own` run over the clean ones."""
    rule = meta["rule"].fill_null("").to_numpy().astype(object)
    clean = np.flatnonzero(rule == "")
    rule[clean] = late
    raw, size = meta["raw_bytes"].to_numpy(), meta["num_bytes"].to_numpy()
    rest = size.copy()
    rest[clean] = own["rest"]
    like, similarity = np.full(len(rule), NOBODY, dtype=np.uint64), np.ones(len(rule))
    like[clean], similarity[clean] = own["like"], own["similarity"]
    kept = rule == ""
    sizes = rest[kept]
    bins = np.floor(np.log2(np.maximum(sizes, 1)) * BINS_PER_DOUBLING).astype(int)
    return {
        "totals": {
            "input_documents": len(rule),
            "kept_documents": int(kept.sum()),
            "removed_documents": int((~kept).sum()),
            "input_bytes": int(raw.sum()),
            "kept_bytes": int(sizes.sum()),
            "removed_bytes": int(raw[~kept].sum()),
            "normalised_bytes": int((raw - size)[kept].sum()),
            "boilerplate_bytes": int((size - rest)[kept].sum()),
        },
        "removed": _removed(base, meta, rule, raw, (like, similarity)),
        **{name: _by(meta[column].to_numpy(), rest, kept) for name, column in _COLUMNS.items()},
        "rules_by_domain": _by_domain(meta["domain"].to_list(), rule),
        "sizes": {str(place): int(count) for place, count in sorted(Counter(bins.tolist()).items())},
        "smallest": int(sizes.min()) if len(sizes) else None,
        "largest": int(sizes.max()) if len(sizes) else None,
    }


def _removed(
    base: int, meta: Any, rule: np.ndarray, raw: np.ndarray, alike: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    out = {}
    ids = np.uint64(base) + np.arange(len(rule), dtype=np.uint64)
    draw = mixed(ids)
    for name in sorted(set(rule) - {""}):
        rows = np.flatnonzero(rule == name)
        picks = rows[np.argsort(draw[rows])[:EXAMPLES]]
        out[name] = {
            "documents": len(rows),
            "num_bytes": int(raw[rows].sum()),
            # Drawn by a hash: neighbours would often be of one package.
            "examples": [
                {
                    "draw": int(draw[row]),
                    "source": meta["file"][int(row)],
                    "head": meta["head"][int(row)],
                    "like": int(alike[0][row]),
                    "similarity": round(float(alike[1][row]), 3),
                }
                for row in picks
            ],
        }
    return out


def _by(values: np.ndarray, rest: np.ndarray, kept: np.ndarray) -> dict[str, dict[str, int]]:
    names, inverse = np.unique(values[kept].astype(str), return_inverse=True)
    count = np.bincount(inverse, minlength=len(names))
    size = np.bincount(inverse, weights=rest[kept], minlength=len(names))
    return {
        str(name): {"documents": int(count[i]), "num_bytes": int(size[i])} for i, name in enumerate(names)
    }


def _by_domain(domains: list[str], rule: np.ndarray) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for (domain, name), count in sorted(Counter(zip(domains, rule.tolist(), strict=True)).items()):
        out.setdefault(domain, {})[name or "kept"] = count
    return out


def add_up(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The tally of all parts together."""
    total: dict[str, Any] = {"removed": {}, "smallest": None, "largest": None}
    for part in parts:
        for name, value in part.items():
            if name == "removed":
                _add_removed(total["removed"], value)
            elif name in ("smallest", "largest"):
                known = [v for v in (total[name], value) if v is not None]
                total[name] = (min if name == "smallest" else max)(known) if known else None
            else:
                _add(total.setdefault(name, {}), value)
    return total


def _add(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value


def _add_removed(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, entry in part.items():
        known = total.setdefault(name, {"documents": 0, "num_bytes": 0, "examples": []})
        known["documents"] += entry["documents"]
        known["num_bytes"] += entry["num_bytes"]
        both = sorted([*known["examples"], *entry["examples"]], key=lambda example: example["draw"])
        known["examples"] = both[:EXAMPLES]


def quantiles(tallied: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of kept documents: smallest and largest exact, the others by interpolation in the histogram."""
    places = sorted((int(place), count) for place, count in tallied.get("sizes", {}).items())
    total = sum(count for _, count in places)
    out = {"smallest": tallied["smallest"] or 0}
    for name, share in (("p10", 0.1), ("median", 0.5), ("p90", 0.9)):
        below = 0
        for place, count in places:
            if below + count >= share * total:
                inside = (share * total - below) / count
                size = 2 ** ((place + inside) / BINS_PER_DOUBLING)
                out[name] = round(min(max(size, out["smallest"]), tallied["largest"]))
                break
            below += count
    return {**out, "largest": tallied["largest"] or 0}


def by_doubling(tallied: Mapping[str, Any]) -> dict[str, int]:
    """Kept documents by their size: {"64": those of 64 to 127 bytes, "128": ...}."""
    out: Counter[int] = Counter()
    for place, count in tallied.get("sizes", {}).items():
        out[int(place) // BINS_PER_DOUBLING] += count
    return {str(2**place): out[place] for place in sorted(out)}
