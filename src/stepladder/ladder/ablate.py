"""A rule or a source and its text in; paired small runs with and without it, and the difference, out.

One corpus, one tokenizer and one held-out text serve both arms. What a rule would remove stays in the corpus
as a source of its own, for training only: so a rule and a source are tried in the same way, by leaving out
one source. All runs read the same number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.options import CorpusOptions
from stepladder.data.prepare import prepare_corpus
from stepladder.data.quality.rules import SETS, rules
from stepladder.data.reading import SPARED
from stepladder.errors import DataError, did_you_mean
from stepladder.ladder.compare import Difference, compare
from stepladder.ladder.trial import (
    epochs_of,
    plan_trial,
    run_trial,
    scores_of,
    source_tokens,
    split_names,
)
from stepladder.models.count import count_params
from stepladder.plan.machine import Machine
from stepladder.records import Order, to_json
from stepladder.store import open_artefact, write_json

ABLATION_FILE = "ablation.json"
# Below this share of the training tokens nothing can be seen of what a source is worth.
_LEAST_SHARE = 1e-3
_REST = "all but "


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """What is tried: `subject` is a rule, a set of rules, or a source; in `minutes` with `seeds` pairs."""

    subject: str
    minutes: float = 5.0
    seeds: int = 3


def ablate(
    wanted: Ablation,
    sources: Sequence[str],
    out: Path,
    options: CorpusOptions,
    machine: Machine,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Prepare, train and compare in `out`; the same call goes on where an earlier one stopped.

    Raises:
        DataError: the subject is no rule and no source, or holds all or next to nothing of the text.
        TrainError: the time is too short, or runs failed.
        FingerprintError: `out` holds another ablation.
    """
    if wanted.seeds < 2 or not wanted.minutes > 0:
        raise DataError(
            "an ablation needs pairs and time",
            got=f"seeds {wanted.seeds}, minutes {wanted.minutes:g}",
            allowed="--seeds 2 or more, --minutes above 0",
        )
    is_rule = wanted.subject in [*SETS, *(rule.name for rule in rules())]
    if is_rule:
        cleaning = options.cleaning
        spare = replace(cleaning, spared=(wanted.subject,), rules_on=(*cleaning.rules_on, wanted.subject))
        options = replace(options, cleaning=spare)
    corpus = prepare_corpus(sources, out / "corpus", options, quiet=quiet)
    tokens = source_tokens(out / "corpus")
    taken = SPARED + wanted.subject if is_rule else wanted.subject
    _check(taken, tokens, wanted.subject, is_rule=is_rule)
    trial = plan_trial(out, corpus, machine, 2 * wanted.seeds, 60 * wanted.minutes, quiet=quiet)
    # Only now: after a wrong name or too short a time the corpus serves the next try.
    artefact = open_artefact(out, {"kind": "ablation", **to_json(wanted)})
    everything = {name: float(count) for name, count in tokens.items() if count}
    reduced = {name: count for name, count in everything.items() if name != taken}
    # A rule is at work where its text is left out, a source where its text is read.
    arms = {"with": reduced, "without": everything} if is_rule else {"with": everything, "without": reduced}
    orders = {
        f"{arm}-{seed}": (Order(packing="documents", weights=weights), seed)
        for seed in range(wanted.seeds)
        for arm, weights in arms.items()
    }
    runs = run_trial(trial, out, orders, quiet=quiet)
    found = [
        (scores_of(runs[f"with-{seed}"]), scores_of(runs[f"without-{seed}"])) for seed in range(wanted.seeds)
    ]
    result = {
        "subject": wanted.subject,
        "kind": "rule" if is_rule else "source",
        "share_of_tokens": tokens[taken] / sum(tokens.values()),
        "params": count_params(trial.shape).total,
        "tokens_per_run": trial.tokens,
        "runs": len(runs),
        "epochs": {arm: epochs_of(trial, weights, tokens) for arm, weights in arms.items()},
        "differences": [to_json(row) for row in _differences(found, out / "corpus", taken)],
    }
    write_json(out / ABLATION_FILE, result)
    artefact.finish({"differences": len(result["differences"])})
    return result


