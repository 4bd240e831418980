"""Parts of a climb in; MODEL_CARD.md of the target, and of each model tuned from it, out.

Everything comes from records. What only a person can say is taken from the brief's `[card]`, and stands there
as NOT STATED until somebody has said it.
"""

import math
from collections.abc import Sequence

from stepladder import __version__
from stepladder.records import TaskResult
from stepladder.report.card_metadata import emitted_kg, target_metadata, tuned_metadata
from stepladder.report.eu_summary import compute_verdict
from stepladder.report.markdown import NOT_STATED, bullets, cell, names_of, one_line, section, stated
from stepladder.report.more_sections import energy_sources, stage_amounts
from stepladder.report.parts import Parts, Task
from stepladder.report.words import UNITS, mapping_of, percent, show, show_losses, show_range, verdict
from stepladder.units import JOULES_PER_KWH, format_bytes

_TO_STATE = (
    f"Fields that read {NOT_STATED} must be filled in by a person before the model is passed on: once, in "
    "the table `[card]` of stepladder.toml beside this card, then `stepladder report`."
)
_PROBES = {
    "terms": "Words for groups swapped",
    "extraction": "Training text recited",
    "canaries": "Planted lines memorised",
}
_STATED = {
    "Intended use": "intended_use",
    "Out of scope": "out_of_scope",
    "Provider": "provider",
    "Contact": "contact",
    "Licence of the weights": "license",
}


