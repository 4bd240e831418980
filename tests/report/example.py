"""A folder name in; a whole climb's folder, with numbers from a fixed formula, out.

The losses follow 1.05 + 14 / N^0.25 + 60 / D^0.33 bits per byte with a fixed ripple instead of noise; the law
is fitted to them and the forecast frozen by the real packages.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

from stepladder.eval.overlap import Overlap
from stepladder.ladder.collect import write_observations
from stepladder.laws.estimate import FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.registry import freeze, write_forecasts
from stepladder.laws.table import read_observations
from stepladder.records import (
    Corpus,
    Derived,
    Energy,
    Forecast,
    Interval,
    Layout,
    Observation,
    Plan,
    Recipe,
    Run,
    Shape,
    Split,
    TaskResult,
    to_json,
)
from stepladder.store import write_json, write_text

TARGET_PARAMS, TARGET_TOKENS = 1_600_000.0, 26_000_000.0
HOSTILE = (
    "<script>alert('corpus')</script></script><img src=http://127.0.0.1/x onerror=alert(1)> &amp; “quoted”"
)
NATS_PER_BIT = 1.62  # ln 2 × bytes per token of the example's tokenizer


def loss_of(params: float, tokens: float, ripple: int = 0) -> float:
    """Bits per byte."""
    return (1.05 + 14 / params**0.25 + 60 / tokens**0.33) * (1 + 0.004 * math.sin(5.0 * ripple))


def make_climb(folder: Path) -> Path:
    """Write every file of a finished climb."""
    write_text(
        folder / "stepladder.toml", 'name = "prose-1m"\n[data]\nsources = ["texts/"]\n[budget]\nhours = 0.1\n'
    )
    write_corpus(folder)
    observations = rungs()
    write_observations(folder / "ladder" / "observations.csv", observations)
    law = fit_law(read_observations(folder / "ladder" / "observations.csv"), FitOptions(bootstraps=200))
    write_json(folder / "law.json", to_json(law))
    frozen = target_forecast(forecast(law, TARGET_PARAMS, TARGET_TOKENS, run="target"))
    write_forecasts(folder / "forecast.json", [frozen])
    write_json(folder / "plan.json", to_json(plan(frozen)))
    write_target(folder / "target@1")
    write_tasks(folder / "tune" / "code-or-prose@1")
    return folder


def rungs() -> list[Observation]:
    """Thirteen runs, one of them excluded."""
    rows = []
    for size in (110_000, 190_000, 330_000, 560_000):
        for ratio in (2.5, 8.0, 40.0) if size < 500_000 else (2.5, 8.0):
            rows.append((size, size * ratio, 0))
    rows.insert(1, (110_000, 110_000 * 2.5, 1))
    rows.append((330_000, 330_000 * 4.0, 0))
    return [
        Observation(
            run=f"r{index:02d}",
            params=params,
            tokens=tokens,
            seed=seed,
            loss=loss_of(params, tokens, index) * (1.09 if index == 13 else 1.0),
            nonembed_params=0.6 * params,
            flops=6.4 * params * tokens,
            seconds=2.0e-11 * 6.4 * params * tokens + 0.8,
            joules=1.0e-10 * 6.4 * params * tokens + 4.0,
            notes={
                "width": 48,
                "in_context_score": -0.09 + 0.012 * math.log(tokens / 2e5),
                **(
                    {"excluded": "worse than r08, which has no more parameters and no more tokens"}
                    if index == 13
                    else {}
                ),
            },
        )
        for index, (params, tokens, seed) in enumerate(rows, start=1)
    ]


def target_forecast(raw: Forecast) -> Forecast:
    """With costs, frozen at a fixed date."""
    seconds = Interval(value=205.0, low80=188.0, high80=224.0, low95=176.0, high95=240.0)
    kwh = Interval(value=5.6e-4, low80=4.8e-4, high80=6.5e-4, low95=4.3e-4, high95=7.1e-4)
    return freeze(replace(raw, costs={"seconds": seconds, "kwh": kwh}), created="2026-11-24T10:00:00+00:00")


def plan(frozen: Forecast) -> Plan:
    """The target's plan, with alternatives on the front."""
    numbers = {
        "params": Derived(
            value=TARGET_PARAMS, low=TARGET_PARAMS, high=TARGET_PARAMS, how="counted from the shape"
        ),
        "tokens": Derived(
            value=TARGET_TOKENS, low=TARGET_TOKENS, high=TARGET_TOKENS, how="a whole number of steps"
        ),
        "batch_tokens": Derived(
            value=4096, low=2048, high=8192, how="the rule for rates and batch", source="rule"
        ),
        "learning_rate": Derived(
            value=7.5e-4, low=5e-4, high=1e-3, how="1.5e-3 × 64/width, halved by the rule for length"
        ),
        "loss": Derived(
            value=frozen.loss.value,
            low=frozen.loss.low80,
            high=frozen.loss.high80,
            how="the fitted law",
            source="law",
        ),
        "seconds": Derived(
            value=205, low=188, high=224, how="throughput of the rungs at this width", source="measured"
        ),
        "usd": Derived(value=0.0031, low=0.0028, high=0.0036, how="0.054 USD a machine hour", source="user"),
        "kwh": Derived(value=5.6e-4, low=4.8e-4, high=6.5e-4, how="5 W a core × seconds", source="prior"),
        "kg_co2e": Derived(
            value=2.7e-4, low=1.9e-4, high=3.6e-4, how="0.48 kg a kWh, world mean", source="catalogue"
        ),
    }
    alternatives = tuple(
        {
            "why": why,
            "params": params,
            "tokens": tokens,
            "loss": loss_of(params, tokens),
            "seconds": 4.8e-13 * 6 * params * tokens + 85,
            "usd": 1.5e-5 * (4.8e-13 * 6 * params * tokens + 85),
        }
        for why, params, tokens in (
            ("a quarter of the compute", 800_000, 13_000_000),
            ("half of the compute", 1_130_000, 18_400_000),
            ("chosen", TARGET_PARAMS, TARGET_TOKENS),
            ("twice the compute", 2_300_000, 37_000_000),
            ("a fourfold budget", 3_200_000, 52_000_000),
        )
    )
    return Plan(
        name="target",
        corpus="corpus",
        shape=Shape(
            num_layers=3,
            width=160,
            num_heads=2,
            num_kv_heads=2,
            head_dim=80,
            ffn_width=448,
            vocab_size=2048,
            context_tokens=128,
        ),
        recipe=Recipe(batch_tokens=4096, embed_lr=1.6e-2, head_lr=1.1e-2, hidden_lr=7.5e-4),
        layout=Layout(threads=2, precision="bf16"),
        seed=0,
        numbers=numbers,
        alternatives=alternatives,
        limits={"hours": 0.03},
        corpus_fingerprint="0123456789abcdef",
    )