def _check(taken: str, tokens: dict[str, int], subject: str, *, is_rule: bool) -> None:
    named = [name for name in tokens if not name.startswith(SPARED)]
    if not is_rule and taken not in tokens:
        known = [*named, *SETS, *(rule.name for rule in rules())]
        raise DataError(
            f'"{subject}" is no source of this text and no rule{did_you_mean(subject, known)}',
            allowed=f"a source: {', '.join(named)}; or a rule or set of rules",
            next_command="stepladder data ... --dry-run   (lists rules and what each would remove)",
        )
    share = tokens.get(taken, 0) / sum(tokens.values())
    if share < _LEAST_SHARE:
        raise DataError(
            f"{subject} holds too little of the text to tell what it is worth",
            got=f"{share:.2%} of the training tokens",
            allowed=f"{_LEAST_SHARE:.1%} or more",
        )
    if share > 1 - _LEAST_SHARE:
        raise DataError(f"without {subject} no text is left", got=f"sources: {', '.join(named)}")


def _differences(
    found: list[tuple[dict[str, Any], dict[str, Any]]], corpus: Path, taken: str
) -> list[Difference]:
    """For all held-out text, for what is not of the source that is tried, then by source and by domain."""
    first = found[0][0]
    sources, domains = (split_names(corpus, kind) for kind in ("source", "domain"))
    parts = {"all": np.ones(len(first["document"]), dtype=bool)}
    if taken in sources:
        parts[_REST + taken] = first["source"] != sources.index(taken)
    for kind, names in (("source", sources), ("domain", domains)):
        own = {f"{kind} {name}": first[kind] == at for at, name in enumerate(names)}
        own = {name: chosen for name, chosen in own.items() if chosen.any()}
        parts |= own if len(own) > 1 else {}
    # What several names say of the same documents is told once.
    masks = {own.tobytes(): name for name, own in reversed(parts.items())}
    return [
        compare(
            name,
            [pair[0]["nats"][own] for pair in found],
            [pair[1]["nats"][own] for pair in found],
            first["num_bytes"][own],
        )
        for name, own in parts.items()
        if name == "all" or (masks[own.tobytes()] == name and own.sum() > 1)
    ]


def ablation_text(result: dict[str, Any]) -> str:
    """The result as a table with its meaning below it."""
    rows = result["differences"]
    width = max(len("held-out bits per byte"), *(len(row["part"]) + 2 for row in rows))
    lines = [
        f"{result['runs']} runs of {result['params']:,} parameters on {result['tokens_per_run']:,} tokens; "
        f"{result['kind']} {result['subject']}: {result['share_of_tokens']:.1%} of the training tokens",
        f"{'held-out bits per byte':{width}s} documents      with   without   difference   95 % interval",
    ]
    for row in rows:
        ends = f"{row['low']:+.4f} to {row['high']:+.4f}"
        lines.append(
            f"  {row['part']:{width - 2}s} {row['documents']:9,d} {row['with_it']:9.4f} "
            f"{row['without']:9.4f} {row['difference']:+12.4f}   {ends}  {row['verdict']}"
        )
    # All text holds the source's own, which it nearly always helps: others show what it does to the rest.
    rest = [row for row in rows if row["part"] == _REST + result["subject"]]
    lines.append(_meaning(result["kind"], (rest or rows)[0]))
    most = max(number for arm in result["epochs"].values() for number in arm.values())
    if most > 1:
        lines.append(f"note: some text was read {most:.1f} times; more text would tell more")
    lines.append("note: this holds at this size and length, and for the held-out text of this corpus")
    return "\n".join(lines)


def _meaning(kind: str, row: dict[str, Any]) -> str:
    """What a difference says to do."""
    where = "the text of other sources" if row["part"].startswith(_REST) else "held-out text"
    if row["verdict"] == "helps":
        return f"keep the {kind}: it helps on {where}"
    if row["verdict"] == "harms":
        unless = " unless its own text is wanted" if row["part"].startswith(_REST) else ""
        return f"leave out the {kind}{unless}: it harms on {where}"
    seen = f"cannot tell on {where}: {(row['high'] - row['low']) / 2:.4f} either way would have been seen"
    if row["pairs_needed"]:
        return f"{seen}; so small a difference needs about {row['pairs_needed']:,} pairs (--seeds)"
    return f"{seen}; more pairs would not tell so small a difference: the held-out text is too short"