def model_card(parts: Parts) -> str:
    """The card as Markdown."""
    before = " from a plan whose loss was forecast before the run" if parts.forecast else ""
    blocks = [
        target_metadata(parts),
        f"# {one_line(parts.name)}",
        f"Trained with stepladder{before}. {_TO_STATE}",
        section("Model", _model(parts)),
        section("Uses", bullets({name: stated(parts, key) for name, key in _STATED.items()})),
        section("Training data", _data(parts)),
        section("Training", _training(parts)),
        section("Evaluation", _evaluation(parts)),
        section("Probes", _probes(parts)),
        section("Cost", _cost(parts)),
        section("Compute and the EU AI Act", compute_verdict(parts)),
        section("Limitations", _limitations(parts)),
        section("How to load", _how_to_load(parts)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _how_to_load(parts: Parts) -> str:
    is_masked = parts.plan is not None and parts.plan.objective == "masked"
    loader = "AutoModelForMaskedLM" if is_masked else "AutoModelForCausalLM"
    return (
        f"```python\nfrom transformers import {loader}, AutoTokenizer\n\n"
        f'model = {loader}.from_pretrained("export")\n'
        'tokenizer = AutoTokenizer.from_pretrained("export")\n```\n\n'
        "The folder `export` is what `stepladder export` writes."
    )


def _model(parts: Parts) -> str:
    if parts.plan is None:
        return parts.missing.get("plan", "")
    shape, run = parts.plan.shape, parts.target.run
    layout = "ModernBERT" if parts.plan.objective == "masked" else "Qwen3"
    return bullets(
        {
            "Parameters": f"{run.params:,}" if run else NOT_STATED,
            "Architecture": f"{layout} layout: {shape.num_layers} layers, width {shape.width}, "
            f"{shape.num_heads} heads of {shape.head_dim} ({shape.num_kv_heads} for keys and values), "
            f"MLP {shape.ffn_width}",
            "Context": f"{shape.context_tokens:,} tokens",
            "Vocabulary": f"{shape.vocab_size:,} byte-level BPE tokens",
            "Objective": parts.plan.objective,
        }
    )


def _data(parts: Parts) -> str:
    corpus = parts.corpus
    if corpus is None:
        return parts.missing.get("corpus", "")
    licences = ", ".join(list(names_of(parts.audit.get("licences")))[:12])
    return bullets(
        {
            "Documents": f"{corpus.kept_documents:,} kept of {corpus.input_documents:,}",
            "Training text": f"{corpus.train.tokens:,} tokens, {format_bytes(corpus.train.num_bytes)}",
            "Held-out text": f"{corpus.heldout.tokens:,} tokens from other files",
            "Licences found in it": licences or NOT_STATED,
            "Fingerprint": corpus.fingerprint,
            "Details": "DATA_CARD.md in the folder of the corpus",
        }
    )


def _training(parts: Parts) -> str:
    if parts.plan is None or parts.target.run is None:
        return ""
    recipe, layout, run = parts.plan.recipe, parts.plan.layout, parts.target.run
    return bullets(
        {
            "Tokens": f"{run.tokens:,} in {run.steps:,} steps of {recipe.batch_tokens:,}",
            "Optimiser": f"{recipe.optimiser}, peak rates {recipe.hidden_lr:.3g} (hidden), "
            f"{recipe.embed_lr:.3g} (embeddings), {recipe.head_lr:.3g} (head)",
            "Schedule": f"warm-up {percent(recipe.warmup_share, 0)}, constant, "
            f"decay over the last {percent(recipe.decay_share, 0)}",
            "Precision and device": f"{layout.precision} on {layout.device}",
            "Seed": str(parts.plan.seed),
            "Status": run.status,
            "Written by": f"stepladder {__version__}",
        }
    )


def _evaluation(parts: Parts) -> str:
    run = parts.target.run
    lines = []
    if run is not None:
        lines.append(f"Held-out loss: {show_losses(run.heldout_loss, run.heldout_bits_per_byte)}.")
    lines += [verdict(score)[1] for score in parts.scores]
    for task in parts.tasks:
        lines += [f"### {one_line(task.name)}", *_task(task)]
    return "\n\n".join(lines)


def _task(task: Task) -> list[str]:
    said = [task.verdict, *map(one_line, task.remarks), one_line(task.weak)]
    rest = ["Without the examples that stand in training text:", _rows(task.unseen)] if task.unseen else []
    return [_rows(task.rows), *filter(None, said), *rest]


def _rows(results: Sequence[TaskResult]) -> str:
    head = "| method | metric | value | 95 % interval | test examples |\n|---|---|---|---|---|"
    rows = [
        f"| {cell(row.method)} | {cell(row.metric)} | {row.value:.3f} | "
        f"{row.low:.3f} – {row.high:.3f} | {row.examples:,} |"
        for row in results
    ]
    return "\n".join([head, *rows])


def tuned_card(parts: Parts, task: Task) -> str:
    """The card of what was tuned on one task: its base, its data, its table beside cheap baselines."""
    best = max((row.examples for row in task.rows), default=0)
    blocks = [
        tuned_metadata(parts, task),
        f"# {one_line(parts.name)}, tuned on {one_line(task.name)}",
        f"Tuned with stepladder {__version__} from the model that ../../MODEL_CARD.md describes. {_TO_STATE}",
        section("Uses", bullets({name: stated(parts, key) for name, key in _STATED.items()})),
        section(
            "Evaluation",
            "\n\n".join([f"On {best:,} test examples.", *_task(task)]),
        ),
        section(
            "Limitations",
            bullets(
                {
                    "Labels": "task.json beside this card says where they come from",
                    "Risks in use": stated(parts, "risks"),
                }
            ),
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _probes(parts: Parts) -> str:
    """What each probe said, in its own words."""
    found = {name: mapping_of(parts.target.probes.get(probe)) for probe, name in _PROBES.items()}
    return bullets({name: str(entry["verdict"]) for name, entry in found.items() if "verdict" in entry})


def _cost(parts: Parts) -> str:
    seconds, joules = stage_amounts(parts, "seconds"), stage_amounts(parts, "joules")
    sources = energy_sources(parts)
    rows = {
        f"{stage.capitalize()}": show("seconds", amount)
        + (f", {show('kwh', joules[stage] / JOULES_PER_KWH)} ({sources[stage]})" if stage in joules else "")
        for stage, amount in seconds.items()
    }
    emissions = parts.plan.numbers.get("kg_co2e") if parts.plan else None
    if emissions:
        spread = show_range("kg_co2e", emissions.low, emissions.high)
        told = f"{show('kg_co2e', emissions.value)} CO2e ({spread})"
        rows["Emissions of the target as planned"] = f"{told}: {emissions.how}"
    emitted = emitted_kg(parts)
    if math.isfinite(emitted):
        rows["Emissions of ladder and target"] = (
            f"{show('kg_co2e', emitted)} CO2e: their energy by the same rate"
        )
    return bullets(rows)


def _limitations(parts: Parts) -> str:
    items: list[str] = list(parts.law.warnings) if parts.law else []
    unit = UNITS.get(parts.law.loss_unit, "") if parts.law else ""
    items += [f"The law was fitted to {parts.law.points} runs, in {unit}."] if parts.law else []
    untested = [name for probe, name in _PROBES.items() if probe not in parts.target.probes]
    if untested:
        items.append(f"Not tested: {', '.join(untested).lower()} (stepladder probe {parts.target.name}).")
    items += [
        "No test of toxic continuations was made.",
        f"Risks in use: {stated(parts, 'risks')}",
    ]
    return "\n".join(f"- {one_line(item)}" for item in items)
