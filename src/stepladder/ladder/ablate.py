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
    domain_names,
    epochs_of,
    plan_trial,
    run_trial,
    scores_of,
    source_tokens,
)
from stepladder.models.count import count_params
from stepladder.plan.machine import Machine
from stepladder.records import Order, to_json
from stepladder.store import open_artefact, write_json

ABLATION_FILE = "ablation.json"
# Below this share of the training tokens nothing can be seen of what a source is worth.
_LEAST_SHARE = 1e-3


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
    artefact = open_artefact(out, {"kind": "ablation", **to_json(wanted)})
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
        "differences": [to_json(row) for row in _differences(found, out / "corpus")],
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


def _differences(found: list[tuple[dict[str, Any], dict[str, Any]]], corpus: Path) -> list[Difference]:
    """For all held-out text, then by domain where there are several."""
    first = found[0][0]
    names = domain_names(corpus)
    parts: list[tuple[str, Any]] = [("all", np.ones(len(first["document"]), dtype=bool))]
    counts = np.bincount(first["domain"], minlength=len(names))
    if np.count_nonzero(counts) > 1:
        parts += [(name, first["domain"] == at) for at, name in enumerate(names) if counts[at] > 1]
    return [
        compare(
            name,
            [pair[0]["nats"][own] for pair in found],
            [pair[1]["nats"][own] for pair in found],
            first["num_bytes"][own],
        )
        for name, own in parts
    ]


def ablation_text(result: dict[str, Any]) -> str:
    """The result as a table with a sentence below it."""
    lines = [
        f"{result['runs']} runs of {result['params']:,} parameters on {result['tokens_per_run']:,} tokens; "
        f"{result['kind']} {result['subject']}: {result['share_of_tokens']:.1%} of the training tokens",
        "held-out bits per byte   documents      with   without   difference   95 % interval",
    ]
    for row in result["differences"]:
        lines.append(
            f"  {row['part'][:20]:20s} {row['documents']:11,d} {row['with_it']:9.4f} {row['without']:9.4f} "
            f"{row['difference']:+12.4f}   {row['low']:+.4f} to {row['high']:+.4f}  {row['verdict']}"
        )
    whole = result["differences"][0]
    if whole["verdict"] == "cannot tell":
        told = (
            f"cannot tell whether {result['subject']} helps: about {whole['more_pairs']:.0f} times as many "
            "pairs would be needed at this size"
        )
    else:
        told = f"{result['subject']} {whole['verdict']} at this size and length"
    return "\n".join([*lines, told])
