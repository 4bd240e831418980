"""Parts of a climb, or one of its tasks, in; the YAML block that Hugging Face reads at a card's head out.

Names of the fields: https://huggingface.co/docs/hub/model-cards. Strings are written as JSON strings, which
YAML reads.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.records import Run, TaskResult
from stepladder.report.markdown import NOT_STATED, names_of, stated
from stepladder.report.more_sections import stage_amounts
from stepladder.report.parts import Parts, Task
from stepladder.units import JOULES_PER_KWH

# Of the identifiers in https://huggingface.co/docs/hub/repositories-licenses, those usual for weights; any
# other licence is "other" with its name.
_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "openrail"),
)
_HUB = "hf:"
# What the hub calls the tasks of `tune/rows.py`.
PIPELINES = {
    "span": "question-answering",
    "answer": "question-answering",
    "translation": "translation",
    "summarisation": "summarization",
}
_LONGEST_NAME = 60


def target_metadata(parts: Parts) -> str:
    """The block of the pretrained model."""
    masked = parts.plan is not None and parts.plan.objective == "masked"
    pipeline = "fill-mask" if masked else "text-generation"
    tags = ["stepladder", "scaling-law", "masked-lm" if masked else "causal-lm"]
    fields = {**_common(parts, tags), "pipeline_tag": pipeline}
    if hub := [s.removeprefix(_HUB) for s in _sources(parts) if s.startswith(_HUB)]:
        fields["datasets"] = hub
    run = parts.target.run
    results = [_heldout(run, pipeline)] if run else []
    results += [_result(task, task_pipeline(task)) for task in parts.tasks if task.rows]
    results = [result for result in results if result["metrics"]]
    if results:
        fields["metrics"] = sorted({metric["type"] for result in results for metric in result["metrics"]})
        fields["model-index"] = [{"name": parts.name, "results": results}]
    if emissions := _emissions(parts):
        fields["co2_eq_emissions"] = emissions
    return _yaml(fields)


def tuned_metadata(parts: Parts, task: Task) -> str:
    """The block of a model that was tuned from the target on one task."""
    pipeline = task_pipeline(task)
    fields = {**_common(parts, ["stepladder"]), "pipeline_tag": pipeline, "base_model": parts.name}
    result = _result(task, pipeline)
    if result["metrics"]:
        fields["metrics"] = sorted({metric["type"] for metric in result["metrics"]})
        fields["model-index"] = [{"name": f"{parts.name}-{task.name}", "results": [result]}]
    return _yaml(fields)


def task_pipeline(task: Task) -> str:
    """What the hub calls this kind of task."""
    metrics = {row.metric for row in task.rows}
    kind = next((name for name in ("translation", "summarisation") if name in task.name), "")
    if not kind and metrics & {"exact_match", "f1_answer"}:
        kind = "span"
    return PIPELINES.get(kind, "text-classification")


def emitted_kg(parts: Parts) -> float:
    """kg CO2e of ladder and target: their energy times the plan's kg a kWh; NaN where one is not known."""
    numbers = parts.plan.numbers if parts.plan else {}
    joules = stage_amounts(parts, "joules")
    if not {"kwh", "kg_co2e"} <= set(numbers) or "target" not in joules or not numbers["kwh"].value:
        return math.nan
    return sum(joules.values()) / JOULES_PER_KWH * kg_a_kwh(parts)


def kg_a_kwh(parts: Parts) -> float:
    """The plan's own rate, in which the power drawn by the building is counted."""
    numbers = parts.plan.numbers if parts.plan else {}
    return numbers["kg_co2e"].value / numbers["kwh"].value


def _common(parts: Parts, tags: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"library_name": "transformers"}
    languages = [k for k in names_of(parts.audit.get("languages")) if len(k) == 2 and k.isalpha()]
    if languages:
        fields["language"] = languages[:20]
    licence = stated(parts, "license")
    known = licence.lower() in _LICENCES
    fields["license"] = licence.lower() if known else "other"
    if not known:
        words = "".join(c if c.isalnum() or c == "." else "-" for c in licence.lower())[:_LONGEST_NAME]
        fields["license_name"] = "-".join(filter(None, words.split("-"))) or "not-stated"
    return {**fields, "tags": tags}


def _sources(parts: Parts) -> Sequence[str]:
    return parts.brief.data.sources if parts.brief else names_of(parts.audit.get("sources"))


def _heldout(run: Run, pipeline: str) -> dict[str, Any]:
    figures = {"bits per byte": run.heldout_bits_per_byte, "nats per token": run.heldout_loss}
    metrics = [
        {"name": f"held-out loss ({name})", "type": "loss", "value": float(f"{value:.6g}")}
        for name, value in figures.items()
        if math.isfinite(value)
    ]
    dataset = {"name": "held-out split of the corpus", "type": "local"}
    return {"task": {"type": pipeline}, "dataset": dataset, "metrics": metrics}


def _result(task: Task, pipeline: str) -> dict[str, Any]:
    """The network's rows: cheap baselines stand in the card's table, not in the model's index."""
    return {
        "task": {"type": pipeline},
        "dataset": {"name": task.name, "type": "local", "split": "test"},
        "metrics": [
            {"name": f"{row.metric} ({row.method})", "type": row.metric, "value": float(f"{row.value:.6g}")}
            for row in task.rows
            if _is_network(row) and math.isfinite(row.value)
        ],
    }


def _is_network(row: TaskResult) -> bool:
    return row.method in ("fine-tuned", "LoRA", "frozen features", "zero-shot", "few-shot")


def _emissions(parts: Parts) -> dict[str, Any]:
    """`emissions` is in grams (https://huggingface.co/docs/hub/model-cards-co2)."""
    kilograms, run = emitted_kg(parts), parts.target.run
    if not math.isfinite(kilograms) or run is None or parts.plan is None:
        return {}
    how = "metered" if run.energy.is_measured else run.energy.source or "estimate"
    return {
        "emissions": float(f"{1e3 * kilograms:.4g}"),
        "source": f"energy of ladder and target ({how}) x {kg_a_kwh(parts):.3g} kg a kWh",
        "training_type": "pre-training",
        "geographical_location": parts.brief.hardware.region if parts.brief else NOT_STATED,
        "hardware_used": f"{parts.plan.layout.processes} x {parts.plan.layout.device}",
    }


def _yaml(fields: Mapping[str, Any]) -> str:
    return "---\n" + "\n".join(_lines(fields, "")) + "\n---"


def _lines(value: Any, indent: str) -> list[str]:
    """Block style for objects and lists, JSON for what they hold."""
    out = []
    items = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    for name, item in items:
        head = f"{indent}{name}:" if name is not None else f"{indent}-"
        if not isinstance(item, (Mapping, list)):
            # Words of the program and of the hub need no quotes; what users wrote gets them.
            plain = isinstance(item, str) and name in ("library_name", "pipeline_tag", "license", "type")
            out.append(f"{head} {item if plain else json.dumps(item)}")
        elif name is not None:
            inner = indent if isinstance(item, list) else indent + "  "
            out += [head, *_lines(item, inner)]
        else:
            first, *rest = _lines(item, indent + "  ")
            out += [f"{indent}- {first.strip()}", *rest]
    return out