def write_corpus(folder: Path) -> None:
    """corpus.json and audit.json; one example is hostile to a page."""
    removed = {
        "exact_duplicate": 812,
        "near_duplicate": 403,
        "too_short": 260,
        "not_text": 41,
        "heldout_overlap": 9,
        "empty": 0,
    }
    corpus = Corpus(
        input_bytes=31_400_000,
        input_documents=5_120,
        kept_documents=3_592,
        quarantined_documents=3,
        removed=removed,
        train=Split(documents=3_410, tokens=9_600_000, num_bytes=27_800_000),
        heldout=Split(documents=182, tokens=480_000, num_bytes=1_390_000),
        vocab_size=2_048,
        seconds=14.2,
        cpu_seconds=24.9,
        fingerprint="0123456789abcdef",
    )
    example = {
        "source": "docs/licence-mit.txt",
        "head": "Permission is hereby granted, free of charge, to any person",
        "like": "docs/licence-x11.txt",
        "similarity": 0.93,
    }
    audit = {
        "totals": {
            "input_documents": 5_120,
            "input_bytes": 31_400_000,
            "kept_bytes": 29_190_000,
            "normalised_bytes": 20_000,
            "boilerplate_bytes": 1_539_750,
            "quarantined_bytes": 25_000,
        },
        "splits": {"train": {"num_bytes": 27_800_000}, "heldout": {"num_bytes": 1_390_000}},
        "near_duplicates": {
            "candidates": 1_010,
            "joined": 702,
            "similarities": [0] * 12 + [40, 68, 80, 120, 202, 200, 160, 140],
            "jaccard": 0.8,
            "bands": 14,
            "band_rows": 8,
        },
        "rules_by_domain": {
            "prose": {"kept": 2_100, "exact_duplicate": 500, "too_short": 200},
            "code": {"kept": 1_492, "exact_duplicate": 312, "near_duplicate": 403, "not_text": 41},
        },
        "length_histogram": {"512": 400, "1024": 900, "2048": 1_500, "4096": 792},
        "pii": {"email": {"documents": 12, "findings": 30}, "card": {"documents": 0, "findings": 0}},
        "contamination": {"questions": {"examples": 200, "at_share": 3, "removed": 4, "worst": [{}]}},
        "profile": {
            "repeated_lines": 0.21,
            "words": {"count": 2_000_000},
            "rude": {"prose": {"words": 1_500_000, "profanities": 3, "slurs": 0}},
            "mentions": {"gender: women": {"mentions": 120, "documents": 40}},
        },
        "removed": {
            rule: {
                "why": f"what the rule {rule} looks at",
                "documents": count,
                "num_bytes": count * 410,
                "examples": [example, {**example, "head": HOSTILE}, example],
            }
            for rule, count in removed.items()
        },
        "boilerplate": {
            "lines": 4_210,
            "documents": 690,
            "examples": ["All rights reserved.", HOSTILE],
            "frequent": {"All rights reserved.": 612, HOSTILE: 3},
        },
        "quarantined": {
            "documents": 3,
            "examples": [{"source": "texts/a.bin", "place": "byte 12", "reason": "not UTF-8"}],
        },
        "licences": _shares({"MIT": 1_200, "BSD-3-Clause": 640, "Apache-2.0": 410, "none found": 1_342}),
        "languages": _shares({"en": 3_488, "de": 61, "fr": 43}),
        "domains": _shares({"prose": 2_100, "code": 1_492}),
    }
    write_json(folder / "corpus" / "corpus.json", to_json(corpus))
    write_json(folder / "corpus" / "audit.json", audit)


