"""Parts of a climb in; MODEL_CARD.md with the Hugging Face metadata block out.

What only a person can say (licence, intended use, contact) stands there as NOT STATED, to be filled in.
"""

import json
import math
from collections.abc import Mapping, Sequence

from stepladder import __version__
from stepladder.report.more_sections import energy_sources, stage_amounts
from stepladder.report.parts import Parts
from stepladder.report.words import UNITS, number_of, percent, show, show_losses, show_range, verdict
from stepladder.units import JOULES_PER_KWH, format_bytes

NOT_STATED = "NOT STATED"


def model_card(parts: Parts) -> str:
    """The card as Markdown."""
    before = " from a plan whose loss was forecast before the run" if parts.forecast else ""
    blocks = [
        "---\n" + "\n".join(_metadata(parts)) + "\n---",
        f"# {_line(parts.name)}",
        f"Trained with stepladder{before}. Fields that read "
        f"{NOT_STATED} must be filled in by a person before the model is passed on.",
        _section("Model", _model(parts)),
        _section(
            "Uses",
            _bullets(
                {
                    "Intended use": NOT_STATED,
                    "Out of scope": NOT_STATED,
                    "Contact": NOT_STATED,
                    "Licence of the weights": NOT_STATED,
                }
            ),
        ),
        _section("Training data", _data(parts)),
        _section("Training", _training(parts)),
        _section("Evaluation", _evaluation(parts)),
        _section("Cost", _cost(parts)),
        _section("Limitations", _limitations(parts)),
        _section(
            "How to load",
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("export")\n'
            'tokenizer = AutoTokenizer.from_pretrained("export")\n```\n\n'
            "The folder `export` is what `stepladder export` writes.",
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _metadata(parts: Parts) -> list[str]:
    """YAML lines; strings are written as JSON strings, which YAML reads."""
    objective = parts.plan.objective if parts.plan else "causal"
    lines = [
        "library_name: transformers",
        f"pipeline_tag: {'text-generation' if objective == 'causal' else 'fill-mask'}",
    ]
    languages = [key for key in _mapping(parts.audit.get("languages")) if len(key) == 2 and key.isalpha()]
    if languages:
        lines += ["language:", *[f"- {json.dumps(code)}" for code in languages[:20]]]
    lines += ["license: other", "license_name: not-stated", "tags:", "- stepladder", "- scaling-law"]
    run = parts.target.run
    figures = {"bits per byte": run.heldout_bits_per_byte, "nats per token": run.heldout_loss} if run else {}
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}
    if figures:
        lines += [
            "model-index:",
            f"- name: {json.dumps(parts.name)}",
            "  results:",
            "  - task:",
            f"      type: {'text-generation' if objective == 'causal' else 'fill-mask'}",
            "    dataset:",
            "      name: held-out split of the corpus",
            "      type: local",
            "    metrics:",
        ]
        for name, value in figures.items():
            lines += [f"    - name: held-out loss ({name})", "      type: loss", f"      value: {value:.6g}"]
    return lines


def _model(parts: Parts) -> str:
    if parts.plan is None:
        return parts.missing.get("plan", "")
    shape, run = parts.plan.shape, parts.target.run
    return _bullets(
        {
            "Parameters": f"{run.params:,}" if run else NOT_STATED,
            "Architecture": f"Qwen3 layout: {shape.num_layers} layers, width {shape.width}, "
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
    licences = ", ".join(list(_mapping(parts.audit.get("licences")))[:12])
    return _bullets(
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
    return _bullets(
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
        lines.append(f"### {_line(task.name)}")
        head = "| method | metric | value | 95 % interval | test examples |\n|---|---|---|---|---|"
        rows = [
            f"| {_cell(row.method)} | {_cell(row.metric)} | {row.value:.3f} | "
            f"{row.low:.3f} – {row.high:.3f} | {row.examples:,} |"
            for row in task.rows
        ]
        lines += ["\n".join([head, *rows]), *([task.verdict] if task.verdict else [])]
    return "\n\n".join(lines)


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
    return _bullets(rows)


def _limitations(parts: Parts) -> str:
    items: list[str] = list(parts.law.warnings) if parts.law else []
    unit = UNITS.get(parts.law.loss_unit, "") if parts.law else ""
    items += [f"The law was fitted to {parts.law.points} runs, in {unit}."] if parts.law else []
    items += ["No test of bias, toxicity or memorised personal data was made.", f"Risks in use: {NOT_STATED}"]
    return "\n".join(f"- {_line(item)}" for item in items)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(pairs: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {_line(value)}" for name, value in pairs.items())


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _mapping(value: object) -> Sequence[str]:
    """Keys of a JSON object, those with the largest counts first."""
    if not isinstance(value, Mapping):
        return ()

    def count(key: str) -> float:
        item = value[key]
        amount = number_of(item.get("documents")) if isinstance(item, Mapping) else number_of(item)
        return -amount if math.isfinite(amount) else 0.0

    return sorted(map(str, value), key=count)
