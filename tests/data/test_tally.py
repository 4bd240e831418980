"""Tallies add up in any order."""

from typing import Any

import numpy as np
import polars as pl

from stepladder.data.card.tally import EXAMPLES, add_up, quantiles, tally


def part(base: int, sizes: list[int], rules: list[str | None], late: list[str]) -> dict[str, Any]:
    count = len(sizes)
    meta = pl.DataFrame(
        {
            "file": [f"f{base + row}" for row in range(count)],
            "head": ["text"] * count,
            "rule": pl.Series(rules, dtype=pl.String),
            "raw_bytes": [size + 2 for size in sizes],
            "num_bytes": sizes,
            "source": ["a" if row % 2 else "b" for row in range(count)],
            "domain": ["prose"] * count,
            "language": ["en"] * count,
            "licence": ["MIT"] * count,
        }
    )
    clean = [size for size, rule in zip(sizes, rules, strict=True) if rule is None]
    own = {
        "rest": np.array(clean) - 1,
        "like": np.full(len(clean), 0xFFFFFFFFFFFFFFFF, dtype=np.uint64),
        "similarity": np.ones(len(clean)),
    }
    return tally(base, meta, np.array(late, dtype=object), own)


def test_sums_do_not_depend_on_order_and_every_document_is_counted_once() -> None:
    parts = [
        part(0, [100, 200, 300, 400], [None, "too_short", None, None], ["", "exact_duplicate", ""]),
        part(9, [50, 60], ["too_short", "too_short"], []),
        part(20, [8000] * 5, [None] * 5, [""] * 5),
    ]
    total = add_up(parts)
    assert total == add_up(parts[::-1]) | {"sizes": total["sizes"]}
    totals = total["totals"]
    assert totals["input_documents"] == totals["kept_documents"] + totals["removed_documents"] == 11
    assert {"too_short": 3, "exact_duplicate": 1} == {
        name: entry["documents"] for name, entry in total["removed"].items()
    }
    assert totals["input_bytes"] == sum(
        totals[name] for name in ("kept_bytes", "removed_bytes", "normalised_bytes", "boilerplate_bytes")
    )
    assert len(total["removed"]["too_short"]["examples"]) == EXAMPLES
    assert total["rules_by_domain"] == {"prose": {"kept": 7, "too_short": 3, "exact_duplicate": 1}}


def test_quantiles_of_the_histogram_are_within_a_bin() -> None:
    sizes = np.random.default_rng(1).lognormal(8, 1.5, 20_000).astype(int) + 2
    found = quantiles(add_up([part(0, sizes.tolist(), [None] * len(sizes), [""] * len(sizes))]))
    for name, share in (("p10", 0.1), ("median", 0.5), ("p90", 0.9)):
        assert abs(found[name] / np.quantile(sizes - 1, share) - 1) < 0.09
    assert (found["smallest"], found["largest"]) == (sizes.min() - 1, sizes.max() - 1)