def _shares(documents: dict[str, int]) -> dict[str, dict[str, int]]:
    return {name: {"documents": count, "num_bytes": count * 7_700} for name, count in documents.items()}


def write_target(folder: Path) -> None:
    """run.json and metrics.jsonl of 6,347 steps."""
    bits = loss_of(TARGET_PARAMS, TARGET_TOKENS) * 0.97
    steps = int(TARGET_TOKENS) // 4096
    run = Run(
        name="target",
        params=int(TARGET_PARAMS),
        tokens=steps * 4096,
        steps=steps,
        loss=bits * NATS_PER_BIT - 0.03,
        heldout_loss=bits * NATS_PER_BIT,
        heldout_bits_per_byte=bits,
        in_context_score=-0.02,
        seconds=213.0,
        energy=Energy(joules=2_130.0, source="estimate: CPU seconds x 5 W a core"),
        peak_bytes=610_000_000,
    )
    write_json(folder / "run.json", to_json(run))
    lines = []
    for step in range(1, steps + 1):
        share = step / steps
        heldout = bits * NATS_PER_BIT + 4.2 * math.exp(-9 * share) * (1 - share) + 0.5 * (1 - share)
        line = {"step": step, "tokens": step * 4096, "loss": heldout - 0.03 + 0.05 * math.sin(step * 1.7)}
        line |= {"lr": 7.5e-4, "seconds": 213 * share}
        if step % 400 == 0 or step == steps:
            line |= {"heldout_loss": heldout, "heldout_bits_per_byte": heldout / NATS_PER_BIT}
        lines.append(json.dumps(line))
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def write_tasks(folder: Path) -> None:
    """results.json in the form that tune writes."""
    figures = {
        "fine-tuned": (0.871, 0.846, 0.894, 41.0, 3),
        "from scratch": (0.802, 0.772, 0.829, 38.0, 3),
        "TF-IDF + logistic regression": (0.885, 0.862, 0.907, 1.3, 1),
        "majority class": (0.540, 0.505, 0.574, 0.0, 1),
        "chance": (0.501, 0.467, 0.536, 0.0, 1),
    }
    rows = [
        TaskResult(
            task="code-or-prose",
            method=method,
            metric=metric,
            value=value - shift,
            low=low - shift,
            high=high - shift,
            examples=824,
            seconds=seconds,
            seeds=seeds,
            notes="calibration error 0.041; examples resampled",
        )
        for method, (value, low, high, seconds, seeds) in figures.items()
        for metric, shift in (("accuracy", 0.0), ("macro_f1", 0.012))
    ]
    verdict = (
        "Use the linear model: the fine-tuned network cannot be told from it (-0.014 accuracy, 95 % interval "
        "-0.031 to +0.004), and it is far cheaper. Pretraining helped (+0.069, +0.041 to +0.096)."
    )
    limit = "With 824 test examples a difference of 0.032 accuracy or more between two such methods is found."
    overlap = Overlap(
        corpus="corpus",
        threshold=0.5,
        ngram=8,
        certain_words=13,
        examples=824,
        too_short=3,
        any_run=90,
        by_prompt=24,
        by_whole=23,
        seen=24,
        rows=tuple(replace(row, value=row.value - 0.01, examples=800) for row in rows),
        verdict=verdict,
    )
    value = {"task": "code-or-prose", "verdict": verdict, "limits": [limit], "overlap": to_json(overlap)}
    write_json(folder / "results.json", value | {"rows": [to_json(row) for row in rows]})
